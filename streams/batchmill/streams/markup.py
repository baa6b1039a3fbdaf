"""The text of a piece of HTML: tags, comments, scripts and styles go, character references become characters.

A scanner of our own, for two reasons. What it makes is hashed into request ids, so it must say the same for ever, while
`html.parser` changes with the patch release of Python. And it takes one pass over whatever a stranger sends: what has
no end is looked for once.

It never makes a text longer. References to `<`, `>` and `&` stay as they are, else what was text would be markup the
next time.
"""

import html
import re
from typing import Final

__all__ = ["text_of"]

#: elements behind which a line ends
_BLOCKS: Final = frozenset(
    {"address", "article", "aside", "blockquote", "body", "br", "center", "dd", "details", "div", "dl", "dt"}
    | {"fieldset", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html"}
    | {"li", "main", "nav", "ol", "p", "pre", "section", "table", "tbody", "td", "tfoot", "th", "thead", "title"}
    | {"tr", "ul"}
)
#: elements whose content is no text
_SILENT: Final = frozenset({"script", "style", "template", "noscript"})
_TAG: Final = re.compile(r"</?([A-Za-z][A-Za-z0-9:-]{0,63})")
_REFERENCE: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_QUOTE_OR_END: Final = re.compile("[\"'>]")
_KEPT: Final = frozenset("<>&")


def text_of(markup: str) -> str:
    """What a reader of the page would see, lines for blocks. Done again it may find more, until nothing is left."""
    if "<" in markup:
        markup = _Scanner(markup).text()
    return _REFERENCE.sub(_character, markup) if "&" in markup else markup


def _character(found: re.Match[str]) -> str:
    said = html.unescape(found[0])
    return found[0] if _KEPT & set(said) else said


class _Scanner:
    """One pass from left to right."""

    def __init__(self, markup: str) -> None:
        self._text = markup
        self._lower: str | None = None
        self._missing: set[str] = set()  #: what was looked for and does not come any more

    def text(self) -> str:
        kept: list[str] = []
        at = 0
        while (start := self._text.find("<", at)) >= 0:
            kept.append(self._text[at:start])
            at, instead = self._past(start)
            kept.append(instead)
        kept.append(self._text[at:])
        return "".join(kept)

    def _past(self, start: int) -> tuple[int, str]:
        """Where the text goes on behind the `<` at `start`, and what stands for what lies between."""
        if self._text.startswith("<!--", start):
            return self._behind("-->", start + 4), ""
        if self._text.startswith(("<!", "<?"), start):
            return self._behind(">", start + 2), ""
        tag = _TAG.match(self._text, start)
        end = -1 if tag is None else self._end_of_tag(tag.end())
        if tag is None or end < 0:
            return start + 1, "<"  # a sign like any other
        name = tag[1].lower()
        if name in _SILENT and self._text[start + 1] != "/":
            return self._behind_silent(name, end), ""
        return end, "\n" if name in _BLOCKS else ""

    def _end_of_tag(self, at: int) -> int:
        """Behind the `>` that is in no quotes; -1: there is none, nor does any tag begin that ends."""
        while ">" not in self._missing and (found := _QUOTE_OR_END.search(self._text, at)) is not None:
            if found[0] == ">":
                return found.end()
            close = self._find(found[0], found.end())
            at = found.end() if close < 0 else close + 1
        self._missing.add(">")
        return -1

    def _behind(self, what: str, at: int) -> int:
        found = self._find(what, at)
        return len(self._text) if found < 0 else found + len(what)

    def _behind_silent(self, name: str, at: int) -> int:
        self._lower = self._text.lower() if self._lower is None else self._lower
        close = self._lower.find(f"</{name}", at)
        return len(self._text) if close < 0 else close

    def _find(self, what: str, at: int) -> int:
        found = -1 if what in self._missing else self._text.find(what, at)
        if found < 0:
            self._missing.add(what)
        return found
