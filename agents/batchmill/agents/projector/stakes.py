"""What a new version of a job would meet: how many records it has seen, committed and left with people."""

from dataclasses import dataclass

from batchmill.agents.projector.reading import View

__all__ = ["Stake", "stake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """The records of a job that a new version would be asked about again, once they are published again."""

    sources: int  #: seen so far
    committed: int  #: of these: in the sink
    in_review: int


def stake(view: View, job: str) -> Stake:
    """All zero for a job that has seen nothing."""
    (found,) = view.typed(
        Stake,
        """SELECT COUNT(*) AS sources, COUNT(committed_request_id) AS committed,
        (SELECT COUNT(*) FROM lives WHERE job = :job AND status = 'needs_review' AND NOT aside) AS in_review
        FROM sources WHERE job = :job""",
        {"job": job},
    )
    return found
