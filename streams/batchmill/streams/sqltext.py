"""The SQL of a look-up, as far as it can be judged without a database: one SELECT, its parameters by name.

What lives here: taking a text apart into words, quoted text and `:name`, what speaks against it, and how it is written
for a server that wants `%(name)s`. What must not: values. They never become part of the text, so no record can change
what is asked. What is judged here is a courtesy to the author; the connection itself is what cannot write.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = ["SQL_CHARS_MAX", "as_percent", "fault", "parameters"]

SQL_CHARS_MAX: Final = 8_000
_TOKEN: Final = re.compile(
    r"""
      (?P<remark> --[^\n]* | /\*.*?\*/ )
    | (?P<quoted> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*`
                | \$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$ )
    | (?P<cast> :: )
    | :(?P<name> [A-Za-z_]\w* )
    | (?P<word> [^\W\d]\w* )
    | (?P<other> . )
    """,
    re.DOTALL | re.VERBOSE,
)
_BEGINNINGS: Final = frozenset({"select", "with"})
#: where one of these is a column's name it is to be quoted
_WRITING: Final = frozenset(
    ("insert", "update", "delete", "merge", "into", "copy", "drop", "alter", "create", "truncate", "grant", "revoke")
)
_OPEN_QUOTES: Final = frozenset("'\"`")


class _Token(NamedTuple):
    kind: str
    text: str


def parameters(sql: str) -> tuple[str, ...]:
    """The names of its parameters, each once."""
    return tuple(dict.fromkeys(token.text[1:] for token in _tokens(sql) if token.kind == "name"))


def fault(sql: str, names: Iterable[str]) -> str | None:
    """Why `sql` is not one SELECT with exactly these parameters; None when it is."""
    if len(sql) > SQL_CHARS_MAX:
        return f"has {len(sql)} characters, at most {SQL_CHARS_MAX} are read"
    return _form_fault(list(_tokens(sql))) or _names_fault(set(parameters(sql)), set(names))


def as_percent(sql: str) -> str:
    """The same statement with `%(name)s` for `:name`."""
    return "".join(f"%({text[1:]})s" if kind == "name" else text.replace("%", "%%") for kind, text in _tokens(sql))


def _tokens(sql: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(sql):
        kind = next(name for name in ("remark", "quoted", "cast", "name", "word", "other") if found[name] is not None)
        yield _Token(kind, found[0])


def _form_fault(tokens: list[_Token]) -> str | None:
    words = [token.text.lower() for token in tokens if token.kind == "word"]
    said = [token for token in tokens if token.kind != "remark" and not token.text.isspace()]
    if not said or said[0].kind != "word" or words[0] not in _BEGINNINGS:
        return "must begin with SELECT or WITH"
    if any(token.kind == "other" and token.text in _OPEN_QUOTES for token in tokens):
        return "has a quotation mark that is not closed"
    if any(token.text == ";" for token in said[:-1]):
        return "must be one statement: it has a ';' in the middle"
    if said[-1].text == ";":
        return "must end without ';'"
    writing = sorted(_WRITING.intersection(words))
    if writing:
        return f"must only read: it says {writing[0].upper()} (a column of that name is to be quoted)"
    return None


def _names_fault(used: set[str], given: set[str]) -> str | None:
    if used - given:
        return f"names :{min(used - given)}, for which `params` has no path"
    if given - used:
        return f"does not use the parameter {min(given - used)!r}: write :{min(given - used)} or leave it out"
    return None
