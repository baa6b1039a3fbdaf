"""Where in the input the parts of an answer are found, for a reviewer's eyes. Pure, and bounded in what it looks at.

What a job declares to be cited is looked for where it declares it; a job that declares nothing is helped as far as
possible: every text of the answer that occurs in the input word for word. Nothing is judged here (`streams.judging`).
"""

from collections.abc import Iterator
from typing import Any, Final

from batchmill.agents.desk.model import Passage
from batchmill.streams import judging

__all__ = ["passages"]

_PASSAGES_MAX: Final = 200
_TEXTS_MAX: Final = 500
_PER_QUOTE_MAX: Final = 5
#: shorter ones occur everywhere and point at nothing
_QUOTE_CHARS_MIN: Final = 2

Text = tuple[str, str]  #: (path, text)


def passages(judge: judging.Judge, given: Any, output: Any) -> tuple[Passage, ...]:
    """In the order of the answer's members."""
    if judge.citations:
        return judging.passages(judge, given, output)[:_PASSAGES_MAX]
    sources = list(_texts(given))
    found: list[Passage] = []
    for cited_by, quote in _texts(output):
        if len(quote.strip()) >= _QUOTE_CHARS_MIN:
            found += _occurrences(sources, quote.strip(), cited_by)
        if len(found) >= _PASSAGES_MAX:
            break
    return tuple(found[:_PASSAGES_MAX])


def _occurrences(sources: list[Text], quote: str, cited_by: str) -> list[Passage]:
    found: list[Passage] = []
    for path, text in sources:
        at = text.find(quote)
        while at >= 0 and len(found) < _PER_QUOTE_MAX:
            found.append(Passage(path=path, start=at, end=at + len(quote), cited_by=cited_by))
            at = text.find(quote, at + len(quote))
    return found


def _texts(value: Any) -> Iterator[Text]:
    """Every text inside `value` with its path, breadth last; at most _TEXTS_MAX."""
    waiting: list[tuple[str, Any]] = [("$", value)]
    given = 0
    while waiting and given < _TEXTS_MAX:
        path, each = waiting.pop()
        if isinstance(each, str):
            given += 1
            yield path, each
        elif isinstance(each, dict):
            waiting += [(f"{path}.{name}", part) for name, part in reversed(each.items())]
        elif isinstance(each, list):
            waiting += [(f"{path}[{at}]", part) for at, part in reversed(list(enumerate(each)))]
