"""The source as people read it: every text under its path, with the passages an answer rests on marked.

What lives here: merging passages, finding an answer's texts where no citation was declared, cutting long texts so that
what is marked stays. What must not: HTML (templates write the pieces, escaped). Pure, and total over any input and any
passages: those that lead nowhere mark nothing.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchmill.agents.desk.model import Passage
from batchmill.agents.web.pages.fields import step_text
from batchmill.streams.paths import PathError, compile_path

__all__ = ["HEAD_CHARS", "Segment", "Text", "found_in", "highlighted"]

#: of a long text, shown before somebody asks for all of it
HEAD_CHARS = 4_000
#: around what is marked further behind
_AROUND_CHARS = 200
#: texts of one input that are listed
_TEXTS_MAX = 500
#: texts of one answer that are looked for, and places each is marked at
_SOUGHT_MAX = 200
_PLACES_MAX = 20
#: shorter ones stand everywhere
_SOUGHT_CHARS_MIN = 2
#: shorter ones count as whole words only
_WORD_CHARS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a text. `cited_by`: members of the answer that it stands for; `gap`: characters left out here."""

    text: str = ""
    cited_by: tuple[str, ...] = ()
    gap: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One value of the input, or a document in it; `plain` False: no text, shown as JSON."""

    path: str
    segments: tuple[Segment, ...]
    chars: int
    plain: bool = True
    title: str | None = None  #: of a document that was put beside the record: the id that answers cite it by

    @property
    def is_cut(self) -> bool:
        return any(segment.gap for segment in self.segments)


_Span = tuple[int, int, tuple[str, ...]]
_Place = tuple[str | int, ...] | str


def highlighted(value: Any, passages: Sequence[Passage], *, whole: bool = False) -> tuple[Text, ...]:
    """Every value of the input `value`, what `passages` name marked; long texts are cut unless `whole`."""
    spans, documents = _by_place(passages), _documents(value)
    return tuple(
        replace(
            _text(path, part, [*spans.get(steps, ()), *spans.get(_bare(steps), ())], whole=whole),
            title=documents.get(steps[:-1]),
        )
        for path, steps, part in _leaves(value, "$", ())
        if steps[:-1] not in documents or steps[-1] == "text"
    )


def found_in(value: Any, output: Any) -> tuple[Passage, ...]:
    """Where the answer's own texts and numbers stand in the input: the marks when nothing was cited."""
    sought = _sought(output)
    texts = [(path, part) for path, _, part in _leaves(value, "$", ()) if isinstance(part, str)]
    return tuple(
        Passage(path=path, start=at, end=at + len(wanted), cited_by=cited_by)
        for path, text in texts
        for wanted, cited_by in sought.items()
        for at in _places(text, wanted)
    )


def _documents(value: Any) -> Mapping[tuple[str | int, ...], str]:
    """Where the documents of a context lie, and their ids: each is shown as one text, under its id."""
    lists = value.items() if isinstance(value, dict) else ()
    return {
        (name, at): each["id"]
        for name, member in lists
        if isinstance(member, list)
        for at, each in enumerate(member)
        if isinstance(each, dict) and each.keys() == _DOCUMENT and all(isinstance(one, str) for one in each.values())
    }


_DOCUMENT = frozenset({"id", "document", "text"})


def _by_place(passages: Sequence[Passage]) -> Mapping[_Place, list[Passage]]:
    by_place: dict[_Place, list[Passage]] = defaultdict(list)
    for passage in passages:
        by_place[_place(passage.path)].append(passage)
    return by_place


def _place(path: str) -> _Place:
    """The steps of a path; of one that cannot be read, as with odd names in it, its text."""
    if path in {"", "$"}:
        return ()
    try:
        return compile_path(path).steps
    except PathError:
        return path


