"""Law: from a question to an answer, seeded by (seed, model, text). Pure: no provider's words, no file, no clock.

The answer does not depend on the attempt, the batch or the custom id: the same text asked twice gets the same answer,
as far as no fault strikes. With probability `accuracy` a known text gets its gold label, otherwise another member of
the same enum; one whose whole answer is known gets that, otherwise a mistake in it. A text to be embedded gets a
vector, written as JSON. Tokens are characters divided by four, rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from batchmill.agents.simulator.chance import digest_of, unit
from batchmill.agents.simulator.faults import Fault
from batchmill.agents.simulator.instances import Hints, instance_of
from batchmill.agents.simulator.mistakes import mistaken
from batchmill.agents.simulator.pricing import CHARS_PER_TOKEN, tokens_of_chars
from batchmill.agents.simulator.vectors import vector_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.agents.simulator.gold import GoldTable

__all__ = ["Answer", "Embed", "Question", "answer"]

_REFUSAL: Final = "I'm sorry, but I can't help with that."
_WORDS_QUOTED_MAX: Final = 64
_NOISE: Final = "{" + "\n " * 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Texts of which vectors are asked for, instead of words."""

    texts: tuple[str, ...]
    dimensions: int
    packed: bool = False  # sent as base64 of 32-bit floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a provider's request asks, in no provider's words."""

    model: str
    text: str  # the last user message
    chars: int  # of all messages, for the bill
    prefix: str = ""  # what a prompt cache may keep: the system text
    schema: Any = None
    schema_unsound: bool = False  # given in the way that this provider's batches answer with noise when told to
    json_only: bool = False
    output_tokens_max: int | None = None
    embed: Embed | None = None
    logprobs: bool = False  # how likely each token was is to be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    content: str
    refused: bool
    truncated: bool
    usage_told: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0  # of the input: read from the prompt cache
    cache_write_tokens: int = 0  # of the input: written to it
    vectors: tuple[list[float], ...] = ()
    logprobs: tuple[tuple[str, float], ...] = ()  # (token, natural logarithm of its probability)

    @property
    def tokens(self) -> dict[str, int]:
        """As bills name them."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "cache_write_tokens": self.cache_write_tokens,
        }


def answer(question: Question, *, seed: int, accuracy: float, gold: GoldTable, fault: Fault | None = None) -> Answer:
    if question.embed is not None:
        return _embedded(question, question.embed, seed=seed, usage_told=fault is not Fault.USAGE_ABSENT)
    base = digest_of(seed, question.model, question.text.strip()).hex()
    right = fault is not Fault.WRONG_ANSWER and unit(base, "right") < accuracy
    hints = Hints(seed=base, label=gold.label_of(question.text), right=right, words=_words(question.text))
    known = gold.answer_of(question.text)
    wanted = _content(question, hints) if known is None else _known(question, known, hints)
    content = _spoiled(wanted, question, fault)
    whole = Answer(
        content=content,
        refused=fault is Fault.REFUSAL,
        truncated=fault in {Fault.TRUNCATED, Fault.EMPTY_CONTENT},
        usage_told=fault is not Fault.USAGE_ABSENT,
        input_tokens=max(tokens_of_chars(question.chars), 1),
        output_tokens=max(tokens_of_chars(len(content)), 1),
    )
    told = _cut(whole, question.output_tokens_max)
    return replace(told, logprobs=_logprobs(told.content, base, right=right)) if question.logprobs else told


def _logprobs(content: str, base: str, *, right: bool) -> tuple[tuple[str, float], ...]:
    """A right answer is surer of its tokens than a wrong one, as a rule: their ranges overlap."""
    pieces = [content[at : at + CHARS_PER_TOKEN] for at in range(0, len(content), CHARS_PER_TOKEN)]
    surest = 0.15 if right else 1.2
    return tuple((piece, -round(surest * unit(base, "logprob", number), 6)) for number, piece in enumerate(pieces))


def _embedded(question: Question, embed: Embed, *, seed: int, usage_told: bool) -> Answer:
    """`content` is what the bill's hash is over: one vector, or the list of all."""
    base = digest_of(seed, question.model, "vector").hex()
    vectors = tuple(vector_of(base, text, embed.dimensions) for text in embed.texts)
    return Answer(
        content=orjson.dumps(vectors[0] if len(vectors) == 1 else vectors).decode(),
        refused=False,
        truncated=False,
        usage_told=usage_told,
        input_tokens=max(tokens_of_chars(question.chars), 1),
        output_tokens=0,
        vectors=vectors,
    )


def _content(question: Question, hints: Hints) -> str:
    if question.schema is not None:
        return orjson.dumps(instance_of(question.schema, hints)).decode()
    told = hints.label if hints.label is not None and hints.right else " ".join(hints.words[:12])
    return orjson.dumps({"answer": told}).decode() if question.json_only else told


def _known(question: Question, known: Mapping[str, Any], hints: Hints) -> str:
    told = known if hints.right else mistaken(known, question.schema, hints.seed)
    return orjson.dumps(told).decode()


def _spoiled(content: str, question: Question, fault: Fault | None) -> str:
    match fault:
        case Fault.REFUSAL:
            return _REFUSAL
        case Fault.TRUNCATED:
            return content[: len(content) // 2]
        case Fault.EMPTY_CONTENT:
            return ""
        case Fault.MALFORMED_JSON:
            return "Sure! Here is the JSON you asked for: " + content.replace('"', "'")
        case Fault.SCHEMA_VIOLATION:
            return _outside_schema(content, question)
        case Fault.JSON_SCHEMA_DEGENERATE if question.schema_unsound:
            return _NOISE
        case _:
            return content


def _outside_schema(content: str, question: Question) -> str:
    """Drop the first field of an object, or wrap anything else: no strict schema allows both forms."""
    value = orjson.loads(content) if question.schema is not None or question.json_only else content
    if isinstance(value, dict) and value:
        del value[next(iter(value))]
        return orjson.dumps(value).decode()
    return orjson.dumps([value, "outside the schema"]).decode()


def _cut(whole: Answer, tokens_max: int | None) -> Answer:
    """An answer longer than the request allows ends with `length`, as a real one does."""
    if tokens_max is None or whole.output_tokens <= tokens_max or whole.refused:
        return whole
    kept = whole.content[: tokens_max * CHARS_PER_TOKEN]
    return replace(whole, content=kept, truncated=True, output_tokens=tokens_max)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split()[:_WORDS_QUOTED_MAX])
