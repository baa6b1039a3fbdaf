"""A job as it is frozen: everything that decides what is asked, how it is judged and where it goes, in one value.

What users write (YAML, files beside it, durations like `6h`) is resolved into this before anything runs; from then on
the canonical JSON text of a spec is the job. Templates and schemas are carried as text, paths and expressions as
written: nothing here renders, compiles or evaluates. Fields ending in `_json` are compacted on construction, so two
spellings of one document are one spec; their member order is kept, since a model answers in the order of its schema.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from batchmill.schemas import strict_json
from batchmill.schemas.ids import Dedupe
from batchmill.schemas.reasons import Reason
from batchmill.schemas.strict_json import StrictJsonError

__all__ = [
    "AskSpec",
    "BudgetSpec",
    "CheckKind",
    "ChunkSpec",
    "ConfidenceSpec",
    "InputSpec",
    "JobSpec",
    "JobSpecError",
    "JudgeSpec",
    "LengthSpec",
    "ModeSpec",
    "ModelSpec",
    "OnlineSpec",
    "PlaceSpec",
    "RetryRule",
    "RetrySpec",
    "Severity",
    "TruncationSpec",
]

#: `where` names the member (`$.judge.confidence`), the message says what belongs there.
JobSpecError = StrictJsonError

#: Names become parts of keys that are joined with `/` and `|`, of file names and of metric labels.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class CheckKind(StrEnum):
    """The kinds of declared checks whose severity a job may choose."""

    SCHEMA = "schema"
    REQUIRED = "required"
    CATEGORY = "category"
    LENGTH = "length"


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
    filter: str | None = None  #: CEL over `input`; what it refuses is excluded, unpaid

    def __post_init__(self) -> None:
        _compact(self, "schema_json", "$.input.schema_json")
        for name, limit in self.max_chars.items():
            _require(limit > 0, f"$.input.max_chars.{name}", "must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Whom is asked. `account` says who pays and whose limits count; it is no part of the question."""

    provider: str
    name: str  #: as the provider calls the model
    account: str = "default"
    endpoint: str = "/v1/chat/completions"
    params_json: str = "{}"  #: sent as they are

    def __post_init__(self) -> None:
        _name(self.provider, "$.ask.model.provider")
        _name(self.account, "$.ask.model.account")
        for member, text in (("name", self.name), ("endpoint", self.endpoint)):
            _require(bool(text) and "|" not in text, f"$.ask.model.{member}", "must not be empty nor hold '|'")
        _compact(self, "params_json", "$.ask.model.params_json")
        _require(self.params_json.startswith("{"), "$.ask.model.params_json", "must be an object")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskSpec:
    """The question: prompt templates (their text), model, and the form of answer asked for."""

    system: str | None = None
    user: str
    model: ModelSpec
    output_schema_json: str | None = None  #: None: free text is asked for
    output_name: str = "output"  #: what the provider is told the form is called

    def __post_init__(self) -> None:
        _require(bool(self.user.strip()), "$.ask.user", "must not be blank")
        _name(self.output_name, "$.ask.output_name")
        _compact(self, "output_schema_json", "$.ask.output_schema_json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSpec:
    """When a filling provider batch is closed: whichever limit is met first."""

    max_count: int = 1_000
    max_bytes: int = 50_000_000
    max_tokens: int = 2_000_000
    max_age_seconds: float = 60

    def __post_init__(self) -> None:
        for member in ("max_count", "max_bytes", "max_tokens", "max_age_seconds"):
            _require(getattr(self, member) > 0, f"$.mode.chunk.{member}", "must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineSpec:
    """How questions travel one by one, where no batch endpoint is used."""

    max_count: int = 64  #: members of one chunk: as many calls may be in doubt after a crash
    on_unknown: Literal["resend", "dead"] = "resend"  #: what becomes of a call whose outcome a crash has hidden

    def __post_init__(self) -> None:
        _require(1 <= self.max_count <= 1_000, "$.mode.online.max_count", "must be from 1 to 1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSpec:
    """How the question travels. `auto`: by batch as long as that meets the deadline, online what would be late."""

    prefer: Literal["batch", "online", "auto"] = "batch"
    deadline_seconds: int | None = None  #: from the event's arrival to having an answer
    hold_submit: bool = False  #: sealed chunks wait for an operator's approval
    chunk: ChunkSpec = field(default_factory=ChunkSpec)
    online: OnlineSpec = field(default_factory=OnlineSpec)

    def __post_init__(self) -> None:
        _require(
            self.deadline_seconds is None or self.deadline_seconds > 0, "$.mode.deadline_seconds", "must be above 0"
        )
        _require(
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
        _require(low >= 0 and (high is None or high >= low), "$.judge.lengths", "must be 0 <= min <= max")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSpec:
    """The model's own confidence, a number member of the output."""

    field: str
    review_below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSpec:
    """What an answer must be to count. The output schema (in `ask`) is always checked when there is one."""

    required: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  #: member -> allowed values
    lengths: Mapping[str, LengthSpec] = field(default_factory=dict)
    confidence: ConfidenceSpec | None = None
    review_sample: float = 0  #: share of passing answers that a person sees all the same
    on_reject: Literal["retry", "review", "dead"] = "retry"
    severity: Mapping[CheckKind, Severity] = field(default_factory=dict)  #: `reject` where it names none

    def __post_init__(self) -> None:
        _require(0 <= self.review_sample <= 1, "$.judge.review_sample", "must be from 0 to 1")
        for name, allowed in self.categories.items():
            _require(len(allowed) > 0, f"$.judge.categories.{name}", "must allow a value")


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
        _require(self.factor > 1, "$.retry.truncated.factor", "must be above 1")
        _require(0 <= self.times <= 8, "$.retry.truncated.times", "must be from 0 to 8")


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
    table: str
    key: str = "source_id"

    def __post_init__(self) -> None:
        _name(self.sink, "$.place.sink")
        _name(self.table, "$.place.table")
        _require(self.key == "source_id" or self.key.startswith("$"), "$.place.key", "must be source_id or a JSON path")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpec:
    """Money in nano-dollars that must not be exceeded: by the whole job, and by all attempts of one record."""

    job_nanos: int | None = None
    record_nanos: int | None = None

    def __post_init__(self) -> None:
        for member in ("job_nanos", "record_nanos"):
            limit = getattr(self, member)
            _require(limit is None or limit > 0, f"$.budget.{member}", "must be above 0")


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
    prices_json: str | None = None  #: what its model cost when the job was applied, as `streams.costing` writes it

    def __post_init__(self) -> None:
        _name(self.job, "$.job")
        _compact(self, "prices_json", "$.prices_json")
        _require(self.seq == "log" or self.seq.startswith("$"), "$.seq", "must be log or a JSON path")
        _require(self.id_path is None or self.id_path.startswith("$"), "$.id_path", "must be a JSON path")

    def to_json(self) -> str:
        """Write the canonical text: same spec, same bytes."""
        return strict_json.to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "JobSpec":
        """Read a spec; raises JobSpecError on anything unknown, missing, ill-typed or out of range."""
        return strict_json.from_json(cls, text)


def _require(holds: bool, where: str, wrong: str) -> None:  # noqa: FBT001 (reads as the sentence it is)
    if not holds:
        raise JobSpecError(where, wrong)


def _name(text: str, where: str) -> None:
    wrong = "must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    _require(_NAME.fullmatch(text) is not None, where, wrong)


def _compact(spec: object, member: str, where: str) -> None:
    text = getattr(spec, member)
    if text is not None:
        object.__setattr__(spec, member, strict_json.compact_json(text, where))  # frozen: only while being made


def _check_retry(rule: RetrySpec | RetryRule, where: str) -> None:
    attempts, base, highest = rule.max_attempts, rule.backoff_seconds_base, rule.backoff_seconds_max
    _require(attempts is None or attempts >= 1, f"{where}.max_attempts", "must be at least 1")
    _require(base is None or base >= 0, f"{where}.backoff_seconds_base", "must not be negative")
    in_order = highest is None or highest >= (base or 0)
    _require(in_order, f"{where}.backoff_seconds_max", "must not be below backoff_seconds_base")