def _bare(steps: tuple[str | int, ...]) -> str:
    """The path with every name as it is, which only odd names make unreadable."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _leaves(value: Any, path: str, steps: tuple[str | int, ...]) -> Iterator[tuple[str, tuple[str | int, ...], Any]]:
    """(path, steps, value) of each text, number and empty container, at most `_TEXTS_MAX`."""
    waiting: list[tuple[str, tuple[str | int, ...], Any]] = [(path, steps, value)]
    given = 0
    while waiting and given < _TEXTS_MAX:
        where, way, part = waiting.pop()
        if isinstance(part, dict) and part:
            waiting.extend((where + step_text(key), (*way, key), part[key]) for key in reversed(part))
        elif isinstance(part, list) and part:
            waiting.extend((f"{where}[{at}]", (*way, at), part[at]) for at in reversed(range(len(part))))
        else:
            given += 1
            yield where, way, part


def _text(path: str, part: Any, passages: Sequence[Passage], *, whole: bool) -> Text:
    text = part if isinstance(part, str) else json.dumps(part)
    spans = _merged(passages, len(text))
    shown = [(0, len(text))] if whole else _windows(spans, len(text))
    return Text(path=path, segments=tuple(_cut(text, spans, shown)), chars=len(text), plain=isinstance(part, str))


def _merged(passages: Sequence[Passage], length: int) -> list[_Span]:
    """Passages inside the text, in order; those that overlap or touch are one."""
    merged: list[_Span] = []
    for passage in sorted(passages, key=lambda one: (one.start, one.end)):
        start, end = max(0, passage.start), min(passage.end, length)
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            before = merged.pop()
            by = tuple(dict.fromkeys((*before[2], passage.cited_by)))
            merged.append((before[0], max(before[1], end), by))
        else:
            merged.append((start, end, (passage.cited_by,)))
    return merged


def _windows(spans: Sequence[_Span], length: int) -> list[tuple[int, int]]:
    """The parts of a text that are shown: its head, and the surroundings of every mark."""
    windows = [(0, min(HEAD_CHARS, length))]
    for start, end, _ in spans:
        low, high = max(0, start - _AROUND_CHARS), min(length, end + _AROUND_CHARS)
        if low <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(windows[-1][1], high))
        else:
            windows.append((low, high))
    return windows


def _cut(text: str, spans: Sequence[_Span], windows: Sequence[tuple[int, int]]) -> Iterator[Segment]:
    at = 0
    for low, high in windows:
        if low > at:
            yield Segment(gap=low - at)
        at = low
        for start, end, cited_by in spans:
            if end <= low or start >= high:
                continue
            if start > at:
                yield Segment(text=text[at:start])
            yield Segment(text=text[start:end], cited_by=cited_by)
            at = end
        if at < high:
            yield Segment(text=text[at:high])
        at = high
    if at < len(text):
        yield Segment(gap=len(text) - at)


def _sought(output: Any) -> dict[str, str]:
    """What to look for, and which member of the answer says it."""
    sought: dict[str, str] = {}
    for path, _, part in _leaves(output, "$", ()):
        if part is None or isinstance(part, bool | dict | list):
            continue
        wanted = part.strip() if isinstance(part, str) else json.dumps(part)
        if len(wanted) >= _SOUGHT_CHARS_MIN or wanted.isdigit():
            sought.setdefault(wanted, path)
        if len(sought) == _SOUGHT_MAX:
            break
    return sought


def _places(text: str, wanted: str) -> Iterator[int]:
    """Where `wanted` stands in `text`, letter case aside where that changes no length."""
    lower = text.lower()
    hay, needle = (lower, wanted.lower()) if len(lower) == len(text) else (text, wanted)
    at, given = hay.find(needle), 0
    while at >= 0 and given < _PLACES_MAX:
        if len(wanted) >= _WORD_CHARS or _is_word(hay, at, at + len(needle)):
            given += 1
            yield at
        at = hay.find(needle, at + 1)


def _is_word(text: str, start: int, end: int) -> bool:
    before, behind = text[start - 1 : start], text[end : end + 1]
    return not before.isalnum() and not behind.isalnum()
