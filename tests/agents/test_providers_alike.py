"""What every provider's adapter must keep, whatever its protocol; held against the simulator and its ledger."""

import itertools

import pytest

from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.simulator import FAULTS
from batchmill.agents.simulator.faults import Fault, Place
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import (
    Action,
    MustPauseError,
    NotFoundError,
    OutcomeUnknownError,
    RemoteStatus,
    TransientError,
)
from tests.agents.provider_worlds import KINDS, OTHER, a_world, an_id, by_number


@pytest.fixture(params=KINDS)
def world(request, tmp_path):
    return lambda faults=None, **more: a_world(request.param, tmp_path, faults, **more)


async def test_a_round_answers_every_request_by_its_id_and_tells_what_the_ledger_billed(world):
    async with world() as w:
        batch = await w.until((await w.opened(20)).batch_id, RemoteStatus.ENDED)
        rows = await w.rows(batch)
        assert (batch.total, batch.completed, batch.failed or 0) == (20, 20, 0)
        assert sorted(row.custom_id for row in rows) == sorted(an_id(n) for n in range(20))
        assert {(row.outcome, row.reason, row.finish_reason) for row in rows} == {(Outcome.SUCCEEDED, None, "stop")}
        bills = w.ledger().bills
        assert sum(row.input_tokens for row in rows) == sum(bill.input_tokens for bill in bills)
        assert sum(row.output_tokens for row in rows) == sum(bill.output_tokens for bill in bills)
        (made,) = w.batches()
        assert made.input_sha256 == w.label_of(20).payload_sha256


@pytest.mark.parametrize("fault", ["accept_then_500", "accept_then_503", "accept_then_disconnect", "accept_then_hang"])
async def test_a_create_that_was_not_confirmed_is_unknown_and_the_batch_is_found(world, fault):
    async with world({fault: {"nth": [1], "seconds": 5}}, total_timeout_seconds=0.5, transfer_timeout_seconds=0.5) as w:
        with pytest.raises(OutcomeUnknownError):
            await w.opened(3)
        (made,) = w.batches()  # it exists: sending again would pay twice
        (found,) = await w.until_found(lambda found: found and found[0].identified, count=3)
        assert found.batch_id == made.batch_id


async def test_a_create_that_failed_for_sure_made_nothing_and_one_that_may_have_is_unknown(world):
    faults = {"reject_429": {"nth": [1], "seconds": 7}, "reject_quota": {"nth": [2]}, "reject_billing": {"nth": [3]}}
    async with world(faults | {"reject_500": {"nth": [4]}, "reject_overloaded": {"nth": [5]}}) as w:
        with pytest.raises(TransientError) as throttled:
            await w.opened(3)
        assert throttled.value.retry_after_seconds == 7
        for error in (w.kind.out_of_quota, MustPauseError, OutcomeUnknownError, OutcomeUnknownError):
            with pytest.raises(error):
                await w.opened(3)
        assert w.batches() == ()
        assert list(await w.find(3)) == []


async def test_no_other_chunk_and_no_older_batch_is_found(world):
    async with world() as w:
        for count, chunk in ((3, OTHER), (4, OTHER), (3, "c0001-0000000001-cccccccccccccccc")):
            await w.until((await w.opened(count, chunk)).batch_id, RemoteStatus.ENDED)
        assert list(await w.find(3)) == []
        wanted = await w.opened(3)
        (found,) = await w.until_found(lambda found: found and found[0].identified, count=3)
        assert found.batch_id == wanted.batch_id
        assert list(await w.find(3, since_ms=w.since_ms + 3_600_000)) == []


async def test_a_listing_that_fails_or_lags_is_never_taken_for_an_answer(world):
    async with world({"list_500": {"nth": [1]}, "list_lag": {"nth": [1], "seconds": 0.5}}) as w:
        made = await w.opened(1)
        with pytest.raises(TransientError):
            await w.find(1)
        assert list(await w.find(1)) == []  # one look is not proof: the port's caller looks again after a grace
        (found,) = await w.until_found(bool, count=1)
        assert found.batch_id == made.batch_id


@pytest.mark.parametrize(("fault", "error"), [("retrieve_500", TransientError), ("retrieve_404", NotFoundError)])
async def test_a_failed_look_does_not_change_the_batch(world, fault, error):
    async with world({fault: {"nth": [1]}}) as w:
        made = await w.opened()
        with pytest.raises(error):
            await w.provider.get(made.batch_id)
        assert (await w.until(made.batch_id, RemoteStatus.ENDED)).total == 6


@pytest.mark.parametrize("fault", ["download_500", "download_disconnect"])
async def test_a_download_that_breaks_off_leaves_nothing_in_the_store(world, fault, tmp_path):
    async with world({fault: {"nth": [1]}}) as w:
        batch = await w.until((await w.opened(50)).batch_id, RemoteStatus.ENDED)
        store = FilePayloadStore(directory=tmp_path / "payloads")
        with pytest.raises(TransientError):
            await store.put(w.provider.download(batch.output_file_id))
        assert [p for p in (tmp_path / "payloads").rglob("*") if p.is_file() and p.name != "HOST"] == []
        whole = await store.put(w.provider.download(batch.output_file_id))
        lines = [part async for part in store.read(whole.uri)]
        assert b"".join(lines).count(b"\n") == 50


