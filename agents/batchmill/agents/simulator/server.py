"""Law: the simulator as a running server: in this process for good, in this event loop for a test, or as a process.

`RunningSimulator` is the one to use where the simulator itself shall be killed: it starts again on the same port with
the same data directory, and remembers everything it accepted.
"""

from __future__ import annotations

import asyncio
import http
import http.client
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
import uvicorn
from typing_extensions import override

from batchmill.agents import clock
from batchmill.agents.health import bound
from batchmill.agents.simulator.app import create_app
from batchmill.agents.simulator.config import SimulatorConfig, config_to_json
from batchmill.agents.simulator.ledger import Ledger, read_ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

__all__ = ["RunningSimulator", "running_simulator", "serve", "start_simulator"]

LOOPBACK: Final = "127.0.0.1"
START_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 10.0
EXCHANGE_SECONDS_MAX: Final = 5.0
GRACE_SECONDS: Final = 1  # for open exchanges (a hanging one, say) when the server stops
_LOOK_SECONDS: Final = 0.05
_NAME: Final = "simulator"


def serve(config: SimulatorConfig, host: str = LOOPBACK, port: int = 0) -> None:
    """Run until SIGINT or SIGTERM. The URL is printed by the caller who chose the port."""
    uvicorn.Server(_settings(config)).run(sockets=[bound(host, port, name=_NAME)])


@asynccontextmanager
async def running_simulator(config: SimulatorConfig, *, port: int = 0) -> AsyncIterator[str]:
    """In this event loop, on a free port; gives the base URL."""
    listening = bound(LOOPBACK, port, name=_NAME)
    server = _GuestServer(_settings(config))
    running = asyncio.create_task(server.serve([listening]))
    try:
        while not server.started and not running.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        if running.done():
            running.result()
            raise RuntimeError("the simulator did not start; its log says why")
        yield _url(listening.getsockname()[1])
    finally:
        server.should_exit = True
        await running


class RunningSimulator:
    """The simulator in its own process. Leaving the context stops it."""

    def __init__(self, config: SimulatorConfig, *, port: int = 0) -> None:
        self.config = replace(config, data_dir=config.data_dir.absolute())
        self.port = port or _free_port()
        self.base_url = _url(self.port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the simulator is not running; call start()")
        return self._process.pid

    def start(self) -> Self:
        data_dir = self.config.data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        written = data_dir / "config.json"
        written.write_bytes(config_to_json(self.config))
        command = [sys.executable, "-m", "batchmill.agents.simulator", str(written), LOOPBACK, str(self.port)]
        with (data_dir / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._await_answer()
        return self

    def stop(self) -> None:
        """SIGTERM: open exchanges get a short grace."""
        if self._process is not None:
            self._process.terminate()
            self._ended(self._process)

    def kill(self) -> None:
        """SIGKILL, as a test of what survives."""
        if self._process is not None:
            self._process.kill()
            self._ended(self._process)

    def restart(self) -> Self:
        """Start again on the same port with the same memory."""
        self.stop()
        return self.start()

    def set_faults(self, rules: Mapping[str, Any]) -> None:
        """As `POST /admin/faults`: fault name -> rate or rule."""
        self._admin("POST", "/admin/faults", rules)

    def set_limits(self, limits: Mapping[str, Any]) -> None:
        """As `POST /admin/limits`: all of them anew; counting begins again."""
        self._admin("POST", "/admin/limits", limits)

    def limits(self) -> dict[str, Any]:
        """As `GET /admin/limits`: what is allowed, and what every client used and was refused."""
        shown: dict[str, Any] = orjson.loads(self._admin("GET", "/admin/limits"))
        return shown

    def _admin(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> bytes:
        answer = _exchange(self.port, method, path, None if value is None else orjson.dumps(value))
        if answer is None or answer[0] != http.HTTPStatus.OK:
            raise ValueError(f"the simulator refused {method} {path}: {answer}")
        return answer[1]

    def ledger(self) -> Ledger:
        return read_ledger(self.config.ledger_file)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def _await_answer(self) -> None:
        process = self._process
        until = clock.monotonic_s() + START_SECONDS_MAX
        while process is not None and not _answers(self.port):
            late = clock.monotonic_s() > until
            if late or process.poll() is not None:
                self.kill()
                raise RuntimeError(f"the simulator did not start; see {self.config.data_dir / 'server.log'}")
            try:
                process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def start_simulator(config: SimulatorConfig, *, port: int = 0) -> RunningSimulator:
    """Start a process and wait until it answers; `base_url` says where."""
    return RunningSimulator(config, port=port).start()


class _GuestServer(uvicorn.Server):
    """In somebody else's event loop: the signals belong to the owner of the process."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _settings(config: SimulatorConfig) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(config),
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _free_port() -> int:
    with bound(LOOPBACK, 0, name=_NAME) as chosen:
        port: int = chosen.getsockname()[1]
        return port


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def _answers(port: int) -> bool:
    answer = _exchange(port, "GET", "/livez")
    return answer is not None and answer[0] == http.HTTPStatus.OK


def _exchange(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes] | None:
    """Status and body, or None when nobody answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=EXCHANGE_SECONDS_MAX)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
