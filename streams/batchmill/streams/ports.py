"""What the doers must supply: provider, sink and payload store, as small protocols over frozen values.

Decisions see only the values; the effects hold the objects. Whoever implements a port raises these errors and no
others, so that what to do next is decided by the error's class, never by its text.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome

__all__ = [
    "Action",
    "BatchFailure",
    "BatchProvider",
    "Beneath",
    "Capabilities",
    "ChangeKind",
    "CreateOrder",
    "FoundBy",
    "Label",
    "MustPauseError",
    "NotFoundError",
    "NotStartedError",
    "OnlineProvider",
    "OutcomeUnknownError",
    "PayloadStore",
    "ProviderError",
    "RefusedError",
    "RemoteBatch",
    "RemoteStatus",
    "RevertibleSink",
    "RowOutcome",
    "Sink",
    "SinkCapabilities",
    "SinkChange",
    "SinkOutcome",
    "SinkResult",
    "SinkWrite",
    "StoredPayload",
    "TransientError",
]


# -- provider ----------------------------------------------------------------------------------------------------------


class Action(StrEnum):
    """What a refusal asks of us."""

    RETRY_ROW = "retry_row"  #: the rows may pass in another batch; this batch will not
    DEFER_CHUNK = "defer_chunk"  #: the same batch may pass later (queue full, capacity, throttled)
    PAUSE_JOB = "pause_job"  #: money or credentials: nothing of this job can pass until a person acts
    TERMINAL = "terminal"  #: it will never pass


class ProviderError(Exception):
    """A call did not go well. `code` is the provider's machine code; the text carries no payload."""

    action: Action = Action.DEFER_CHUNK

    def __init__(
        self, code: str, *, http_status: int | None = None, retry_after_seconds: float | None = None, hint: str = ""
    ) -> None:
        answered = "" if http_status is None else f" (HTTP {http_status})"
        super().__init__(f"{code}{answered}{': ' if hint else ''}{hint}")
        self.code = code
        self.http_status = http_status
        self.retry_after_seconds = retry_after_seconds


class TransientError(ProviderError):
    """Known not to have taken effect (or a mere look-up): the same call may be made again later."""

    action = Action.DEFER_CHUNK


class NotStartedError(TransientError):
    """Nothing was sent, nor will be: a pause, a lease that ended, a gate that stays closed for a while."""


class MustPauseError(ProviderError):
    """Money or credentials: the job pauses until a person acts."""

    action = Action.PAUSE_JOB


class RefusedError(ProviderError):
    """The provider understood and said no; the same call would be refused again."""

    action = Action.TERMINAL


class NotFoundError(ProviderError):
    """The named file or batch is not there (any more)."""

    action = Action.TERMINAL


class OutcomeUnknownError(ProviderError):
    """The call was sent and nobody knows whether it took effect: reconcile, never send again blindly."""

    action = Action.DEFER_CHUNK


class RemoteStatus(StrEnum):
    """What a provider's batch status means to us. An unknown word means RUNNING."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"  #: will not change any more; rows, if any, are in its files
    FAILED = "failed"  #: refused as a whole; nothing ran, nothing was billed


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFailure:
    """Why a batch was refused as a whole after it had been accepted."""

    action: Action
    code: str
    line: int | None = None  #: the 1-based line it is about, when it names one


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBatch:
    """One batch as the provider shows it."""

    batch_id: str
    status: RemoteStatus
    status_text: str  #: in the provider's own word
    created_at_ms: int
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    label: Mapping[str, str] = field(default_factory=dict)  #: what it carries of Label, by Label's field names
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    failure: BatchFailure | None = None
    #: False: it may be the one that was looked for, but only its results, not there yet, can tell
    identified: bool = True
    input_tokens: int | None = None  #: billed so far, where the provider says so
    output_tokens: int | None = None
    cached_tokens: int = 0  #: part of `input_tokens`


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Written on a batch at create, so that it is found again when the answer to create is lost."""

    app: str
    chunk_id: str
    chunk_attempt: int
    payload_sha256: str
    members: int  #: how many rows; where nothing can be written on a batch it is told by this, its time and its nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOrder:
    """All that a create call needs. `content` reads the payload anew each time it is called."""

    label: Label
    endpoint: str
    model: str
    file_id: str | None  #: of the uploaded payload; None where the provider takes it inline
    size_bytes: int
    content: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOutcome:
    """One line of a result or error file, in our words. `reason` is None exactly when it succeeded."""

    custom_id: str
    outcome: Outcome
    reason: Reason | None
    output: str | None = None
    finish_reason: str | None = None
    refusal: str | None = None
    http_status: int | None = None
    error_code: str | None = None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  #: part of `input_tokens` that was read from the provider's prompt cache
    cache_write_tokens: int = 0  #: part of `input_tokens` that was written to it
    usage_known: bool = True  #: False: perhaps billed, but the provider did not say for what: unpriced, never 0
    billed: bool = True  #: False: the provider says, or its kind implies, that nothing was charged
    logprob_mean: float | None = None  #: of the answer's tokens, natural logarithm, where the provider gave it


