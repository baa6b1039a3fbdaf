"""Law: everything that can be set about a simulator, in one frozen record with a JSON form. It reads nothing itself.

Durations are in seconds and meant to be short: a test waits through a whole life of a batch in under two of them.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from batchmill.agents.simulator.faults import FaultPlan, plan_from_json, plan_to_json
from batchmill.agents.simulator.limits import Limits, limits_from_json, limits_to_json
from batchmill.agents.simulator.pricing import DEFAULT_PRICES, FALLBACK_PRICE, Price
from batchmill.agents.simulator.profiles import PROFILES, PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SimulatorConfig", "config_from_json", "config_to_json"]

_PERCENT_WHOLE: Final = 100
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorConfig:
    data_dir: Path
    ledger_path: Path | None = None  # default: ledger.jsonl in data_dir
    seed: int = 0
    accuracy: float = 0.95
    model_accuracy: Mapping[str, float] = field(default_factory=dict)  # over `accuracy`, by model
    gold_path: Path | None = None
    gold_text_field: str = "text"
    gold_label_field: str = "label"
    api_key: str | None = None  # None: any bearer token will do
    latency_seconds: tuple[float, float] = (0.3, 1.5)  # from in_progress to finalizing, uniform, seeded by the batch
    single_latency_seconds: tuple[float, float] = (0.05, 0.05)  # of a single call, uniform, seeded by its body
    validating_seconds: float = 0.05
    finalizing_seconds: float = 0.05
    cancelling_seconds: float = 0.1
    latency_profile: str | None = None  # a name of `profiles`, instead of latency_seconds
    time_scale: float = 1_000.0  # how much faster than its profile the simulator goes
    prices: Mapping[str, Price] = field(default_factory=lambda: dict(DEFAULT_PRICES))
    fallback_price: Price | None = FALLBACK_PRICE  # None: a model without a price does not exist
    batch_percent: int = 50  # of the list price
    prompt_cache_tokens_min: int | None = None  # shortest system text that is cached (OpenAI: 1,024); None: no cache
    webhook_url: str | None = None  # where events of ended batches go; on this machine only
    webhook_secret: str | None = None  # whsec_ and base64; None: events are not signed
    faults: FaultPlan = field(default_factory=FaultPlan)
    limits: Limits = field(default_factory=Limits)
    upload_bytes_max: int = 200 * 1024 * 1024
    batch_rows_max: int = 50_000

    def __post_init__(self) -> None:
        spans = (self.latency_seconds, self.single_latency_seconds)
        waits = (self.validating_seconds, self.finalizing_seconds, self.cancelling_seconds)
        if min(waits) < 0 or not all(0 <= low <= high for low, high in spans):
            raise ValueError("a latency is (low, high) with 0 <= low <= high; no duration is negative")
        if not all(0.0 <= share <= 1.0 for share in (self.accuracy, *self.model_accuracy.values())):
            raise ValueError("an accuracy is a share between 0 and 1")
        if not 0 <= self.batch_percent <= _PERCENT_WHOLE:
            raise ValueError("batch_percent lies between 0 and 100")
        if self.latency_profile is not None and self.latency_profile not in {*PROFILES, PUBLISHED}:
            raise ValueError(f"latency_profile is one of {', '.join((*PROFILES, PUBLISHED))}")
        if self.time_scale <= 0:
            raise ValueError("time_scale is greater than 0; 1 is real time")
        if self.webhook_url is not None and urlsplit(self.webhook_url).hostname not in _LOOPBACK:
            raise ValueError("webhook_url must be on this machine, such as http://127.0.0.1:8030/webhooks")
        if self.webhook_secret is not None and not _is_secret(self.webhook_secret):
            raise ValueError("webhook_secret is base64, after whsec_ or alone")
        for model, price in [*self.prices.items(), ("the fallback", self.fallback_price)]:
            if price is not None and not price.divides_at(self.batch_percent):
                raise ValueError(
                    f"price of {model}: {self.batch_percent} % of it is not a whole number of nano-dollars"
                )

    @property
    def ledger_file(self) -> Path:
        return self.ledger_path or self.data_dir / "ledger.jsonl"

    def accuracy_of(self, model: str) -> float:
        return self.model_accuracy.get(model, self.accuracy)

    def price_of(self, model: str) -> Price | None:
        return self.prices.get(model, self.fallback_price)


def _is_secret(text: str) -> bool:
    try:
        return bool(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except binascii.Error:
        return False


def config_to_json(config: SimulatorConfig) -> bytes:
    value = {item.name: getattr(config, item.name) for item in fields(config)}
    value["prices"] = {model: asdict(price) for model, price in config.prices.items()}
    value["fallback_price"] = config.fallback_price and asdict(config.fallback_price)
    value["faults"] = plan_to_json(config.faults)
    value["limits"] = limits_to_json(config.limits)
    return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2)


def config_from_json(data: bytes) -> SimulatorConfig:
    value: dict[str, Any] = orjson.loads(data)
    known = {item.name for item in fields(SimulatorConfig)}
    if unknown := value.keys() - known:
        raise ValueError(f"simulator config: no field is called {', '.join(sorted(unknown))}")
    for name in ("data_dir", "ledger_path", "gold_path"):
        if value.get(name) is not None:
            value[name] = Path(value[name])
    if "prices" in value:
        value["prices"] = {model: Price(**price) for model, price in value["prices"].items()}
    if value.get("fallback_price") is not None:
        value["fallback_price"] = Price(**value["fallback_price"])
    value |= {name: tuple(value[name]) for name in ("latency_seconds", "single_latency_seconds") if name in value}
    if "limits" in value:
        value["limits"] = limits_from_json(value["limits"])
    return replace(SimulatorConfig(data_dir=value.pop("data_dir")), **value | _plan(value))


def _plan(value: dict[str, Any]) -> dict[str, FaultPlan]:
    return {"faults": plan_from_json(value["faults"])} if "faults" in value else {}
