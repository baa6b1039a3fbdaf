"""Where the price list comes from: the file the settings name, else the one shipped beside this module."""

from importlib import resources
from pathlib import Path

from batchmill.agents.settings import SettingsError, env_name
from batchmill.streams.costing import PriceError, Prices, parse_prices

__all__ = ["load_prices"]


def load_prices(path: Path | None) -> Prices:
    """Read the list; one that cannot be read stops the process before it spends."""
    try:
        if path is None:
            return parse_prices(resources.files("batchmill.agents").joinpath("prices.json").read_bytes())
        return parse_prices(path.read_bytes())
    except (OSError, PriceError) as error:
        raise SettingsError(f"price list {path}: {error} ({env_name('prices_file')} names it)") from None
