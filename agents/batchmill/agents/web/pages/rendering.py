"""Templates into pages: one environment, always escaping, and the few filters hostile texts go through.

What lives here: the environment, filters that make markup out of strangers' texts, the list of static files. What
must not: asking the desk, routes. `Markup` is made here and nowhere else.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from batchmill.agents.web.pages import words
from batchmill.agents.web.pages.trail import record_path
from batchmill.agents.web.pages.unseen import pieces

__all__ = ["ASSETS", "rendered", "text_of"]

_HERE = Path(__file__).parent
_STATIC = _HERE / "static"
#: files a browser may ask for, by the name it asks with
ASSETS: Mapping[str, Path] = {
    str(path.relative_to(_STATIC)): path
    for path in sorted(_STATIC.rglob("*"))
    if path.suffix in {".js", ".css", ".svg"}
}
#: address, name and key of what stands in the head beside the queue
_MORE_PAGES = (("/runs", "Runs", "runs"), ("/dead-letters", "Dead letters", "letters"))
_SHORT_CHARS = 12
_LINE_CHARS = 200


def seen(text: str) -> Markup:
    """`text` escaped, each character that nobody would see shown by its name."""
    return Markup("").join(
        Markup('<span class="unseen" title="a character that cannot be seen">{}</span>').format(piece.code)
        if piece.code
        else escape(piece.text)
        for piece in pieces(str(text))
    )


def flat(text: str) -> str:
    """The same where no markup can stand: attributes, titles."""
    return "".join(f"[{piece.code}]" if piece.code else piece.text for piece in pieces(str(text)))


def line(value: Any, chars: int = _LINE_CHARS) -> Markup:
    """A value as one short line."""
    text = json.dumps(value, ensure_ascii=False)
    cut = text if len(text) <= chars else f"{text[:chars]}..."
    return seen(cut)


def short(text: str | None) -> str:
    """The beginning of a long id."""
    return (text or "")[:_SHORT_CHARS]


def when(at_ms: int, now_ms: int) -> Markup:
    """How long ago, with the exact time behind it."""
    exact = datetime.fromtimestamp(at_ms / 1_000, tz=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, words.ago(at_ms, now_ms))


def asset(name: str) -> str:
    """The address of a static file; it changes with its content, so browsers may keep it."""
    return f"/static/{name}?v={_SUMS[name]}"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(seen=seen, flat=flat, line=line, short=short, when=when)
    made.globals.update(asset=asset, words=words, record_path=record_path, more_pages=_MORE_PAGES)
    return made


_SUMS = {name: sha256(path.read_bytes()).hexdigest()[:12] for name, path in ASSETS.items()}
_ENVIRONMENT = _environment()


def text_of(template: str, **values: Any) -> str:
    """A template filled in."""
    return _ENVIRONMENT.get_template(template).render(**values)


def rendered(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A whole page."""
    return HTMLResponse(text_of(template, **values), status_code=status)
