"""What is wrong with a job folder, each mistake with its file, its line and what to write instead."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import override

__all__ = ["JobFileError", "Problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake. `warning` = the job works, but probably not as meant."""

    file: Path
    line: int
    what: str
    hint: str | None = None
    level: Literal["error", "warning"] = "error"
    lint: str | None = None  #: the name under which a warning can be allowed

    @override
    def __str__(self) -> str:
        tail = f" ({self.hint})" if self.hint else ""
        name = f" [{self.lint}]" if self.lint else ""
        return f"{self.file}:{self.line}: {self.level}: {self.what}{tail}{name}"


class JobFileError(Exception):
    """The folder is no job; `problems` are all that could be found at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
