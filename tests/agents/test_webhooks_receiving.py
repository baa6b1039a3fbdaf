"""What the receiver answers to whom, and what it passes on: signed hints about batches, once, and no more of them a
second than was said.
"""

import asyncio
import base64
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchmill.agents import topics
from batchmill.agents.cli import running
from batchmill.agents.cli.program import run
from batchmill.agents.health import serving
from batchmill.agents.settings import AccountSettings, Settings, SettingsError
from batchmill.agents.simulator import SimulatorConfig, plan_from_json, running_simulator
from batchmill.agents.simulator.webhooks import ATTEMPTS_MAX
from batchmill.agents.webhooks.receiving import BODY_BYTES_MAX, REMEMBERED_MAX, Receiver
from batchmill.agents.webhooks.serving import webhook_keys
from batchmill.agents.webhooks.signing import headers_for
from batchmill.agents.webhooks.telling import HINTS_WAITING_MAX, Teller, TellError
from batchmill.streams.hinting import HINTS_MAX, Hint
from tests.simulator.conftest import Client, row

KEY = b"k" * 24
NOW_S = 1_800_000_000
GAP_SECONDS = 0.01


class AwayError(Exception):
    """Nobody takes commands just now."""


@dataclass
class Door:
    """A receiver, what it wrote, and what it counted."""

    written: list[list[Hint]] = field(default_factory=list)
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    away: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    http: Any = None
    url: str = ""
    teller: Any = None
    receiver: Any = None

    async def write(self, hints: Sequence[Hint]) -> None:
        self.begun.set()
        await self.gate.wait()
        if self.away:
            raise AwayError
        self.written.append(list(hints))

    async def post(
        self, body: bytes, *, name: str = "msg_1", account: str = "openai", **changes: Any
    ) -> httpx.Response:
        headers = headers_for(KEY, name, NOW_S, body) | changes.get("headers", {})
        answer: httpx.Response = await self.http.post(f"/webhooks/{account}", content=body, headers=headers)
        return answer

    def hints(self) -> list[Hint]:
        return [hint for hints in self.written for hint in hints]


def event(batch_id: Any = "batch_1", kind: Any = "batch.completed") -> bytes:
    return json.dumps({"id": "evt_1", "object": "event", "type": kind, "data": {"id": batch_id}}).encode()


@asynccontextmanager
async def receiving(now_s: Callable[[], float] = lambda: NOW_S) -> AsyncIterator[Door]:
    door = Door()
    door.gate.set()
    door.teller = Teller(write=door.write, away=(AwayError,), gap_seconds=GAP_SECONDS)
    door.receiver = Receiver(
        keys={"openai": KEY, "bare": None},
        teller=door.teller,
        now_s=now_s,
        count=lambda account, outcome: door.counted.update([(account, outcome)]),
    )
    telling = asyncio.create_task(door.teller.run())
    async with (
        serving(door.receiver.app(), host="127.0.0.1", port=0, name="test", connections_max=50) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http,
    ):
        door.http, door.url = http, url
        yield door
    telling.cancel()


async def test_a_signed_hint_is_passed_on_before_its_sender_is_thanked() -> None:
    async with receiving() as door:
        answer = await door.post(event())
        assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
        assert door.written == [[Hint("openai", "batch_1")]]
        assert door.counted == {("openai", "accepted"): 1}


async def test_what_comes_again_is_not_told_again() -> None:
    async with receiving() as door:
        assert (await door.post(event())).json() == {"status": "accepted"}
        assert (await door.post(event())).json() == {"status": "repeated"}
        assert (await door.post(event(), name="msg_2")).json() == {"status": "accepted"}
        assert len(door.hints()) == 2


