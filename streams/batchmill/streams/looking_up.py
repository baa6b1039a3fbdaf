"""The way of one raw event through its job's tools: what its versions have, what they lack, what is kept of it.

An event of a job with tools waits as an arrival (`WAITS`) until its questions are answered; what was found meanwhile is
in its row. What was found is then kept by raw event and by what was asked, so that the same event normalized again
under the same tools finds the same input, whatever its source says by then, and no source is asked twice. It is
forgotten with its raw event, or after a while. What must not live here: what is asked (`tooling`), and asking it.
"""

from dataclasses import dataclass, field
from typing import Final

import orjson

from batchmill.schemas.records import Origin
from batchmill.schemas.state import Meta
from batchmill.streams import view as read
from batchmill.streams.index import TOOL_ROWS
from batchmill.streams.jsontext import JsonObject
from batchmill.streams.orders import Delete, Order, Put
from batchmill.streams.tooling import Found, Question, Tools, Wanted, equip, wanted
from batchmill.streams.view import StateView

__all__ = ["WAITS", "Lookups", "WaitsError", "forget", "record", "recorded"]

#: what an arrival waits for
WAITS: Final = "tools"


class WaitsError(Exception):
    """Answers are missing; `Lookups` knows which."""


@dataclass(slots=True, kw_only=True)
class Lookups:
    """What is known of the look-ups of one raw event while its versions take it: what they have, what they lack."""

    view: StateView
    origin: Origin
    held: Found = field(default_factory=Found)  #: what was found out, and is not kept yet
    fresh: bool = False  #: what is kept does not count, and is replaced
    lacking: dict[str, Question] = field(default_factory=dict)  #: without these the event waits
    lacking_aside: dict[str, Question] = field(default_factory=dict)  #: of versions that are tried out
    _used: dict[str, tuple[Wanted, Found]] = field(default_factory=dict)

    def equip(self, tools: Tools, item_input: JsonObject, *, aside: bool) -> None:
        """Put what was found out into the input; WaitsError where something is to be asked first, else as `equip`."""
        asked = wanted(tools, item_input)
        kept = None if self.fresh else recorded(self.view, self.origin, asked.fingerprint)
        found = self.held if kept is None else kept
        missing = {question.key: question for question in found.missing(asked)}
        if missing:
            (self.lacking_aside if aside else self.lacking).update(missing)
            raise WaitsError
        equip(tools, item_input, asked, found)
        if kept is None:
            self._used[asked.fingerprint] = (asked, found)

    def kept(self, now_ms: int) -> list[Order]:
        """Keep what was used, for replays; not a refusal that nobody could do without: it may be answered one day."""
        orders = (
            record(self.view, self.origin, asked, found, now_ms, fresh=self.fresh)
            for asked, found in self._used.values()
        )
        return [order for each in orders for order in each]


def recorded(view: StateView, origin: Origin, fingerprint: str) -> Found | None:
    """What was found out about this raw event by the same questions; None when it was never asked, or forgotten."""
    row = read.meta(view, _name(origin, fingerprint))
    return None if row is None else Found(**orjson.loads(row.value_json)["found"])


def record(view: StateView, origin: Origin, asked: Wanted, found: Found, now_ms: int, *, fresh: bool) -> list[Order]:
    """Keep what was found out; what was kept first stays, unless it was asked again on purpose."""
    name = _name(origin, asked.fingerprint)
    if not asked.questions or (read.meta(view, name) is not None and not fresh):
        return []
    value = b'{"at_ms":%d,"found":%b}' % (now_ms, found.about(asked).to_json().encode())
    return [Put(Meta(name=name, value_json=value.decode()))]


def forget(view: StateView, *, generation: int, before_offset: int, before_ms: int, limit: int) -> list[Order]:
    """One cut of forgetting: what belongs to raw events that are gone, or was found out before `before_ms`.

    Oldest raw events first; it ends at the first that is to stay.
    """
    orders: list[Order] = []
    for _, row in view.scan("tools", TOOL_ROWS, limit=limit):
        assert isinstance(row, Meta)
        of_generation, offset = (int(part) for part in row.name.split("/")[1:3])
        gone = (of_generation, offset) < (generation, before_offset)
        if not gone and orjson.loads(row.value_json)["at_ms"] >= before_ms:
            break
        orders.append(Delete(Meta.schema, row.name))
    return orders


def _name(origin: Origin, fingerprint: str) -> str:
    return f"{TOOL_ROWS}{origin.generation:06d}/{origin.offset:016d}/{fingerprint}"
