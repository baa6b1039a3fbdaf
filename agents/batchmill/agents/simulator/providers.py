"""Law: the providers the simulator speaks, one row each. Adding a provider is a package and a row here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator import anthropic, gemini, mistral, openai

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import Route

    from batchmill.agents.simulator.dialect import Dialect
    from batchmill.agents.simulator.records import Batch

__all__ = ["PROVIDERS", "Provider"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    name: str
    dialect: Dialect
    routes: Callable[[], Sequence[Route]]
    event: Callable[[Batch], dict[str, Any] | None] | None = None  #: what a webhook is told of a batch that ended


PROVIDERS: Final = (
    Provider(name="openai", dialect=openai.OpenAIDialect(), routes=openai.routes, event=openai.event_object),
    Provider(name="anthropic", dialect=anthropic.AnthropicDialect(), routes=anthropic.routes),
    Provider(name="gemini", dialect=gemini.GeminiDialect(), routes=gemini.routes),
    Provider(name="mistral", dialect=mistral.MistralDialect(), routes=mistral.routes),
)
