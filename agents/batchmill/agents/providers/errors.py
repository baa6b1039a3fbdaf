"""What a provider's refusal means, by status and machine code, never by its message.

What lives here: the tables that turn (HTTP status, error code) into one of the port's errors, into what a refused batch
asks of us, or into the reason of one row; and how long a 429 asks us to wait. What must not: any call, any retry.
OpenAI's words, and Anthropic's, Google's and Mistral's where they differ; the dialects of compatible gateways only add
codes.

Google's status is a word, its code repeats HTTP's, and the reason of a refusal lies in `details`. Money that has run
out has no word of its own there: it is RESOURCE_EXHAUSTED like any other limit, and waits like one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Final

from batchmill.agents.providers.loose import listed, mapping
from batchmill.schemas.reasons import Reason
from batchmill.streams.ports import (
    Action,
    MustPauseError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    RefusedError,
    TransientError,
)

__all__ = [
    "GOOGLE_CODES",
    "Complaint",
    "batch_action",
    "complaint_in",
    "error_for",
    "retry_after_seconds",
    "row_reason",
]

#: Nothing of this account passes until a person pays, raises a limit or mends a key.
MONEY_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "billing_error",
        "linked_organization_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "user_profile_not_billable",
        "user_profile_billing_not_authorized",
        "BILLING_DISABLED",
    }
)
#: Refusals of who we are rather than of what we ask, that come with a status of their own: a person must act.
STANDING_CODES = frozenset(
    {
        "organization_on_hold",
        "workspace_human_review_disabled",
        "claude_code_key_creator_not_member",
        "cmek_key_disabled",
        "cmek_key_network_blocked",
        # google.api.ErrorReason
        "CONSUMER_INVALID",
        "CONSUMER_SUSPENDED",
        "SERVICE_DISABLED",
        "USER_PROJECT_DENIED",
        "API_KEY_INVALID",
        "API_KEY_SERVICE_BLOCKED",
        "API_KEY_IP_ADDRESS_BLOCKED",
    }
)
#: OpenAI's type of every refusal; as a code it says nothing
NAMELESS = "invalid_request_error"
AUTH_STATUSES = frozenset({401, 402, 403})
#: Of a call that spends: the account is not ready for it (no billing, say). Of others: too late, or too soon.
PRECONDITION = "FAILED_PRECONDITION"
#: A look-up may be made again after these; after a call that spends money nobody knows what they mean.
CAPACITY_STATUSES = frozenset({408, 409, 425})
THROTTLED = 429
TOO_LARGE = 413
#: Of a look-up: what was there is removed for good, as results are at the end of their time.
GONE = 410
CODE_CHARS_MAX = 100
#: A create that names a file which is gone is refused with 400 or 422, about this member.
INPUT_FILE = frozenset({"input_file_id", "input_files"})
#: The account's queue is full, or the service is: the same batch passes later.
DEFER_CODES = frozenset(
    {
        "token_limit_exceeded",
        "rate_limit_exceeded",
        "slow_down",
        "server_error",
        "batch_queue_full",
        "RESOURCE_EXHAUSTED",
        "UNAVAILABLE",
    }
)
#: The account may not do this at all.
PAUSE_CODES = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", PRECONDITION})
#: The batch is refused because of its whole, not of one row: smaller or other batches may pass.
SPLIT_CODES = frozenset({"too_many_tasks", "file_too_large", "duplicate_custom_id"})
#: No batch of this job can pass.
HOPELESS_CODES = frozenset(
    {
        "model_not_found",
        "invalid_url",
        "url_mismatch",
        "mismatched_model",
        "model_mismatch",
        "empty_file",
        "empty_batch",
        "NOT_FOUND",
    }
)
TOO_LONG_CODES = frozenset({"context_length_exceeded", "string_above_max_length", "max_tokens_exceeded"})
POLICY_CODES = frozenset({"content_policy_violation", "content_filter", "invalid_prompt"})
#: google.rpc.Code -> (its name, the HTTP status it stands for)
GOOGLE_CODES: Final[Mapping[int, tuple[str, int]]] = MappingProxyType(
    {
        1: ("CANCELLED", 499),
        2: ("UNKNOWN", 500),
        3: ("INVALID_ARGUMENT", 400),
        4: ("DEADLINE_EXCEEDED", 504),
        5: ("NOT_FOUND", 404),
        6: ("ALREADY_EXISTS", 409),
        7: ("PERMISSION_DENIED", 403),
        8: ("RESOURCE_EXHAUSTED", 429),
        9: ("FAILED_PRECONDITION", 400),
        10: ("ABORTED", 409),
        11: ("OUT_OF_RANGE", 400),
        12: ("UNIMPLEMENTED", 501),
        13: ("INTERNAL", 500),
        14: ("UNAVAILABLE", 503),
        15: ("DATA_LOSS", 500),
        16: ("UNAUTHENTICATED", 401),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """The machine-readable part of an error; the message stays where it is, it may quote the prompt."""

    code: str
    kind: str = ""
    param: str = ""  #: which member of our request it is about
    wait_seconds: float | None = None  #: how long the document itself asks us to wait

    @property
    def about_money(self) -> bool:
        return self.code in MONEY_CODES or self.kind in MONEY_CODES


def complaint_in(document: object, fallback: str) -> Complaint:
    """Find the code in an error document: `{"error": {"code", "type"}}`, or the inner object alone.

    Anthropic's code lies deeper, in `error.details.error_code`, and is often absent. Google's is told by its word of a
    status, Mistral's for a malformed request by its list `detail`.
    """
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    error = document.get("error", document) if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping):
        return Complaint(code=fallback)
    if isinstance(error.get("status"), str) and isinstance(error.get("code"), int):
        return _google_complaint(error)
    if isinstance(error.get("detail"), list):
        return _form_complaint(error["detail"], fallback)
    code, kind, param = (_word(error.get(name)) for name in ("code", "type", "param"))
    details = error.get("details")
    code = code or (_word(details.get("error_code")) if isinstance(details, Mapping) else "")
    return Complaint(code=code or kind or fallback, kind=kind, param=param)


def error_for(
    status: int, complaint: Complaint, *, spends: bool, headers: Mapping[str, str], now: datetime
) -> ProviderError:
    """Name the error of an HTTP answer that is not 2xx. `spends`: the call may have cost money if it took effect."""
    code = complaint.code
    unclear = status >= 500 or status in CAPACITY_STATUSES
    said = complaint.wait_seconds
    wait_seconds = retry_after_seconds(headers, now) if said is None else said
    if unclear and spends:
        return OutcomeUnknownError(code, http_status=status, retry_after_seconds=wait_seconds)
    stands = code in STANDING_CODES or (spends and code == PRECONDITION)
    if status in AUTH_STATUSES or complaint.about_money or stands:
        code = f"http_{status}" if code == NAMELESS else code  # what `status` then shows as the reason of the pause
        return MustPauseError(code, http_status=status, hint="look at the account's key, balance and limits")
    if unclear or status == THROTTLED:
        return TransientError(code, http_status=status, retry_after_seconds=wait_seconds)
    absent = (status == 404 and code != "model_not_found") or (status == GONE and not spends)
    if complaint.param in INPUT_FILE or absent:
        return NotFoundError(code, http_status=status)
    refused = RefusedError(code, http_status=status)
    if spends and (status == TOO_LARGE or code in SPLIT_CODES):
        refused.action = Action.RETRY_ROW  # of the whole of a batch that came inline: its halves may pass
    return refused


def batch_action(code: str, *, line: int | None) -> Action:
    """Say what to do with a batch that was accepted and then refused as a whole."""
    if code in MONEY_CODES or code in PAUSE_CODES:
        return Action.PAUSE_JOB
    if code in DEFER_CODES:
        return Action.DEFER_CHUNK
    if code in HOPELESS_CODES:
        return Action.TERMINAL
    # One bad line fails its whole batch: the other rows are innocent and may pass without it. A code we do not know
    # spends an attempt, which is bounded.
    return Action.RETRY_ROW if code in SPLIT_CODES or line is not None else _unplaced(code)


def _google_complaint(error: Mapping[str, Any]) -> Complaint:
    status, parts = _word(error["status"]), [part for part in listed(error.get("details")) if isinstance(part, dict)]
    reasons = [reason for part in parts if (reason := _word(part.get("reason")))]
    waits = [part["retryDelay"] for part in parts if isinstance(part.get("retryDelay"), str)]
    return Complaint(
        code=reasons[0] if reasons else status, kind=status, wait_seconds=_seconds(waits[0]) if waits else None
    )


def _form_complaint(faults: list[Any], fallback: str) -> Complaint:
    """Of a request that has not the form of one: what the first fault is, and which member it is about."""
    first = mapping(faults[0]) if faults else {}
    named = [part for part in listed(first.get("loc")) if isinstance(part, str)]
    return Complaint(code=_word(first.get("type")) or fallback, param=_word(named[-1]) if named else "")


def _seconds(text: str) -> float | None:
    """A duration as protocol buffers write it: `34s`, `0.5s`."""
    try:
        wait = float(text.removesuffix("s"))
    except ValueError:
        return None
    return wait if 0 <= wait < float("inf") else None


def _word(value: object) -> str:
    """Codes are text or numbers; services also send null, and some a whole message, which has no place in a row."""
    return str(value)[:CODE_CHARS_MAX] if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _unplaced(code: str) -> Action:
    return Action.TERMINAL if code.startswith(("invalid_", "missing_", "streaming_")) else Action.RETRY_ROW


def row_reason(status: int, complaint: Complaint) -> Reason:
    """Say why one row came back as an HTTP failure."""
    if complaint.code in TOO_LONG_CODES:
        return Reason.TOO_LARGE_FOR_PROVIDER
    if complaint.code in POLICY_CODES:
        return Reason.REFUSED_BY_PROVIDER
    if status == THROTTLED or complaint.about_money:
        return Reason.THROTTLED
    if status in {400, 404, 413, 422}:
        return Reason.REQUEST_INVALID
    return Reason.PROVIDER_ERROR


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read how long we are asked to wait: `retry-after-ms`, then seconds, then an HTTP date; None when not said."""
    for name, per_second in (("retry-after-ms", 1_000), ("retry-after", 1)):
        try:
            wait = float(headers.get(name, "")) / per_second
        except ValueError:
            continue
        return wait if 0 <= wait < float("inf") else None
    try:
        asked = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, (asked.replace(tzinfo=asked.tzinfo or UTC) - now).total_seconds())
