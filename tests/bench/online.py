"""`python -m tests.bench online`: what the online client costs beside the provider, and how fully it uses a rate.

    python -m tests.bench online [--calls 20000] [--concurrent 200] [--rounds 3] [--seconds 60] [--only speed|rates]

Speed: so many calls against a server that answers after 50 ms, by a bare aiohttp session and by `OnlineClient`, in
turns in one run; printed is the quotient of the best rounds. Rates: limits are set on the simulator, the client is told
the same ones, and for a minute it has more to ask than they allow; printed is what was used, by the simulator's own
count, and what it refused. Nothing is asserted: a shared machine may be busy.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import orjson

from batchmill.agents.clock import monotonic_s
from batchmill.agents.providers.online import OnlineClient
from batchmill.agents.providers.openai_rows import call_of, request_line
from batchmill.agents.settings import AccountSettings
from batchmill.agents.simulator import SimulatorConfig, start_simulator
from batchmill.agents.simulator.limits import Limits, Rate
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.ports import TransientError

__all__ = ["main"]

ENDPOINT = "/v1/chat/completions"
SERVER_MILLISECONDS = 50
OUTPUT_TOKENS_MAX = 50
START_SECONDS = 10.0
#: one limit binds at a time: requests in one run, tokens in the other
RUNS = {"requests": Rate(requests_per_minute=1_200), "tokens": Rate(tokens_per_minute=120_000)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Calls per second of the best round."""

    concurrent: int
    bare: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.bare


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What of a rate was used in the span."""

    of: str
    seconds: float
    limit_per_minute: int
    used_share: float
    refused_share: float


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench online", description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--concurrent", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=("speed", "rates"))
    asked = parser.parse_args(arguments)
    figures: dict[str, object] = {}
    if asked.only != "rates":
        speed = asyncio.run(_speed(asked.calls, asked.concurrent, asked.rounds))
        print(f"bare aiohttp {speed.bare:,.0f}/s, online client {speed.ours:,.0f}/s: {speed.ratio:.1%}")
        figures["speed"] = asdict(speed) | {"ratio": speed.ratio}
    if asked.only != "speed":
        for name, rate in RUNS.items():
            used = asyncio.run(_rates(name, rate, asked.seconds))
            print(
                f"{name}: {used.used_share:.1%} of {used.limit_per_minute:,} a minute used over {used.seconds:.0f} s,"
                f" {used.refused_share:.2%} of the calls refused"
            )
            figures[name] = asdict(used)
    print(json.dumps(figures, indent=2))
    return 0


# -- speed -------------------------------------------------------------------------------------------------------------


async def _speed(calls: int, concurrent: int, rounds: int) -> Speed:
    port = _free_port()
    command = [sys.executable, "-m", "tests.bench.slow_server", str(port), str(SERVER_MILLISECONDS)]
    with subprocess.Popen(command) as server:
        try:
            await _answers(port)
            took_s: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(rounds):
                took_s["bare"].append(await _bare(port, calls, concurrent))
                took_s["ours"].append(await _ours(port, calls, concurrent))
        finally:
            server.terminate()
    return Speed(concurrent=concurrent, bare=calls / min(took_s["bare"]), ours=calls / min(took_s["ours"]))


async def _bare(port: int, calls: int, concurrent: int) -> float:
    """What aiohttp does with nothing around it: send, read, parse."""
    url, bodies = f"http://127.0.0.1:{port}{ENDPOINT}", [call_of(line) for line in _lines()]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrent)) as session:

        async def call(number: int) -> None:
            body = bodies[number % len(bodies)]
            async with session.post(url, data=body, headers={"content-type": "application/json"}) as response:
                orjson.loads(await response.read())

        return await _timed(calls, concurrent, call)


async def _ours(port: int, calls: int, concurrent: int) -> float:
    client, lines = _client(f"http://127.0.0.1:{port}/v1", online_concurrent_max=concurrent), _lines()

    async def call(number: int) -> None:
        line = lines[number % len(lines)]
        await client.ask(endpoint=ENDPOINT, line=line, tokens=200, may_start=lambda: True)

    try:
        return await _timed(calls, concurrent, call)
    finally:
        await client.close()


async def _timed(calls: int, concurrent: int, call: Callable[[int], Awaitable[None]]) -> float:
    """So many at once, each starting the next one when it is done."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    began_s = monotonic_s()
    await asyncio.gather(*(worker() for _ in range(concurrent)))
    return monotonic_s() - began_s


