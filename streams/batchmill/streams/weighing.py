"""What a question is made of, in tokens: how much of it is the record, and how much is said again with each record.

Estimates from bytes, as everywhere (`costing.estimate_tokens`); the parts of one question add up to its body. What the
provider adapter adds or leaves out when it frames the body is not counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.streams.costing import BYTES_PER_TOKEN
from batchmill.streams.finding import Finding, Lint
from batchmill.streams.prefixing import prefix_of
from batchmill.streams.rendering import RequestForm, bare_prompt
from batchmill.streams.unusable import Unusable

__all__ = ["Scales", "Weight", "heavy", "mean"]

#: a prompt that is shorter is nobody's concern
FIXED_TOKENS_MIN = 800
#: above this the record is lost in what surrounds it, and most of the bill is for saying the same again
FIXED_RATIO_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Tokens of one question, by where they come from, and the room for its answer."""

    system: float  #: the system message without what it prints of the record
    examples: float
    template: float  #: the user template without what it prints
    record: float  #: what both print of the record itself
    form: float  #: model, parameters, output schema, framing
    answer: int | None  #: the most that may be answered; None: no limit is set
    found: float = 0  #: what both print of the passages that were found for it
    prefix: float = 0  #: constant text before anything of the record: what a provider may reuse; a part of the others

    @property
    def fixed(self) -> float:
        """What is the same for each record."""
        return self.system + self.examples + self.template + self.form

    @property
    def asked(self) -> float:
        return self.fixed + self.record + self.found


class Scales:
    """Weighs the questions of one version."""

    def __init__(self, spec: JobSpec, form: RequestForm) -> None:
        self._form = form
        self._bare = bare_prompt(spec.ask)
        self._into = None if spec.ask.retrieval is None else spec.ask.retrieval.into
        self._examples = sum(len(turn) for turn in _turns(form))
        self._prefix = prefix_of(spec.ask, self._examples).before / BYTES_PER_TOKEN

    def weigh(self, input_json: str | bytes) -> Weight:
        """Of a stored input that can be rendered."""
        item_input = orjson.loads(input_json)
        body = self._form.body(input_json)
        system, template, printed = self._said(item_input, body)
        record = self._without_passages(item_input, printed)
        rest = len(body) - system - template - printed - self._examples
        parts = {
            "system": system,
            "examples": self._examples,
            "template": template,
            "record": record,
            "found": printed - record,
            "form": rest,
        }
        tokens = {name: size / BYTES_PER_TOKEN for name, size in parts.items()}
        return Weight(**tokens, answer=self._form.output_tokens_max(), prefix=self._prefix)

    def _said(self, item_input: Mapping[str, Any], body: bytes) -> tuple[int, int, int]:
        """Bytes of the system message, of the template's turn, and of what both print of the input."""
        messages = orjson.loads(body)["messages"]
        system, template = (
            _bytes(text or "") for text in (self._bare.system_text(item_input), self._bare.user_text(item_input))
        )
        said = _bytes(messages[-1]["content"]) + (_bytes(messages[0]["content"]) if self._has_system(messages) else 0)
        return system, template, max(said - system - template, 0)

    def _without_passages(self, item_input: Mapping[str, Any], printed: int) -> int:
        """What is printed where nothing was found; a template that cannot do without does not tell them apart."""
        if self._into is None:
            return printed
        alone = {**item_input, self._into: []}
        with suppress(Unusable):
            return min(self._said(alone, self._form.body(orjson.dumps(alone)))[2], printed)
        return printed

    @staticmethod
    def _has_system(messages: Sequence[dict[str, str]]) -> bool:
        return messages[0]["role"] == "system"


def mean(weights: Sequence[Weight]) -> Weight:
    """Of one or more."""
    names = [field.name for field in fields(Weight) if field.name != "answer"]
    parts = {name: sum(getattr(each, name) for each in weights) / len(weights) for name in names}
    return Weight(**parts, answer=weights[0].answer)


def heavy(weights: Sequence[Weight]) -> Finding | None:
    """What is to be said of questions in which the record is the smallest part."""
    if not weights:
        return None
    each = mean(weights)
    if each.fixed < FIXED_TOKENS_MIN or each.fixed <= FIXED_RATIO_MAX * (each.record + each.found):
        return None
    return Finding(
        where="$.ask.prompt",
        lint=Lint.HEAVY_PROMPT,
        message=f"of some {each.asked:.0f} tokens a sample's question has, {each.record:.0f} are the record's own",
        hint="shorten the prompt or the examples, or ask about more in one record: what is fixed is paid with each",
        error=False,
    )


def _turns(form: RequestForm) -> Iterator[bytes]:
    return (orjson.dumps(turn) for turn in form.turns)


def _bytes(text: str) -> int:
    """As it stands in a body, without its quotes."""
    return len(orjson.dumps(text)) - 2
