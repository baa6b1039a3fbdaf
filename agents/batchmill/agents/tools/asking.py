"""Several questions about one record -> what was found out, and which sources are away.

What must not live here: what becomes of the record.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from batchmill.agents.tools.sources import ToolSources
from batchmill.streams.ports import RefusedError, TransientError
from batchmill.streams.tooling import Found, Question

__all__ = ["Findings", "ask_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What became of some questions."""

    found: Found
    away: Mapping[str, TransientError] = field(default_factory=dict)  #: by the question's key: no answer for now


async def ask_all(sources: ToolSources, questions: Iterable[Question], held: Found) -> Findings:
    """Ask all of them at once; what is found is added to what was held."""
    asked = tuple(questions)
    answers = await asyncio.gather(*(_one(sources, question) for question in asked))
    away: dict[str, TransientError] = {}
    for question, answer in zip(asked, answers, strict=True):
        match answer:
            case TransientError():
                away[question.key] = answer
            case RefusedError():
                held = held.refused(question, str(answer))
            case (value,):
                held = held.answered(question, value)
    return Findings(found=held, away=away)


async def _one(sources: ToolSources, question: Question) -> tuple[object] | RefusedError | TransientError:
    try:
        return (await sources.ask(question),)
    except (RefusedError, TransientError) as error:
        return error
