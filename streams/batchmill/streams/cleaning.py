"""The text normalisation a job declares, done to whatever is asked about: events, and the inputs of its examples.

What lives here: changing texts, and leaving members out. What must not: whether an event is taken (`normalizing`).

In this order: members that are not kept go; then of each text markup, control characters, normal form, white space;
then the cuts. Cleaning what was cleaned changes nothing: removing one thing may bring another one together (`<<b>i>`),
so a text that may hold markup is gone over until it stays as it is, and after a few times every sign that could begin
markup goes. What leaves things out never makes an input longer.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batchmill.schemas.jobs import InputSpec
from batchmill.streams.jsontext import JsonObject, map_texts
from batchmill.streams.markup import text_of
from batchmill.streams.paths import Path, compile_path

__all__ = ["Cleaner", "compile_cleaner"]

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_SPACE: Final = re.compile(r"\s+")
_BEGINS_MARKUP: Final = re.compile("[<&]")
#: times a text is gone over for markup that the time before has brought together
_PASSES_MAX: Final = 4

#: member -> what is kept of it; None: all
Kept = dict[str, "Kept | None"]


@dataclass(frozen=True, slots=True)
class Cleaner:
    """The compiled `input.text` of a version."""

    clean: Callable[[str], str] | None
    max_chars: tuple[tuple[Path, int], ...]
    kept: Kept | None = None

    def apply(self, payload: JsonObject) -> None:
        """Change the texts of `payload` where they stand."""
        if self.kept is not None:
            _leave_out(payload, self.kept)
        if self.clean is not None:
            map_texts(payload, self.clean)
        for path, limit in self.max_chars:
            text = path.find(payload)
            if isinstance(text, str) and len(text) > limit:
                path.replace(payload, self._cut(text, limit))

    def _cut(self, text: str, limit: int) -> str:
        """A text whose end is gone may be cleaner than it was: a space at its new end goes."""
        return text[:limit] if self.clean is None else self.clean(text[:limit])[:limit]


def compile_cleaner(given: InputSpec) -> Cleaner:
    """Compile, or PathError."""
    cuts = tuple((compile_path(name), limit) for name, limit in given.max_chars.items())
    kept = _kept([compile_path(name) for name in given.keep]) if given.keep else None
    return Cleaner(_text_cleaner(given), cuts, kept)


def _kept(paths: Sequence[Path]) -> Kept:
    """A list is kept whole: what lies at a place of it is not the same without its neighbours."""
    tree: Kept = {}
    for path in paths:
        names = [step for step in path.steps[: _first_place(path)] if isinstance(step, str)]
        at = tree
        for name in names[:-1]:
            below = at.setdefault(name, {})
            if below is None:
                break
            at = below
        else:
            at[names[-1]] = None
    return tree


def _first_place(path: Path) -> int:
    places = (number for number, step in enumerate(path.steps) if isinstance(step, int))
    return max(1, next(places, len(path.steps)))


def _leave_out(value: Any, kept: Kept) -> None:
    if not isinstance(value, dict):
        return
    for name in [name for name in value if name not in kept]:
        del value[name]
    for name, below in kept.items():
        if below is not None:
            _leave_out(value.get(name), below)


def _text_cleaner(given: InputSpec) -> Callable[[str], str] | None:
    """What is done to each text; None when the job declares nothing."""
    plain = _plain_cleaner(given)
    if not given.strip_markup:
        return plain

    def clean(text: str) -> str:
        for _ in range(_PASSES_MAX):
            before, text = text, text_of(text)
            text = text if plain is None else plain(text)
            if text == before:
                return text
        text = _BEGINS_MARKUP.sub("", text)
        return text if plain is None else plain(text)

    return clean


def _plain_cleaner(given: InputSpec) -> Callable[[str], str] | None:
    form, strip, collapse = given.normalize, given.strip_control, given.collapse_space
    if form is None and not strip and not collapse:
        return None

    def clean(text: str) -> str:
        if not (text.isascii() and text.isprintable()):
            if strip:
                text = _CONTROL.sub("", text)
            text = text if form is None or text.isascii() else unicodedata.normalize(form, text)
        return _SPACE.sub(_one_space, text).strip() if collapse else text

    return clean


def _one_space(found: re.Match[str]) -> str:
    return "\n" if "\n" in found[0] or "\r" in found[0] else " "
