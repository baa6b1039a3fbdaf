"""What the answer to a text must be, told without asking the system under test."""

import json
from hashlib import sha256
from typing import Literal

__all__ = ["ATTEMPTS_MAX", "PROMPTS", "Prefer", "answer_to", "asked_as", "spec_of"]

from batchmill.schemas.jobs import (
    AskSpec,
    BudgetSpec,
    ChunkSpec,
    CommitSpec,
    ConfidenceSpec,
    JobSpec,
    JudgeSpec,
    ModelSpec,
    ModeSpec,
    OnlineSpec,
    PlaceSpec,
    RetrySpec,
)

Prefer = Literal["batch", "online", "auto"]
ATTEMPTS_MAX = 4
#: of a job that chooses by deadline: some batches are in time, others are given up
DEADLINE_SECONDS = 200
#: one per version of the job
PROMPTS = ("Label: {{ input.text }}", "Label well: {{ input.text }}")


def asked_as(version_number: int, text: str) -> str:
    return PROMPTS[version_number].replace("{{ input.text }}", text)


def answer_to(question: str) -> dict[str, object]:
    """A seeded function of the question; every eighth answer is unsure of itself."""
    digest = sha256(question.encode()).hexdigest()
    return {"confidence": 0.2 if int(digest[:8], 16) % 8 == 0 else 0.9, "label": digest[8:20]}


def spec_of(
    version_number: int,
    *,
    hold: bool = False,
    count_max: int = 12,
    seq: str = "log",
    budget_nanos: int | None = None,
    prefer: Prefer = "batch",
    stop_after: int | None = None,
) -> JobSpec:
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string"}, "confidence": {"type": "number"}},
        "required": ["label", "confidence"],
        "additionalProperties": False,
    }
    # Without a limit on the answer nothing bounds what it costs, and truncated answers are given more room.
    params = "{}" if budget_nanos is None else '{"max_output_tokens":50}'
    return JobSpec(
        job="sim",
        seq=seq,
        ask=AskSpec(
            user=PROMPTS[version_number],
            model=ModelSpec(provider="sim", name="sim-1", params_json=params),
            output_schema_json=json.dumps(schema),
        ),
        mode=ModeSpec(
            prefer=prefer,
            deadline_seconds=DEADLINE_SECONDS if prefer == "auto" else None,
            hold_submit=hold,
            chunk=ChunkSpec(max_count=count_max, max_age_seconds=30),
            online=OnlineSpec(max_count=count_max),
        ),
        judge=JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.5)),
        retry=RetrySpec(max_attempts=ATTEMPTS_MAX, backoff_seconds_base=5, backoff_seconds_max=60),
        place=PlaceSpec(sink="sim", table="labels"),
        budget=None if budget_nanos is None else BudgetSpec(job_nanos=budget_nanos),
        commit=CommitSpec(stop_after=stop_after),
    )
