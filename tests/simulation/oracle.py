"""What the answer to a text must be, told without asking the system under test."""

import json
from dataclasses import replace
from hashlib import sha256
from typing import Literal

__all__ = [
    "AGAIN",
    "ATTEMPTS_MAX",
    "OPENINGS",
    "PROMPTS",
    "SECOND",
    "SURE",
    "WRONG",
    "Judged",
    "Prefer",
    "agrees",
    "answer_to",
    "asked_as",
    "scorer",
    "sha256_of",
    "spec_of",
]

from batchmill.schemas.asking import AskSpec, ModelSpec, RouteSpec
from batchmill.schemas.jobs import (
    BreakerSpec,
    BudgetSpec,
    ChunkSpec,
    CommitSpec,
    ConfidenceSpec,
    JobSpec,
    JudgeSpec,
    ModeSpec,
    OnlineSpec,
    PlaceSpec,
    RetrySpec,
    ReviewSpec,
    RuleSpec,
    ScoringSpec,
)
from batchmill.schemas.promotion import GateSpec

Prefer = Literal["batch", "online", "auto"]
#: by checks of the answer alone; by rules over the input too, and two people; by a second job on top of that
Judged = Literal["plainly", "ruled", "scored"]
#: the job that gives second opinions
SECOND = "second"
#: how a label begins that the rule does not take
WRONG = "wrong"
ATTEMPTS_MAX = 4
#: of a job that chooses by deadline: some batches are in time, others are given up
DEADLINE_SECONDS = 200
#: one per version of the job
PROMPTS = ("Label: {{ input.text }}", "Label well: {{ input.text }}")
#: the route that a cascade goes on to, asked of another model
AGAIN = "again"
#: route -> what its prompts begin with; `third` is taken by every third text or so, and asked of the same model
OPENINGS = {"": "", "third": "By and by. ", AGAIN: "Once more. "}
#: of an answer that is not asked for again
SURE = 0.5


def asked_as(version_number: int, text: str, route: str = "") -> str:
    return OPENINGS[route] + PROMPTS[version_number].replace("{{ input.text }}", text)


def answer_to(question: str) -> dict[str, object]:
    """A seeded function of the question; every eighth answer is unsure of itself."""
    digest = sha256(question.encode()).hexdigest()
    return {"confidence": 0.2 if int(digest[:8], 16) % 8 == 0 else 0.9, "label": digest[8:20]}


def sha256_of(output: dict[str, object]) -> str:
    """The hash that an answer goes by: of its canonical form."""
    return sha256(json.dumps(output, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def agrees(score: dict[str, object]) -> bool:
    """Whether the second job is of the same opinion: it is where it is sure of itself."""
    return score["confidence"] == 0.9


def scorer() -> JobSpec:
    """The job that gives second opinions: its answer to a question about a label is the score."""
    spec = spec_of(0)
    return replace(
        spec,
        job=SECOND,
        ask=replace(spec.ask, user="Score: {{ input.output.label }}"),
        judge=JudgeSpec(),
        place=PlaceSpec(sink="decisions", table="decisions"),
    )


def spec_of(
    version_number: int,
    *,
    hold: bool = False,
    count_max: int = 12,
    seq: str = "log",
    budget_nanos: int | None = None,
    prefer: Prefer = "batch",
    judged: Judged = "plainly",
    breaker: BreakerSpec | None = None,
    stop_after: int | None = None,
    cascade: bool = False,
    shared: bool = False,
) -> JobSpec:
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string"}, "confidence": {"type": "number"}},
        "required": ["label", "confidence"],
        "additionalProperties": False,
    }
    # Without a limit on the answer nothing bounds what it costs, and truncated answers are given more room.
    params = "{}" if budget_nanos is None else '{"max_output_tokens":50}'
    ask = AskSpec(
        user=PROMPTS[version_number],
        model=ModelSpec(provider="sim", name="sim-1", params_json=params),
        output_schema_json=json.dumps(schema),
    )
    return JobSpec(
        job="sim",
        seq=seq,
        ask=_cascaded(ask) if cascade else ask,
        mode=ModeSpec(
            prefer=prefer,
            deadline_seconds=DEADLINE_SECONDS if prefer == "auto" else None,
            hold_submit=hold,
            chunk=ChunkSpec(max_count=count_max, max_age_seconds=30),
            online=OnlineSpec(max_count=count_max),
        ),
        judge=_judge(judged),
        review=ReviewSpec(double=0 if judged == "plainly" else 0.3, undo_seconds=20),
        retry=RetrySpec(max_attempts=ATTEMPTS_MAX, backoff_seconds_base=5, backoff_seconds_max=60),
        dedupe="content" if shared else "source",
        place=PlaceSpec(sink="sim", table="labels"),
        budget=None if budget_nanos is None else BudgetSpec(job_nanos=budget_nanos),
        breaker=breaker,
        commit=CommitSpec(stop_after=stop_after),
        gate=GateSpec(live_sample=0.5),
    )


def _cascaded(ask: AskSpec) -> AskSpec:
    other = replace(ask.model, name="sim-2")
    again = RouteSpec(name=AGAIN, model=other, user=OPENINGS[AGAIN] + ask.user)
    third = RouteSpec(name="third", when="size(input.text) % 3 == 0", user=OPENINGS["third"] + ask.user)
    return replace(ask, routes=(third, again), cascade=(AGAIN,))


def _judge(judged: Judged) -> JudgeSpec:
    plain = JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=SURE))
    if judged == "plainly":
        return plain
    rule = RuleSpec(id="right", require=f"size(input.text) > 0 && !output.label.startsWith('{WRONG}')")
    asked = ScoringSpec(job=SECOND, agree="score.confidence == 0.9", sample=0.7)
    return replace(plain, review_sample=0.4, rules=(rule,), scoring=asked if judged == "scored" else None)
