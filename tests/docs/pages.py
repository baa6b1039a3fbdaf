"""The pages written by hand, and what tests look for in them: fenced blocks, inline code, links."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GUIDES", "ROOT", "Block", "anchors", "blocks", "inline_code", "links", "text_of"]

ROOT = Path(__file__).parents[2]
#: every page that is written by hand
GUIDES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/decisions").glob("*.md"))
)

_FENCE = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, and the comment on the line before it ("" without one)."""

    language: str
    label: str
    text: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    found = [Block(match[2], match[1] or "", match[3]) for match in _FENCE.finditer(text_of(page))]
    return [block for block in found if language is None or block.language == language]


def inline_code(page: str) -> list[str]:
    return _INLINE.findall(_FENCE.sub("", text_of(page)))


def links(page: str) -> list[str]:
    return [target for target in _LINK.findall(_FENCE.sub("", text_of(page))) if "://" not in target]


def anchors(page: str) -> set[str]:
    """What a link may name inside a page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