class FoundBy(StrEnum):
    """What tells a batch of ours from others when the answer to its create call was lost."""

    METADATA = "metadata"  #: our label is written on it
    DISPLAY_NAME = "display name"  #: our label is its name
    CONTENT = "time, count and nonce"  #: nothing can be written on it: only its results name it for certain
    TOKEN = "client token"  # noqa: S105 - the same token twice makes one batch; no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do, and where its limits lie. None: there is no such limit, or none is published."""

    members_max: int
    members_min: int = 1
    bytes_max: int
    custom_id_chars_max: int
    found_by: FoundBy
    input_file: bool  #: create refers to an uploaded file, which can be deleted; else the payload goes inline
    one_model: bool  #: all rows of a batch ask the same model
    bad_row_fails: str  #: "batch" or "row": what one invalid row takes down with it
    window_seconds: int  #: when a batch expires at the latest
    typical_seconds: int  #: how long a batch takes as a rule; `auto` plans with it
    retention_seconds: int | None  #: how long results can be fetched
    creates_per_hour_max: int | None
    queue_counts: str | None  #: "tokens" or "requests": what the provider limits of all unfinished batches together
    queue_max: int | None
    batch_percent: int  #: of the list price
    endpoints: tuple[str, ...]  #: what a batch row may ask, the default first
    online_endpoints: tuple[str, ...] = ()  #: what can be called one by one
    output_tokens_default: int | None = None  #: sent where the job sets no limit and the provider demands one


class BatchProvider(Protocol):
    """One account at one provider.

    `request_line` and `parse_row` are pure; every other call is one HTTP exchange with a total timeout, and `create`
    is never retried by the adapter or anything below it.
    """

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def request_line(self, *, custom_id: str, endpoint: str, body: bytes) -> bytes:
        """Frame one request body (see `rendering`) as a line of the input file, newline included."""
        ...

    def parse_row(self, line: bytes) -> RowOutcome | None:
        """A line of an output or error file; None for a line that names no row (quarantined and counted)."""
        ...

    async def upload(
        self, *, name: str, size_bytes: int, content: AsyncIterator[bytes], may_start: Callable[[], bool]
    ) -> str:
        """Give the provider an input file; returns its file id. An unknown outcome costs nothing but a stray file.

        `may_start` is asked as for `create`.
        """
        ...

    async def create(self, order: CreateOrder, *, may_start: Callable[[], bool]) -> RemoteBatch:
        """Spend money.

        Raises TransientError, MustPauseError, NotFoundError (the input file) or RefusedError only when the batch
        certainly does not exist, else OutcomeUnknownError. `may_start` is asked after the wait for a turn, immediately
        before the request is sent: a spending lease that ended meanwhile is a TransientError.
        """
        ...

    async def get(self, batch_id: str) -> RemoteBatch: ...

    async def find(self, *, label: Label, since_ms: int) -> Sequence[RemoteBatch]:
        """Every batch of the account created since, whose label names this app and chunk (any attempt). Full paging.

        Where nothing can be written on a batch: those that could be it by time and count, `identified` once their
        results show the chunk's nonce, and left out once they show another.
        """
        ...

    async def cancel(self, batch_id: str) -> RemoteBatch: ...

    def download(self, file_id: str) -> AsyncIterator[bytes]: ...

    async def delete_file(self, file_id: str) -> None:
        """Done when the file is gone; not finding it is success."""
        ...


