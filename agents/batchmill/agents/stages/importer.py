"""control -> results: the effect that goes through answers that were bought elsewhere.

What lives here: bringing this task's part of an import out of the payload store, line by line, in cuts. What must not:
whether an answer is taken (`streams.importing`). A part that is not in the store is looked for again, a bounded number
of times: its requests go on waiting as if nothing had been imported.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import structlog

from batchmill.agents import clock
from batchmill.agents.payloads import FilePayloadStore, PayloadError
from batchmill.agents.runtime import PoisonEffectError, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit
from batchmill.agents.stages.lines import placed_lines
from batchmill.schemas.state import Life
from batchmill.streams.answering import bounded
from batchmill.streams.costing import PriceList, priced
from batchmill.streams.importing import (
    CUT_LINES,
    TIER,
    Bought,
    Progress,
    current,
    finish_import,
    import_cut,
    put_off,
    read_bought,
    waiting,
)
from batchmill.streams.ports import RowOutcome

__all__ = ["Importer"]

_log = structlog.get_logger(__name__)

#: between two looks for a part that is not there
_LOOK_AGAIN_SECONDS = 10.0
#: a cut is closed when its lines take this much, however few they are
_CUT_BYTES = 4 * 2**20
#: a line holds an answer as JSON text, in which every byte of it may need six
_LINE_BYTES_PER_OUTPUT_BYTE = 6
_LINE_BYTES_MORE = 2**16

Cut = list[Bought | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """The effect of imports."""

    kit: Kit
    payloads: FilePayloadStore
    prices: PriceList
    effects: EffectSettings
    output_bytes_max: int

    async def run(self, task: Task) -> None:
        while True:
            found = waiting(task.view, 1)
            if not found:
                await task.rest("imports", self.effects.idle_seconds)
            elif not await self._read(task, found[0]):
                await task.rest("imports", _LOOK_AGAIN_SECONDS)

    async def _read(self, task: Task, progress: Progress) -> bool:
        """Go through the part from where its row says; False when it is not to be had just now."""
        src = f"effect:imports/{progress.command_id}"
        try:
            await self.payloads.verify(progress.part.uri)
            async for cut in self._cuts(progress):
                await task.capacity()
                async with task.effect("imports", progress.command_id):
                    now = current(task.view, progress)
                    price = partial(self._price, task)
                    orders = import_cut(task.view, now, cut, price=price, now_ms=clock.wall_ms())
                    self.kit.carry(task, orders, src=src)
        except (PayloadError, OSError) as error:
            _log.error("import_unreadable", command_id=progress.command_id, tries=progress.tries, error=str(error))
            self.kit.carry(task, put_off(task.view, current(task.view, progress)), src=src)
            return False
        except PoisonEffectError:
            _log.error("import_given_up", command_id=progress.command_id)  # its other requests go on waiting
        self.kit.carry(task, finish_import(task.view, current(task.view, progress)), src=src)
        return True

    def _price(self, task: Task, life: Life, row: RowOutcome) -> tuple[int | None, str | None]:
        _, asked_model, _, _ = life.lane.split("|")
        job = self.kit.compiled(task, life.job, life.version)
        return priced(self.prices if job is None else job.costed_by(self.prices), TIER, asked_model, row)

    async def _cuts(self, progress: Progress) -> AsyncIterator[Cut]:
        """The lines that are not done yet, some at a time."""
        line_bytes_max = self.output_bytes_max * _LINE_BYTES_PER_OUTPUT_BYTE + _LINE_BYTES_MORE
        cut: Cut = []
        number = size = 0
        async for _, line in placed_lines(self.payloads.read(progress.part.uri), line_bytes_max=line_bytes_max):
            number += 1
            if number <= progress.done:
                continue
            cut.append(None if line is None else self._read_line(line))
            size += 0 if line is None else len(line)
            if len(cut) >= CUT_LINES or size >= _CUT_BYTES:
                yield cut
                cut, size = [], 0
        if cut:
            yield cut

    def _read_line(self, line: bytes) -> Bought | None:
        """One that our records cannot hold is as good as unreadable: whoever wrote the part should have seen it."""
        found = read_bought(line)
        fits = found is not None and bounded(found.row, self.output_bytes_max).outcome is found.row.outcome
        return found if fits else None
