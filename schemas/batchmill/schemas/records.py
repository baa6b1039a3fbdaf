"""One frozen class per topic, field for field the `.avsc` of the same name under `avro/`.

What is written to Kafka, nothing else: rows of task state are in `state`. Times are milliseconds since the epoch
(`_ms`), money is whole nano-dollars (`_nanos`), sizes are bytes. Text fields that hold JSON end in `_json` and are
RFC 8785 canonical where an id is made of them.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome, VerdictStatus

__all__ = [
    "Check",
    "Committed",
    "Control",
    "DeadLetter",
    "Decision",
    "Excluded",
    "Origin",
    "RawEvent",
    "Record",
    "Result",
    "Submitted",
    "Verdict",
    "WorkItem",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The raw event something stems from; accounting joins on it."""

    generation: int  #: of the raw topic; counts re-creations of it
    partition: int
    offset: int
    at_ms: int  #: when the broker appended it


@dataclass(frozen=True, slots=True, kw_only=True)
class RawEvent:
    """`raw`, typed form: an upstream event for a job. The same members as plain JSON work too."""

    schema: ClassVar[str] = "raw"
    job: str | None = None
    source_id: str | None = None
    seq: int | None = None
    payload_json: str
    metadata: dict[str, str] = field(default_factory=dict)
    op: str = "upsert"  #: upsert | delete


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """`normalized`: what will be asked, under which frozen version, for which source and target."""

    schema: ClassVar[str] = "normalized"
    request_id: str
    job: str
    version: str  #: fingerprint of ask + judge
    ask_key: str
    source_id: str
    seq: int
    promotion: int = 0  #: second half of the rank: of the version, when the event was normalized
    seq_from_log: bool = False  #: the rank is the place in raw, which holds only inside one raw partition
    run_id: str
    epoch: int
    lane: str  #: account|model|endpoint|mode: what may share a provider batch
    input_json: str
    input_sha256: str
    target_key: str
    tokens_estimate: int
    bytes_estimate: int
    traceparent: str | None = None  #: W3C trace context of the raw event, when it had one
    aside: bool = False  #: another version answers for its raw event: nothing of it is written
    replayed: bool = False  #: its raw event was read again: what is accounted for already stays so
    route: str = ""  #: of `ask.routes`; empty: the question itself
    parent: str | None = None  #: the request whose committed output this stems from
    part: str | None = None  #: i/n/whole: which part of the whole of that request
    near_key: str | None = None  #: MinHash signature of its input, base64; None: not wanted
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """`submitted`: line `line` of attempt `chunk_attempt` of a chunk; written before the provider hears of it."""

    schema: ClassVar[str] = "submitted"
    request_id: str
    job: str
    version: str
    chunk_id: str
    chunk_attempt: int
    line: int
    attempt: int
    custom_id: str
    account: str
    model: str
    mode: str
    payload_sha256: str
    submitted_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`results`: what came back for one attempt; exactly one per (request, attempt)."""

    schema: ClassVar[str] = "results"
    request_id: str
    job: str
    version: str
    attempt: int
    chunk_id: str
    custom_id: str
    outcome: Outcome
    output: str | None  #: the model's text
    output_sha256: str | None
    finish_reason: str | None
    refusal: str | None
    http_status: int | None
    error_code: str | None
    reason: Reason | None  #: why it is not a success, in our words
    model: str | None  #: as the provider names it
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int = 0  #: part of `input_tokens` that was written to the provider's prompt cache
    tier: str | None = None  #: batch | online: which price list applied
    logprob_mean: float | None = None  #: of the answer's tokens, natural logarithm, where the provider gave it
    cost_nanos: int | None  #: None = unpriced, never 0 for an unknown price
    price_id: str | None
    answered_by: str  #: provider | store | import | near
    route: str = ""
    of_request_id: str | None = None  #: whose answer this is a copy of
    similarity: float | None = None  #: of the two inputs, where they are not the same
    received_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One declared check and how it went."""

    id: str
    severity: str  #: reject | review | warn
    passed: bool
    path: str | None
    note: str | None  #: says what was expected, never the value


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`validated`: the judgement on one answer."""

    schema: ClassVar[str] = "validated"
    request_id: str
    job: str
    version: str
    source_id: str
    seq: int
    promotion: int
    attempt: int
    status: VerdictStatus
    output_json: str
    output_sha256: str
    checks: tuple[Check, ...]
    confidence: float | None
    target_key: str
    decided_by: str  #: rules | a reviewer's name
    aside: bool = False  #: of a life aside
    judged_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """`committed`: written downstream under `target_key`; taken back (`reverts` names the commit); put back."""

    schema: ClassVar[str] = "committed"
    request_id: str
    job: str
    version: str
    source_id: str
    seq: int
    promotion: int
    run_id: str
    sink: str
    target_key: str
    kind: str = "commit"  #: commit | revert | replay
    commit_id: str
    previous_commit_id: str | None
    reverts: str | None
    removed: bool = False  #: a revert left nothing under the key: there was nothing before
    output_json: str
    output_sha256: str
    cost_nanos: int | None
    committed_at_ms: int
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """`dead-letter`: who failed, where, why, what it cost, and the original bytes or where they lie."""

    schema: ClassVar[str] = "dead-letter"
    id: str
    request_id: str | None
    job: str | None
    version: str | None
    source_id: str | None
    stage: str
    reason: Reason
    error: str
    retryable: bool
    fault: str
    attempt: int
    cost_nanos: int | None
    checks: tuple[Check, ...] = ()  #: of the answer that was no good
    original: bytes | None  #: the raw value, when it fits
    original_sha256: str
    original_bytes: int
    original_uri: str | None  #: claim check, when it does not fit
    redrives: int
    aside: bool = False  #: of a life that does not answer for the raw event
    failed_at_ms: int
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """`excluded`: accounted for, not processed: filtered, duplicate, superseded, cancelled."""

    schema: ClassVar[str] = "excluded"
    id: str
    request_id: str | None
    job: str
    version: str | None
    source_id: str | None
    stage: str
    reason: Reason
    detail: str
    of_request_id: str | None  #: the request that answers for it
    cost_nanos: int | None
    aside: bool = False  #: of a life that does not answer for the raw event
    excluded_at_ms: int
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`decisions`: what a person decided about one answer, and which answer they saw."""

    schema: ClassVar[str] = "decisions"
    id: str
    request_id: str
    job: str
    action: str  #: accept | correct | decline | defer | undo | score
    output_sha256_seen: str
    output_json: str | None  #: the correction, or the score
    reason: str | None
    until_ms: int | None = None  #: defer: not to be shown before
    undoes: str | None = None  #: undo: the decision that is taken back
    actor: str
    decided_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """`control`: one operator command, one copy per partition, all in one transaction."""

    schema: ClassVar[str] = "control"
    command_id: str
    command: str  #: apply | promote | reject | pause | resume | cancel | approve | redrive | import | look | grant
    #: revert | replay | go | rerun | manifest
    job: str
    version: str | None
    body_json: str  #: the frozen spec of `apply`, the selection of `redrive` and `approve`
    actor: str
    issued_at_ms: int


Record = RawEvent | WorkItem | Submitted | Result | Verdict | Committed | DeadLetter | Excluded | Decision | Control