async def test_what_kafka_did_not_take_is_asked_for_again_and_taken_then() -> None:
    async with receiving() as door:
        door.away = True
        answer = await door.post(event())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert not door.teller.well
        door.away = False
        assert (await door.post(event())).json() == {"status": "accepted"}
        assert door.teller.well
        assert door.hints() == [Hint("openai", "batch_1")]


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        (b"", 400, "bad_body"),
        (b"{", 400, "bad_body"),
        (b"[]", 400, "bad_body"),
        (b"\xff\xfe", 400, "bad_body"),
        (b"[" * 10_000, 400, "bad_body"),
        (event(kind=7), 400, "bad_body"),
        (event(batch_id=7), 400, "no_batch"),
        (event(batch_id=""), 400, "no_batch"),
        (event(batch_id="a b"), 400, "no_batch"),
        (event(batch_id="x" * 300), 400, "no_batch"),
        (b'{"type": "batch.completed"}', 400, "no_batch"),
        (b'{"type": "batch.completed", "data": []}', 400, "no_batch"),
        (event(kind="response.completed"), 202, "ignored"),
        (event(kind="batchy"), 202, "ignored"),
    ],
)
async def test_signed_nonsense_is_answered_and_passed_to_nobody(body: bytes, status: int, outcome: str) -> None:
    async with receiving() as door:
        answer = await door.post(body)
        assert (answer.status_code, answer.json()["status"]) == (status, outcome)
        assert door.written == []


