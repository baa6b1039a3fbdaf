"""Law: the model of a provider's prompt cache: which part of a prompt was seen before. Off unless configured.

The prefix of a prompt (its system text) that is long enough is written once for each provider and model and read ever
after. In memory, bounded, without an end by time; a restart begins with nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.pricing import tokens_of_chars

if TYPE_CHECKING:
    from batchmill.agents.simulator.answering import Answer, Question

__all__ = ["PromptCache"]

PREFIXES_MAX: Final = 10_000  # the oldest is forgotten first


class PromptCache:
    def __init__(self, *, tokens_min: int | None) -> None:
        self._tokens_min = tokens_min
        self._seen: dict[bytes, None] = {}

    def told(self, provider: str, question: Question, answer: Answer, *, writes: bool) -> Answer:
        """The answer with its cached tokens; `writes`: the model charges for what it puts into the cache."""
        tokens = tokens_of_chars(len(question.prefix))
        if self._tokens_min is None or tokens < max(self._tokens_min, 1):
            return answer
        if self._remember(digest_of(provider, question.model, question.prefix)):
            return replace(answer, cached_tokens=tokens)
        return replace(answer, cache_write_tokens=tokens) if writes else answer

    def _remember(self, digest: bytes) -> bool:
        """Whether it was there."""
        if digest in self._seen:
            return True
        if len(self._seen) >= PREFIXES_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = None
        return False
