"""How much of a question is the same for each record *before* the record begins: what a provider may keep and reuse.

Providers read a question from its beginning: first the system message, then the examples, then the user's. What repeats
up to the first difference costs less the next time; what repeats behind it is paid in full. So constant text belongs in
front of the record. Told from the templates alone: what a template prints, branches on or loops over may differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import jinja2
from jinja2 import nodes

from batchmill.schemas.asking import AskSpec
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.finding import Finding, Lint
from batchmill.streams.rendering import closing_rules, parsed

__all__ = ["Prefix", "late_constant", "prefix_of"]

#: providers reuse no shorter beginning
PREFIX_TOKENS_MIN: Final = 1_024
#: less behind the record is nobody's concern
LATE_TOKENS_MIN: Final = 100


@dataclass(frozen=True, slots=True)
class Prefix:
    """Constant text of a question, in bytes: before anything of the record, and behind it."""

    before: int
    behind: int


def prefix_of(ask: AskSpec, examples_bytes: int) -> Prefix:
    """`examples_bytes`: of the turns between the system message and the user's."""
    before = behind = 0
    seen = False
    parts = [*_parts(ask.system), len(closing_rules(ask).encode()), examples_bytes, *_parts(ask.user)]
    for size in parts:
        if size is None:
            seen = True
        elif seen:
            behind += size
        else:
            before += size
    return Prefix(before, behind)


def late_constant(ask: AskSpec, examples_bytes: int) -> Finding | None:
    """A warning where text that is the same for each record stands behind it, and in front of it could be reused."""
    found = prefix_of(ask, examples_bytes)
    before, behind = estimate_tokens(found.before), estimate_tokens(found.behind)
    if behind < LATE_TOKENS_MIN or before + behind < PREFIX_TOKENS_MIN:
        return None
    return Finding(
        where="$.ask.prompt",
        lint=Lint.LATE_CONSTANT,
        message=f"some {behind} tokens that are the same for each record stand behind what the record brings",
        hint="put the record last: a provider that caches prompts reuses, for less, only what is the same up to there",
        error=False,
    )


def _parts(template: str | None) -> Iterator[int | None]:
    """Sizes of the constant texts of a template in their order; None: something that may differ."""
    if template is None:
        return
    try:
        body = parsed(template).body
    except jinja2.TemplateSyntaxError:
        return  # told as an error by whoever compiles it
    for node in body:
        if not isinstance(node, nodes.Output):
            yield None
            continue
        for part in node.nodes:
            yield len(part.data.encode()) if isinstance(part, nodes.TemplateData) else None
