"""The path of a fetch: `/items/{sku}`, filled so that a value is one value wherever it stands.

What lives here: reading a template, filling it. What must not: the host, which no record and no job can name. A value
is percent-encoded whole, so it cannot end its segment nor begin a query; one that would make a server which decodes
first walk up its tree (`..`) is refused, in whatever coat it comes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote

__all__ = ["PATH_CHARS_MAX", "PathTextError", "fault", "fill", "parameters"]

#: of a path with its values; servers take 8,000 of a whole request line
PATH_CHARS_MAX: Final = 4_000
_PART: Final = re.compile(r"\{([A-Za-z_]\w*)\}")
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
#: some servers end a segment at ';' too
_BREAK: Final = re.compile(r"[/\\;]")
_DOTS: Final = frozenset({".", ".."})
#: how often a value may be wrapped in percent signs before it is taken for what it says
_UNWRAPPINGS_MAX: Final = 4


class PathTextError(ValueError):
    """A value cannot stand in the path; the message names the parameter and never quotes."""


def parameters(template: str) -> tuple[str, ...]:
    """The names of its parameters, each once."""
    return tuple(dict.fromkeys(_PART.findall(template)))


def fault(template: str, names: Iterable[str]) -> str | None:
    """Why `template` is not a path with exactly these parameters; None when it is."""
    literal = _PART.sub("", template)
    path = _PART.sub("x", template).partition("?")[0]
    if not template.startswith("/") or template.startswith("//"):
        return "must begin with one '/'"
    if len(template) > PATH_CHARS_MAX:
        return f"has {len(template)} characters, at most {PATH_CHARS_MAX} are sent"
    if not _LITERAL.fullmatch(literal):
        return "has a character that must be percent-encoded, or a '{' that begins no {name}"
    if _walks(path):
        return "must not have '.' or '..' as a segment"
    used, given = set(parameters(template)), set(names)
    if used - given:
        return f"names {{{min(used - given)}}}, for which `params` has no path"
    if given - used:
        return f"does not use the parameter {min(given - used)!r}: write {{{min(given - used)}}} or leave it out"
    return None


def fill(template: str, values: Mapping[str, str]) -> str:
    """The path with its values; PathTextError for a value that has no place in one."""
    for name, value in values.items():
        if not value or _CONTROL.search(value):
            raise PathTextError(f"the parameter {name} is empty or holds a control character")
    filled = _PART.sub(lambda found: quote(values[found[1]], safe=""), template)
    if len(filled) > PATH_CHARS_MAX:
        raise PathTextError(f"the path has {len(filled)} characters, at most {PATH_CHARS_MAX} are sent")
    if _walks(filled.partition("?")[0]):
        raise PathTextError("a parameter says '..' or '.' in the path")
    return filled


def _walks(path: str) -> bool:
    """Whether a server that decodes, once or more, finds a dot segment in it."""
    for _ in range(_UNWRAPPINGS_MAX):
        if _DOTS.intersection(_BREAK.split(path)):
            return True
        unwrapped = unquote(path)
        if unwrapped == path:
            return False
        path = unwrapped
    return True
