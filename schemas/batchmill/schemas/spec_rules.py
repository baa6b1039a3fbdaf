"""What every part of a job's spec is held to: a member that must hold, a name, a JSON text in its compact spelling.

What must not live here: any part itself (`jobs`, `asking`, `judgement` and their neighbours).
"""

import re
from typing import Final

from batchmill.schemas import strict_json
from batchmill.schemas.strict_json import StrictJsonError

__all__ = ["JobSpecError", "compacted", "named", "require", "written"]

#: `where` names the member (`$.judge.confidence`), the message says what belongs there.
JobSpecError = StrictJsonError

#: Names become parts of keys that are joined with `/` and `|`, of file names and of metric labels.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def require(holds: bool, where: str, wrong: str) -> None:  # noqa: FBT001 (reads as the sentence it is)
    """Raise JobSpecError unless `holds`."""
    if not holds:
        raise JobSpecError(where, wrong)


def named(text: str, where: str) -> None:
    """`text` is fit to be a name."""
    wrong = "must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    require(_NAME.fullmatch(text) is not None, where, wrong)


def written(text: str | None, where: str) -> None:
    """`text` is absent, or holds more than white space."""
    require(text is None or bool(text.strip()), where, "must not be blank")


def compacted(spec: object, member: str, where: str) -> None:
    """Rewrite a member that holds JSON in its compact spelling."""
    text = getattr(spec, member)
    if text is not None:
        object.__setattr__(spec, member, strict_json.compact_json(text, where))  # frozen: only while being made
