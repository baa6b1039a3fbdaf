"""A killed simulator forgets nothing it accepted, bills nothing twice, and continues every life."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from batchmill.agents.simulator import RunningSimulator, SimulatorConfig, config_from_json, config_to_json, read_ledger
from batchmill.agents.simulator.ledger_writer import LedgerWriter, entry_bytes

ROWS = 3000


@pytest.fixture
def simulator(config):
    with RunningSimulator(config) as simulator:
        yield simulator


def _http(simulator):
    headers = {"authorization": "Bearer test"}
    return httpx.Client(base_url=simulator.base_url, headers=headers, timeout=20)


def _open(http, content, label):
    files = {"file": ("input.jsonl", content)}
    file_id = http.post("/v1/files", data={"purpose": "batch"}, files=files).json()["id"]
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return http.post("/v1/batches", json=asked | {"metadata": {"chunk": label}}).json()["id"]


def _status(http, batch_id):
    return http.get(f"/v1/batches/{batch_id}").json()["status"]


def test_kills_at_any_moment_lose_no_batch_and_bill_every_row_exactly_once(simulator, make):
    content = make.jsonl([make.row(f"row-{n}", f"Text {n}.") for n in range(ROWS)])
    with _http(simulator) as http:
        http.post("/admin/faults", json={"expire": {"nth": [2], "share": 0.5}})
        ids = [_open(http, content, f"c{n}") for n in range(3)]
    for _ in range(4):  # each life is cut: before validating, while rows are worked, at the end
        simulator.kill()
        simulator.start()
        with _http(simulator) as http:
            for _ in range(20):
                _status(http, ids[0])
    with _http(simulator) as http:
        for _ in range(1000):
            statuses = [_status(http, batch_id) for batch_id in ids]
            if set(statuses) <= {"completed", "expired"}:
                break
        assert statuses == ["completed", "expired", "completed"]
        assert http.get("/admin/faults").json()["expire"]["nth"] == [2]
    simulator.stop()

    ledger = read_ledger(simulator.config.ledger_file)
    assert ledger.batches_by_label("chunk") == {"c0": 1, "c1": 1, "c2": 1}
    assert len(ledger.batches_ended) == 3
    billed = [(bill.batch_id, bill.custom_id) for bill in ledger.bills]
    assert len(billed) == len(set(billed)) == ROWS * 2 + ROWS // 2


def test_a_second_simulator_on_the_same_data_is_refused(simulator):
    with pytest.raises(RuntimeError, match="did not start"):
        RunningSimulator(simulator.config).start()
    assert "in use by another simulator" in (simulator.config.data_dir / "server.log").read_text()


def test_a_configuration_survives_its_json_form(tmp_path):
    config = SimulatorConfig(data_dir=tmp_path, seed=7, gold_path=tmp_path / "gold.jsonl", model_accuracy={"m": 0.5})
    assert config_from_json(config_to_json(config)) == config


async def test_a_torn_line_is_cut_off_and_staged_lines_are_written_once(tmp_path):
    path = tmp_path / "ledger.jsonl"
    writer = LedgerWriter(path)
    await writer.append(entry_bytes("file_deleted", {"file_id": "a"}))
    group = writer.stage([entry_bytes("file_deleted", {"file_id": name}) for name in "bcd"])
    await writer.close()
    [staged] = group.groups.values()
    lines = staged.splitlines(keepends=True)
    with path.open("ab") as torn:  # the kill came when one and a half of three lines were on disk
        torn.write(lines[0] + lines[1][:20])

    again = LedgerWriter(path, staged=[staged])
    await again.append(entry_bytes("file_deleted", {"file_id": "e"}))
    await again.close()

    assert [gone.file_id for gone in read_ledger(path).files_deleted] == ["a", "b", "c", "d", "e"]
    assert [gone.seq for gone in read_ledger(path).files_deleted] == [1, 2, 3, 4, 5]


async def test_many_writers_share_the_disk_and_keep_their_order(tmp_path):
    writer = LedgerWriter(tmp_path / "ledger.jsonl")
    await asyncio.gather(*(writer.append(entry_bytes("file_deleted", {"file_id": str(n)})) for n in range(500)))
    await writer.close()
    found = read_ledger(tmp_path / "ledger.jsonl").files_deleted
    assert [gone.file_id for gone in found] == [str(n) for n in range(500)]


async def test_a_kill_among_single_calls_leaves_a_bill_for_every_answer_that_was_heard(config, make):
    simulator = RunningSimulator(replace(config, single_latency_seconds=(0.0, 0.2))).start()
    asked = [make.row("unused", f"Text {n}.")["body"] for n in range(150)]
    async with httpx.AsyncClient(base_url=simulator.base_url, headers={"authorization": "Bearer test"}) as http:
        calls = [asyncio.create_task(http.post("/v1/chat/completions", json=body)) for body in asked]
        while sum(call.done() for call in calls) < 30:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(simulator.kill)
        ended = await asyncio.gather(*calls, return_exceptions=True)
    heard = {answer.json()["id"].removeprefix("chatcmpl-") for answer in ended if isinstance(answer, httpx.Response)}
    assert 30 <= len(heard) < 150
    with simulator:
        bills = simulator.ledger().bills
        with _http(simulator) as http:
            state = http.get("/admin/state").json()
    billed = [bill.call_id[:24] for bill in bills]
    assert len(billed) == len(set(billed))
    assert heard <= set(billed)  # others were billed and not heard of: that is what a crash costs
    assert (state["billed_calls"], state["online_cost_nanos"]) == (len(bills), sum(bill.cost_nanos for bill in bills))
