"""Law: what a provider must tell the engine about its rows; the engine knows no provider's words.

A provider is one package: a dialect (pure, here) and routes (HTTP), listed in `providers.py`. The engine validates,
works, bills and stores batches of any dialect alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from batchmill.agents.simulator.answering import Answer, Question
    from batchmill.agents.simulator.records import Batch, BatchProblem

__all__ = ["Checker", "Dialect", "RowRequest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    custom_id: str
    question: Question
    invalid: bytes | None = None  # the error line of a row that fails the checks made when it is worked


class Checker(Protocol):
    """Reads the lines of one input in order and stops at the first that is bad."""

    rows: int
    model: str | None

    def line(self, number: int, line: bytes) -> BatchProblem | None: ...

    def end(self) -> BatchProblem | None: ...


class Dialect(Protocol):
    one_file: bool  # answers and errors lie in one result file
    expires_whole: bool  # of a batch that expires nothing is delivered and nothing is billed
    cancels_at_once: bool  # a cancel that is taken ends the batch, without a time of cancelling

    def checker(self, batch: Batch, *, rows_max: int) -> Checker: ...

    def request(self, line: bytes) -> RowRequest:
        """Of a line that passed the checker, or the checks of its create call."""

    def answered(self, batch: Batch, row: RowRequest, answer: Answer) -> bytes:
        """The result line of an answer, with its line end."""

    def failed(self, batch: Batch, row: RowRequest, status: int) -> bytes:
        """The error line of a row that ended with an HTTP status; 0: without any response, 404: no such model."""

    def not_run(self, batch: Batch, row: RowRequest, *, expired: bool) -> bytes:
        """The error line of a row the batch did not come to; empty where the provider writes none."""
