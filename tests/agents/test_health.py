"""Health: alive at once, ready when the process says so, metrics as text, gone with the process."""

import socket

import httpx
import pytest

from batchmill.agents.health import PortTakenError, serving_health
from batchmill.agents.settings import HealthSettings, Settings
from batchmill.agents.telemetry import Telemetry


async def get(url, path):
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(url + path)


async def test_it_is_alive_before_it_is_ready_and_says_what_is_missing():
    missing = ["task 3 is being restored"]
    async with serving_health(HealthSettings(), reasons=lambda: missing, metrics=lambda: b"") as url:
        assert (await get(url, "/livez")).status_code == 200
        waiting = await get(url, "/readyz")
        assert (waiting.status_code, waiting.json()) == (
            503,
            {"status": "waiting", "reasons": ["task 3 is being restored"]},
        )
        missing.clear()
        ready = await get(url, "/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "reasons": []})


async def test_metrics_are_those_of_this_process():
    telemetry = Telemetry(Settings(), process="test")
    telemetry.count("batchmill.transactions", 3)
    async with serving_health(HealthSettings(), reasons=list, metrics=telemetry.prometheus) as url:
        answer = await get(url, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "batchmill_transactions_total 3.0" in answer.text
    telemetry.shutdown()


async def test_nothing_else_is_served_and_nothing_can_be_changed():
    async with serving_health(HealthSettings(), reasons=list, metrics=lambda: b"") as url:
        assert (await get(url, "/")).status_code == 404
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(url + "/livez")).status_code == 405


async def test_it_listens_on_loopback_and_stops_with_its_owner():
    async with serving_health(HealthSettings(), reasons=list, metrics=lambda: b"") as url:
        assert url.startswith("http://127.0.0.1:")
    with pytest.raises(httpx.ConnectError):
        await get(url, "/livez")


async def test_a_taken_port_is_an_error_rather_than_somebody_elses_answer():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = HealthSettings(port=taken.getsockname()[1])
        with pytest.raises(PortTakenError, match=r"health: port .* in use"):
            async with serving_health(settings, reasons=list, metrics=lambda: b""):
                pass


async def test_it_can_be_switched_off():
    async with serving_health(HealthSettings(enabled=False), reasons=list, metrics=lambda: b"") as url:
        assert url is None
