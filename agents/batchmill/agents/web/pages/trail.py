"""Where a reviewer is: the queue they work through, their place in it, what they just did. All of it is in the address.

What lives here: reading that out of a query string and writing it back, so that every page is a deep link and nothing
is kept per session. What must not: deciding, HTML. Anything odd in a query string is dropped, never an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import quote, urlencode

from batchmill.agents.desk.model import Filter
from batchmill.agents.web.pages.words import ACTIONS, SAMPLED
from batchmill.schemas.reasons import Reason

__all__ = ["Done", "Trail", "is_id", "record_path"]

#: records one can step back through
_STEPS_MAX = 10
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CURSOR = re.compile(r"[0-9A-Za-z.~_+-]{1,160}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was decided on the page before this one."""

    request_id: str
    action: str
    undo_until_ms: int | None

    @property
    def text(self) -> str:
        return f"{self.request_id}~{self.action}~{self.undo_until_ms or ''}"

    @classmethod
    def of(cls, text: str) -> Self | None:
        request_id, _, rest = text.partition("~")
        action, _, until = rest.partition("~")
        if not is_id(request_id) or action not in ACTIONS or (until and not re.fullmatch(r"\d{1,15}", until)):
            return None
        return cls(request_id=request_id, action=action, undo_until_ms=int(until) if until else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """What the address says beside its path."""

    job: str | None = None
    reason: Reason | None = None
    sampled: bool = False
    deferred: bool = False
    mine: bool = False
    after: str | None = None  #: a cursor: what comes next lies behind it
    steps: tuple[str, ...] = ()  #: records looked at before, oldest first
    done: Done | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        reason = query.get("reason", "")
        return cls(
            job=_matching(_JOB, query.get("job")),
            reason=Reason(reason) if reason in set(Reason) else None,
            sampled=reason == SAMPLED,
            deferred=query.get("deferred") == "1",
            mine=query.get("mine") == "1",
            after=_matching(_CURSOR, query.get("after")),
            steps=tuple(step for step in query.get("trail", "").split(".") if is_id(step))[-_STEPS_MAX:],
            done=Done.of(query.get("done", "")),
        )

    @property
    def filter(self) -> Filter:
        return Filter(job=self.job, reason=self.reason, sampled=self.sampled, deferred=self.deferred, mine=self.mine)

    @property
    def reason_text(self) -> str:
        return SAMPLED if self.sampled else self.reason or ""

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    @property
    def queue(self) -> Self:
        """The queue alone: no place in it, nothing done."""
        return replace(self, after=None, steps=(), done=None)

    def behind(self, request_id: str, cursor: str | None) -> Self:
        """What comes after `request_id`, which is one step back from there."""
        kept = tuple(step for step in self.steps if step != request_id)
        return replace(self, after=cursor, steps=(*kept, request_id)[-_STEPS_MAX:], done=None)

    @property
    def query(self) -> str:
        """`?job=a&after=b`, or nothing."""
        pairs = {
            "job": self.job,
            "reason": self.reason_text,
            "deferred": "1" if self.deferred else "",
            "mine": "1" if self.mine else "",
            "after": self.after,
            "trail": ".".join(self.steps),
            "done": None if self.done is None else self.done.text,
        }
        told = {name: value for name, value in pairs.items() if value}
        return "?" + urlencode(told) if told else ""


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def record_path(request_id: str, trail: Trail, action: str = "") -> str:
    """The address of one record, or of what can be done with it."""
    return f"/review/{quote(request_id, safe='')}{'/' + action if action else ''}{trail.query}"


def _matching(pattern: re.Pattern[str], text: str | None) -> str | None:
    return text if text and pattern.fullmatch(text) else None
