"""Dead letters in the read model and on the command line: which are meant, what they come to, what a redrive takes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.letters import moment_ms
from batchmill.agents.cli.program import run
from batchmill.agents.cli.redrive import AT_ONCE, Chosen, cuts
from batchmill.agents.projector.letters import DeadLetterRow, Wanted, letter, letter_of, letters, summary
from batchmill.agents.projector.reading import View
from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import Fault, Reason, info
from batchmill.schemas.records import Check, DeadLetter
from batchmill.schemas.state import Source
from batchmill.schemas.status import Status
from batchmill.streams.costing import parse_prices, write_prices
from batchmill.streams.expressions import ConditionError
from batchmill.streams.remedies import REMEDIES
from batchmill.streams.selecting import compile_where
from tests.agents.test_projector import Log, a_letter, a_life
from tests.streams.making import make_row, make_spec

PRICES = parse_prices('{"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}')
ROW = make_row(make_spec(prices_json=write_prices(PRICES)))
NOWHERE = "127.0.0.1:1"
NOW_MS = 10_000
#: of one attempt: 100 prompt tokens and a quarter of 200, at batch rates; at most: thrice, with twice the room
EXPECTED_NANOS, MOST_NANOS = 100 * 500 + 50 * 5_000, 3 * (100 * 500 + 400 * 5_000)


class Letters:
    """A view filled by hand, one letter and life at a time."""

    def __init__(self, path: Path) -> None:
        self.log = Log(path)
        self.log.row(ROW)
        self._names = iter("abcdefghijklmnop")

    def of_life(self, reason: Reason, *, stage: str = "validator", life: Any = None, **changes: Any) -> DeadLetter:
        """A life that ended for `reason`, and its letter."""
        name = next(self._names)
        told = {"status": Status.FAILED_TERMINAL, "reason": reason, "version": ROW.version, "tokens_estimate": 100}
        row = a_life(self.log.raw(), name, **(told | (life or {})))
        self.log.row(row)
        self.log.row(_newest(row.source_id, row.request_id))
        made = a_letter(row.origin, request_id=row.request_id, reason=reason)
        of_it = {"id": f"dl-{name}", "version": ROW.version, "source_id": row.source_id, "stage": stage}
        return self._add(replace(made, **of_it, fault=info(reason).fault.value, original=None, **changes))

    def of_event(self, reason: Reason = Reason.UNDECODABLE, **changes: Any) -> DeadLetter:
        """An event that never became a request, and its letter."""
        origin = self.log.raw()
        made = replace(a_letter(origin, reason=reason), id=f"dl-{next(self._names)}", **changes)
        return self._add(made)

    def _add(self, made: DeadLetter) -> DeadLetter:
        self.log.add("dead-letter", 0, encode(made))
        self.log.fold()
        return made

    def ids(self, wanted: Wanted | None = None, **more: Any) -> str:
        """The last letters of the ids that are wanted, in the order they come."""
        with self.log.view() as view:
            return "".join(row.id[-1] for row in letters(view, wanted or Wanted(), now_ms=NOW_MS, **more))


def _newest(source_id: str, request_id: str) -> Source:
    return Source(
        job=ROW.job,
        source_id=source_id,
        seq=1,
        request_id=request_id,
        committed_request_id=None,
        committed_seq=None,
        committed_promotion=None,
        raw_partition=0,
        updated_at_ms=1,
    )


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Letters]:
    made = Letters(tmp_path / "data" / "view.sqlite")
    yield made
    made.log.store.close()


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--set", f"data_dir={tmp_path}/data", "--set", f"kafka.bootstrap_servers={NOWHERE}"]


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# -- which are meant ---------------------------------------------------------------------------------------------------


def test_each_filter_narrows_and_together_they_narrow_further(held: Letters) -> None:
    held.of_life(Reason.NOT_JSON, failed_at_ms=1_000)
    held.of_life(Reason.RULE_FAILED, failed_at_ms=2_000)
    held.of_life(Reason.SINK_REFUSED, stage="committer", failed_at_ms=3_000)
    held.of_event(job=None, failed_at_ms=4_000)
    assert held.ids() == "dcba"
    assert held.ids(oldest_first=True, limit=3) == "abc"
    assert held.ids(Wanted(job=ROW.job)) == "cba"
    assert held.ids(Wanted(reasons=(Reason.NOT_JSON, Reason.SINK_REFUSED))) == "ca"
    assert held.ids(Wanted(stage="committer")) == "c"
    assert held.ids(Wanted(version=ROW.version)) == "cba"
    assert held.ids(Wanted(fault=Fault.UPSTREAM)) == "d"
    assert held.ids(Wanted(since_ms=2_000, until_ms=4_000)) == "cb"
    assert held.ids(Wanted(job=ROW.job, until_ms=3_000, reasons=(Reason.RULE_FAILED,))) == "b"
    assert not Wanted().narrows
    assert Wanted(until_ms=1).narrows


def test_a_condition_sees_the_checks_that_the_letter_carries(held: Letters) -> None:
    failed = Check(id="amount", severity="reject", passed=False, path="$.amount", note="too much")
    passed = Check(id="schema", severity="reject", passed=True, path=None, note=None)
    held.of_life(Reason.RULE_FAILED, checks=(passed, failed))
    held.of_life(Reason.RULE_FAILED, checks=(passed,))
    condition = compile_where('checks.exists(c, c.id == "amount" && c.path == "$.amount" && !c.passed)')
    assert held.ids(Wanted(where=condition)) == "a"
    assert held.ids(Wanted(where=compile_where("checks.all(c, c.passed)"))) == "b"


def test_a_condition_comes_before_the_limit(held: Letters) -> None:
    for reason in (Reason.NOT_JSON, Reason.RULE_FAILED, Reason.RULE_FAILED):
        held.of_life(reason)
    assert held.ids(Wanted(where=compile_where('reason == "not_json"')), limit=1) == "a"


def test_a_condition_sees_dollars_and_seconds_and_empty_texts(held: Letters) -> None:
    held.of_event(job=None, cost_nanos=20_000_000, failed_at_ms=NOW_MS - 5_000)
    with held.log.view() as view:
        (row,) = letters(view, Wanted(), now_ms=NOW_MS)
    seen = letter_of(row, NOW_MS)
    assert (seen.cost_usd, seen.age_seconds, seen.job, seen.request_id) == (0.02, 5, "", "")
    assert letter_of(replace(row, cost_nanos=None), 0).cost_usd is None
    assert letter_of(row, 0).age_seconds == 0


def test_a_condition_without_an_answer_stops_the_reading(held: Letters) -> None:
    held.of_event(cost_nanos=None)
    with pytest.raises(ConditionError, match="dl-a"):
        held.ids(Wanted(where=compile_where("cost_usd > 1.0")))


def test_what_was_brought_back_is_shown_only_on_demand(held: Letters) -> None:
    held.of_life(Reason.NOT_JSON, life={"redrives": 1})
    held.of_life(Reason.NOT_JSON)
    assert held.ids() == "b"
    assert held.ids(Wanted(standing=False)) == "ba"
    with held.log.view() as view:
        assert letter(view, "dl-a") is not None
        assert letter(view, "dl-z") is None


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("30s", 1_000_000_000_000 - 30_000),
        ("2h", 1_000_000_000_000 - 7_200_000),
        ("7d", 1_000_000_000_000 - 604_800_000),
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:00:01", 1_000),
        ("1970-01-01T02:00:00+02:00", 0),
    ],
)
def test_a_moment_is_said_as_a_time_or_as_how_long_ago(text: str, ms: int) -> None:
    assert moment_ms(text, 1_000_000_000_000, option="--since") == ms


# -- what they come to -------------------------------------------------------------------------------------------------


def test_the_summary_counts_and_costs_by_reason_stage_and_version_and_names_the_newest(held: Letters) -> None:
    held.of_life(Reason.NOT_JSON, cost_nanos=5, failed_at_ms=1)
    held.of_life(Reason.NOT_JSON, cost_nanos=None, failed_at_ms=7)
    held.of_life(Reason.NOT_JSON, stage="collector")
    held.of_event()
    with held.log.view() as view:
        first, *others = summary(letters(view, Wanted(), now_ms=NOW_MS))
    assert (first.reason, first.stage, first.version) == (Reason.NOT_JSON, "validator", ROW.version)
    assert (first.count, first.cost_nanos, first.unpriced, first.newest_at_ms, first.example) == (2, 5, 1, 7, "dl-b")
    assert first.remedy == REMEDIES[Reason.NOT_JSON]
    assert {(each.reason, each.stage, each.count) for each in others} == {
        (Reason.NOT_JSON, "collector", 1),
        (Reason.UNDECODABLE, "normalizer", 1),
    }


def test_the_commands_take_the_filters(held: Letters, at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    held.of_life(Reason.NOT_JSON)
    held.of_life(Reason.RULE_FAILED)
    held.of_event()
    words = ["--reason", "not_json", "--reason", "undecodable", "--where", "request_id != ''", "--json"]
    assert run([*at, "dlq", "list", *words]) == 0
    assert [each["id"] for each in told(capsys)["items"]] == ["dl-a"]
    assert run([*at, "dlq", "summary", "--fault", "job", "--json"]) == 0
    assert [(each["reason"], each["count"]) for each in told(capsys)["items"]] == [("rule_failed", 1)]
    assert run([*at, "dlq", "summary"]) == 0
    shown = capsys.readouterr()
    assert "rule_failed\tvalidator\ttriage" in shown.out
    assert f"rule_failed: {REMEDIES[Reason.RULE_FAILED]}" in shown.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--where", "raeson == 'x'"], "unknown variable 'raeson'"),
        (["--where", "cost_usd > 0.5"], "no answer for letter dl-a"),
        (["--since", "yesterday"], "--since yesterday: say 30m"),
        (["--until", "12:00"], "--until 12:00"),
    ],
)
def test_a_filter_that_cannot_be_read_is_a_usage_error_that_says_so(
    held: Letters, at: list[str], words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held.of_event(cost_nanos=None)
    for command in ("list", "summary", "redrive"):
        assert run([*at, "dlq", command, *words]) == ExitCode.USAGE
        assert says in capsys.readouterr().err


# -- what a redrive takes ----------------------------------------------------------------------------------------------


def plan_of(at: list[str], *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run([*at, "dlq", "redrive", *words, "--json"]) == 0
    return told(capsys)


def test_a_dry_run_counts_and_prices_what_comes_back_and_says_why_the_rest_does_not(
    held: Letters, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.of_life(Reason.NOT_JSON)
    held.of_life(Reason.NOT_JSON)
    held.of_life(Reason.SINK_REFUSED, life={"verdict_offset": 3})
    held.of_life(Reason.DECLINED, life={"result_offset": 3})
    late = held.of_life(Reason.NOT_JSON)
    held.log.row(_newest(late.source_id or "", "z" * 32))
    held.log.fold()
    plan = plan_of(at, "--job", ROW.job, capsys=capsys)
    ways = {each["way"]: (each["count"], each["expected_usd"], each["most_usd"]) for each in plan["by_reason"]}
    assert ways == {
        "asked again": (2, 2 * EXPECTED_NANOS / 1e9, 2 * MOST_NANOS / 1e9),
        "committed again": (1, 0, 0),
        "judged again": (1, 0, 0),
        "superseded": (1, 0, 0),
    }
    assert (plan["executed"], plan["count"], plan["unpriced"]) == (False, 4, 0)
    assert plan["most_usd"] == 2 * MOST_NANOS / 1e9


def test_without_a_broker_an_event_is_not_tried_and_its_cost_unknown(
    held: Letters, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.of_event(Reason.UNKNOWN_JOB)
    assert run([*at, "dlq", "redrive", "--reason", "unknown_job", "--json"]) == 0
    shown = capsys.readouterr()
    assert "no Kafka broker answers" in shown.err
    (group,) = json.loads(shown.out)["by_reason"]
    assert (group["way"], group["unpriced"]) == ("not tried", 1)


def test_the_oldest_come_first_where_a_limit_is_set(
    held: Letters, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.of_life(Reason.SINK_REFUSED, life={"verdict_offset": 3})
    held.of_life(Reason.NOT_JSON)
    plan = plan_of(at, "--job", ROW.job, "--limit", "1", capsys=capsys)
    assert [each["way"] for each in plan["by_reason"]] == ["committed again"]


def test_letters_may_be_named_one_by_one_and_each_counts_once(
    held: Letters, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    made = held.of_life(Reason.NOT_JSON)
    held.of_life(Reason.NOT_JSON)
    assert plan_of(at, "dl-a", "dl-a", capsys=capsys)["count"] == 1
    assert plan_of(at, made.request_id or "", capsys=capsys)["count"] == 1
    assert run([*at, "dlq", "redrive", "dl-z"]) == ExitCode.NOT_FOUND


@pytest.mark.parametrize(("dollars", "passes"), [("0.0123", True), ("0.0122", False), ("0", False)])
def test_more_than_the_most_that_is_allowed_is_refused_before_anything_is_done(
    held: Letters, at: list[str], dollars: str, *, passes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    held.of_life(Reason.NOT_JSON)
    held.of_life(Reason.NOT_JSON)
    assert 2 * MOST_NANOS == 12_300_000
    code = run([*at, "dlq", "redrive", "--job", ROW.job, "--max-cost", dollars])
    assert code == (ExitCode.OK if passes else ExitCode.GATE)
    assert ("nothing was done" in capsys.readouterr().err) is not passes


@pytest.mark.parametrize("dollars", ["x", "-1", "nan", "1e999999"])
def test_a_limit_of_dollars_that_is_none_is_a_usage_error(held: Letters, at: list[str], dollars: str) -> None:
    held.of_life(Reason.NOT_JSON)
    assert run([*at, "dlq", "redrive", "--job", ROW.job, "--max-cost", dollars]) == ExitCode.USAGE


def test_a_limit_of_dollars_refuses_what_has_no_price(
    held: Letters, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.of_life(Reason.NOT_JSON, life={"version": "forgotten"})
    assert run([*at, "dlq", "redrive", "--job", ROW.job, "--max-cost", "1000"]) == ExitCode.GATE
    assert "nobody knows" in capsys.readouterr().err


def test_without_a_broker_nothing_is_brought_back_and_it_is_said(held: Letters, at: list[str]) -> None:
    held.of_life(Reason.NOT_JSON)
    assert run([*at, "dlq", "redrive", "--job", ROW.job, "--execute"]) == ExitCode.TEMPORARY


def test_each_command_is_of_one_job_and_of_no_more_letters_than_fit() -> None:
    chosen = [Chosen("b" if number % 2 else "a", None, 0, number) for number in range(2 * AT_ONCE + 10)]
    chosen.append(Chosen("", None, 0, 99))
    made = [(job, len(cut)) for job, cut in cuts(chosen)]
    assert made == [("", 1), ("a", AT_ONCE), ("a", 5), ("b", AT_ONCE), ("b", 5)]
    assert sorted(each for _, cut in cuts(chosen) for each in cut) == sorted(chosen)


def test_a_row_is_read_as_what_it_was_written(held: Letters) -> None:
    made = held.of_life(Reason.NOT_JSON, attempt=3)
    with held.log.view() as view:
        row = letter(view, made.id)
    assert isinstance(row, DeadLetterRow)
    assert isinstance(view, View)
    assert (row.request_id, row.attempt, row.reason, row.checks_json) == (made.request_id, 3, Reason.NOT_JSON, "[]")
