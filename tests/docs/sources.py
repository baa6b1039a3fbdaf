"""What the code says about itself: `#:` comments of enum members and docstrings, read from the source."""

import ast
import re
from pathlib import Path

__all__ = ["comments_of", "docstrings_of"]

_MEMBER = re.compile(r"    ([A-Z_]+) = [^#]*(?:#:\s*(.*))?")


def comments_of(file: Path, name: str) -> dict[str, str]:
    """Member -> its comment ("" where it has none), of the class `name`."""
    _, _, body = file.read_text(encoding="utf-8").partition(f"class {name}(")
    assert body, f"{file} has no class {name}"
    block = re.split(r"\n(?=\S)", body, maxsplit=1)[0]
    found = {member[1]: (member[2] or "").strip() for line in block.splitlines() if (member := _MEMBER.match(line))}
    assert found, f"{name} in {file} has no members"
    return found


def docstrings_of(file: Path, decorator: str) -> dict[str, str]:
    """Function -> its docstring in one line, of the functions under `@decorator`, in their order."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    decorated = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(each, ast.Name) and each.id == decorator for each in node.decorator_list)
    ]
    return {node.name: " ".join((ast.get_docstring(node) or "").split()) for node in decorated}
