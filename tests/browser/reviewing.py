"""A site at which people review, as the browser tests see it: an address, tokens, what waits, what became of it.

`reviewing_site` serves the real application over a desk without a broker. Tests know nothing else of it, so that a
site over a real Kafka can take its place: yield a `ReviewingSite`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from batchmill.agents.desk.model import Role
from batchmill.agents.health import serving
from batchmill.schemas.codec import decode_any
from batchmill.schemas.jobs import JobSpec, JudgeSpec, ReviewSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check, Verdict
from batchmill.schemas.status import Status
from tests.agents.desk_world import ADA, BOB, World
from tests.agents.pages_world import Pages, some_pages
from tests.streams.making import make_spec

__all__ = ["PEOPLE", "Outcome", "Record", "ReviewingSite", "a_spec", "decide_some", "records", "reviewing_site"]

PEOPLE: Mapping[str, Role] = {
    "ada": Role.REVIEWER,
    "bob": Role.REVIEWER,
    "vera": Role.VIEWER,
    "olga": Role.OPERATOR,
}
_REASONS = (Reason.LOW_CONFIDENCE, Reason.RULE_FAILED, Reason.UNCITED, None)
_STREETS = ("Alder Row", "Birch Lane", "Cedar Street", "Dogwood Avenue", "Elm Road")
_TOWNS = ("Amberley", "Brackwell", "Coldharbour", "Dunmere")


@dataclass(frozen=True, kw_only=True)
class Record:
    """An answer that waits, and what it was made from."""

    given: Any
    output: Any
    reason: Reason | None = Reason.LOW_CONFIDENCE
    confidence: float | None = 0.5
    checks: tuple[Check, ...] = ()
    source_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a record: accepted (with what is written downstream), declined, or waiting."""

    state: str
    output: Any = None


@dataclass(frozen=True, kw_only=True)
class ReviewingSite:
    """`waiting`: request ids by the number of the record; `outcome`: what the pipeline made of the decisions."""

    url: str
    tokens: Mapping[str, str]
    waiting: Sequence[str]
    outcome: Callable[[str], Awaitable[Outcome]]
    pages: Pages | None = None  #: what is behind it, where it has no broker


def a_spec() -> JobSpec:
    """Postal addresses: texts, a choice, a number, a list."""
    schema = {
        "type": "object",
        "required": ["road", "town", "kind", "notes"],
        "additionalProperties": False,
        "properties": {
            "road": {"type": "string", "description": "Name of the road."},
            "house_number": {"type": ["string", "null"], "maxLength": 10},
            "town": {"type": "string"},
            "kind": {"enum": ["home", "work", "other"]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "notes": {"type": "array", "items": {"type": "string"}},
            "geo": {
                "type": "object",
                "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                "required": ["lat", "lon"],
            },
        },
    }
    judge = JudgeSpec(categories={"kind": ("home", "work", "other")})
    return make_spec(output_schema=schema, judge=judge, review=ReviewSpec(undo_seconds=900), job="addresses")


def records(count: int) -> list[Record]:
    """Ordinary ones, each a little different."""
    return [_record(number) for number in range(count)]


def _record(number: int) -> Record:
    road, town = _STREETS[number % len(_STREETS)], _TOWNS[number % len(_TOWNS)]
    reason = _REASONS[number % len(_REASONS)]
    failed = Check(
        id="road-occurs",
        severity="review",
        passed=False,
        path="$.road",
        note="expected a text that occurs in the input",
    )
    checks = (
        Check(id="json", severity="reject", passed=True, path=None, note=None),
        Check(id="schema", severity="reject", passed=True, path=None, note=None),
    )
    return Record(
        given={"id": number, "text": f"Please deliver to {number + 1} {road}, {town}. Ring twice.", "lang": "en"},
        output={
            "road": road,
            "house_number": str(number + 1),
            "town": town,
            "kind": "home",
            "confidence": 0.3 + number / 50,
            "notes": ["Ring twice."],
        },
        reason=reason,
        confidence=0.3 + number / 50,
        checks=(*checks, failed) if reason in {Reason.RULE_FAILED, Reason.UNCITED} else checks,
        source_id=f"parcel-{number:03}",
    )


@asynccontextmanager
async def reviewing_site(
    folder: Path, waiting: Sequence[Record], *, lag_seconds: float = 0
) -> AsyncIterator[ReviewingSite]:
    """Serve these records to `PEOPLE` on a free port of this machine. `lag_seconds`: until a decision takes effect."""
    with some_pages(folder, spec=a_spec(), local=None, eager=not lag_seconds) as pages:
        names = [_asked(pages.world, record) for record in waiting]
        tokens = {name: pages.token(name, role) for name, role in PEOPLE.items()}

        async def outcome(request_id: str) -> Outcome:
            return _outcome(pages.world, request_id)

        working = asyncio.create_task(_work(pages.world, lag_seconds)) if lag_seconds else None
        async with serving(pages.app, host="127.0.0.1", port=0, name="pages") as url:
            yield ReviewingSite(url=url, tokens=tokens, waiting=names, outcome=outcome, pages=pages)
        if working is not None:
            working.cancel()


async def _work(world: World, lag_seconds: float) -> None:
    while True:
        await asyncio.sleep(lag_seconds)
        world.work()


async def decide_some(site: ReviewingSite) -> None:
    """So that pages about decisions have something to show."""
    if site.pages is None:
        return
    desk = site.pages.world.desk()
    for number, name in enumerate(site.waiting[:1] + site.waiting[8:16]):
        if number % 4 == 3:
            await desk.decline(name, "wrong", user=BOB)
        else:
            await desk.accept(name, user=ADA, reason="as the source says")


def _asked(world: World, record: Record) -> str:
    more = {} if record.source_id is None else {"source_id": record.source_id}
    return world.ask(
        record.output,
        given=record.given,
        reason=record.reason,
        confidence=record.confidence,
        checks=record.checks,
        **more,
    )


def _outcome(world: World, request_id: str) -> Outcome:
    match world.life(request_id).status:
        case Status.NEEDS_REVIEW:
            return Outcome(state="waiting")
        case Status.FAILED_TERMINAL:
            return Outcome(state="declined")
        case _:
            return Outcome(state="accepted", output=_newest_output(world, request_id))


def _newest_output(world: World, request_id: str) -> Any:
    found = [decode_any(value) for value in world.values("validated")]
    verdicts = [each for each in found if isinstance(each, Verdict) and each.request_id == request_id]
    return orjson.loads(verdicts[-1].output_json)
