"""Whether one answer is usable: the declared checks, in their declared order, each with its outcome.

    finish reason -> refusal -> repairs -> JSON -> JSON Schema -> required -> categories -> lengths -> patterns -> types
    -> rules -> citations -> confidence -> functions -> score -> review sample

The first that is fatal (nothing after it can be asked) ends the row of checks; of the others all are asked, so that a
reviewer sees every mistake at once. Only functions and the score are left out where something rejects already: they
cost, and an answer that is not even of the declared shape would only make them fail. A note says what was expected,
never what was there. What a judgement means for a life is decided in `validating`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from batchmill.schemas.jobs import (
    CheckKind,
    ConfidenceSpec,
    FunctionSpec,
    JobSpec,
    JudgeSpec,
    Repair,
    RuleSpec,
    ScoringSpec,
    Severity,
)
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check
from batchmill.streams.calibrating import calibrated, known, token_confidence
from batchmill.streams.checking import NO_FUNCTIONS, CheckFunction, FunctionError, called, checked
from batchmill.streams.citing import Citation, Passage, Texts, compile_citation, found_in, uncited, written
from batchmill.streams.expressions import Condition, ConditionError, Scope, compile_condition
from batchmill.streams.jsontext import DEPTH_MAX, canonical, decode
from batchmill.streams.members import Members, compile_members, member_checks
from batchmill.streams.paths import Path, compile_path
from batchmill.streams.repairing import repaired
from batchmill.streams.shapes import ERRORS_MAX
from batchmill.streams.unusable import Unusable

__all__ = [
    "AGREE_VARIABLES",
    "OUTPUT_BYTES_MAX",
    "RULE_VARIABLES",
    "SCORE",
    "Judge",
    "Judgement",
    "Rule",
    "Scoring",
    "agrees",
    "compile_judge",
    "in_sample",
    "in_share",
    "judge_output",
    "judge_text",
    "passages",
    "reads_members",
]

#: more than any model writes in one answer
OUTPUT_BYTES_MAX = 4 * 2**20
#: an answer may take more bytes in canonical form than it came in; above this no verdict could carry it
_OUTPUT_JSON_BYTES_MAX = 768 * 2**10
#: finish reasons that mean: the answer stops in the middle
_CUT_SHORT = frozenset({"length", "max_tokens"})
#: finish reasons that mean: the provider withheld the answer
_WITHHELD = frozenset({"content_filter", "refusal"})
_SAMPLE_SPACE = 2**64

RULE_VARIABLES = frozenset({"output", "input"})
AGREE_VARIABLES = RULE_VARIABLES | {"score"}
#: id of the check that a second opinion makes
SCORE = "score"
_INPUT_GONE = "the input cannot be read any more"


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled business rule."""

    spec: RuleSpec
    when: Condition | None
    require: Condition

    @property
    def reads_input(self) -> bool:
        return "input" in self.require.variables or (self.when is not None and "input" in self.when.variables)


@dataclass(frozen=True, slots=True)
class Scoring:
    """A compiled second opinion."""

    spec: ScoringSpec
    agree: Condition


