"""A job with two versions, and what each has answered: a log in memory, folded into a view, and read again by place."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from batchmill.agents.bodies import At
from batchmill.schemas.codec import decode_any, encode
from batchmill.schemas.ids import content_sha256, request_id
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check, Origin
from batchmill.schemas.state import Job
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.schemas.versions import version_of
from batchmill.streams.jsontext import canonical
from batchmill.streams.versioning import listed, tried_out
from tests.agents.test_projector import Log, a_letter, a_life, a_result, a_verdict, a_work_item
from tests.streams.making import make_row, make_spec

__all__ = ["FIRST", "SECOND", "OpenLog", "World", "gate_lines", "two_versions"]

FIRST = make_spec()
SECOND = make_spec(system="You sort tickets well.")


def two_versions(first: JobSpec = FIRST, second: JobSpec = SECOND) -> Job:
    """The first in force, the second a shadow."""
    both = {version_of(spec): json.loads(spec.to_json()) for spec in (first, second)}
    row = listed(make_row(first))
    return tried_out(replace(row, versions_json=json.dumps(both)), version_of(second), 0.0)


def gate_lines(known: dict[str, str]) -> str:
    return json.dumps(
        [{"id": name, "input": {"body": name}, "output": {"label": label}} for name, label in known.items()]
    )


@dataclass
class World:
    """`answered` puts one life with all its records into the log."""

    path: Path
    log: Log = field(init=False)
    reads: int = 0

    def __post_init__(self) -> None:
        self.log = Log(self.path)

    def applied(self, row: Job) -> None:
        self.log.row(row)
        self.log.fold()

    def answered(
        self,
        spec: JobSpec,
        source: str,
        output: Any,
        *,
        origin: Origin | None = None,
        status: Status = Status.VALIDATED,
        judged: VerdictStatus = VerdictStatus.VALIDATED,
        reason: Reason | None = None,
        run: str = "run-1",
        epoch: int = 0,
        given: Any = None,
        checks: dict[str, bool] | None = None,
        cost: int = 100,
        unpriced: int = 0,
        copy_of: str | None = None,
        decided_by: str = "rules",
        corrected: Any = None,
    ) -> str:
        """The request id of the life."""
        version, origin = version_of(spec), origin or self.origin(source)
        item_input = {"body": source} if given is None else given
        sha256 = content_sha256(canonical(item_input))
        name = request_id("triage", source, sha256, version, epoch)
        about = {"request_id": name, "job": "triage", "version": version}
        item = replace(
            a_work_item(origin), **about, source_id=source, run_id=run, epoch=epoch, input_sha256=sha256,
            input_json=json.dumps(item_input),
        )  # fmt: skip
        input_offset = self.log.add("normalized", 0, encode(item))
        copied = {"answered_by": "store", "of_request_id": copy_of, "cost_nanos": 0} if copy_of else {}
        result_offset = self.log.add("results", 0, encode(replace(a_result(), **about, **copied)))
        made = tuple(
            Check(id=each, severity="reject", passed=ok, path=None, note=None) for each, ok in (checks or {}).items()
        )
        verdict_offset = None
        if status is not Status.FAILED_TERMINAL and status is not Status.QUEUED:
            verdict = replace(
                a_verdict(), **about, source_id=source, status=judged, output_json=json.dumps(output), checks=made,
                decided_by=decided_by,
            )  # fmt: skip
            verdict_offset = self.log.add("validated", 0, encode(verdict))
            if corrected is not None:
                by_hand = replace(verdict, output_json=json.dumps(corrected), decided_by="alice")
                verdict_offset = self.log.add("validated", 0, encode(by_hand))
        if status is Status.FAILED_TERMINAL:
            letter = replace(a_letter(origin, request_id=name, reason=reason or Reason.RULE_FAILED), checks=made)
            self.log.add("dead-letter", 0, encode(letter))
        self.log.row(
            a_life(
                origin, **about, source_id=source, run_id=run, epoch=epoch, status=status, reason=reason,
                input_offset=input_offset, result_offset=result_offset, verdict_offset=verdict_offset,
                output_sha256=None if verdict_offset is None else content_sha256(json.dumps(output).encode()),
                cost_nanos=0 if copy_of else cost, unpriced_calls=unpriced,
                input_tokens=0 if copy_of else 10, output_tokens=0 if copy_of else 5, aside=spec is not FIRST,
            )
        )  # fmt: skip
        return name

    def origin(self, source: str) -> Origin:
        """One raw event for each source."""
        return Origin(generation=1, partition=0, offset=int(content_sha256(source.encode())[:8], 16), at_ms=5)

    def both(self, source: str, a: Any, b: Any, **more: Any) -> None:
        self.answered(FIRST, source, a, **more)
        self.answered(SECOND, source, b, **more)

    def folded(self) -> Self:
        self.log.fold()
        return self

    async def read(self, places: Iterable[At]) -> dict[At, dict[str, Any]]:
        """As `LogBodies` does."""
        found = {}
        self.reads += 1
        for topic, partition, offset in places:
            for record in self.log.records.get((topic, partition), []):
                if record.offset == offset and record.value is not None:
                    found[topic, partition, offset] = asdict(decode_any(record.value))
        return found


class OpenLog:
    """Stands where the broker would: hands out what the world wrote, by its places."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, _settings: Any) -> "OpenLog":
        return self

    async def __aenter__(self) -> World:
        return self._world

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""
