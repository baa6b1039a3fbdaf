"""Whether one answer is usable: the declared checks, in their declared order, each with its outcome.

    finish reason -> refusal -> JSON -> JSON Schema -> required -> categories -> lengths -> confidence -> review sample

The first that is fatal (nothing after it can be asked) ends the row of checks; of the others all are asked, so that a
reviewer sees every mistake at once. A note says what was expected, never what was there. What a judgement means for a
life is decided in `validating`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from batchmill.schemas.jobs import CheckKind, ConfidenceSpec, JobSpec, JudgeSpec, LengthSpec, RuleSpec, Severity
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check
from batchmill.streams.expressions import Condition, ConditionError, compile_condition
from batchmill.streams.jsontext import DEPTH_MAX, canonical, decode
from batchmill.streams.paths import ABSENT, Path, compile_path
from batchmill.streams.shapes import Shape, compile_shape
from batchmill.streams.unusable import Unusable

__all__ = [
    "OUTPUT_BYTES_MAX",
    "Judge",
    "Judgement",
    "agrees",
    "compile_judge",
    "in_sample",
    "in_share",
    "judge_output",
    "judge_text",
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
_RULE_VARIABLES = frozenset({"output", "input"})
_AGREE_VARIABLES = frozenset({"output", "input", "score"})


@dataclass(frozen=True, slots=True)
class Judge:
    """The compiled judge part of a version."""

    expects_json: bool
    shape: Shape | None
    required: tuple[Path, ...]
    categories: tuple[tuple[Path, tuple[str, ...]], ...]
    lengths: tuple[tuple[Path, LengthSpec], ...]
    confidence: tuple[Path, ConfidenceSpec] | None
    review_sample: float
    rules: tuple[tuple[RuleSpec, Condition], ...]
    agree: Condition | None
    score_sample: float
    reads_input: bool  #: cannot be asked without the record's input
    severity: Callable[[CheckKind], Severity]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the checks say together. `reason` is None when none of them rejects."""

    checks: tuple[Check, ...]
    reason: Reason | None
    wants_review: Reason | bool  #: why a person should look; True: sampled, no fault found
    output_json: str | None  #: canonical; None when the answer is not JSON
    confidence: float | None
    wants_score: bool = False  #: a second opinion is to be asked before it counts


def compile_judge(spec: JobSpec) -> Judge:
    """Compile, or ShapeError / PathError."""
    judge = spec.judge
    written = spec.ask.output_schema_json
    severities = {kind: judge.severity.get(kind, Severity.REJECT) for kind in CheckKind}
    return Judge(
        expects_json=written is not None or _reads_members(judge),
        shape=None if written is None else compile_shape(orjson.loads(written)),
        required=tuple(compile_path(name) for name in judge.required),
        categories=tuple((compile_path(name), allowed) for name, allowed in judge.categories.items()),
        lengths=tuple((compile_path(name), bounds) for name, bounds in judge.lengths.items()),
        confidence=_compiled_confidence(judge.confidence),
        review_sample=judge.review_sample,
        rules=tuple((rule, compile_condition(rule.require, variables=_RULE_VARIABLES)) for rule in judge.rules),
        agree=None if judge.scoring is None else compile_condition(judge.scoring.agree, variables=_AGREE_VARIABLES),
        score_sample=0 if judge.scoring is None else judge.scoring.sample,
        reads_input=bool(judge.rules or judge.citations or judge.functions or judge.scoring),
        severity=severities.__getitem__,
    )


def _compiled_confidence(spec: ConfidenceSpec | None) -> tuple[Path, ConfidenceSpec] | None:
    return None if spec is None or spec.field is None else (compile_path(spec.field), spec)


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
    """Judge a model's answer as it came."""
    fatal = _unanswered(finish_reason, refusal)
    if fatal is not None:
        return fatal
    if not judge.expects_json:
        if len(orjson.dumps(text)) > _OUTPUT_JSON_BYTES_MAX:
            return _too_large()
        return _judged(judge, request_id, text, item_input, [])
    try:
        output = decode(text.encode(), bytes_max=OUTPUT_BYTES_MAX, depth_max=DEPTH_MAX)
        output_json = canonical(output).decode()
    except (Unusable, UnicodeEncodeError) as wrong:
        note = wrong.note if isinstance(wrong, Unusable) else "it holds half characters"
        return _ended(Reason.NOT_JSON, "json", f"expected one JSON value and nothing else: {note}")
    if len(output_json.encode()) > _OUTPUT_JSON_BYTES_MAX:
        return _too_large()
    return judge_output(
        judge,
        request_id=request_id,
        output=output,
        output_json=output_json,
        item_input=item_input,
        logprob_mean=logprob_mean,
    )


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
    del logprob_mean
    return _judged(judge, request_id, output, item_input, [_passed("json")], output_json)


def agrees(judge: Judge, output: Any, item_input: Any, score: Any) -> Check:
    """The check that a second opinion is the first one's."""
    assert judge.agree is not None
    try:
        holds = judge.agree.holds({"output": output, "input": item_input, "score": score})
    except ConditionError:
        holds = False
    return Check(id="score", severity=Severity.REVIEW.value, passed=holds, path=None, note=None)


def in_share(request_id: str, share: float, salt: str) -> bool:
    """Whether this request is of the `share`; the same for every worker and every replay."""
    drawn = int.from_bytes(sha256(f"{salt}\n{request_id}".encode()).digest()[:8], "big")
    return drawn < share * _SAMPLE_SPACE


