"""What the stages did, as spans: a slice in its stage, an answer, a provider batch, a sink transaction.

What lives here: making spans of what is known anyway. What must not: holding one open across an await of hours: a batch
and its answers are traced when they are over. Where nobody takes spans all of this is one attribute look-up.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from batchmill.agents import clock
from batchmill.agents.runtime import Slice, Task
from batchmill.agents.stages.headers import traceparent_of
from batchmill.agents.telemetry import Telemetry
from batchmill.agents.telemetry.genai import operation_name, provider_name
from batchmill.agents.tools.sources import Asked
from batchmill.schemas.state import Chunk, Life

__all__ = ["Traces"]

#: records of a slice or batch that its span links to; the SDK keeps no more than twice as many
_LINKS_MAX = 64

OnSlice = Callable[[Task, Slice], None]
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Traces:
    """Spans of one process."""

    telemetry: Telemetry
    kind_of: Callable[[str], str] = str  #: which provider an account is at; an account is named after it by default

    def of_slices(self, topic: str, on_slice: OnSlice) -> OnSlice:
        """The same agent, traced: one consumer span per slice, linked to the traces of its records."""
        if not self.telemetry.traces:
            return on_slice

        def traced(task: Task, slice_: Slice) -> None:
            start_ms = clock.wall_ms()
            on_slice(task, slice_)
            self.telemetry.past_span(
                "process {topic}",
                {"topic": topic},
                start_ms=start_ms,
                end_ms=clock.wall_ms(),
                links=[record.headers for record in slice_.records[:_LINKS_MAX]],
                attributes={
                    "messaging.system": "kafka",
                    "messaging.operation.type": "process",
                    "messaging.destination.name": slice_.topic,
                    "messaging.destination.partition.id": str(slice_.partition),
                    "messaging.batch.message_count": len(slice_.records),
                },
            )

        return traced

    def answered(self, chunk: Chunk, lives: Sequence[Life]) -> None:
        """One client span per member that a batch gave an outcome, in the trace of its request."""
        if not self.telemetry.traces:
            return
        end_ms = clock.wall_ms()
        for life in lives:
            self.telemetry.past_span(
                "chat {model}",
                {"model": chunk.model},
                start_ms=chunk.attempt_at_ms or end_ms,
                end_ms=end_ms,
                parent=_context(chunk, life),
                attributes=self._named(chunk)
                | {
                    "gen_ai.operation.name": operation_name(chunk.endpoint),
                    "batchmill.request.id": life.request_id,
                },
            )

    def batch_done(self, chunk: Chunk) -> None:
        """One client span for the whole batch; its records link to it by its id."""
        if not self.telemetry.traces:
            return
        end_ms = clock.wall_ms()
        self.telemetry.past_span(
            "batch {account}",
            {"account": chunk.account},
            start_ms=chunk.attempt_at_ms or end_ms,
            end_ms=end_ms,
            attributes=self._named(chunk) | {"messaging.batch.message_count": chunk.members},
        )

    def _named(self, chunk: Chunk) -> dict[str, str | int | bool]:
        return {
            "gen_ai.provider.name": provider_name(self.kind_of(chunk.account)),
            "gen_ai.request.model": chunk.model,
            "batchmill.batch.id": chunk.batch_id or "",
            "batchmill.chunk.id": chunk.chunk_id,
        }

    def tool_asked(self, asked: Asked) -> None:
        """A look-up or fetch, counted and timed; traced where the source itself was asked."""
        labels = {"tool": asked.tool, "source": asked.source, "outcome": asked.outcome}
        self.telemetry.count("batchmill.tool.calls", 1, **labels)
        self.telemetry.measure("batchmill.tool.duration", asked.seconds, **labels)
        if not self.telemetry.traces or not asked.tries:
            return
        end_ms = clock.wall_ms()
        self.telemetry.past_span(
            "execute_tool {tool}",
            {"tool": asked.tool},
            start_ms=end_ms - round(asked.seconds * 1_000),
            end_ms=end_ms,
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": asked.source,
                "batchmill.tool.tries": asked.tries,
            },
            error=None if asked.outcome == "ok" else asked.outcome,
        )

    @contextmanager
    def commit(self, sink: str, writes: int) -> Iterator[None]:
        """A sink transaction, traced and timed; one that fails is timed too."""
        started_s = clock.monotonic_s()
        with self.telemetry.span("commit {sink}", {"sink": sink}) as span:
            span.set_attribute("db.operation.batch.size", writes)
            try:
                yield
            finally:
                self.telemetry.measure("batchmill.sink.duration", clock.monotonic_s() - started_s, sink=sink)


def _context(chunk: Chunk, life: Life) -> Headers:
    src = f"effect:poll/{chunk.chunk_id}"
    return (("traceparent", traceparent_of(life.request_id, src, life.traceparent).encode()),)
