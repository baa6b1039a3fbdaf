"""What can go wrong around one submission: faults of the provider, deaths of ours, and a cancellation in a race.

What lives here: the list, one row each, in plain values. What must not: how a scenario is run (`playing`) or judged
(`table`). `faults` are rules of the simulator; `failpoint` is armed in the worker that is started for the scenario.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SCENARIOS", "Scenario"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the table."""

    name: str
    faults: Mapping[str, Any] = field(default_factory=dict)
    failpoint: str | None = None
    cancels: bool = False  #: the job is cancelled while its batches are open
    asks_again: bool = False  #: answers are spoilt, so that asking (and paying) again is right
    records: int = 24
    online: bool = True  #: means something for single calls, too
    batch: bool = True


def _rule(rate: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"rate": rate, **more}


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(name="nothing goes wrong"),
    Scenario(name="accept, then 500", faults={"accept_then_500": _rule()}, online=False),
    Scenario(name="accept, then 503", faults={"accept_then_503": _rule()}, online=False),
    Scenario(name="accept, then disconnect", faults={"accept_then_disconnect": _rule()}, online=False),
    Scenario(name="accept, then hang", faults={"accept_then_hang": _rule(seconds=6)}, online=False),
    Scenario(name="500 and nothing made", faults={"reject_500": {"nth": [1, 2]}}, online=False),
    Scenario(name="429 and nothing made", faults={"reject_429": {"nth": [1, 2], "seconds": 1}}, online=False),
    Scenario(name="kill -9 before the call", failpoint="create.before:1:kill", online=False),
    Scenario(name="kill -9 after acceptance", failpoint="create.after:1:kill", online=False),
    Scenario(name="kill -9 after the id", failpoint="create.durable:1:kill", online=False),
    Scenario(name="kill -9 during download", failpoint="download.half:1:kill", online=False),
    Scenario(
        name="accept, then 500; listed late",
        faults={"accept_then_500": _rule(), "list_lag": _rule(seconds=1.5)},
        online=False,
    ),
    Scenario(
        name="accept, then 500; listing 500s",
        faults={"accept_then_500": _rule(), "list_500": {"nth": [1, 2, 3]}},
        online=False,
    ),
    Scenario(name="status flaps", faults={"status_flap": _rule(), "retrieve_500": _rule(0.1)}, online=False),
    Scenario(
        name="download breaks off",
        faults={"download_disconnect": {"nth": [1, 2]}, "download_500": {"nth": [1]}},
        online=False,
    ),
    Scenario(name="rows go missing", faults={"row_missing": {"nth": [1, 5, 9]}}, asks_again=True, online=False),
    Scenario(
        name="every fault at once",
        faults={
            **dict.fromkeys(("upload_500", "upload_disconnect", "upload_accept_then_500"), 0.05),
            **dict.fromkeys(("accept_then_500", "accept_then_503", "accept_then_disconnect"), 0.08),
            **dict.fromkeys(("reject_500", "list_500", "cancel_500"), 0.05),
            "reject_429": _rule(0.05, seconds=0.3),
            **dict.fromkeys(("retrieve_500", "retrieve_404", "download_500", "download_disconnect"), 0.05),
            "token_limit_exceeded": 0.05,
            "expire": _rule(0.15, share=0.4),
            "list_lag": _rule(0.2, seconds=1),
            "late_output_file": _rule(0.2, seconds=0.5),
            **dict.fromkeys(("empty_error_file_id", "empty_error_file", "status_flap"), 0.2),
            **dict.fromkeys(("row_429", "row_500", "row_status_0", "row_missing", "row_duplicated"), 0.02),
            **dict.fromkeys(("row_unknown", "row_broken_line", "row_not_utf8", "refusal", "truncated"), 0.02),
            **dict.fromkeys(("empty_content", "malformed_json", "schema_violation", "usage_absent"), 0.02),
            "row_400": _rule(0.01),
        },
        asks_again=True,
        records=400,
        online=False,
    ),
    Scenario(name="call billed, then disconnect", faults={"call_bill_then_disconnect": _rule(0.3)}, batch=False),
    Scenario(name="call billed, then 500", faults={"call_bill_then_500": _rule(0.3)}, batch=False),
    Scenario(name="call billed, then hang", faults={"call_bill_then_hang": {"nth": [1], "seconds": 6}}, batch=False),
    Scenario(
        name="call refused: 429, 500, 503", faults={"call_429": _rule(0.2, seconds=0.2), "call_503": 0.2}, batch=False
    ),
    Scenario(name="kill -9 before the calls", failpoint="calls.before:1:kill", batch=False),
    Scenario(name="kill -9 among the calls", failpoint="calls.answered:1:kill", batch=False),
    Scenario(name="cancel races completion", faults={"cancel_ignored": _rule(0.5)}, cancels=True, online=False),
)
