"""Records whose right output is known, asked of several versions at once: what that would take, and sending them.

A benchmark record is a raw event like any other, with a header that names the versions: each of them is asked, none of
the answers is written downstream, and the event itself is accounted for as excluded. Its source id is the record's id,
so it is the same request whenever the same set is sent again, and is paid once for each version. What must not live
here: what came of it (`contenders`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchmill.agents import clock
from batchmill.agents.ingest import IngestReport, SourceRecord, ingest
from batchmill.agents.jobs.planning import Plan, plan_job
from batchmill.agents.prices import load_prices, prices_for
from batchmill.agents.projector.reading import View
from batchmill.agents.settings import Settings
from batchmill.schemas.ids import request_id
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.versions import version_of
from batchmill.streams.cleaning import compile_cleaner
from batchmill.streams.costing import Prices, parse_prices
from batchmill.streams.events import RawLimits
from batchmill.streams.golden import Gold, GoldError, asked_sha256, run_of_gold
from batchmill.streams.jsontext import canonical
from batchmill.streams.normalizing import BENCHMARK_HEADER
from batchmill.streams.paths import compile_path

__all__ = ["Stake", "publish", "records", "stake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """What a benchmark would take under one version. Money is None where a price, or the answer's room, is unknown."""

    version: str
    known: int  #: records that have a life already: not asked again
    asked: int
    refused: int  #: the version takes them not: filtered, or not as it wants its input
    refusals: Mapping[str, int]  #: by reason
    tokens: int
    most_nanos: int | None
    expected_nanos: int | None


def records(golden: Mapping[str, Gold], spec: JobSpec) -> list[SourceRecord]:
    """The events, keyed by id. GoldError where a record cannot be one."""
    path = None if spec.id_path is None else compile_path(spec.id_path)
    made = []
    for number, gold in enumerate(golden.values(), start=1):
        if gold.input is None:
            raise GoldError(f"record {number}: it has no `input`, so nobody can be asked about it")
        if path is not None and str(path.find(gold.input)) != gold.id:
            raise GoldError(f"record {number}: the job takes the source id from {path.text}; `id` must be the same")
        made.append(SourceRecord(line=number, key=gold.id.encode(), value=canonical(dict(gold.input))))
    return made


def stake(settings: Settings, view: View, golden: Mapping[str, Gold], spec: JobSpec) -> Stake:
    """By the real normalizer; what the view knows already costs nothing."""
    events = records(golden, spec)
    known = set(_known(view, golden, spec))
    samples = [
        (event.key, event.value) for event, gold in zip(events, golden.values(), strict=True) if gold.id not in known
    ]
    return _stake(
        plan_job(
            spec,
            active=None,
            samples=samples,
            prices=_prices(settings, spec),
            limits=_limits(settings),
            now_ms=clock.wall_ms(),
        ),
        len(known),
    )


async def publish(
    settings: Settings, golden: Mapping[str, Gold], spec: JobSpec, versions: Sequence[str]
) -> IngestReport:
    """Send them, in a run that the set gives its name."""
    asked = (BENCHMARK_HEADER, ",".join(versions).encode())
    events = iter(records(golden, spec))
    return await ingest(settings, events, run=run_of_gold(golden), job=spec.job, more_headers=[asked])


#: by what it is asked; or by its run, where documents and look-ups are put beside what it is asked
_KNOWN: Final = """SELECT 1 FROM lives WHERE request_id = :request_id
  OR (source_id = :source_id AND job = :job AND version = :version AND run_id = :run_id)"""


def _known(view: View, golden: Mapping[str, Gold], spec: JobSpec) -> Iterator[str]:
    cleaner = compile_cleaner(spec.input)
    about = {"job": spec.job, "version": version_of(spec), "run_id": run_of_gold(golden)}
    for gold in golden.values():
        sha256 = None if gold.input is None else asked_sha256(gold.input, cleaner)
        if sha256 is not None:
            named = request_id(spec.job, gold.id, sha256, about["version"], 0, spec.dedupe)
            if view.row(_KNOWN, about | {"request_id": named, "source_id": gold.id}) is not None:
                yield gold.id


def _stake(plan: Plan, known: int) -> Stake:
    asked = [sample for sample in plan.samples if sample.outcome == "asked"]
    refusals: dict[str, int] = {}
    for sample in plan.samples:
        if sample.outcome != "asked":
            reason = str(sample.reason)
            refusals[reason] = refusals.get(reason, 0) + 1
    return Stake(
        version=plan.version,
        known=known,
        asked=len(asked),
        refused=sum(refusals.values()),
        refusals=refusals,
        tokens=sum(sample.tokens for sample in asked),
        most_nanos=_sum([sample.cost_nanos for sample in asked]),
        expected_nanos=_sum([sample.expected_nanos for sample in asked]),
    )


def _sum(costs: Sequence[int | None]) -> int | None:
    """None as soon as one of them is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _prices(settings: Settings, spec: JobSpec) -> Prices:
    if spec.prices_json is not None:
        return parse_prices(spec.prices_json)
    return prices_for(spec, load_prices(settings.prices_file))


def _limits(settings: Settings) -> RawLimits:
    limits = settings.limits
    return RawLimits(
        value_bytes_max=limits.raw_bytes_max,
        depth_max=limits.nesting_max,
        source_id_chars_max=limits.source_id_chars_max,
    )
