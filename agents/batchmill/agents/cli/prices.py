"""`batchmill prices`: what models cost, by the list in use or as it is frozen in an applied job."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.streams.costing import Price, Prices

__all__ = ["add", "told"]

_COLUMNS = ("model", "prompt above", "tokens", "online", "batch")


def add(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Look at the prices that calls are costed by."
    )
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="prices")


def list_(
    context: typer.Context,
    words: Annotated[
        str | None, typer.Argument(metavar="[PART]", help="Only models whose name has this in it.")
    ] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List the models that have a price, in dollars a million tokens, for prompts of usual length.

    \b
    Example:
      batchmill prices list haiku
    """
    from batchmill.agents.prices import load_prices
    from batchmill.streams.costing import dollars_per_million, entry_of

    here = door(context)
    source = load_prices(here.settings.prices_file)
    found = {name: price for name, price in sorted(source.listed().items()) if (words or "").lower() in name.lower()}
    if json:
        models = {name: entry_of(price) for name, price in found.items()}
        here.emit("prices.list", {"id": source.id, "source": source.source, "as_of": source.as_of, "models": models})
        return

    def row(name: str, price: "Price") -> list[Any]:
        first = price.bands[0]
        rates = [(first.input, "online"), (first.output, "online"), (first.input, "batch"), (first.output, "batch")]
        return [name, *(None if rate is None else dollars_per_million(price, rate, tier) for rate, tier in rates)]

    columns = ("model", "input", "output", "batch input", "batch output")
    here.table(
        columns, [row(name, price) for name, price in found.items()], empty=f"{source.source} lists no such model"
    )
    here.say(f"{source.source} as of {source.as_of}")


def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name, as a job gives it.")],
    provider: Annotated[str, typer.Option(help="The kind of provider that is asked.")] = "openai",
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what a job on this model would be costed by, if it were applied now.

    \b
    Example:
      batchmill prices show claude-haiku-4-5 --provider anthropic
    """
    from batchmill.agents.prices import freeze, load_prices

    here = door(context)
    prices = freeze(load_prices(here.settings.prices_file), provider=provider, model=model)
    if not prices.models:
        why = f"{prices.source} lists no price of {model} at {provider}: its calls would be unpriced"
        raise CommandError(f"{why}; `batchmill prices list` names the models it has", ExitCode.NOT_FOUND)
    if json:
        here.emit("prices.show", told(prices))
        return
    here.table(_COLUMNS, _rows(prices))
    here.say(f"dollars a million tokens; {prices.source} as of {prices.as_of}, list {prices.id}")


def told(prices: "Prices") -> dict[str, Any]:
    """A price list as `--json` prints it."""
    from batchmill.streams.costing import entry_of

    models = {name: entry_of(price) for name, price in prices.models.items()}
    return {"id": prices.id, "source": prices.source, "as_of": prices.as_of, "models": models}


def _rows(prices: "Prices") -> Iterator[list[Any]]:
    from batchmill.streams.costing import KINDS, TIERS, dollars_per_million

    for name, price in prices.models.items():
        for band in price.bands:
            for kind in KINDS:
                rate = getattr(band, kind)
                if rate is not None:
                    costs = {tier: dollars_per_million(price, rate, tier) for tier in TIERS}
                    yield [name, band.above_tokens, kind, costs["online"], costs["batch"]]
