"""The payload store: what can be opened is whole, the same bytes have one address, one host owns a directory."""

import hashlib

import pytest

from batchmill.agents.payloads import (
    FilePayloadStore,
    PayloadDamagedError,
    PayloadError,
    PayloadMissingError,
    host_id,
)


@pytest.fixture
def store(tmp_path):
    return FilePayloadStore(directory=tmp_path / "payloads")


async def parts(*pieces):
    for piece in pieces:
        yield piece


async def whole(store, uri):
    return b"".join([part async for part in store.read(uri)])


def files(tmp_path):
    return [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "HOST"]


async def test_what_was_put_is_read_back_and_named_by_its_content(store):
    stored = await store.put(parts(b"one\n", b"two\n"))
    assert stored.sha256 == hashlib.sha256(b"one\ntwo\n").hexdigest()
    assert stored.uri == f"payload:sha256/{stored.sha256}"
    assert stored.size_bytes == 8
    assert await whole(store, stored.uri) == b"one\ntwo\n"
    assert await store.read_range(stored.uri, 4, 3) == b"two"
    assert await store.exists(stored.uri)


async def test_the_same_bytes_are_kept_once(store, tmp_path):
    first = await store.put(parts(b"ab", b"c"))
    second = await store.put(parts(b"abc"))
    assert first == second
    assert len(files(tmp_path)) == 1


async def test_an_empty_file_is_a_file(store):
    stored = await store.put(parts())
    assert stored.size_bytes == 0
    assert await whole(store, stored.uri) == b""


async def test_a_source_that_breaks_off_leaves_nothing(store, tmp_path):
    async def broken():
        yield b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await store.put(broken())
    assert files(tmp_path) == []


async def test_a_damaged_file_is_not_passed_off_as_the_one_that_was_stored(store, tmp_path):
    stored = await store.put(parts(b"right"))
    (file,) = files(tmp_path)
    file.write_bytes(b"wrong")
    with pytest.raises(PayloadDamagedError):
        await whole(store, stored.uri)
    with pytest.raises(PayloadDamagedError):
        await store.verify(stored.uri)


async def test_a_deleted_file_is_missing_and_deleting_it_again_is_no_error(store):
    stored = await store.put(parts(b"x"))
    assert await store.verify(stored.uri) == 1
    assert await store.delete(stored.uri)
    assert not await store.delete(stored.uri)
    assert not await store.exists(stored.uri)
    with pytest.raises(PayloadMissingError):
        await whole(store, stored.uri)


@pytest.mark.parametrize("uri", ["payload:sha256/../../etc/passwd", "payload:sha256/ab", "file:///x", ""])
async def test_an_address_that_is_not_ours_is_refused(store, uri):
    with pytest.raises(PayloadError, match="not a payload address"):
        await store.exists(uri)


def test_a_directory_belongs_to_one_host_until_it_is_declared_shared(tmp_path):
    FilePayloadStore(directory=tmp_path, host="alpha")
    FilePayloadStore(directory=tmp_path, host="alpha")
    with pytest.raises(PayloadError, match=r"belongs to host alpha.*payloads\.shared"):
        FilePayloadStore(directory=tmp_path, host="beta")
    FilePayloadStore(directory=tmp_path, host="beta", shared=True)


def test_this_host_has_a_lasting_name():
    assert host_id()
    assert host_id() == host_id()
