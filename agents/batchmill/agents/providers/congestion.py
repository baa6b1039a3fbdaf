"""How many calls an account bears at once, and when it bears none: learned from how calls end.

What lives here: two small machines that are told what happened and the time, and remember numbers. What must not: a
clock, a wait, a call. `Concurrency` grows until it hurts and then gives way (additive increase, multiplicative
decrease): answers of a model take seconds or minutes by their length, so their times say nothing of its load. `Breaker`
stops asking a service that does not answer, and lets one call at a time find out whether it is back.
"""

from collections import deque

__all__ = ["Breaker", "Concurrency"]

#: where the first calls of a process begin; it doubles with every round of answers until something hurts
START_CALLS = 32
#: what is left of the width after a refusal for load
KEPT_SHARE = 0.7

#: failures in a row, or this share of the last calls, and the account is left alone
FAILED_IN_A_ROW_MAX = 10
FAILED_SHARE_MAX = 0.5
OUTCOMES_KEPT = 50
OUTCOMES_NEEDED = 20
OPEN_SECONDS = 5.0
OPEN_SECONDS_MAX = 120.0


class Concurrency:
    """How many calls may run at once, between one and `most`."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._width = min(float(START_CALLS), self._most)
        self._doubling = True
        self._narrowed_s = float("-inf")

    @property
    def calls_max(self) -> int:
        return int(self._width)

    def passed(self, *, placed: int) -> None:
        """A call was answered while so many had a place. Only a width that was used has shown that it is borne."""
        if placed >= self.calls_max:
            self._width = min(self._most, self._width + (1.0 if self._doubling else 1.0 / self._width))

    def hurt(self, *, sent_s: float, now_s: float) -> bool:
        """A call sent at `sent_s` was refused for load; says whether that was news: one crowd, one step back."""
        if sent_s < self._narrowed_s:
            return False
        self._doubling = False
        self._width = max(1.0, self._width * KEPT_SHARE)
        self._narrowed_s = now_s
        return True


class Breaker:
    """Closed: calls pass. Open: none does, for a while. Then one at a time, until one passes."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._last: deque[bool] = deque(maxlen=OUTCOMES_KEPT)
        self._open_seconds = 0.0  #: 0: closed
        self._open_until_s = 0.0
        self._trying = False

    @property
    def closed(self) -> bool:
        return not self._open_seconds

    def wait_seconds(self, now_s: float) -> float | None:
        """How long until a call may be made; 0: now; None: a trial is under way, its end will tell."""
        if self.closed:
            return 0.0
        if now_s < self._open_until_s:
            return self._open_until_s - now_s
        return None if self._trying else 0.0

    def start(self) -> bool:
        """A call is made now; says whether it is the trial of an open breaker."""
        self._trying = not self.closed
        return self._trying

    def passed(self, *, trial: bool) -> None:
        """The service answered, whatever it said. What was sent before the breaker opened does not close it."""
        if trial or self.closed:
            self._in_a_row, self._open_seconds, self._trying = 0, 0.0, False
            self._last.append(True)

    def failed(self, *, trial: bool, now_s: float) -> None:
        """The service did not answer, or said that it cannot."""
        if trial:
            self._open(now_s)
        elif self.closed:
            self._in_a_row += 1
            self._last.append(False)
            if self._in_a_row >= FAILED_IN_A_ROW_MAX or self._mostly_fails():
                self._open(now_s)

    def untold(self, *, trial: bool) -> None:
        """The call was never sent, or was given up: it tells nothing, and the next one is the trial."""
        if trial:
            self._trying = False

    def _open(self, now_s: float) -> None:
        self._open_seconds = min(OPEN_SECONDS_MAX, self._open_seconds * 2 or OPEN_SECONDS)
        self._open_until_s = now_s + self._open_seconds
        self._in_a_row, self._trying = 0, False
        self._last.clear()

    def _mostly_fails(self) -> bool:
        failed = self._last.count(False)
        return len(self._last) >= OUTCOMES_NEEDED and failed >= FAILED_SHARE_MAX * len(self._last)
