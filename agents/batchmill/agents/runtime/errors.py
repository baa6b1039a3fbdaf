"""What can go wrong between a stage and its task, sorted by who must act.

What lives here: the exceptions that leave the runtime. What must not: anything that ends the process; an outcome nobody
knows is not an exception, it is `failstop`.
"""

__all__ = [
    "BareSendError",
    "NotOwnedError",
    "PoisonEffectError",
    "RuntimeRefusedError",
    "TooLargeError",
    "VersionError",
]


class RuntimeRefusedError(Exception):
    """The runtime refuses what was asked; nothing was done."""


class NotOwnedError(RuntimeRefusedError):
    """The task is frozen or lost: whoever holds it stops; its owner (perhaps this worker again) starts from state."""

    def __init__(self, partition: int) -> None:
        super().__init__(f"task {partition} is not owned here now; drop it and wait to be started again")
        self.partition = partition


class TooLargeError(RuntimeRefusedError):
    """One record exceeds the limit; a transaction that held it would fail as a whole."""

    def __init__(self, where: str, size_bytes: int, bytes_max: int) -> None:
        super().__init__(
            f"a record for {where} has {size_bytes} bytes, more than record_bytes_max={bytes_max}; "
            "ask `task.fits` first and write a claim check instead"
        )
        self.where = where
        self.size_bytes = size_bytes


class BareSendError(RuntimeRefusedError):
    """Something was sent past the task; it would not be part of any transaction."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"a bare send to {topic} would be outside of every transaction; use `task.emit`")


class PoisonEffectError(RuntimeRefusedError):
    """The process died too often while this effect worked on this row; isolate the row, do not try it again."""

    def __init__(self, effect: str, row_id: str, deaths: int) -> None:
        super().__init__(f"effect {effect} died {deaths} times on row {row_id}; isolate the row")
        self.effect = effect
        self.row_id = row_id
        self.deaths = deaths


class VersionError(RuntimeRefusedError):
    """A library this driver subclasses has a version nobody has proven."""