@pytest.mark.parametrize(
    ("account", "headers", "status", "outcome"),
    [
        ("nobody", {}, 404, "unknown_account"),
        ("bare", {}, 401, "no_secret"),
        ("openai", {"webhook-timestamp": str(NOW_S - 999)}, 401, "bad_time"),
        ("openai", {"webhook-signature": "v1,AAAA"}, 401, "bad_signature"),
        ("openai", {"webhook-id": "msg_2"}, 401, "bad_signature"),
        ("openai", {"webhook-id": ""}, 401, "bad_headers"),
    ],
)
async def test_what_is_not_signed_by_the_account_is_not_believed(
    account: str, headers: dict[str, str], status: int, outcome: str
) -> None:
    async with receiving() as door:
        answer = await door.post(event(), account=account, headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (status, outcome)
        assert door.written == []
        assert all(label in {"openai", "bare", "unknown"} for label, _ in door.counted)


async def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    async with receiving() as door:
        answer = await door.post(b"x" * (BODY_BYTES_MAX + 1))
        assert (answer.status_code, answer.json()["status"]) == (413, "too_large")


async def test_only_posts_are_answered() -> None:
    async with receiving() as door:
        assert (await door.http.get("/webhooks/openai")).status_code == 405
        assert (await door.http.post("/webhooks/openai/x")).status_code == 404


async def test_hints_that_come_while_a_command_is_written_share_the_next_one() -> None:
    async with receiving() as door:
        door.gate.clear()
        first = asyncio.create_task(door.post(event("batch_0"), name="msg_0"))
        await door.begun.wait()
        others = [
            asyncio.create_task(door.post(event(f"batch_{number % 5}"), name=f"msg_{number}"))
            for number in range(1, 21)
        ]
        while len(door.teller._waiting) < 5:
            await asyncio.sleep(0.005)
        door.gate.set()
        answers = await asyncio.gather(first, *others)
        assert {answer.status_code for answer in answers} == {202}
        assert door.written[0] == [Hint("openai", "batch_0")]
        assert sorted(door.written[1]) == [Hint("openai", f"batch_{number}") for number in range(5)]
        assert len(door.hints()) < len(answers)


async def test_commands_do_not_follow_each_other_faster_than_was_said() -> None:
    written: list[float] = []
    loop = asyncio.get_running_loop()

    async def write(_: Sequence[Hint]) -> None:
        written.append(loop.time())

    teller = Teller(write=write, away=(), gap_seconds=0.05)
    telling = asyncio.create_task(teller.run())
    for number in range(4):
        await teller.tell(Hint("openai", f"batch_{number}"))
    telling.cancel()
    gaps = [after - before for before, after in itertools.pairwise(written)]
    assert len(written) == 4
    assert min(gaps) >= 0.04


async def test_one_command_holds_so_many_hints_and_so_many_may_wait() -> None:
    written: list[int] = []

    async def write(hints: Sequence[Hint]) -> None:
        written.append(len(hints))

    teller = Teller(write=write, away=(), gap_seconds=0)
    waiting = [asyncio.create_task(teller.tell(Hint("openai", str(number)))) for number in range(HINTS_WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(TellError, match="too many"):
        await teller.tell(Hint("openai", "one more"))
    telling = asyncio.create_task(teller.run())
    await asyncio.gather(*waiting)
    telling.cancel()
    assert written == [HINTS_MAX] * (HINTS_WAITING_MAX // HINTS_MAX)


async def test_what_is_remembered_is_bounded() -> None:
    async with receiving() as door:
        for number in range(REMEMBERED_MAX + 5):
            door.receiver._remember(("openai", str(number)))
        assert len(door.receiver._remembered) == REMEMBERED_MAX
        assert ("openai", "0") not in door.receiver._remembered


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ({}, {"accepted": 1}),
        ({"webhook_twice": 1}, {"accepted": 1, "repeated": 1}),
        ({"webhook_forged": 1}, {"bad_signature": ATTEMPTS_MAX}),
    ],
)
async def test_the_simulators_webhooks_are_taken_for_what_they_are(
    tmp_path: Path, fault: dict[str, float], counted: dict[str, int]
) -> None:
    async with receiving(now_s=time.time) as door:
        config = SimulatorConfig(
            data_dir=tmp_path,
            latency_seconds=(0.02, 0.05),
            webhook_url=f"{door.url}/webhooks/openai",
            webhook_secret="whsec_" + base64.b64encode(KEY).decode(),
            faults=plan_from_json(fault),
        )
        async with running_simulator(config) as base_url:
            client = Client(base_url, config.ledger_file)
            async with client.http:
                batch = (await client.round([row("row-1")])).batch
                wanted = {("openai", outcome): count for outcome, count in counted.items()}
                async with asyncio.timeout(20):
                    while sum(door.counted.values()) < sum(wanted.values()):
                        await asyncio.sleep(0.01)
        assert door.counted == wanted
        assert door.hints() == [Hint("openai", batch["id"])] * counted.get("accepted", 0)


def test_keys_are_read_and_checked_before_anything_listens() -> None:
    secret = "whsec_" + base64.b64encode(KEY).decode()
    right = Settings(accounts={"openai": AccountSettings(webhook_secret=secret), "bare": AccountSettings()})
    assert webhook_keys(right) == {"openai": KEY, "bare": None}
    with pytest.raises(SettingsError, match=r"accounts\.openai\.webhook_secret: expected whsec_") as raised:
        webhook_keys(Settings(accounts={"openai": AccountSettings(webhook_secret="topsecret")}))
    assert "topsecret" not in str(raised.value)
    with pytest.raises(SettingsError, match="no account has a webhook secret"):
        webhook_keys(Settings(accounts={"openai": AccountSettings()}))


def test_up_runs_the_receiver_only_when_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[Any] = []

    async def ran(_: Any, asked: list[Any]) -> int:
        specs[:] = asked
        return 0

    async def verified(_: Any) -> None:
        pass

    monkeypatch.setattr(running, "_run", ran)
    monkeypatch.setattr(topics, "verify", verified)
    assert run(["--set", "health.port=9000", "up", "--webhooks-port", "8040"]) == 0
    receiver = {spec.name: spec for spec in specs}["webhooks"]
    assert receiver.argv[-3:] == ("webhooks", "--port", "8040")
    assert receiver.env["BATCHMILL_HEALTH__PORT"] == "0"
    assert run(["up"]) == 0
    assert [spec.name for spec in specs] == ["worker-1", "projector", "overseer"]
    assert run(["up", "--no-overseer", "--no-projector"]) == 0
    assert [spec.name for spec in specs] == ["worker-1"]
