"""A job as it is frozen: everything that decides what is asked, how it is judged and where it goes, in one value.

What users write (YAML, files beside it, durations like `6h`) is resolved into this before anything runs; from then on
the canonical JSON text of a spec is the job. Templates and schemas are carried as text, paths and expressions as
written: nothing here renders, compiles or evaluates. Fields ending in `_json` are compacted on construction, so two
spellings of one document are one spec; their member order is kept, since a model answers in the order of its schema.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from batchmill.schemas import strict_json
from batchmill.schemas.asking import AskSpec, NearSpec
from batchmill.schemas.drift import DriftSpec
from batchmill.schemas.ids import Dedupe
from batchmill.schemas.promotion import GateSpec, JoinSpec, ScheduleSpec, ThenSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.spec_rules import compacted, named, require

__all__ = [
    "BreakerSpec",
    "BudgetSpec",
    "CheckKind",
    "ChunkSpec",
    "CitationSpec",
    "CommitSpec",
    "ConfidenceSpec",
    "FunctionSpec",
    "InputSpec",
    "JobSpec",
    "JudgeSpec",
    "LengthSpec",
    "ModeSpec",
    "OnlineSpec",
    "PlaceSpec",
    "Repair",
    "RetryRule",
    "RetrySpec",
    "ReviewSpec",
    "RuleSpec",
    "SamplingSpec",
    "ScoringSpec",
    "Severity",
    "TruncationSpec",
]


class CheckKind(StrEnum):
    """The kinds of declared checks whose severity a job may choose."""

    SCHEMA = "schema"
    REQUIRED = "required"
    CATEGORY = "category"
    LENGTH = "length"
    PATTERN = "pattern"
    TYPE = "type"


class Repair(StrEnum):
    """What may be done to an answer that is not one JSON value, before it is called `not_json`. Recorded as a check."""

    CODE_FENCE = "code_fence"  #: take the inside of a Markdown code fence
    TRAILING_TEXT = "trailing_text"  #: take the one JSON value out of the text around it
    JSON_REPAIR = "json_repair"  #: let the library of that name mend quotes, commas and brackets


class Severity(StrEnum):
    """What a failed check means for the answer."""

    REJECT = "reject"  #: the answer is no good; `on_reject` says what then
    REVIEW = "review"  #: a person decides
    WARN = "warn"  #: recorded, nothing more


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """Which events are taken, and what is done to their text first."""

    schema_json: str | None = None  #: JSON Schema of the event
    required: tuple[str, ...] = ()  #: members that must be there and not blank
    normalize: Literal["NFC", "NFKC"] | None = "NFC"
    strip_control: bool = True  #: drop control characters other than tab and line ends
    max_chars: Mapping[str, int] = field(default_factory=dict)  #: member -> where its text is cut
    keep: tuple[str, ...] = ()  #: members that are taken; none named: all
    strip_markup: bool = False  #: of HTML only the text is kept
    collapse_space: bool = False  #: every run of white space becomes one space or one line end
    filter: str | None = None  #: CEL over `input`; what it refuses is excluded, unpaid

    def __post_init__(self) -> None:
        compacted(self, "schema_json", "$.input.schema_json")
        for name, limit in self.max_chars.items():
            require(limit > 0, f"$.input.max_chars.{name}", "must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSpec:
    """When a filling provider batch is closed: whichever limit is met first."""

    max_count: int = 1_000
    max_bytes: int = 50_000_000
    max_tokens: int = 2_000_000
    max_age_seconds: float = 60

    def __post_init__(self) -> None:
        for member in ("max_count", "max_bytes", "max_tokens", "max_age_seconds"):
            require(getattr(self, member) > 0, f"$.mode.chunk.{member}", "must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineSpec:
    """How questions travel one by one, where no batch endpoint is used."""

    max_count: int = 64  #: members of one chunk: as many calls may be in doubt after a crash
    on_unknown: Literal["resend", "dead"] = "resend"  #: what becomes of a call whose outcome a crash has hidden

    def __post_init__(self) -> None:
        require(1 <= self.max_count <= 1_000, "$.mode.online.max_count", "must be from 1 to 1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSpec:
    """How the question travels. `auto`: by batch as long as that meets the deadline, online what would be late."""

    prefer: Literal["batch", "online", "auto"] = "batch"
    deadline_seconds: int | None = None  #: from the event's arrival to having an answer
    hold_submit: bool = False  #: sealed chunks wait for an operator's approval
    chunk: ChunkSpec = field(default_factory=ChunkSpec)
    online: OnlineSpec = field(default_factory=OnlineSpec)

    def __post_init__(self) -> None:
        require(
            self.deadline_seconds is None or self.deadline_seconds > 0, "$.mode.deadline_seconds", "must be above 0"
        )
        require(
            self.prefer != "auto" or self.deadline_seconds is not None,
            "$.mode.deadline_seconds",
            "must be there: `auto` chooses by it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSpec:
    """Bounds on the length of one output member, both included: characters of a text, items of a list."""

    min: int | None = None
    max: int | None = None

    def __post_init__(self) -> None:
        low, high = self.min or 0, self.max
        require(low >= 0 and (high is None or high >= low), "$.judge.lengths", "must be 0 <= min <= max")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSpec:
    """How sure the model is: a number member of the output, or the mean probability of its tokens."""

    field: str | None = None  #: None: from the log-probabilities that came with the answer
    review_below: float
    reject_below: float | None = None
    #: (told, true) pairs, both ascending: what the model tells -> how often it was right; straight lines between
    calibration: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        where = "$.judge.confidence"
        below = self.reject_below
        require(below is None or below <= self.review_below, f"{where}.reject_below", "must not exceed review_below")
        require(all(len(pair) == 2 for pair in self.calibration), f"{where}.calibration", "must be pairs of numbers")
        told, true = ([pair[at] for pair in self.calibration] for at in (0, 1))
        in_order = sorted(set(told)) == told and sorted(true) == true
        require(in_order and len(told) != 1, f"{where}.calibration", "must be two or more pairs, both parts ascending")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """A business rule in CEL over `output` and `input`."""

    id: str
    require: str  #: must be true
    when: str | None = None  #: asked only where this is true
    severity: Severity = Severity.REJECT
    note: str | None = None  #: what is expected, in words a reviewer reads

    def __post_init__(self) -> None:
        named(self.id, "$.judge.rules.id")
        for member in ("require", "when"):
            text = getattr(self, member)
            require(text is None or bool(text.strip()), f"$.judge.rules.{member}", "must not be blank")


@dataclass(frozen=True, slots=True, kw_only=True)
class CitationSpec:
    """Passages of the output that must occur in the input."""

    id: str
    field: str  #: path into the output: a text, a list of texts, an object of texts, or a list of objects
    quote: str | None = None  #: member of each object that holds the passage; None: all that `field` finds
    source: str | None = None  #: member of each object that names the document by its id; None: any document
    within: str  #: path into the input: a text, or a list of documents {id, text}
    match: Literal["exact", "folded"] = "folded"  #: folded: white space and letter case do not count
    severity: Severity = Severity.REJECT

    def __post_init__(self) -> None:
        named(self.id, "$.judge.citations.id")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """A check written in Python: an entry point of the group `batchmill.checks`, frozen by its source."""

    id: str
    name: str  #: of the entry point
    sha256: str = ""  #: of its module's source when the job was read; another one on a worker sends to review
    params_json: str = "{}"  #: handed to the function as they are
    severity: Severity = Severity.REJECT

    def __post_init__(self) -> None:
        named(self.id, "$.judge.functions.id")
        named(self.name, "$.judge.functions.name")
        compacted(self, "params_json", "$.judge.functions.params_json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSpec:
    """A second opinion on answers that passed: another job's, or a function's. Disagreement sends to review."""

    job: str | None = None  #: an applied job that places into `decisions`; its answer is the score
    function: FunctionSpec | None = None
    agree: str  #: CEL over `output`, `input` and `score`
    sample: float = 1  #: share of the answers that are scored

    def __post_init__(self) -> None:
        require((self.job is None) != (self.function is None), "$.judge.scoring", "must name a job or a function")
        if self.job is not None:
            named(self.job, "$.judge.scoring.job")
        require(0 < self.sample <= 1, "$.judge.scoring.sample", "must be above 0 and at most 1")
        require(bool(self.agree.strip()), "$.judge.scoring.agree", "must not be blank")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """Spot review by class: of passing answers with this value of `field`, so many are seen by a person."""

    field: str
    shares: Mapping[str, float]  #: value -> share; a value that is not named has the general share

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            require(0 <= share <= 1, f"$.judge.review_by.shares.{name}", "must be from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSpec:
    """What an answer must be to count. The output schema (in `ask`) is always checked when there is one."""

    required: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  #: member -> allowed values
    lengths: Mapping[str, LengthSpec] = field(default_factory=dict)
    confidence: ConfidenceSpec | None = None
    patterns: Mapping[str, str] = field(default_factory=dict)  #: member -> regular expression, found anywhere
    types: Mapping[str, str] = field(default_factory=dict)  #: member -> JSON type, or a format such as `date`
    repairs: tuple[Repair, ...] = ()  #: tried in this order
    rules: tuple[RuleSpec, ...] = ()
    citations: tuple[CitationSpec, ...] = ()
    functions: tuple[FunctionSpec, ...] = ()
    scoring: ScoringSpec | None = None
    review_by: SamplingSpec | None = None
    review_sample: float = 0  #: share of passing answers that a person sees all the same
    on_reject: Literal["retry", "review", "dead"] = "retry"
    severity: Mapping[CheckKind, Severity] = field(default_factory=dict)  #: `reject` where it names none

    def __post_init__(self) -> None:
        require(0 <= self.review_sample <= 1, "$.judge.review_sample", "must be from 0 to 1")
        for name, allowed in self.categories.items():
            require(len(allowed) > 0, f"$.judge.categories.{name}", "must allow a value")
        ids = [each.id for part in (self.rules, self.citations, self.functions) for each in part]
        twice = sorted({name for name in ids if ids.count(name) > 1 or name in set(CheckKind)})
        require(not twice, "$.judge", f"names the check {twice[0] if twice else ''!r} twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """Overrides for one reason; what is None is as the job says in general."""

    max_attempts: int | None = None
    backoff_seconds_base: float | None = None
    backoff_seconds_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncationSpec:
    """What is done about an answer that ended at its length limit: it is asked again with more room, or it is lost."""

    factor: float = 2  #: each retry's limit over the one before
    times: int = 1  #: 0: a truncated answer is terminal; so it is where the job sets no limit that could be raised

    def __post_init__(self) -> None:
        require(self.factor > 1, "$.retry.truncated.factor", "must be above 1")
        require(0 <= self.times <= 8, "$.retry.truncated.times", "must be from 0 to 8")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySpec:
    """How often and how soon a retryable failure is tried again; the wait doubles from base to max."""

    max_attempts: int = 3  #: the first one included
    backoff_seconds_base: float = 30
    backoff_seconds_max: float = 3_600
    on: Mapping[Reason, RetryRule] = field(default_factory=dict)
    truncated: TruncationSpec = field(default_factory=TruncationSpec)

    def __post_init__(self) -> None:
        _check_retry(self, "$.retry")
        for reason, rule in self.on.items():
            _check_retry(rule, f"$.retry.on.{reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceSpec:
    """Where validated output goes, and under which key: `source_id`, or a JSON path into the input."""

    sink: str
    table: str  #: table, topic, folder or route, as the sink understands it
    key: str = "source_id"
    partition: str | None = None  #: files only: `date`, or a JSON path into the output

    def __post_init__(self) -> None:
        named(self.sink, "$.place.sink")
        named(self.table, "$.place.table")
        require(self.key == "source_id" or self.key.startswith("$"), "$.place.key", "must be source_id or a JSON path")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitSpec:
    """How fast and how far writes may go before an operator says `go`. Each task has its equal part of both counts."""

    per_second: float | None = None
    stop_after: int | None = None  #: commits of one version
    stop_changed: float | None = None  #: share of the commits of one version that changed what was there
    changed_minimum: int = 100  #: commits before that share means anything

    def __post_init__(self) -> None:
        for member in ("per_second", "stop_after", "changed_minimum"):
            limit = getattr(self, member)
            require(limit is None or limit > 0, f"$.commit.{member}", "must be above 0")
        share = self.stop_changed
        require(share is None or 0 < share <= 1, "$.commit.stop_changed", "must be above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSpec:
    """How people review: no part of the version, since it changes no judgement."""

    decline_reasons: tuple[str, ...] = ("wrong", "unsupported", "incomplete", "unusable_input", "other")
    double: float = 0  #: share of reviewed answers that two people decide independently
    undo_seconds: float = 15  #: a reviewed answer is written downstream no earlier, so that it can be undone

    def __post_init__(self) -> None:
        require(len(self.decline_reasons) > 0, "$.review.decline_reasons", "must list a reason")
        for reason in self.decline_reasons:
            named(reason, "$.review.decline_reasons")
        require(0 <= self.double <= 1, "$.review.double", "must be from 0 to 1")
        require(0 <= self.undo_seconds <= 3_600, "$.review.undo_seconds", "must be from 0 to 3600")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSpec:
    """When a job pauses by itself because its answers fail: counted per version and task, over the newest answers."""

    consecutive: int = 100  #: failures in a row
    ratio: float = 0.8  #: failures among the last `window`
    window: int = 200

    def __post_init__(self) -> None:
        for member in ("consecutive", "window"):
            require(1 <= getattr(self, member) <= 10_000, f"$.breaker.{member}", "must be from 1 to 10000")
        require(0 < self.ratio <= 1, "$.breaker.ratio", "must be above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpec:
    """Money in nano-dollars that must not be exceeded: by the whole job, and by all attempts of one record."""

    job_nanos: int | None = None
    record_nanos: int | None = None

    def __post_init__(self) -> None:
        for member in ("job_nanos", "record_nanos"):
            limit = getattr(self, member)
            require(limit is None or limit > 0, f"$.budget.{member}", "must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One frozen version of one job."""

    job: str
    id_path: str | None = None  #: JSON path of the source id; None: the record's key
    seq: str = "log"  #: JSON path of the event's rank, or `log`: its place in the raw topic
    input: InputSpec = field(default_factory=InputSpec)
    ask: AskSpec
    mode: ModeSpec = field(default_factory=ModeSpec)
    judge: JudgeSpec = field(default_factory=JudgeSpec)
    retry: RetrySpec = field(default_factory=RetrySpec)
    place: PlaceSpec
    dedupe: Dedupe = "source"
    budget: BudgetSpec | None = None
    commit: CommitSpec = field(default_factory=CommitSpec)
    review: ReviewSpec = field(default_factory=ReviewSpec)
    breaker: BreakerSpec | None = field(default_factory=BreakerSpec)  #: None: never
    drift: DriftSpec | None = None  #: None: nobody watches
    near: NearSpec | None = None  #: with `dedupe: near`
    gate: GateSpec | None = None  #: None: only a person promotes
    then: tuple[ThenSpec, ...] = ()
    join: JoinSpec | None = None
    schedules: tuple[ScheduleSpec, ...] = ()
    prices_json: str | None = None  #: what its model cost when the job was applied, as `streams.costing` writes it

    def __post_init__(self) -> None:
        named(self.job, "$.job")
        compacted(self, "prices_json", "$.prices_json")
        require(self.seq == "log" or self.seq.startswith("$"), "$.seq", "must be log or a JSON path")
        require(self.id_path is None or self.id_path.startswith("$"), "$.id_path", "must be a JSON path")
        require(
            (self.dedupe == "near") == (self.near is not None), "$.near", "goes with `dedupe: near`, and it with this"
        )

    def to_json(self) -> str:
        """Write the canonical text: same spec, same bytes."""
        return strict_json.to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobSpec":
        """Read a spec; raises JobSpecError on anything unknown, missing, ill-typed or out of range."""
        return strict_json.from_json(cls, text)


def _check_retry(rule: RetrySpec | RetryRule, where: str) -> None:
    attempts, base, highest = rule.max_attempts, rule.backoff_seconds_base, rule.backoff_seconds_max
    require(attempts is None or attempts >= 1, f"{where}.max_attempts", "must be at least 1")
    require(base is None or base >= 0, f"{where}.backoff_seconds_base", "must not be negative")
    in_order = highest is None or highest >= (base or 0)
    require(in_order, f"{where}.backoff_seconds_max", "must not be below backoff_seconds_base")
