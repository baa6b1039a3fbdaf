"""Rows of task state: what a task remembers, one frozen class per table, written to the `state` topic.

A row is small: ids, numbers, due times and log offsets, never a body. `key` names the row inside its table.
Offsets are of this task's partition. The field-for-field Avro forms are under `avro/state/`.
"""

from dataclasses import dataclass
from typing import ClassVar

from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Origin
from batchmill.schemas.status import ChunkState, Status

__all__ = ["Answer", "Arrival", "Chunk", "Grant", "Job", "Life", "Meta", "Row", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Table `lives`: everything known of one request."""

    schema: ClassVar[str] = "state.lives"
    request_id: str
    job: str
    version: str
    ask_key: str
    source_id: str
    seq: int
    promotion: int
    run_id: str
    lane: str
    target_key: str
    status: Status
    attempt: int  #: attempts that counted, the running one included
    sends: int  #: times it was put into an attempt at all; makes custom ids unique
    chunk_id: str | None  #: the open chunk it is a member of
    queued_at_ms: int
    due_at_ms: int | None  #: when a retry may start; in review: deferred until; reviewed: not written before
    reason: Reason | None  #: of the last failure or of the end
    tokens_estimate: int
    bytes_estimate: int
    input_offset: int  #: of its work item in `normalized`
    result_offset: int | None  #: of its newest answer in `results`
    verdict_offset: int | None  #: of its newest verdict in `validated`
    output_sha256: str | None
    commit_id: str | None
    cost_nanos: int  #: all priced calls of all attempts
    unpriced_calls: int
    input_tokens: int
    output_tokens: int
    confidence: float | None
    redrives: int
    room: int = 0  #: times the answer's length limit was raised after a truncation
    review_offset: int | None = None  #: of the verdict a person was asked about, for undo
    review_sha256: str | None = None  #: of its answer
    reverted: bool = False  #: its commit was taken back: validated, and not to be written unless put back
    traceparent: str | None = None  #: W3C trace context of the raw event, when it had one
    aside: bool = False  #: another version answers for its raw event: nothing of it is written
    epoch: int = 0  #: counts wishes for a fresh answer
    route: str = ""  #: of `ask.routes`, as it is asked by now; empty: the question itself
    parent: str | None = None  #: the request whose committed output this stems from
    part: str | None = None  #: i/n/whole: which part of the whole of that request
    follows: str | None = None  #: the request that asks the same question and whose answer it waits for
    near_key: str | None = None  #: MinHash signature of its input, base64
    fires: bool = False  #: its commit has yet to start the jobs that follow
    origin: Origin
    updated_at_ms: int

    @property
    def key(self) -> str:
        return self.request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Table `sources`: the newest event seen of a source, and what of it is in the sink."""

    schema: ClassVar[str] = "state.sources"
    job: str
    source_id: str
    seq: int  #: newest seen
    request_id: str  #: of the newest seen
    committed_request_id: str | None
    committed_seq: int | None
    committed_promotion: int | None
    raw_partition: int  #: `seq: log` needs one partition per source
    updated_at_ms: int

    @property
    def key(self) -> str:
        return f"{self.job}/{self.source_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Table `answers`: where the stored answer to a question lies; paid once, used again."""

    schema: ClassVar[str] = "state.answers"
    ask_key: str
    request_id: str  #: whose result it is
    result_offset: int
    output_sha256: str
    route: str = ""  #: it was asked by
    stored_at_ms: int

    @property
    def key(self) -> str:
        return self.ask_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Table `arrivals`: a raw record of this partition that waits before it has a life."""

    schema: ClassVar[str] = "state.arrivals"
    job: str | None
    waiting_for: str  #: job_resumed | job_known | parts | tools | index
    since_ms: int
    group: str | None = None  #: what it is a part of
    due_at_ms: int | None = None  #: it is taken up then, whatever is missing
    value_json: str | None = None  #: what was looked up for it so far
    origin: Origin

    @property
    def key(self) -> str:
        return f"{self.origin.generation}/{self.origin.offset:016d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Table `chunks`: the ledger of one provider batch. Members are the lives that name it."""

    schema: ClassVar[str] = "state.chunks"
    chunk_id: str
    job: str
    version: str
    lane: str
    account: str
    model: str
    endpoint: str
    mode: str
    state: ChunkState
    members: int
    bytes: int
    tokens: int
    first_queued_at_ms: int
    attempt: int  #: of the create call; 0 before the first
    attempt_at_ms: int | None  #: when the running attempt became durable
    looks: int  #: reconciliation look-ups that found nothing in this attempt
    cursor: str | None  #: last request id done in the running cut-wise step
    acknowledged: int  #: members seen on `submitted` by the collector
    payload_uri: str | None
    payload_sha256: str | None
    file_id: str | None
    batch_id: str | None
    remote_status: str | None
    output_uri: str | None
    error_uri: str | None
    due_at_ms: int | None  #: next poll, look-up or try of the current step
    failures: int  #: consecutive failed tries of the current step
    succeeded: int
    errored: int
    expired: int
    cancelled: int
    missing: int
    unknown_rows: int
    repeated_rows: int
    twins: int  #: extra remote batches found and cancelled
    wasted_nanos: int
    untold_nanos: int = 0  #: billed by the provider's count for the whole batch beyond what its rows told
    doubtful_nanos: int = 0  #: what calls of unknown outcome may have cost beside `cost_nanos`
    cost_nanos: int
    estimated_nanos: int = 0  #: what it was expected to cost when it was closed
    reserved_nanos: int = 0  #: held of the job's budget: the worst case, until posted or voided
    reserved_tokens: int = 0  #: held of the account's queue at the provider
    reserved_creates: int = 0  #: held of the account's batch creations
    waits_for: str | None = None  #: the pool whose grant it waits for
    cancel_requested: bool
    reason: Reason | None
    note: str | None
    created_at_ms: int
    updated_at_ms: int

    @property
    def key(self) -> str:
        return self.chunk_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Table `jobs`: the frozen versions of a job and its flags, as this task has them."""

    schema: ClassVar[str] = "state.jobs"
    job: str
    version: str  #: the one new events are normalized under
    versions_json: str  #: version -> frozen spec
    promotions_json: str = "[]"  #: list of {version, number, at_ms, command_id}: what was promoted, in order
    shadows_json: str = "{}"  #: version -> share of live events it is asked about, too; they do not commit yet
    paused: bool
    pause_reason: str | None = None  #: the provider's code when the job paused by itself; a person's pause has none
    cancelled_before_ms: int | None  #: lives queued before this instant are cancelled
    last_command_id: str
    updated_at_ms: int

    @property
    def key(self) -> str:
        return self.job


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Table `grants`: what this task may use of a pool that all tasks share. Sums since the pool began; never reset."""

    schema: ClassVar[str] = "state.grants"
    pool: str  #: money/JOB, tokens/ACCOUNT/MODEL, creates/ACCOUNT
    asked: int  #: wanted so far, from the first request on
    granted: int  #: handed out to this task so far
    reserved: int  #: held by open chunks just now
    posted: int  #: used up for good
    returned: int  #: given back unused: the overseer may hand it out again
    updated_at_ms: int

    @property
    def key(self) -> str:
        return self.pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Table `meta`: small facts of the task itself, by name: counters, the restore marker, the clean-stop flag."""

    schema: ClassVar[str] = "state.meta"
    name: str
    value_json: str

    @property
    def key(self) -> str:
        return self.name


Row = Life | Source | Answer | Arrival | Chunk | Grant | Job | Meta
