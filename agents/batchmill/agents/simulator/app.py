"""Law: the one place where the simulator's parts are put together into an ASGI application."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from typing_extensions import override

from batchmill.agents.simulator import admin
from batchmill.agents.simulator.core import Core
from batchmill.agents.simulator.exchange import Recorder
from batchmill.agents.simulator.providers import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from batchmill.agents.simulator.config import SimulatorConfig

__all__ = ["create_app"]


class _RecordedApp(Starlette):
    """Starlette with the recorder around everything, its own error page included."""

    @property
    def core(self) -> Core:
        core: Core = self.state.core
        return core

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Recorder(super().__call__, lambda: self.core.ledger)(scope, receive, send)


def create_app(config: SimulatorConfig) -> Starlette:
    """The data directory is opened when the application starts and closed when it stops."""
    routes = [*(route for provider in PROVIDERS for route in provider.routes()), *admin.routes()]
    return _RecordedApp(routes=routes, lifespan=lambda app: _opened(app, config))


@asynccontextmanager
async def _opened(app: Starlette, config: SimulatorConfig) -> AsyncIterator[None]:
    config.data_dir.mkdir(parents=True, exist_ok=True)
    dialects = {provider.name: provider.dialect for provider in PROVIDERS}
    events = {provider.name: provider.event for provider in PROVIDERS if provider.event is not None}
    core = Core(config, dialects, events)
    app.state.core = core
    await core.start()
    try:
        yield
    finally:
        await core.stop()
