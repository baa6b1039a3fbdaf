"""Law: every misbehaviour has a name, a place where it strikes, and a rule that says when. Choosing is pure and seeded.

One table (`FAULTS`) is the whole list: the command line, the admin endpoint and the documentation read it. A rule fires
by `rate` (the share of things struck, chosen by their stable ids) or by `nth` (the 1st, 3rd, ... since the rule was
set; for rows: the line number in the batch). What a fault then does is written where it strikes, not here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator.chance import unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "FAULTS",
    "HANG_SECONDS_MAX",
    "Fault",
    "FaultPlan",
    "FaultRule",
    "FaultSpec",
    "Place",
    "active_at",
    "parse_fault",
    "plan_from_json",
    "plan_to_json",
    "row_struck",
    "rule_from_json",
    "struck",
]

HANG_SECONDS_MAX: Final = 600.0


class Place(StrEnum):
    """Where a fault strikes, and therefore what `nth` counts."""

    UPLOAD = "upload"
    CREATE = "create"
    RETRIEVE = "retrieve"
    LIST = "list"
    CANCEL = "cancel"
    DOWNLOAD = "download"
    BATCH = "batch"
    ROW = "row"
    CALL = "call"  # one question, answered now
    ANSWER = "answer"  # any that says no
    WEBHOOK = "webhook"


class Fault(StrEnum):
    UPLOAD_500 = "upload_500"
    UPLOAD_DISCONNECT = "upload_disconnect"
    UPLOAD_ACCEPT_THEN_500 = "upload_accept_then_500"
    UPLOAD_CHECKS_LINES = "upload_checks_lines"
    ACCEPT_THEN_500 = "accept_then_500"
    ACCEPT_THEN_503 = "accept_then_503"
    ACCEPT_THEN_DISCONNECT = "accept_then_disconnect"
    ACCEPT_THEN_HANG = "accept_then_hang"
    REJECT_429 = "reject_429"
    REJECT_500 = "reject_500"
    REJECT_QUOTA = "reject_quota"
    REJECT_BILLING = "reject_billing"
    REJECT_OVERLOADED = "reject_overloaded"
    RETRIEVE_500 = "retrieve_500"
    RETRIEVE_404 = "retrieve_404"
    LIST_500 = "list_500"
    CANCEL_500 = "cancel_500"
    CANCEL_IGNORED = "cancel_ignored"
    DOWNLOAD_500 = "download_500"
    DOWNLOAD_404 = "download_404"
    DOWNLOAD_DISCONNECT = "download_disconnect"
    SHUFFLED = "shuffled"
    TOKEN_LIMIT_EXCEEDED = "token_limit_exceeded"  # noqa: S105 - the provider's error code, not a secret
    EXPIRE = "expire"
    LIST_LAG = "list_lag"
    LATE_OUTPUT_FILE = "late_output_file"
    EMPTY_ERROR_FILE_ID = "empty_error_file_id"
    EMPTY_ERROR_FILE = "empty_error_file"
    STATUS_FLAP = "status_flap"
    STATUS_SCHEDULING = "status_scheduling"
    ABSENT_KEYS = "absent_keys"
    ERRORS_LIST = "errors_list"
    CANCEL_LOSES_FINISHED = "cancel_loses_finished"
    ARCHIVED = "archived"
    INLINE_METADATA_MISSING = "inline_metadata_missing"
    ROW_400 = "row_400"
    ROW_429 = "row_429"
    ROW_500 = "row_500"
    ROW_STATUS_0 = "row_status_0"
    ROW_MISSING = "row_missing"
    ROW_DUPLICATED = "row_duplicated"
    ROW_UNKNOWN = "row_unknown"
    ROW_BROKEN_LINE = "row_broken_line"
    ROW_NOT_UTF8 = "row_not_utf8"
    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    EMPTY_CONTENT = "empty_content"
    MALFORMED_JSON = "malformed_json"
    SCHEMA_VIOLATION = "schema_violation"
    WRONG_ANSWER = "wrong_answer"
    USAGE_ABSENT = "usage_absent"
    JSON_SCHEMA_DEGENERATE = "json_schema_degenerate"
    CALL_429 = "call_429"
    CALL_QUOTA = "call_quota"
    CALL_500 = "call_500"
    CALL_503 = "call_503"
    CALL_DISCONNECT = "call_disconnect"
    CALL_HANG = "call_hang"
    CALL_BILL_THEN_500 = "call_bill_then_500"
    CALL_BILL_THEN_DISCONNECT = "call_bill_then_disconnect"
    CALL_BILL_THEN_HANG = "call_bill_then_hang"
    CALL_SLOW = "call_slow"
    REFUSED_AS_500 = "refused_as_500"
    WEBHOOK_LOST = "webhook_lost"
    WEBHOOK_TWICE = "webhook_twice"
    WEBHOOK_FORGED = "webhook_forged"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """When a fault fires, and its one measure: `seconds` of waiting or `share` of rows, where the fault has one."""

    rate: float = 0.0
    nth: tuple[int, ...] = ()
    transient: bool = (
        True  # rows only: True strikes a custom id (a retry under a new one is spared), False strikes a text
    )
    seconds: float = 1.0
    share: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate), ("share", self.share)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is a share between 0 and 1")
        if not 0.0 <= self.seconds <= HANG_SECONDS_MAX:
            raise ValueError(f"seconds lies between 0 and {HANG_SECONDS_MAX:g}")
        if any(n < 1 for n in self.nth):
            raise ValueError("nth counts from 1")

    @property
    def active(self) -> bool:
        return self.rate > 0.0 or bool(self.nth)


FaultPlan = dict[Fault, FaultRule]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSpec:
    place: Place
    law: str
    transient: bool = True


def _at(place: Place, law: str, *, transient: bool = True) -> FaultSpec:
    return FaultSpec(place=place, law=law, transient=transient)


# The order matters: of several faults that fire at one place, the first in this table is the one that happens.
FAULTS: Final[Mapping[Fault, FaultSpec]] = MappingProxyType(
    {
        Fault.UPLOAD_500: _at(Place.UPLOAD, "500, nothing stored"),
        Fault.UPLOAD_DISCONNECT: _at(Place.UPLOAD, "the connection drops while the file is being sent, nothing stored"),
        Fault.UPLOAD_ACCEPT_THEN_500: _at(Place.UPLOAD, "the file is stored, the answer is 500"),
        Fault.UPLOAD_CHECKS_LINES: _at(
            Place.UPLOAD, "a file with a bad line is refused with 400 at once, as compatible servers do"
        ),
        Fault.ACCEPT_THEN_500: _at(Place.CREATE, "the batch is created, the answer is 500"),
        Fault.ACCEPT_THEN_503: _at(Place.CREATE, "the batch is created, the answer is 503"),
        Fault.ACCEPT_THEN_DISCONNECT: _at(Place.CREATE, "the batch is created, the connection drops without an answer"),
        Fault.ACCEPT_THEN_HANG: _at(
            Place.CREATE, "the batch is created, no answer for `seconds`, then the connection drops"
        ),
        Fault.REJECT_429: _at(Place.CREATE, "429 of a rate limit with Retry-After of `seconds`, nothing created"),
        Fault.REJECT_QUOTA: _at(Place.CREATE, "429 of a spent quota without Retry-After, nothing created"),
        Fault.REJECT_BILLING: _at(Place.CREATE, "402 billing_error, nothing created"),
        Fault.REJECT_500: _at(Place.CREATE, "500, nothing created"),
        Fault.REJECT_OVERLOADED: _at(Place.CREATE, "529 overloaded_error, nothing created (OpenAI: 503)"),
        Fault.RETRIEVE_500: _at(Place.RETRIEVE, "reading a batch answers 500"),
        Fault.RETRIEVE_404: _at(Place.RETRIEVE, "reading a batch answers 404 although it exists"),
        Fault.LIST_500: _at(Place.LIST, "listing batches answers 500"),
        Fault.CANCEL_500: _at(Place.CANCEL, "the cancel is accepted, the answer is 500"),
        Fault.CANCEL_IGNORED: _at(
            Place.CANCEL, "the cancel is accepted with status cancelling, the batch completes anyway"
        ),
        Fault.DOWNLOAD_500: _at(Place.DOWNLOAD, "reading a file's content answers 500"),
        Fault.DOWNLOAD_404: _at(Place.DOWNLOAD, "reading a file's content answers 404, as after its retention"),
        Fault.DOWNLOAD_DISCONNECT: _at(Place.DOWNLOAD, "the connection drops after half of the file's content"),
        Fault.SHUFFLED: _at(Place.BATCH, "results come in another order than the requests (on unless set to 0)"),
        Fault.TOKEN_LIMIT_EXCEEDED: _at(Place.BATCH, "the accepted batch fails with token_limit_exceeded"),
        Fault.EXPIRE: _at(Place.BATCH, "the batch expires; `share` of its rows never ran (batch_expired)"),
        Fault.LIST_LAG: _at(Place.BATCH, "the new batch is missing from the list for `seconds`"),
        Fault.LATE_OUTPUT_FILE: _at(
            Place.BATCH, "completed is shown `seconds` before output_file_id and error_file_id are"
        ),
        Fault.EMPTY_ERROR_FILE_ID: _at(Place.BATCH, "error_file_id is an empty string instead of null"),
        Fault.EMPTY_ERROR_FILE: _at(Place.BATCH, "a clean batch has an error file of zero bytes"),
        Fault.STATUS_FLAP: _at(Place.BATCH, "the second read after the end shows in_progress again, without files"),
        Fault.STATUS_SCHEDULING: _at(Place.BATCH, "until it is worked the batch shows a status of its own, scheduling"),
        Fault.ABSENT_KEYS: _at(Place.BATCH, "what would be null in the batch is left out"),
        Fault.ERRORS_LIST: _at(Place.BATCH, "errors of a failed batch are a bare list instead of a list object"),
        Fault.CANCEL_LOSES_FINISHED: _at(
            Place.BATCH, "a cancelled batch delivers none of the rows it finished and billed"
        ),
        Fault.ARCHIVED: _at(Place.BATCH, "the results are gone `seconds` after the end (Anthropic: archived_at)"),
        Fault.INLINE_METADATA_MISSING: _at(
            Place.BATCH, "responses to inline requests come without the metadata that tells them apart (Gemini)"
        ),
        Fault.ROW_400: _at(Place.ROW, "the row fails with HTTP 400 in the error file", transient=False),
        Fault.ROW_429: _at(Place.ROW, "the row fails with HTTP 429 in the error file"),
        Fault.ROW_500: _at(Place.ROW, "the row fails with HTTP 500 in the error file"),
        Fault.ROW_STATUS_0: _at(Place.ROW, "the row lies in the error file with status_code 0, counted as completed"),
        Fault.ROW_MISSING: _at(Place.ROW, "the row is billed and in neither file"),
        Fault.ROW_DUPLICATED: _at(Place.ROW, "the row comes twice, billed once"),
        Fault.ROW_UNKNOWN: _at(Place.ROW, "beside the row comes one with a custom_id that was never sent"),
        Fault.ROW_BROKEN_LINE: _at(Place.ROW, "the row's line is cut in the middle"),
        Fault.ROW_NOT_UTF8: _at(Place.ROW, "the row's line holds a byte that is not UTF-8"),
        Fault.REFUSAL: _at(Place.ROW, "the model refuses (message.refusal)", transient=False),
        Fault.TRUNCATED: _at(Place.ROW, "finish_reason length, content cut in the middle"),
        Fault.EMPTY_CONTENT: _at(Place.ROW, "finish_reason length, content empty"),
        Fault.MALFORMED_JSON: _at(Place.ROW, "the content is not JSON"),
        Fault.SCHEMA_VIOLATION: _at(Place.ROW, "the content is JSON that the schema forbids"),
        Fault.WRONG_ANSWER: _at(Place.ROW, "the content satisfies the schema and is wrong", transient=False),
        Fault.USAGE_ABSENT: _at(Place.ROW, "the answer carries no usage; it is billed"),
        Fault.JSON_SCHEMA_DEGENERATE: _at(
            Place.ROW, "a schema given as responseJsonSchema is answered with noise (Gemini)", transient=False
        ),
        Fault.CALL_429: _at(Place.CALL, "429 with Retry-After of `seconds`, nothing billed"),
        Fault.CALL_QUOTA: _at(Place.CALL, "the provider's answer to an account without money, nothing billed"),
        Fault.CALL_500: _at(Place.CALL, "500, nothing billed"),
        Fault.CALL_503: _at(Place.CALL, "503 (overloaded) with Retry-After of `seconds`, nothing billed"),
        Fault.CALL_DISCONNECT: _at(Place.CALL, "the connection drops without an answer, nothing billed"),
        Fault.CALL_HANG: _at(Place.CALL, "no answer for `seconds`, then the connection drops, nothing billed"),
        Fault.CALL_BILL_THEN_500: _at(Place.CALL, "the answer is made and billed, the client hears 500"),
        Fault.CALL_BILL_THEN_DISCONNECT: _at(Place.CALL, "the answer is made and billed, then the connection drops"),
        Fault.CALL_BILL_THEN_HANG: _at(
            Place.CALL, "the answer is made and billed, nothing comes for `seconds`, then the connection drops"
        ),
        Fault.CALL_SLOW: _at(Place.CALL, "the answer comes `seconds` later"),
        Fault.REFUSED_AS_500: _at(Place.ANSWER, "a 400 or 404, of whatever endpoint, reaches the client as 500"),
        Fault.WEBHOOK_LOST: _at(Place.WEBHOOK, "the event is never sent"),
        Fault.WEBHOOK_FORGED: _at(Place.WEBHOOK, "the event's signature is not that of its body"),
        Fault.WEBHOOK_TWICE: _at(Place.WEBHOOK, "the event is sent twice, under the same id"),
    }
)

_BY_PLACE: Final[Mapping[Place, tuple[Fault, ...]]] = MappingProxyType(
    {place: tuple(fault for fault, spec in FAULTS.items() if spec.place is place) for place in Place}
)


def struck(
    plan: FaultPlan, place: Place, *, seed: int, key: str, occurrence: int, ordinals: Mapping[Fault, int]
) -> tuple[Fault, ...]:
    """Every fault of `place` that fires for this thing: `key` is its stable name, `occurrence` its how-many-th time."""
    return tuple(
        fault
        for fault, rule in active_at(plan, place)
        if ordinals.get(fault, 0) in rule.nth or unit(seed, fault, key, occurrence) < rule.rate
    )


def row_struck(
    rules: tuple[tuple[Fault, FaultRule], ...], *, seed: int, line: int, custom_id: str, text_sha256: str
) -> Fault | None:
    """The one fault of a row: the first in the table whose rule fires."""
    for fault, rule in rules:
        name = custom_id if rule.transient else text_sha256
        if line in rule.nth or unit(seed, fault, name) < rule.rate:
            return fault
    return None


def active_at(plan: FaultPlan, place: Place) -> tuple[tuple[Fault, FaultRule], ...]:
    return tuple((fault, plan[fault]) for fault in _BY_PLACE[place] if fault in plan and plan[fault].active)


def parse_fault(text: str) -> tuple[Fault, FaultRule]:
    """`row_500=0.05`, `accept_then_500@1,3`, `expire=0.2,share=0.4`, `row_400=0.01,transient=yes`; a name alone: 1."""
    name, sign, rest = _split_at_sign(text.strip())
    fault = _fault_named(name)
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    plain = [part for part in parts if "=" not in part]
    if bool(sign) != bool(plain) or (sign == "=" and len(plain) != 1):
        raise ValueError(f"fault {fault}: write {fault}=RATE or {fault}@N[,N...], then options as name=value")
    values: dict[str, Any] = {"nth": plain} if sign == "@" else {"rate": plain[0] if plain else 1.0}
    values.update((key, value) for key, _, value in (part.partition("=") for part in parts if "=" in part))
    return fault, rule_from_json(fault, values)


def _split_at_sign(text: str) -> tuple[str, str, str]:
    name = text.partition("@")[0].partition("=")[0]
    given = text.removeprefix(name)
    return name, given[:1], given[1:]


def rule_from_json(fault: Fault, value: Any) -> FaultRule:
    """A number is a rate; an object names the fields it sets. Anything else is refused with the fault's name."""
    fields = {"rate": value} if isinstance(value, int | float | str) else value
    if not isinstance(fields, dict) or not fields.keys() <= {"rate", "nth", "transient", "seconds", "share"}:
        raise ValueError(f"fault {fault}: give a rate, or an object of rate, nth, transient, seconds, share")
    base = FaultRule(transient=FAULTS[fault].transient)
    try:
        return replace(base, **{name: _READERS[name](given) for name, given in fields.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"fault {fault}: {error}") from None


def plan_from_json(value: Any) -> FaultPlan:
    if not isinstance(value, dict):
        raise ValueError("give an object: fault name -> rate or rule")  # noqa: TRY004 - refused like any other value
    return {(fault := _fault_named(name)): rule_from_json(fault, rule) for name, rule in value.items()}


def plan_to_json(plan: FaultPlan) -> dict[str, Any]:
    return {str(fault): asdict(rule) | {"nth": list(rule.nth)} for fault, rule in plan.items()}


def _fault_named(name: str) -> Fault:
    try:
        return Fault(name)
    except ValueError:
        raise ValueError(f"no fault is called {name!r}; known: {', '.join(FAULTS)}") from None


def _nth(value: Any) -> tuple[int, ...]:
    numbers: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return tuple(int(number) for number in numbers)


def _yes(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in {"yes", "true", "1"}:
        return True
    if value in {"no", "false", "0"}:
        return False
    raise ValueError("transient is yes or no")


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {"rate": float, "nth": _nth, "transient": _yes, "seconds": float, "share": float}
)
