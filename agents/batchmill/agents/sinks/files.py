"""The file sinks, JSONL and Parquet: a folder per table, of parts that are written once and never changed.

What lives here: the form of a row and of a part, and the order of steps. What must not: what a write means
(`streams.holding`). A part is written under a hidden name and reaches the disk; then the ledger commits it; then it is
renamed into place. A crash before the commit leaves nothing that counts, one after it is made good by whoever comes
next. The same writes in other groupings are known by their commit ids, so no row is there twice.

Nothing is ever taken out of a part: of several rows of one target the one of the highest rank counts (`latest`).
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from batchmill.agents import clock
from batchmill.agents.sinks.ledger import HIDDEN, Ledger, Note, StrangeFolderError, fsync
from batchmill.agents.sinks.rows import sha256_of
from batchmill.streams.holding import Past, Target, write
from batchmill.streams.paths import PathError, compile_path
from batchmill.streams.ports import SinkOutcome, SinkResult, SinkWrite
from batchmill.streams.sinks import BY_DATE, ROW_MEMBERS, SINKS, folder_of, is_json, table_fault

__all__ = ["JSONL", "PARQUET", "FileForm", "FileSink", "latest"]

Row = Mapping[str, Any]

_INTEGERS = frozenset({"seq", "promotion", "committed_at_ms"})
_INTEGER_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileForm:
    """How a part looks: rows (ROW_MEMBERS and `output_json`) to a file, and back."""

    name: str  #: the sink's
    suffix: str
    dump: Callable[[Path, Sequence[Row]], None]
    load: Callable[[Path], Iterator[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class _New:
    """A write that goes into a part."""

    write: SinkWrite
    past: Past
    sha256: str


class FileSink:
    """One folder of tables, one writing thread of this process."""

    def __init__(self, *, form: FileForm, folder: Path, busy_timeout_ms: int) -> None:
        self.name = form.name
        self.capabilities = SINKS[form.name]
        self._form, self._folder, self._busy_timeout_ms = form, folder, busy_timeout_ms
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{form.name}-sink")
        self._ledgers: dict[str, Ledger] = {}

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        """Write all of a table in one transaction of its ledger; an exception means that nobody knows."""
        if not writes:
            return ()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._apply, tuple(writes))

    async def probe(self) -> str:
        """Make and remove a file where the tables lie; says where that is."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._try_out)

    async def close(self) -> None:
        """Let the running write end and close the ledgers."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._forget)
        self._thread.shutdown()

    def _apply(self, writes: tuple[SinkWrite, ...]) -> tuple[SinkResult, ...]:
        by_table: dict[str, list[int]] = defaultdict(list)
        for at, each in enumerate(writes):
            by_table[each.table].append(at)
        results: dict[int, SinkResult] = {}
        for table, places in by_table.items():
            results |= zip(places, self._write_table(table, [writes[at] for at in places]), strict=True)
        return tuple(results[at] for at in range(len(writes)))

    def _write_table(self, table: str, writes: Sequence[SinkWrite]) -> list[SinkResult]:
        fault = table_fault(self.name, table)
        if fault:
            return [_refused(each, f"table name {table!r} {fault}") for each in writes]
        try:
            ledger = self._ledgers.get(table) or self._open(table)
        except StrangeFolderError as error:
            return [_refused(each, str(error)) for each in writes]
        try:
            with ledger.locked():
                ledger.place()
                results = self._commit(ledger, writes)
            ledger.place()
        except BaseException:
            self._forget()
            raise
        return results

    def _commit(self, ledger: Ledger, writes: Sequence[SinkWrite]) -> list[SinkResult]:
        results, by_folder = [], defaultdict[str, list[_New]](list)
        targets: dict[str, Target] = {}  # as this very batch leaves them
        now_ms = clock.wall_ms()
        for each in writes:
            wrong = _unwritable(each)
            if wrong is not None:
                results.append(_refused(each, wrong))
                continue
            facts, sha256 = ledger.target(each), sha256_of(each.output_json)
            known = targets.get(each.target_key, facts)
            decided = write(replace(known, past={**facts.past, **known.past}), each, sha256)
            targets[each.target_key] = decided.target
            results.append(decided.result)
            if decided.past is not None:
                by_folder[_folder(each, now_ms)].append(_New(each, decided.past, sha256))
        self._write_parts(ledger, by_folder, now_ms)
        return results

    def _write_parts(self, ledger: Ledger, by_folder: Mapping[str, Sequence[_New]], now_ms: int) -> None:
        for folder, new in by_folder.items():
            number, path = ledger.new_part(folder, self._form.suffix)
            self._form.dump(path, [_row(each, now_ms) for each in new])
            fsync(path)
            ledger.note([Note(write=each.write, past=each.past, sha256=each.sha256, part=number) for each in new])
        if by_folder:
            fsync(ledger.folder / HIDDEN)

    def _open(self, table: str) -> Ledger:
        ledger = Ledger(
            self._folder / table,
            form=self._form.name,
            suffix=self._form.suffix,
            busy_timeout_ms=self._busy_timeout_ms,
        )
        self._ledgers[table] = ledger
        return ledger

    def _forget(self) -> None:
        """Close every ledger with whatever is open on it: the next call starts from what is on the disk."""
        for ledger in self._ledgers.values():
            ledger.close()
        self._ledgers.clear()

    def _try_out(self) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        probe = self._folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
        return f"{self._folder} takes files"


def latest(folder: Path) -> dict[str, dict[str, Any]]:
    """Read a table's folder: of each target the row of the highest rank."""
    newest: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.rglob("part-*")):
        form = next((form for form in (JSONL, PARQUET) if file.suffix == form.suffix), None)
        if form is None or HIDDEN in file.relative_to(folder).parts:
            continue
        for row in form.load(file):
            held = newest.setdefault(row["target_key"], row)
            if (row["seq"], row["promotion"]) > (held["seq"], held["promotion"]):
                newest[row["target_key"]] = row
    return newest


