"""The view over store and overlay says what a plain dictionary would, whatever is committed, under way or restored."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from batchmill.agents.runtime.codec import Write
from batchmill.agents.runtime.store import Store, StoreIdentity
from batchmill.agents.runtime.view import TaskView
from batchmill.schemas.records import Origin
from batchmill.schemas.state import Arrival
from batchmill.streams.index import entries
from batchmill.streams.view import MemoryView

IDENTITY = StoreIdentity("cluster", "state", 0)
OFFSETS = st.integers(0, 12)
REASONS = st.sampled_from(["job_resumed", "job_known", "job"])
JOBS = st.sampled_from([None, "a", "ab", "é", "\U0001f600"])
PREFIXES = st.sampled_from(["", "job", "job_", "job_known/", "job_known/a", "job_resumed/ab/", "x"])


class ArrivalCodec:
    """Arrivals as readable text: the runtime must not care what a row is made of."""

    def encode(self, row: Arrival) -> bytes:
        return f"{row.origin.offset}|{row.waiting_for}|{row.job or ''}".encode()

    def decode(self, data: bytes) -> Arrival:
        offset, waiting_for, job = data.decode().split("|")
        return _arrival(int(offset), waiting_for, job or None)

    def table(self, row: Arrival) -> str:
        return row.schema

    def key(self, row: Arrival) -> str:
        return row.key

    def entries(self, row: Arrival) -> tuple[tuple[str, str], ...]:
        return entries(row)


def _arrival(offset: int, waiting_for: str, job: str | None) -> Arrival:
    origin = Origin(generation=1, partition=0, offset=offset, at_ms=0)
    return Arrival(job=job, waiting_for=waiting_for, since_ms=0, origin=origin)


class ViewMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.oracle = MemoryView()
        self.store = Store.open(self.directory, IDENTITY)
        self._look()
        self.filling: dict[tuple[str, str], Write] = {}
        self.under_way: list[Write] | None = None

    def _look(self) -> None:
        self.view = TaskView(self.store, ArrivalCodec(), hot_rows_max=3)

    @rule(offset=OFFSETS, waiting_for=REASONS, job=JOBS)
    def put(self, offset: int, waiting_for: str, job: str | None) -> None:
        row = _arrival(offset, waiting_for, job)
        write = self.view.written(row)
        self.view.lay(write, row)
        self.filling[write.table, write.key] = write
        self.oracle.put(row)

    @rule(offset=OFFSETS)
    def delete(self, offset: int) -> None:
        row = _arrival(offset, "job", None)
        write = Write(row.schema, row.key, None, ())
        self.view.lay(write, None)
        self.filling[write.table, write.key] = write
        self.oracle.delete(row.schema, row.key)

    @rule()
    def begin(self) -> None:
        if self.under_way is None:
            self.under_way, self.filling = list(self.filling.values()), {}

    @rule()
    def commit(self) -> None:
        if self.under_way is not None:
            position = self.store.position
            self.store.apply(self.under_way, expect=position, position=position + 1, now_ms=1)
            self.view.applied(self.under_way)
            self.under_way = None

    @rule()
    def restart(self) -> None:
        self.begin()
        self.commit()
        self.begin()
        self.commit()
        self.store.close()
        self.store = Store.open(self.directory, IDENTITY)
        self._look()

    @rule(prefix=PREFIXES, after=st.none() | PREFIXES | OFFSETS.map(str), limit=st.integers(1, 6))
    def scan(self, prefix: str, after: str | None, limit: int) -> None:
        found = self.view.scan("arrival", prefix, after=after, limit=limit)
        assert found == self.oracle.scan("arrival", prefix, after=after, limit=limit)

    @rule(prefix=PREFIXES, limit=st.integers(1, 3))
    def walk(self, prefix: str, limit: int) -> None:
        """Page by page, as an effect does it."""
        after: str | None = None
        found: list[tuple[str, Any]] = []
        while page := self.view.scan("arrival", prefix, after=after, limit=limit):
            found += page
            after = page[-1][0]
        assert found == self.oracle.scan("arrival", prefix, limit=1000)

    @invariant()
    def same_rows(self) -> None:
        for offset in range(13):
            row = _arrival(offset, "job", None)
            assert self.view.get(row.schema, row.key) == self.oracle.get(row.schema, row.key)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)


ViewMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestView = ViewMachine.TestCase
