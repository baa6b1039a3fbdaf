"""From settings to a desk: the only place that builds one. What must not: anything a desk does."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from batchmill.agents.bodies import LogBodies
from batchmill.agents.checks import installed_checks
from batchmill.agents.commands import decide
from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.holding import Holding
from batchmill.agents.settings import Settings
from batchmill.schemas.records import Decision
from batchmill.streams.compiling import CompiledJobs

__all__ = ["FILE_NAME", "open_desk"]

#: beside the view, in the data directory; every server and command of an installation shares it
FILE_NAME = "desk.sqlite"


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[Desk]:
    """A desk for as long as the body runs; the broker is met at the first text or decision, not before."""
    holding = await asyncio.to_thread(Holding, settings.data_dir / FILE_NAME)

    async def write(decisions: Sequence[Decision]) -> None:
        await decide(settings, decisions)

    try:
        async with LogBodies(settings) as bodies:
            yield Desk(
                view_path=settings.view_path,
                holding=holding,
                bodies=bodies,
                write=write,
                settings=settings.desk,
                jobs=CompiledJobs(installed_checks()),
            )
    finally:
        await asyncio.to_thread(holding.close)
