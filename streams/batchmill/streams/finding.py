"""One thing that is wrong with a job, or odd about it: where, what, and what to do."""

from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override

__all__ = ["Finding", "Lint"]


class Lint(StrEnum):
    """What is looked for in a prompt, by name. Those that are warnings can be allowed by it."""

    UNKNOWN_MEMBER = "unknown-member"  #: a template reads what the input schema does not declare; an error
    OPTIONAL_MEMBER = "optional-member"  #: a template reads what a record may lack, and does not ask first
    UNDECLARED_INPUT = "undeclared-input"  #: there is no input schema that declares what the templates read
    UNFIT_EXAMPLE = "unfit-example"  #: an example that the job itself would refuse; an error
    OUTPUT_DIALECT = "output-dialect"  #: the provider is sent another output schema, or refuses this one
    VAGUE_WORDING = "vague-wording"  #: a word that every reader fills with another meaning
    NO_MISSING_RULE = "no-missing-rule"  #: nothing is said of what the input does not say
    NO_UNCERTAIN_RULE = "no-uncertain-rule"  #: confidence is asked for, nothing is said of doubt
    SEVERAL_TASKS = "several-tasks"  #: more than one task in one question
    SCHEMA_NOT_SHOWN = "schema-not-shown"  #: neither provider form nor prompt names the members
    UNMENTIONED_CATEGORY = "unmentioned-category"  #: a value that is allowed and never explained
    REPEATED_INSTRUCTION = "repeated-instruction"  #: system and user template say the same sentence
    HEAVY_PROMPT = "heavy-prompt"  #: what is fixed outweighs the record many times
    LATE_CONSTANT = "late-constant"  #: what is the same for each record stands behind it, where no cache reuses it
    CHUNK_TOO_SMALL = "chunk-too-small"  #: hardly a record fits a chunk; an error where none does
    SMALL_ANSWER_ROOM = "small-answer-room"  #: max_output_tokens is below what an answer needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`where` is the member of the spec (`$.judge.confidence`), `line` the line in the text that stands there."""

    where: str
    message: str
    error: bool
    lint: Lint | None = None  #: the name under which a warning can be allowed
    line: int | None = None  #: of examples: which of them, from 1
    hint: str | None = None

    @override
    def __str__(self) -> str:
        return f"{'error' if self.error else 'warning'}: {self.where}: {self.message}"