def in_sample(request_id: str, share: float) -> bool:
    """Whether this request is of the `share` that a person sees; the same for every worker and every replay."""
    return in_share(request_id, share, "review")


def _judged(
    judge: Judge, request_id: str, output: Any, item_input: Any, checks: list[Check], output_json: str | None = None
) -> Judgement:
    checks.extend(_checks(judge, output))
    for rule, condition in judge.rules:
        try:
            holds = condition.holds({"output": output, "input": item_input})
        except ConditionError:
            holds = False
        checks.append(Check(id=rule.id, severity=rule.severity.value, passed=holds, path=None, note=rule.note))
    confidence, low = _confidence(judge, output)
    if low is not None:
        checks.append(low)
    rejecting = next((check for check in checks if not check.passed and check.severity == Severity.REJECT), None)
    doubted = next((check for check in checks if not check.passed and check.severity == Severity.REVIEW), None)
    sampled = rejecting is None and doubted is None and in_sample(request_id, judge.review_sample)
    return Judgement(
        checks=tuple(checks),
        reason=None if rejecting is None else _reason(rejecting),
        wants_review=sampled if doubted is None else _reason(doubted),
        output_json=orjson.dumps(output).decode() if output_json is None else output_json,
        confidence=confidence,
        wants_score=rejecting is None
        and doubted is None
        and judge.agree is not None
        and in_share(request_id, judge.score_sample, "score"),
    )


def _unanswered(finish_reason: str | None, refusal: str | None) -> Judgement | None:
    if finish_reason in _CUT_SHORT:
        return _ended(Reason.TRUNCATED, "finish_reason", "expected a whole answer; raise max_output_tokens")
    if refusal is not None or finish_reason in _WITHHELD:
        return _ended(Reason.MODEL_REFUSAL, "refusal", "expected an answer; the model or its filter declined")
    return None


def _too_large() -> Judgement:
    return _ended(Reason.OVERSIZED, "json", f"expected at most {_OUTPUT_JSON_BYTES_MAX} bytes in canonical form")


def _ended(reason: Reason, check: str, note: str) -> Judgement:
    failed = Check(id=check, severity=Severity.REJECT.value, passed=False, path=None, note=note)
    return Judgement(checks=(failed,), reason=reason, wants_review=False, output_json=None, confidence=None)


def _checks(judge: Judge, output: Any) -> Iterator[Check]:
    if judge.shape is not None:
        yield from _kind(judge, CheckKind.SCHEMA, ((m.path, m.note) for m in judge.shape.mismatches(output)))
    if judge.required:
        yield from _kind(judge, CheckKind.REQUIRED, _absent(judge.required, output))
    if judge.categories:
        yield from _kind(judge, CheckKind.CATEGORY, _uncategorised(judge, output))
    if judge.lengths:
        yield from _kind(judge, CheckKind.LENGTH, _out_of_bounds(judge, output))


def _kind(judge: Judge, kind: CheckKind, faults: Iterator[tuple[str, str]]) -> Iterator[Check]:
    """One check per fault found, or one that passed."""
    clean = True
    for path, note in faults:
        clean = False
        yield Check(id=kind.value, severity=judge.severity(kind).value, passed=False, path=path, note=note)
    if clean:
        yield _passed(kind.value, judge.severity(kind))


def _passed(check: str, severity: Severity = Severity.REJECT) -> Check:
    return Check(id=check, severity=severity.value, passed=True, path=None, note=None)


def _absent(required: tuple[Path, ...], output: Any) -> Iterator[tuple[str, str]]:
    for path in required:
        value = path.find(output)
        if value is ABSENT or value is None or (isinstance(value, str) and not value.strip()):
            yield path.text, "expected to be there and not blank"


def _uncategorised(judge: Judge, output: Any) -> Iterator[tuple[str, str]]:
    for path, allowed in judge.categories:
        value = path.find(output)
        if value is not ABSENT and (not isinstance(value, str) or value not in allowed):
            yield path.text, f"expected one of the {len(allowed)} declared categories"


def _out_of_bounds(judge: Judge, output: Any) -> Iterator[tuple[str, str]]:
    for path, bounds in judge.lengths:
        value = path.find(output)
        if value is ABSENT or value is None:
            continue
        low, high = bounds.min or 0, bounds.max
        if not isinstance(value, str | list) or len(value) < low or (high is not None and len(value) > high):
            yield path.text, f"expected a text or list of length {low} to {'any' if high is None else high}"


def _confidence(judge: Judge, output: Any) -> tuple[float | None, Check | None]:
    """(confidence, the check on it). An absent or unreadable one counts as low: it was asked for to be relied on."""
    if judge.confidence is None:
        return None, None
    path, spec = judge.confidence
    value = path.find(output)
    known = isinstance(value, int | float) and not isinstance(value, bool)
    passed = known and value >= spec.review_below
    note = None if passed else f"expected a number of at least {spec.review_below}"
    check = Check(id="confidence", severity=Severity.REVIEW.value, passed=passed, path=path.text, note=note)
    return (float(value) if known else None), check


def _reason(check: Check) -> Reason:
    if check.id == "confidence":
        return Reason.LOW_CONFIDENCE
    return Reason.SCHEMA_MISMATCH if check.id == CheckKind.SCHEMA else Reason.RULE_FAILED


def _reads_members(judge: JudgeSpec) -> bool:
    return bool(judge.required or judge.categories or judge.lengths or judge.confidence or judge.rules)
