"""When the local file is believed, and when it is thrown away."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from batchmill.agents.runtime.codec import OVERSEER, OWN_TABLE, RESTART, Write, changelog_key, split_key
from batchmill.agents.runtime.restore import _apply_records
from batchmill.agents.runtime.store import Store, StoreBrokenError, StoreIdentity
from tests.runtime.worker import ItemCodec

IDENTITY = StoreIdentity("cluster", "state", 3)


def _filled(directory: Path) -> Store:
    store = Store.open(directory, IDENTITY)
    store.apply([Write("lives", "a", b"1", (("queue", "x"),))], expect=0, position=10, now_ms=1_000)
    return store


def test_what_was_applied_is_there_after_a_restart(tmp_path: Path) -> None:
    _filled(tmp_path).close()
    store = Store.open(tmp_path, IDENTITY)
    assert (store.position, store.applied_at_ms) == (10, 1_000)
    assert store.get("lives", "a") == b"1"
    assert list(store.scan("queue", "", "~", past=False)) == [("x", "lives", "a", b"1")]
    store.close()


def test_an_apply_that_does_not_follow_changes_nothing(tmp_path: Path) -> None:
    store = _filled(tmp_path)
    with pytest.raises(StoreBrokenError, match="position 10"):
        store.apply([Write("lives", "a", None, ())], expect=9, position=12, now_ms=2_000)
    assert store.get("lives", "a") == b"1"
    assert store.position == 10
    store.close()


@pytest.mark.parametrize(
    ("start", "end", "oldest_ms", "usable"),
    [(0, 10, 0, True), (11, 20, 0, False), (0, 9, 0, False), (0, 10, 1_001, False), (0, 10, 1_000, True)],
    ids=["fits", "log starts behind it", "log ends before it", "too old", "just young enough"],
)
def test_a_file_is_discarded_when_the_log_cannot_continue_it(
    tmp_path: Path, start: int, end: int, oldest_ms: int, usable: bool
) -> None:
    store = _filled(tmp_path)
    assert store.discard_unless_usable(IDENTITY, start=start, end=end, oldest_ms=oldest_ms) is usable
    assert store.count() == (1 if usable else 0)
    assert store.position == (10 if usable else 0)
    store.close()


@pytest.mark.parametrize(
    "other", [StoreIdentity("elsewhere", "state", 3), StoreIdentity("cluster", "state.v2", 3)], ids=["cluster", "topic"]
)
def test_the_file_of_another_log_is_not_read(tmp_path: Path, other: StoreIdentity) -> None:
    _filled(tmp_path).close()
    store = Store.open(tmp_path, other)
    assert (store.position, store.count()) == (0, 0)
    store.close()


def test_a_file_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    frozen = _filled(tmp_path)
    heir = Store.open(tmp_path, IDENTITY)
    assert heir.path != frozen.path
    assert heir.position == 0
    assert frozen.get("lives", "a") == b"1"
    heir.close()
    frozen.close()


def test_a_torn_file_is_rebuilt(tmp_path: Path) -> None:
    _filled(tmp_path).close()
    (tmp_path / "task-3.sqlite").write_bytes(b"no database at all" * 100)
    store = Store.open(tmp_path, IDENTITY)
    assert (store.position, store.count()) == (0, 0)
    store.close()


@pytest.mark.parametrize(
    ("table", "key"), [("state.lives", "a"), ("state.sources", "job/source/1"), (OWN_TABLE, RESTART)]
)
def test_a_changelog_key_says_table_and_key(table: str, key: str) -> None:
    assert split_key(changelog_key(table, key)) == (table, key)


def test_what_the_overseer_writes_beside_its_heartbeat_is_no_row_of_the_task(tmp_path: Path) -> None:
    keys = (OVERSEER, f"{OVERSEER}/drift", f"{OVERSEER}/drift/triage", RESTART)
    records = [SimpleNamespace(key=key.encode(), value=b"{}", offset=at) for at, key in enumerate(keys)]
    store = Store.open(tmp_path, IDENTITY)
    _apply_records(store, records, ItemCodec())
    assert (store.count(), store.position) == (1, len(keys))
    assert store.get(OWN_TABLE, RESTART) == b"{}"
    store.close()
