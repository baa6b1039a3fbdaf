"""The text normalisation a job declares, done to whatever is asked about: events, and the inputs of its examples.

What lives here: changing texts. What must not: whether an event is taken (`normalizing`).
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from batchmill.schemas.jobs import InputSpec
from batchmill.streams.jsontext import JsonObject, map_texts
from batchmill.streams.paths import Path, compile_path

__all__ = ["Cleaner", "compile_cleaner"]

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Cleaner:
    """The compiled `input.text` of a version."""

    clean: Callable[[str], str] | None
    max_chars: tuple[tuple[Path, int], ...]

    def apply(self, payload: JsonObject) -> None:
        """Change the texts of `payload` where they stand."""
        if self.clean is not None:
            map_texts(payload, self.clean)
        for path, limit in self.max_chars:
            text = path.find(payload)
            if isinstance(text, str) and len(text) > limit:
                path.replace(payload, text[:limit])


def compile_cleaner(given: InputSpec) -> Cleaner:
    """Compile, or PathError."""
    cuts = tuple((compile_path(name), limit) for name, limit in given.max_chars.items())
    return Cleaner(_text_cleaner(given), cuts)


def _text_cleaner(given: InputSpec) -> Callable[[str], str] | None:
    """What is done to each text; None when the job declares nothing."""
    form, strip = given.normalize, given.strip_control
    if form is None and not strip:
        return None

    def clean(text: str) -> str:
        if text.isascii() and text.isprintable():
            return text
        if strip:
            text = _CONTROL.sub("", text)
        return text if form is None or text.isascii() else unicodedata.normalize(form, text)

    return clean