@dataclass(frozen=True, slots=True)
class Judge:
    """The compiled judge part of a version."""

    expects_json: bool
    #: whether `item_input` must be handed in with the answer
    reads_input: bool
    repairs: tuple[Repair, ...]
    members: Members
    rules: tuple[Rule, ...]
    citations: tuple[Citation, ...]
    confidence: tuple[Path | None, ConfidenceSpec] | None  #: path None: of the tokens
    functions: tuple[FunctionSpec, ...]
    installed: Mapping[str, CheckFunction]
    scoring: Scoring | None
    review_sample: float
    review_by: tuple[Path, Mapping[str, float]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the checks say together. `reason` is None when none of them rejects."""

    checks: tuple[Check, ...]
    reason: Reason | None
    wants_review: Reason | bool  #: why a person should look; True: sampled, no fault found
    output_json: str | None  #: canonical; None when the answer is not JSON
    confidence: float | None  #: calibrated
    wants_score: bool = False  #: nothing is wrong with it, and it is of the share that another job scores


def compile_judge(spec: JobSpec, functions: Mapping[str, CheckFunction] = NO_FUNCTIONS) -> Judge:
    """Compile, or ShapeError / PathError / ConditionError. `functions`: those that are installed."""
    judge = spec.judge
    rules = tuple(_rule(rule) for rule in judge.rules)
    scoring = None if judge.scoring is None else _scoring(judge.scoring)
    by = judge.review_by
    return Judge(
        expects_json=spec.ask.output_schema_json is not None or reads_members(judge),
        reads_input=_reads_input(judge, rules, scoring),
        repairs=judge.repairs,
        members=compile_members(spec),
        rules=rules,
        citations=tuple(compile_citation(citation) for citation in judge.citations),
        confidence=_compiled_confidence(judge.confidence),
        functions=judge.functions,
        installed=functions,
        scoring=scoring,
        review_sample=judge.review_sample,
        review_by=None if by is None else (compile_path(by.field), by.shares),
    )


def reads_members(judge: JudgeSpec) -> bool:
    """Whether any part looks into the answer, which free text has no inside of."""
    parts = (judge.required, judge.categories, judge.lengths, judge.patterns, judge.types, judge.citations)
    of_field = judge.confidence is not None and judge.confidence.field is not None
    return any(parts) or of_field or judge.review_by is not None


def judge_text(
    judge: Judge,
    *,
    request_id: str,
    text: str,
    finish_reason: str | None,
    refusal: str | None,
    item_input: Any = None,
    logprob_mean: float | None = None,
) -> Judgement:
    """Judge a model's answer as it came. `item_input`: the decoded input, wherever `reads_input`; None: it is gone."""
    fatal = _unanswered(finish_reason, refusal)
    if fatal is not None:
        return fatal
    beside = _Beside(request_id, item_input, logprob_mean)
    if not judge.expects_json:
        if len(orjson.dumps(text)) > _OUTPUT_JSON_BYTES_MAX:
            return _too_large()
        return _judged(judge, beside, text, [])
    checks: list[Check] = []
    try:
        output = _value(judge, text, checks)
        output_json = canonical(output).decode()
    except (Unusable, UnicodeEncodeError) as wrong:
        note = wrong.note if isinstance(wrong, Unusable) else "it holds half characters"
        return _ended(Reason.NOT_JSON, "json", f"expected one JSON value and nothing else: {note}")
    if len(output_json.encode()) > _OUTPUT_JSON_BYTES_MAX:
        return _too_large()
    return _judged(judge, beside, output, [*checks, _passed("json")], output_json)


def judge_output(
    judge: Judge,
    *,
    request_id: str,
    output: Any,
    output_json: str,
    item_input: Any = None,
    logprob_mean: float | None = None,
) -> Judgement:
    """Judge a decoded answer: a model's, or a reviewer's correction."""
    beside = _Beside(request_id, item_input, logprob_mean)
    return _judged(judge, beside, output, [_passed("json")], output_json)


def passages(judge: Judge, item_input: Any, output: Any) -> tuple[Passage, ...]:
    """Where in the input stands what the output cites."""
    texts = Texts(item_input)
    return tuple(place for citation in judge.citations for place in found_in(citation, texts, output))


def agrees(judge: Judge, output: Any, item_input: Any, score: Any) -> Check:
    """Whether a second opinion agrees; where that has no answer, a person decides."""
    assert judge.scoring is not None, "asked about a job that has no second opinion"
    try:
        scope = Scope({"output": output, "input": item_input, "score": score})
        passed, note = judge.scoring.agree.holds(scope), "expected the second opinion to agree"
    except ConditionError as wrong:
        passed, note = False, f"expected the second opinion to agree, which has no answer: {wrong}"
    return _score_check(passed=passed, note=None if passed else note)


def in_share(request_id: str, share: float, salt: str) -> bool:
    """Whether this request is of that share; for each salt another draw, the same on every worker and replay."""
    drawn = int.from_bytes(sha256(f"{salt}\n{request_id}".encode()).digest()[:8], "big")
    return drawn < share * _SAMPLE_SPACE


def in_sample(request_id: str, share: float) -> bool:
    """Whether this request is of the `share` that a person sees."""
    return in_share(request_id, share, "review")


class _Beside(NamedTuple):
    """What is known beside the answer; made for each of them, so the cheapest kind of value."""

    request_id: str
    item_input: Any
    logprob_mean: float | None


def _judged(
    judge: Judge, beside: _Beside, output: Any, checks: list[Check], output_json: str | None = None
) -> Judgement:
    checks.extend(member_checks(judge.members, output))
    if judge.rules:
        checks.extend(_ruled(judge, output, beside.item_input))
    if judge.citations:
        checks.extend(_cited(judge, output, beside.item_input))
    confidence, low = _confidence(judge, output, beside.logprob_mean)
    if low is not None:
        checks.append(low)
    if judge.functions and _first(checks, Severity.REJECT) is None:
        for spec in judge.functions:
            checks.extend(checked(spec, judge.installed, output, beside.item_input))
    scoring = judge.scoring
    if scoring is not None and not (_sound(checks) and in_share(beside.request_id, scoring.spec.sample, SCORE)):
        scoring = None
    if scoring is not None and scoring.spec.function is not None:
        checks.append(_scored(judge, scoring.spec.function, output, beside.item_input))
    rejecting, doubted = _first(checks, Severity.REJECT), _first(checks, Severity.REVIEW)
    sampled = rejecting is None and doubted is None and in_sample(beside.request_id, _review_share(judge, output))
    return Judgement(
        checks=tuple(checks),
        reason=None if rejecting is None else _reason(judge, rejecting),
        wants_review=sampled if doubted is None else _reason(judge, doubted),
        output_json=orjson.dumps(output).decode() if output_json is None else output_json,
        confidence=confidence,
        wants_score=scoring is not None and scoring.spec.job is not None,
    )


def _first(checks: list[Check], severity: Severity) -> Check | None:
    return next((check for check in checks if not check.passed and check.severity == severity), None)


def _sound(checks: list[Check]) -> bool:
    """Nothing is wrong with it, or nothing more than is worth a warning."""
    return _first(checks, Severity.REJECT) is None and _first(checks, Severity.REVIEW) is None


def _value(judge: Judge, text: str, checks: list[Check]) -> Any:
    """The one JSON value, repaired where the job allows it; what was done is added to `checks`."""
    try:
        return decode(text.encode(), bytes_max=OUTPUT_BYTES_MAX, depth_max=DEPTH_MAX)
    except (Unusable, UnicodeEncodeError):
        mended = repaired(text, judge.repairs, bytes_max=OUTPUT_BYTES_MAX) if judge.repairs else None
        if mended is None:
            raise
    value, done = mended
    checks.extend(_failed("repair", Severity.WARN, None, repair.value) for repair in done)
    return value


def _unanswered(finish_reason: str | None, refusal: str | None) -> Judgement | None:
    if finish_reason in _CUT_SHORT:
        return _ended(Reason.TRUNCATED, "finish_reason", "expected a whole answer; raise max_output_tokens")
    if refusal is not None or finish_reason in _WITHHELD:
        return _ended(Reason.MODEL_REFUSAL, "refusal", "expected an answer; the model or its filter declined")
    return None


def _too_large() -> Judgement:
    return _ended(Reason.OVERSIZED, "json", f"expected at most {_OUTPUT_JSON_BYTES_MAX} bytes in canonical form")


def _ended(reason: Reason, check: str, note: str) -> Judgement:
    failed = _failed(check, Severity.REJECT, None, note)
    return Judgement(checks=(failed,), reason=reason, wants_review=False, output_json=None, confidence=None)


def _passed(check: str, severity: Severity = Severity.REJECT, path: str | None = None) -> Check:
    return Check(id=check, severity=severity.value, passed=True, path=path, note=None)


def _failed(check: str, severity: Severity, path: str | None, note: str) -> Check:
    return Check(id=check, severity=severity.value, passed=False, path=path, note=note)


def _ruled(judge: Judge, output: Any, item_input: Any) -> Iterator[Check]:
    scope = Scope({"output": output, "input": item_input})
    for rule in judge.rules:
        spec = rule.spec
        if rule.reads_input and item_input is None:
            yield _failed(spec.id, Severity.REVIEW, None, _INPUT_GONE)
            continue
        try:
            holds = (rule.when is not None and not rule.when.holds(scope)) or rule.require.holds(scope)
            wrong = None if holds else spec.note or "expected the rule to hold"
        except ConditionError as error:
            wrong = f"{spec.note or 'expected the rule to hold'}; it has no answer here: {error}"
        yield _passed(spec.id, spec.severity) if wrong is None else _failed(spec.id, spec.severity, None, wrong)


def _cited(judge: Judge, output: Any, item_input: Any) -> Iterator[Check]:
    texts = Texts(item_input)
    declared = frozenset() if judge.members.shape is None else judge.members.shape.declared
    for citation in judge.citations:
        spec, told = citation.spec, 0
        if item_input is None:
            yield _failed(spec.id, Severity.REVIEW, citation.field.text, _INPUT_GONE)
            continue
        for steps, note in uncited(citation, texts, output):
            yield _failed(spec.id, spec.severity, _place(citation, steps, declared), note)
            told += 1
            if told == ERRORS_MAX:
                break
        if not told:
            yield _passed(spec.id, spec.severity, citation.field.text)


def _place(citation: Citation, steps: tuple[str | int, ...], declared: frozenset[str]) -> str:
    """The path of a passage; of its members those that the job names, since the others are the model's words."""
    ours = {*declared, *citation.field.steps, citation.spec.quote}
    return written(tuple(step if isinstance(step, int) or step in ours else "*" for step in steps))


def _compiled_confidence(spec: ConfidenceSpec | None) -> tuple[Path | None, ConfidenceSpec] | None:
    if spec is None:
        return None
    return None if spec.field is None else compile_path(spec.field), spec


def _confidence(judge: Judge, output: Any, logprob_mean: float | None) -> tuple[float | None, Check | None]:
    """(confidence, the check on it). An absent or unreadable one counts as low: it was asked for to be relied on."""
    if judge.confidence is None:
        return None, None
    path, spec = judge.confidence
    told = token_confidence(logprob_mean) if path is None else known(path.find(output))
    sure = None if told is None else calibrated(spec.calibration, told)
    passed = sure is not None and sure >= spec.review_below
    rejected = sure is not None and spec.reject_below is not None and sure < spec.reject_below
    bound = spec.reject_below if rejected else spec.review_below
    severity = Severity.REJECT if rejected else Severity.REVIEW
    note = None if passed else f"expected a number of at least {bound}"
    where = None if path is None else path.text
    return sure, Check(id="confidence", severity=severity.value, passed=passed, path=where, note=note)


def _scored(judge: Judge, function: FunctionSpec, output: Any, item_input: Any) -> Check:
    try:
        score = called(function, judge.installed, output, item_input)
        told = orjson.loads(orjson.dumps(score))  # nothing but JSON: a list may hold itself
    except FunctionError as wrong:
        return _score_check(passed=False, note=str(wrong))
    except (TypeError, ValueError):
        return _score_check(passed=False, note=f"expected JSON of the function {function.name}")
    return agrees(judge, output, item_input, told)


def _score_check(*, passed: bool, note: str | None) -> Check:
    return Check(id=SCORE, severity=Severity.REVIEW.value, passed=passed, path=None, note=note)


def _review_share(judge: Judge, output: Any) -> float:
    """The share of its class, else the general one."""
    if judge.review_by is None:
        return judge.review_sample
    path, shares = judge.review_by
    value = path.find(output)
    if not isinstance(value, str | int):
        return judge.review_sample
    return shares.get(str(value).lower() if isinstance(value, bool) else str(value), judge.review_sample)


def _reason(judge: Judge, check: Check) -> Reason:
    if check.id in _REASONS:
        return _REASONS[check.id]
    cited = any(check.id == citation.spec.id for citation in judge.citations)
    return Reason.UNCITED if cited else Reason.RULE_FAILED


_REASONS = {
    "confidence": Reason.LOW_CONFIDENCE,
    CheckKind.SCHEMA.value: Reason.SCHEMA_MISMATCH,
    SCORE: Reason.DISAGREEMENT,
}


def _rule(spec: RuleSpec) -> Rule:
    when = None if spec.when is None else compile_condition(spec.when, variables=RULE_VARIABLES)
    return Rule(spec, when, compile_condition(spec.require, variables=RULE_VARIABLES))


def _scoring(spec: ScoringSpec) -> Scoring:
    return Scoring(spec, compile_condition(spec.agree, variables=AGREE_VARIABLES))


def _reads_input(judge: JudgeSpec, rules: tuple[Rule, ...], scoring: Scoring | None) -> bool:
    asked = scoring is not None and (scoring.spec.function is not None or "input" in scoring.agree.variables)
    return asked or bool(judge.citations or judge.functions) or any(rule.reads_input for rule in rules)
