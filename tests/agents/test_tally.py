"""What stages order shows up as metrics, once, without a label that names a record."""

from dataclasses import replace

from batchmill.agents.settings import Settings
from batchmill.agents.stages.tally import Tally
from batchmill.agents.telemetry import Telemetry
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Committed, DeadLetter, Result
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState, Outcome
from tests.schemas.samples import sample


def shown(telemetry: Telemetry) -> dict[str, float]:
    lines = telemetry.prometheus().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def a_tally():
    telemetry = Telemetry(Settings(), process="worker")
    return Tally(telemetry), telemetry


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
    assert seen['batchmill_cache_hits_total{job="triage"}'] == 1


def test_a_chunk_is_counted_once_per_state_it_enters_and_its_waste_is_shown():
    tally, telemetry = a_tally()
    opened = replace(sample(Chunk), account="a", model="m", state=ChunkState.OPEN, wasted_nanos=0, looks=0)
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
    assert seen['batchmill_wasted_USD_total{account="a"}'] == 3
    assert not any(done.chunk_id in name for name in seen)