# -- rates -------------------------------------------------------------------------------------------------------------


async def _rates(of: str, rate: Rate, seconds: float) -> Used:
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as folder:
        # The smallest bucket there is: whatever comes too early is refused, nothing is forgiven to a burst.
        limits = Limits(rates={"*": rate}, burst_seconds=2.0)
        config = SimulatorConfig(data_dir=Path(folder), limits=limits)
        with start_simulator(config) as simulator:
            client = _client(
                f"{simulator.base_url}/v1",
                online_requests_per_minute=rate.requests_per_minute,
                online_tokens_per_minute=rate.tokens_per_minute,
            )
            try:
                counting = asyncio.create_task(_counted(simulator.base_url, of, after_seconds=seconds))
                refused, answered = await _hungry(client, seconds)
                used = await counting
            finally:
                await client.close()
    limit = rate.requests_per_minute or rate.tokens_per_minute or 0
    return Used(
        of=of,
        seconds=seconds,
        limit_per_minute=limit,
        used_share=used / (limit * seconds / 60),
        refused_share=refused / max(1, refused + answered),
    )


async def _hungry(client: OnlineClient, seconds: float) -> tuple[int, int]:
    """Always have more to ask than may be asked, with prompts of many lengths."""
    counts = {"refused": 0, "answered": 0}
    until_s, numbers = monotonic_s() + seconds, iter(range(10**9))

    async def worker() -> None:
        while monotonic_s() < until_s:
            line = _line(next(numbers))
            tokens = estimate_tokens(len(call_of(line))) + OUTPUT_TOKENS_MAX
            try:
                await client.ask(endpoint=ENDPOINT, line=line, tokens=tokens, may_start=lambda: monotonic_s() < until_s)
                counts["answered"] += 1
            except TransientError as error:
                counts["refused"] += error.code != "lease_ended"

    await asyncio.gather(*(worker() for _ in range(50)))
    return counts["refused"], counts["answered"]


async def _counted(base_url: str, of: str, *, after_seconds: float) -> int:
    """What the simulator counted by then; what is on its way at that moment is not of this span."""
    await asyncio.sleep(after_seconds)
    async with aiohttp.ClientSession() as session, session.get(f"{base_url}/admin/limits") as response:
        shown = orjson.loads(await response.read())
    return sum(client[of]["used"] for client in shown["clients"])


# -- both --------------------------------------------------------------------------------------------------------------


def _client(base_url: str, **numbers: object) -> OnlineClient:
    account = AccountSettings(base_url=base_url, api_key="sk-bench", **numbers)  # type: ignore[arg-type]
    return OnlineClient(name="bench", account=account, on_call=lambda _: None, loopback_only=True)


def _lines() -> list[bytes]:
    return [_line(number) for number in range(1_000) if number % 5]


def _line(number: int) -> bytes:
    """A question of some 500 bytes; every fifth is ten times as long."""
    text = "A film that stays with you. " * (14 if number % 5 else 140)
    body = {
        "max_completion_tokens": OUTPUT_TOKENS_MAX,
        "messages": [{"role": "user", "content": f"{number}: {text}"}],
        "model": "gpt-5-mini",
    }
    return request_line(custom_id=f"r{number}", endpoint=ENDPOINT, body=orjson.dumps(body))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port: int = chosen.getsockname()[1]
        return port


async def _answers(port: int) -> None:
    until_s = monotonic_s() + START_SECONDS
    while monotonic_s() < until_s:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise TimeoutError(f"the server did not start within {START_SECONDS:g} s")
