"""What the code says about itself in `#:` comments: the meanings of enum members, read from the source."""

import re
from pathlib import Path

__all__ = ["comments_of"]

_MEMBER = re.compile(r"    ([A-Z_]+) = [^#]*(?:#:\s*(.*))?")


def comments_of(file: Path, name: str) -> dict[str, str]:
    """Member -> its comment ("" where it has none), of the class `name`."""
    _, _, body = file.read_text(encoding="utf-8").partition(f"class {name}(")
    assert body, f"{file} has no class {name}"
    block = re.split(r"\n(?=\S)", body, maxsplit=1)[0]
    found = {member[1]: (member[2] or "").strip() for line in block.splitlines() if (member := _MEMBER.match(line))}
    assert found, f"{name} in {file} has no members"
    return found
