"""Which dead letters a person means: a CEL condition over what a letter says, never over what a record contains.

`Letter` is what every condition may look at. A text that is absent is empty, so that it can be compared; a cost that is
not known is null, because it is not 0. A condition that gives no answer for a letter is an error: what is brought back
costs money, and is not to be chosen by accident.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from batchmill.streams.expressions import ConditionError, compile_condition

__all__ = ["NAMES", "Letter", "LetterCheck", "Where", "compile_where"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterCheck:
    """One check of the answer that was no good, passed or not."""

    id: str
    path: str
    severity: str
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What a dead letter says of itself."""

    id: str
    request_id: str  #: empty: the event never had a request
    job: str
    version: str
    source_id: str
    stage: str
    reason: str
    fault: str
    error: str
    retryable: bool
    attempt: int
    redrives: int
    cost_usd: float | None  #: None: a call of it has no price
    original_bytes: int
    age_seconds: int
    checks: Sequence[LetterCheck]


#: what a condition may speak of
NAMES: Final = frozenset(Letter.__slots__)

Where = Callable[[Letter], bool]


def compile_where(source: str) -> Where:
    """Read a condition; ConditionError, here or when it is asked about a letter, says what is wrong."""
    condition = compile_condition(source, variables=NAMES)

    def holds(letter: Letter) -> bool:
        variables: dict[str, Any] = asdict(letter)
        try:
            return condition.holds(variables)
        except ConditionError as error:
            raise ConditionError(f"no answer for letter {letter.id}: {error}") from None

    return holds