class OnlineProvider(Protocol):
    """One account's endpoints for single questions."""

    @property
    def name(self) -> str: ...

    async def ask(self, *, endpoint: str, line: bytes, tokens: int, may_start: Callable[[], bool]) -> RowOutcome:
        """Send the question of one payload line (see `BatchProvider.request_line`), once.

        `tokens` is the estimate of prompt and answer together, for the account's rate. `may_start` is asked after the
        wait for a turn: if not, NotStartedError. Raises TransientError or MustPauseError when the question certainly
        was not answered nor billed, OutcomeUnknownError when nobody knows; a refusal of this very question is a
        RowOutcome.
        """
        ...


# -- payload store -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPayload:
    """A file that was written, fsynced and named by its content."""

    uri: str
    sha256: str
    size_bytes: int


class PayloadStore(Protocol):
    """Content-addressed files, shared by all workers: what was sent and what came back."""

    async def put(self, content: AsyncIterator[bytes]) -> StoredPayload: ...

    async def exists(self, uri: str) -> bool: ...

    async def size(self, uri: str) -> int: ...

    def read(self, uri: str) -> AsyncIterator[bytes]: ...

    async def read_range(self, uri: str, start: int, length: int) -> bytes: ...


# -- sink --------------------------------------------------------------------------------------------------------------


class SinkOutcome(StrEnum):
    """What a sink did with one write."""

    APPLIED = "applied"
    ALREADY = "already"  #: this very commit id had been applied before; its history is returned unchanged
    STALE = "stale"  #: it holds a newer rank
    REFUSED = "refused"  #: it will never take this value
    CONFLICT = "conflict"  #: of a change: the target holds another commit by now


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkWrite:
    """One value for one target, at one rank."""

    commit_id: str
    table: str
    target_key: str
    seq: int
    promotion: int
    request_id: str
    source_id: str
    job: str
    version: str
    run_id: str
    partition: str | None = None  #: where the job says how output is split up (`PlaceSpec.partition`)
    output_json: str
    output_sha256: str


class ChangeKind(StrEnum):
    """What may be done to a commit that was applied."""

    REVERT = "revert"  #: the target gets back, byte for byte, what the commit replaced
    REPLAY = "replay"  #: a reverted commit is put back as it was


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkChange:
    """Take one commit of a target back, or put it back. Only if nothing else was written to the target since."""

    kind: ChangeKind
    commit_id: str
    table: str
    target_key: str
    order: int  #: of the operator's command in its log: an older command never undoes a newer one


@dataclass(frozen=True, slots=True, kw_only=True)
class Beneath:
    """The commit that another one had replaced, and whose it was."""

    commit_id: str
    request_id: str
    run_id: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkResult:
    """The answer to the write, or the change, of the same commit id."""

    commit_id: str
    outcome: SinkOutcome
    previous_commit_id: str | None = None  #: what APPLIED or ALREADY replaced
    changed: bool = False  #: APPLIED, ALREADY: there was a value before, and it was another one
    held_commit_id: str | None = None  #: STALE, CONFLICT: what it holds instead; None: nothing
    output_json: str | None = None  #: of a change: what the target holds now; None: nothing
    beneath: Beneath | None = None  #: of a change: what its commit had replaced; None: nothing
    error: str | None = None  #: REFUSED: why, without the value


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCapabilities:
    """What a sink can promise."""

    compares: bool  #: applies a write only if its rank is newer; without it `sources` is all there is
    revertible: bool
    inside: bool = False  #: written in Kafka's own transaction: by orders, not by `apply`


class Sink(Protocol):
    """Where committed values go. A raised exception means: nobody knows; the same writes are applied again."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> SinkCapabilities: ...

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        """All of them in one transaction where the sink has one; one result per write, in the same order."""
        ...

    async def close(self) -> None: ...


class RevertibleSink(Sink, Protocol):
    """A sink whose capabilities say `revertible`."""

    async def change(self, changes: Sequence[SinkChange]) -> Sequence[SinkResult]:
        """Revert or replay, as `apply`: in one transaction, one result each, in the same order.

        The same change again is ALREADY; a commit that the target does not hold (revert), or one whose predecessor it
        does not hold (replay), is a CONFLICT.
        """
        ...