async def test_an_ended_batch_without_its_results_is_still_running(world):
    async with world({"late_output_file": {"rate": 1, "seconds": 0.4}}) as w:
        made = await w.opened(2)
        looks = [await w.provider.get(made.batch_id)]
        while looks[-1].status is not RemoteStatus.ENDED:
            looks.append(await w.provider.get(made.batch_id))
        assert [look.output_file_id for look in looks[:-1]] == [None] * (len(looks) - 1)
        assert len(await w.rows(looks[-1])) == 2


async def test_an_expired_batch_gives_what_was_finished_and_the_rest_unbilled(world):
    async with world({"expire": {"rate": 1, "share": 0.5}}) as w:
        batch = await w.until((await w.opened(20)).batch_id, RemoteStatus.ENDED, RemoteStatus.FAILED)
        rows = await w.rows(batch)
        bills = w.ledger().bills
    assert len(bills) == len([row for row in rows if row.outcome is Outcome.SUCCEEDED])
    if w.kind.expires_whole:
        assert (batch.status, batch.failure.action, rows) == (RemoteStatus.FAILED, Action.DEFER_CHUNK, [])
        return
    told = {row.outcome: row for row in rows}
    assert len({row.custom_id for row in rows}) == (20 if w.kind.tells_unrun else 10)
    assert told.keys() == {Outcome.SUCCEEDED} | ({Outcome.EXPIRED} if w.kind.tells_unrun else set())
    if w.kind.tells_unrun:
        assert (told[Outcome.EXPIRED].reason, told[Outcome.EXPIRED].billed) == (Reason.EXPIRED, False)


async def test_a_cancelled_batch_ends_with_every_row_told(world):
    async with world(simulator={"latency_seconds": (5, 5)}) as w:
        made = await w.opened(20)
        shown = await w.provider.cancel(made.batch_id)
        assert shown.status in {RemoteStatus.CANCELLING, RemoteStatus.ENDED}
        batch = await w.until(made.batch_id, RemoteStatus.ENDED)
        rows = await w.rows(batch)
        cancelled = [row for row in rows if row.outcome is Outcome.CANCELLED]
        assert {row.outcome for row in rows} <= {Outcome.SUCCEEDED, Outcome.CANCELLED}
        assert {(row.reason, row.billed) for row in cancelled} <= {(Reason.PROVIDER_CANCELLED, False)}
        assert len(w.ledger().bills) == len(rows) - len(cancelled)


ROWS = {
    Fault.ROW_400: (Outcome.ERROR, Reason.REQUEST_INVALID),
    Fault.ROW_429: (Outcome.ERROR, Reason.THROTTLED),
    Fault.ROW_500: (Outcome.ERROR, Reason.PROVIDER_ERROR),
    Fault.ROW_STATUS_0: (Outcome.ERROR, Reason.PROVIDER_ERROR),
    Fault.ROW_NOT_UTF8: None,
    Fault.ROW_BROKEN_LINE: None,
    Fault.ROW_MISSING: None,
    Fault.ROW_DUPLICATED: (Outcome.SUCCEEDED, None),
    Fault.ROW_UNKNOWN: (Outcome.SUCCEEDED, None),
    Fault.REFUSAL: (Outcome.SUCCEEDED, None),
    Fault.TRUNCATED: (Outcome.SUCCEEDED, None),
    Fault.EMPTY_CONTENT: (Outcome.SUCCEEDED, None),
    Fault.MALFORMED_JSON: (Outcome.SUCCEEDED, None),
    Fault.SCHEMA_VIOLATION: (Outcome.SUCCEEDED, None),
    Fault.WRONG_ANSWER: (Outcome.SUCCEEDED, None),
    Fault.USAGE_ABSENT: (Outcome.SUCCEEDED, None),
    Fault.JSON_SCHEMA_DEGENERATE: (Outcome.SUCCEEDED, None),  # the adapters ask in another way
}


def test_every_fault_of_a_row_is_looked_at_here():
    assert set(ROWS) == {fault for fault, spec in FAULTS.items() if spec.place is Place.ROW}


@pytest.mark.parametrize("fault", ROWS)
async def test_a_struck_row_is_told_apart_and_leaves_the_others_alone(world, fault):
    async with world({fault: {"nth": [2]}}) as w:
        batch = await w.until((await w.opened(5)).batch_id, RemoteStatus.ENDED)
        rows = await w.rows(batch)
    first, struck, *others = by_number(rows, 5)
    for group in (first, *others):
        assert [(row.outcome, row.billed, row.usage_known) for row in group] == [(Outcome.SUCCEEDED, True, True)]
    unknown = {row.custom_id for row in rows if row is not None} - {an_id(n) for n in range(5)}
    assert bool(unknown) is (fault is Fault.ROW_UNKNOWN)
    if ROWS[fault] is None:
        assert struck == []
        assert (None in rows) is (fault is not Fault.ROW_MISSING)
        return
    assert {(row.outcome, row.reason) for row in struck} == {ROWS[fault]}
    assert len(struck) == (2 if fault is Fault.ROW_DUPLICATED else 1)
    assert all(a == b for a, b in itertools.pairwise(struck))
    assert (struck[0].refusal is not None) is (fault is Fault.REFUSAL and w.kind.refuses)
    assert (struck[0].finish_reason == "length") is (fault in {Fault.TRUNCATED, Fault.EMPTY_CONTENT})
    assert struck[0].usage_known is (fault is not Fault.USAGE_ABSENT)
    assert struck[0].billed is (struck[0].outcome is Outcome.SUCCEEDED)
