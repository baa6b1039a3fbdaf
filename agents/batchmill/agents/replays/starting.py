"""A planned replay is handed to the tasks: its lists first, durable under their content's names, then one command.

A crash before the command leaves files that nobody reads; after it the tasks go on by themselves. Failures under the
version itself are given to the redrive, which keeps their version.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from batchmill.agents.commands import Issued, issue, issue_watching, new_command
from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.replays.plan import Plan, Way, selection_sha256
from batchmill.agents.settings import Settings
from batchmill.schemas.codec import decode
from batchmill.schemas.state import Meta
from batchmill.streams import redriving
from batchmill.streams.index import RERUN_ROWS
from batchmill.streams.rerunning import (
    COMMAND,
    OVER,
    STEERS,
    Kind,
    Line,
    Part,
    line_of,
    progress_of,
    start_body,
    steer_body,
)

__all__ = ["skip_replay", "start_replay", "steer_replay"]

#: requests of one redrive command; its body must stay far below the size of a record
_REDRIVEN_AT_ONCE: Final = 5_000
#: lines that are handed to the payload store at once
_LINES_AT_ONCE: Final = 1_000


async def start_replay(settings: Settings, plan: Plan, *, run: str, actor: str, wait_seconds: float) -> Issued:
    """Tell every task, and wait until each has noted it; 0 seconds = do not wait."""
    payloads = FilePayloadStore(directory=settings.payload_dir, shared=settings.payloads.shared)
    parts = {partition: await _stored(payloads, plan, partition) for partition in sorted(plan.lines)}
    body = start_body(
        run=run,
        parts=parts,
        kind=Kind.WRITE if plan.asked.write else Kind.ASK,
        aside=plan.asked.aside,
        fresh=plan.asked.fresh,
        epoch=plan.epoch,
        sha256=selection_sha256(plan.lines),
        selection=_selection(plan),
    )
    for requests in _cuts(plan.redriven):
        told = redriving.command_body(requests=requests, letters=[])
        await issue(settings, redriving.COMMAND, plan.asked.job, actor=actor, body_json=told, wait_seconds=0)
    return await _told(settings, plan.asked.job, plan.version, body, run, actor, wait_seconds)


async def skip_replay(settings: Settings, job: str, version: str, *, run: str, why: str, actor: str) -> Issued:
    """Note that a tick was not started, and why, so that it is not looked at again."""
    body = start_body(run=run, parts={}, skipped=why)
    return await _told(settings, job, version, body, run, actor, 0)


async def steer_replay(
    settings: Settings, job: str, version: str, *, run: str, do: str, actor: str, wait_seconds: float
) -> Issued:
    """Pause, resume or cancel a run; wait until it is so in each task that has it, or it is over there."""
    return await _told(settings, job, version, steer_body(run, do), run, actor, wait_seconds, do=do)


async def _told(
    settings: Settings,
    job: str,
    version: str,
    body: str,
    run: str,
    actor: str,
    wait_seconds: float,
    *,
    do: str | None = None,
) -> Issued:
    record = new_command(COMMAND, job, actor=actor, version=version, body_json=body)

    def counts(row: bytes) -> bool:
        state = progress_of(f"{RERUN_ROWS}{run}", decode(row, Meta).value_json).state
        return do is None or state is STEERS[do][1] or state in OVER

    key = f"{Meta.schema}/{RERUN_ROWS}{run}"
    seen = await issue_watching(settings, record, key=key, counts=counts, wait_seconds=wait_seconds)
    laggards = tuple(sorted(set(range(settings.partitions)) - seen.keys())) if wait_seconds > 0 else ()
    return Issued(command_id=record.command_id, partitions=settings.partitions, laggards=laggards)


async def _stored(payloads: FilePayloadStore, plan: Plan, partition: int) -> Part:
    """One task's list in the payload store, and its share of the limits."""
    lines, asked = plan.lines[partition], plan.asked
    stored = await payloads.put(_content(lines))
    return Part(
        uri=stored.uri,
        lines=len(lines),
        per_second=None if asked.per_second is None else asked.per_second * len(lines) / plan.handed,
        max_nanos=None if asked.max_nanos is None else _share(plan, partition),
        fresh_tools=asked.refresh_tools,
    )


def _share(plan: Plan, partition: int) -> int:
    """Of the run's limit, by what the task's part might cost; what does not divide is nobody's."""
    allowed, most = plan.left_nanos or 0, sum(plan.most_nanos.values())
    if most:
        return allowed * plan.most_nanos.get(partition, 0) // most
    return allowed * len(plan.lines[partition]) // plan.handed


async def _content(lines: Sequence[Line | str]) -> AsyncIterator[bytes]:
    for start in range(0, len(lines), _LINES_AT_ONCE):
        yield b"".join(line_of(line) for line in lines[start : start + _LINES_AT_ONCE])


def _selection(plan: Plan) -> Mapping[str, Any]:
    """How it was chosen, and the counts: the manifest that people read."""
    asked = plan.asked
    told = {
        "select": asked.select,
        "since_ms": asked.since_ms,
        "until_ms": asked.until_ms,
        "offsets": [[each.partition, each.first, each.last] for each in asked.ranges],
        "sample": asked.sample,
        "seed": asked.seed,
        "max_nanos": asked.max_nanos,
        "per_second": asked.per_second,
        "strata": dict(plan.strata),
        "chosen_from": plan.sampled_from,
        "counts": {way.value: plan.count(way) for way in Way},
        "expected_nanos": plan.total.expected_nanos,
        "most_nanos": plan.total.most_nanos,
    }
    return {name: value for name, value in told.items() if value not in (None, [], {})}


def _cuts(requests: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(requests), _REDRIVEN_AT_ONCE):
        yield list(requests[start : start + _REDRIVEN_AT_ONCE])