def _folder(write: SinkWrite, now_ms: int) -> str:
    return "" if write.partition is None else folder_of(write.partition, write.output_json, now_ms).path


def _row(new: _New, now_ms: int) -> Row:
    told = {member: getattr(new.write, member, None) for member in ROW_MEMBERS}
    told |= {"previous_commit_id": new.past.previous_commit_id, "committed_at_ms": now_ms}
    return told | {"output_json": new.write.output_json}


def _unwritable(write: SinkWrite) -> str | None:
    """Why no file could hold this, without showing it."""
    if not is_json(write.output_json):
        return "the output is not JSON"
    if not all(_has_bytes(each) for each in (write.target_key, write.source_id)):
        return "target_key or source_id holds half a character (a lone surrogate)"
    if not -_INTEGER_MAX <= write.seq <= _INTEGER_MAX:
        return "seq is beyond 64 bits"
    if write.partition not in {None, BY_DATE}:
        try:
            compile_path(write.partition or "")
        except PathError as error:
            return f"place.partition: {error}"
    return None


def _has_bytes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(write: SinkWrite, error: str) -> SinkResult:
    return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.REFUSED, error=error)


def _dump_jsonl(path: Path, rows: Sequence[Row]) -> None:
    with path.open("wb") as file:
        for row in rows:
            # The output goes in as it was written, number by number; line ends in JSON are mere space.
            output = str(row["output_json"]).replace("\r", " ").replace("\n", " ")
            told = {name: value for name, value in row.items() if name != "output_json"}
            file.write(orjson.dumps(told | {"output": orjson.Fragment(output)}, option=orjson.OPT_APPEND_NEWLINE))


def _load_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def _dump_parquet(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - the extra `parquet`
    import pyarrow.parquet as pq  # noqa: PLC0415

    members = (*ROW_MEMBERS, "output_json")
    schema = pa.schema([(name, pa.int64() if name in _INTEGERS else pa.string()) for name in members])
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)


def _load_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq  # noqa: PLC0415

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


JSONL = FileForm(name="jsonl", suffix=".jsonl", dump=_dump_jsonl, load=_load_jsonl)
PARQUET = FileForm(name="parquet", suffix=".parquet", dump=_dump_parquet, load=_load_parquet)
