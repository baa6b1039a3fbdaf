"""What stages order shows up as metrics, once, without a label that names a record."""

from dataclasses import replace

from batchmill.agents.settings import Settings
from batchmill.agents.stages.tally import Tally
from batchmill.agents.telemetry import Telemetry
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Committed, DeadLetter, Result, Verdict, WorkItem
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState, Outcome
from tests.schemas.samples import sample


def shown(telemetry: Telemetry) -> dict[str, float]:
    lines = telemetry.prometheus().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def a_tally():
    telemetry = Telemetry(Settings(), process="worker")
    return Tally(telemetry, kind_of={"a": "anthropic"}.get), telemetry


def test_records_are_counted_by_stage_job_and_outcome_when_booked():
    tally, telemetry = a_tally()
    committed = replace(sample(Committed), job="triage", sink="sqlite")
    tally.ordered(committed)
    tally.ordered(replace(sample(DeadLetter), job="triage", stage="normalizer", reason=Reason.NOT_UTF8))
    assert not any(name.startswith("batchmill_records_total") for name in shown(telemetry))
    tally.book()
    tally.book()
    seen = shown(telemetry)
    assert seen['batchmill_records_total{job="triage",stage="committer",status="committed"}'] == 1
    assert seen['batchmill_dead_letters_total{job="triage",reason="not_utf8",stage="normalizer"}'] == 1
    assert seen['batchmill_sink_writes_total{outcome="applied",sink="sqlite"}'] == 1


def test_what_stands_aside_is_no_result_of_its_job():
    tally, telemetry = a_tally()
    tally.ordered(replace(sample(WorkItem), job="triage", aside=True))
    tally.ordered(replace(sample(Verdict), job="triage", aside=True))
    tally.ordered(replace(sample(DeadLetter), job="triage", stage="validator", aside=True))
    tally.book()
    seen = shown(telemetry)
    assert labelled(seen, "batchmill_records_total") == {
        '{job="triage",stage="normalizer",status="aside"}': 1,
        '{job="triage",stage="validator",status="aside"}': 2,
    }
    assert not labelled(seen, "batchmill_dead_letters_total")
    assert not labelled(seen, "batchmill_validation_failures_total")


def test_an_answer_from_the_store_spends_nothing_and_a_paid_one_spends_what_it_cost():
    tally, telemetry = a_tally()
    paid = replace(
        sample(Result), job="triage", outcome=Outcome.SUCCEEDED, model="m", cost_nanos=2_500, answered_by="provider"
    )
    tally.ordered(paid)
    tally.ordered(replace(paid, answered_by="store"))
    tally.book()
    seen = shown(telemetry)
    cost = [value for name, value in seen.items() if name.startswith("batchmill_cost_USD_total")]
    assert cost == [2.5e-6]
    assert not any(name.startswith("batchmill_wasted") for name in seen)
    assert seen['batchmill_cache_hits_total{job="triage"}'] == 1


def test_a_chunk_is_counted_once_per_state_it_enters_and_its_waste_is_shown():
    tally, telemetry = a_tally()
    opened = replace(
        sample(Chunk), job="triage", account="a", model="m", state=ChunkState.OPEN, wasted_nanos=0, looks=0
    )
    tally.stepped(None, opened)
    tally.stepped(opened, replace(opened, due_at_ms=5))
    done = replace(opened, state=ChunkState.DONE, succeeded=7, missing=1, errored=0, wasted_nanos=3_000_000_000)
    tally.stepped(opened, done)
    tally.book()
    seen = shown(telemetry)
    assert seen['batchmill_chunks_total{account="a",state="open"}'] == 1
    assert seen['batchmill_chunks_total{account="a",state="done"}'] == 1
    assert seen['batchmill_result_rows_total{account="a",outcome="succeeded"}'] == 7
    assert not any('outcome="error"' in name for name in seen)
    assert seen['batchmill_wasted_USD_total{cause="twin",job="triage"}'] == 3
    assert not any(done.chunk_id in name for name in seen)


def labelled(seen: dict[str, float], metric: str) -> dict[str, float]:
    """The labels of one metric's series, and their values."""
    return {name.removeprefix(metric): value for name, value in seen.items() if name.startswith(metric + "{")}


def test_a_call_is_booked_under_the_provider_operation_and_tier_it_had():
    tally, telemetry = a_tally()
    chunk = replace(
        sample(Chunk), account="a", model="claude", endpoint="/v1/messages", state=ChunkState.DOWNLOADED, mode="online"
    )
    tally.stepped(None, chunk)
    answer = replace(
        sample(Result), job="triage", chunk_id=chunk.chunk_id, outcome=Outcome.SUCCEEDED, model="claude-1",
        tier="online", cost_nanos=5, input_tokens=10, output_tokens=1, answered_by="provider",
    )  # fmt: skip
    tally.ordered(answer)
    seen = shown(telemetry)
    (cost,) = labelled(seen, "batchmill_cost_USD_total")
    assert 'tier="online"' in cost
    (tokens,) = (name for name in labelled(seen, "gen_ai_client_token_usage_sum") if 'type="input"' in name)
    assert 'gen_ai_provider_name="anthropic"' in tokens
    assert 'gen_ai_operation_name="chat"' in tokens
    assert 'gen_ai_request_model="claude",gen_ai_response_model="claude-1"' in tokens


def test_a_billed_failure_is_spent_and_wasted_and_one_that_cost_nothing_is_neither():
    tally, telemetry = a_tally()
    failed = replace(
        sample(Result), job="triage", outcome=Outcome.ERROR, reason=Reason.PROVIDER_ERROR, model="m", tier="batch",
        cost_nanos=2_000_000_000, answered_by="provider",
    )  # fmt: skip
    tally.ordered(failed)
    tally.ordered(replace(failed, outcome=Outcome.EXPIRED, cost_nanos=0, input_tokens=0, output_tokens=0))
    tally.book()
    seen = shown(telemetry)
    assert labelled(seen, "batchmill_cost_USD_total") == {'{job="triage",model="m",outcome="error",tier="batch"}': 2}
    assert labelled(seen, "batchmill_wasted_USD_total") == {'{cause="failed",job="triage"}': 2}


def test_an_answer_that_is_judged_to_be_no_good_is_wasted():
    tally, telemetry = a_tally()
    answer = replace(sample(Result), job="triage", outcome=Outcome.SUCCEEDED, cost_nanos=10**9)
    tally.refused(answer)
    tally.refused(replace(answer, cost_nanos=None))
    assert labelled(shown(telemetry), "batchmill_wasted_USD_total") == {'{cause="rejected",job="triage"}': 1}


def test_doubt_is_counted_as_it_grows_by_whether_rows_were_missing():
    tally, telemetry = a_tally()
    none = {"doubtful_nanos": 0, "missing": 0, "wasted_nanos": 0, "untold_nanos": 0}
    start = replace(sample(Chunk), job="j", state=ChunkState.COLLECTED, **none)
    tally.stepped(start, replace(start, doubtful_nanos=2 * 10**9, missing=1))
    tally.stepped(start, replace(start, doubtful_nanos=3 * 10**9))
    tally.stepped(start, replace(start, untold_nanos=4 * 10**9, missing=1))
    seen = shown(telemetry)
    assert labelled(seen, "batchmill_doubtful_USD_total") == {
        '{cause="missing",job="j"}': 2,
        '{cause="unknown",job="j"}': 3,
    }
    assert labelled(seen, "batchmill_wasted_USD_total") == {'{cause="untold",job="j"}': 4}
