"""Indexes for real: built into a store, loaded by hash, searched by words and by meaning, and found to have aged."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.agents.installed import InstalledError
from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.retrieval.ageing import age_of, documents_moved_on
from batchmill.agents.retrieval.building import Built, DocumentsError, build_index, read_documents
from batchmill.agents.retrieval.embedders import load_embedder
from batchmill.agents.retrieval.lexical import Lexical
from batchmill.agents.retrieval.library import IndexGoneError, Library, load_index, snapshot_uri
from batchmill.agents.retrieval.pointers import PointerError, pointer_file, read_pointer
from batchmill.agents.retrieval.searching import Index
from batchmill.agents.retrieval.vectors import Vectors
from batchmill.schemas.asking import RetrievalSpec
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.indexing import Cutting, Document, Ranking, snapshot_of, whole_numbers
from batchmill.streams.retrieving import Inquiry, RetrievalError, found_for, visible
from tests.agents.index_world import EMBEDDER, Install, install, store, written

__all__ = ["install", "store"]

NOW_MS = 1_800_000_000_000
REFUNDS = {"id": "refunds", "text": "We send the money back within 14 days."}
PARCELS = {"id": "parcels", "text": "A parcel takes two days. The courier rings twice."}
LOGIN = {"id": "login", "text": "Reset your password on the account page.", "updated_at": "2026-03-01T00:00:00Z"}
LEGAL = {"id": "legal", "text": "Money laundering is reported to the authority.", "allow": ["legal"]}


async def built(folder: Path, store: FilePayloadStore, *documents: dict[str, Any], **told: Any) -> Built:
    file = written(folder, *documents, name=told.pop("file", "docs.jsonl"))
    told = dict[str, Any](name="faq", folder=folder, cutting=Cutting(), embedder=None, now_ms=NOW_MS) | told
    return await build_index(file, store=store, **told)


def shown(index: Index, query: str, *groups: str, at_ms: int = NOW_MS, limit: int = 5) -> list[str]:
    inquiry = Inquiry(query=query, groups=frozenset(groups), at_ms=at_ms)
    return [piece.document.id for piece in index.ranked(inquiry, limit=limit)]


# -- building ----------------------------------------------------------------------------------------------------------


async def test_a_pointer_says_what_there_is_and_leads_to_it(tmp_path: Path, store: FilePayloadStore) -> None:
    made = await built(tmp_path, store, REFUNDS, LOGIN)
    pointer = read_pointer(made.file)
    assert pointer == made.pointer
    assert (made.file.name, pointer.name, pointer.documents, pointer.pieces) == ("faq.index.json", "faq", 2, 2)
    assert (pointer.built_at, pointer.newest_document) == ("2027-01-15T08:00:00Z", "2026-03-01T00:00:00Z")
    assert pointer.documents_file == "docs.jsonl"
    assert await store.verify(snapshot_uri(pointer.sha256)) == made.size_bytes


async def test_the_same_documents_in_another_order_are_the_same_index(tmp_path: Path, store: FilePayloadStore) -> None:
    one = await built(tmp_path, store, REFUNDS, PARCELS, LOGIN)
    other = await built(tmp_path, store, LOGIN, REFUNDS, PARCELS, file="other.jsonl")
    assert one.pointer.sha256 == other.pointer.sha256
    assert one.pointer.built_from != other.pointer.built_from
    smaller = await built(tmp_path, store, REFUNDS, PARCELS, LOGIN, cutting=Cutting(tokens_max=100))
    assert smaller.pointer.sha256 != one.pointer.sha256


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no document"),
        (b'\n\n{"id": "a"}\n', r"docs.jsonl:3: `text`: expected a text"),
        (
            b'{"id": "a", "text": "x"}\n\n{"id": "a", "text": "y"}\n',
            "docs.jsonl:3: `id`: the document of line 1 has the",
        ),
        (b'{"id": "a", "text": "x"}\n{"id": "\xff"}\n', "docs.jsonl:2: byte 8 is not UTF-8"),
        (b'{"id": "a", "text": "' + b"x" * 2**22 + b'"}\n{"id": "b"}', "(?s)docs.jsonl:1: longer than.*docs.jsonl:2: "),
        (b"[" * 30 + b"\n", "docs.jsonl:1: not JSON"),
        (b"{}\n" * 50, "(?s)docs.jsonl:20: .*there may be more; these are the first 20"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_line_by_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_bytes(content)
    with pytest.raises(DocumentsError, match=said):
        read_documents(file)


def test_a_file_that_must_say_who_may_see_its_documents_is_held_to_it(tmp_path: Path) -> None:
    file = written(tmp_path, REFUNDS | {"allow": []}, LEGAL)
    assert len(read_documents(file, require_allow=True).documents) == 2
    with pytest.raises(DocumentsError, match=r"docs.jsonl:1: `allow`: expected to be there"):
        read_documents(written(tmp_path, REFUNDS), require_allow=True)


async def test_nothing_is_written_for_a_file_that_cannot_be_indexed(tmp_path: Path, store: FilePayloadStore) -> None:
    with pytest.raises(DocumentsError):
        await built(tmp_path, store, {"id": "a"})
    assert not pointer_file(tmp_path, "faq").exists()


@pytest.mark.parametrize("name", ["", "../faq", "a b", "x" * 65])
def test_the_name_of_an_index_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(PointerError):
        pointer_file(tmp_path, name)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"name": "a"}', b"[" * 100_000, b"x" * 70_000, b'{"name": 1}', b"\xff"]
)
def test_what_is_no_pointer_is_called_so(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "faq.index.json"
    file.write_bytes(content)
    with pytest.raises(PointerError):
        read_pointer(file)


async def test_a_pointer_with_another_hash_than_a_hash_is_none(tmp_path: Path, store: FilePayloadStore) -> None:
    made = await built(tmp_path, store, REFUNDS)
    told = json.loads(made.file.read_text())
    made.file.write_text(json.dumps(told | {"sha256": "../../etc/passwd"}))
    with pytest.raises(PointerError):
        read_pointer(made.file)


# -- searching ---------------------------------------------------------------------------------------------------------


async def test_words_find_what_holds_them_and_rare_ones_count_more(tmp_path: Path, store: FilePayloadStore) -> None:
    index = await load_index(store, (await built(tmp_path, store, REFUNDS, PARCELS, LOGIN)).pointer.sha256)
    assert shown(index, "When do I get my MONEY back?")[0] == "refunds"
    assert shown(index, "parcel days") == ["parcels", "refunds"]
    assert shown(index, "nothing whatsoever") == []


async def test_a_title_is_searched_and_not_shown(tmp_path: Path, store: FilePayloadStore) -> None:
    titled = PARCELS | {"title": "Zustellung"}
    index = await load_index(store, (await built(tmp_path, store, REFUNDS, titled)).pointer.sha256)
    inquiry = Inquiry(query="zustellung", groups=frozenset(), at_ms=NOW_MS)
    assert [piece.text for piece in index.ranked(inquiry, limit=1)] == [PARCELS["text"]]


WORDS = ("money", "parcel", "login", "late", "refund")
somewhat = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
allows = st.none() | st.lists(st.sampled_from(["a", "b", "c"]), max_size=2).map(lambda each: tuple(sorted(set(each))))
moments = st.none() | st.integers(0, 10)


@st.composite
def many(draw: st.DrawFn) -> list[Document]:
    count = draw(st.integers(1, 12))
    return [
        Document(
            id=f"d{n}",
            text=draw(somewhat),
            allow=draw(allows),
            valid_from_ms=draw(moments),
            valid_until_ms=draw(moments),
        )
        for n in range(count)
    ]


@settings(deadline=None)
@given(
    inside=many(),
    query=somewhat,
    groups=st.frozensets(st.sampled_from(["a", "b", "z"])),
    at_ms=st.integers(0, 11),
    tokens=st.integers(1, 30),
)
def test_whatever_is_asked_what_may_not_be_seen_is_not_shown_and_all_that_may_and_fits_can_be(
    inside: list[Document], query: str, groups: frozenset[str], at_ms: int, tokens: int
) -> None:
    index = Index(snapshot_of(inside, cutting=Cutting()), None)
    inquiry = Inquiry(query=query, groups=groups, at_ms=at_ms)
    ranked = index.ranked(inquiry, limit=50)
    wanted = {
        each.id for each in inside if visible(each, groups, at_ms) and set(each.text.split()) & set(query.split())
    }
    assert {piece.document.id for piece in ranked} == wanted
    spec = RetrievalSpec(index="i", sha256="", query="$.q", tokens_max=tokens)
    found = found_for(spec, index, inquiry)
    assert sum(estimate_tokens(len(piece.text)) for piece in found) <= tokens
    again = Index(snapshot_of(random.Random(1).sample(inside, len(inside)), cutting=Cutting()), None)
    assert found_for(spec, again, inquiry) == found


def test_fewer_of_many_equals_are_those_with_the_lowest_ids() -> None:
    inside = [Document(id=f"d{n:03}", text="the same text") for n in range(200)]
    index = Index(snapshot_of(inside, cutting=Cutting()), None)
    assert shown(index, "text", limit=3) == ["d000", "d001", "d002"]


def test_scores_are_those_of_bm25() -> None:
    """Worked out by hand for three texts of 2, 2 and 4 words: k1 1.2, b 0.75, mean length 8/3."""
    lexical = Lexical(["red fox", "red hen", "fox fox hen cow"], Ranking())
    idf = 4_700  # ln(1 + 1.5 / 2.5) in ten-thousandths
    one = idf * 10_000 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / (8 / 3)))
    two = idf * 10_000 * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 4 / (8 / 3)))
    assert [int(each) for each in lexical.scores("fox fox!")] == [round(one), 0, round(two)]


# -- by meaning --------------------------------------------------------------------------------------------------------


async def test_meaning_finds_what_no_word_does(tmp_path: Path, store: FilePayloadStore, install: Install) -> None:
    install()
    made = await built(tmp_path, store, REFUNDS, PARCELS, LOGIN, LEGAL, embedder=load_embedder("toy"))
    index = await load_index(store, made.pointer.sha256)
    plain = await load_index(store, (await built(tmp_path, store, REFUNDS, PARCELS, LOGIN)).pointer.sha256)
    assert shown(plain, "reimburse") == []
    assert shown(index, "reimburse") == ["refunds"]
    assert shown(index, "reimburse", "legal") == ["legal", "refunds"]
    assert shown(index, "courier money")[0] == "parcels"


async def test_an_index_is_asked_by_the_embedder_that_made_it_or_not_at_all(
    tmp_path: Path, store: FilePayloadStore, install: Install
) -> None:
    file = install()
    made = await built(tmp_path, store, REFUNDS, embedder=load_embedder("toy"))
    file.write_text(EMBEDDER + "# another\n")
    with pytest.raises(IndexGoneError, match="is not the one the index was built with; install that version here"):
        await load_index(store, made.pointer.sha256)
    (file.parent / "toyvec-1.0.dist-info" / "entry_points.txt").write_text("")
    with pytest.raises(IndexGoneError, match="there is no embedder 'toy'"):
        await load_index(store, made.pointer.sha256)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def embed(texts):\n    raise ValueError(texts)\n", "failed: ValueError"),
        ("def embed(texts):\n    return [[1.0]]\n", "other vectors than one for each text"),
        ("def embed(texts):\n    return [[1.0] * (1 + n) for n, _ in enumerate(texts)]\n", "other vectors than one"),
        ("def embed(texts):\n    return [[float('nan')] for _ in texts]\n", "what is no vector"),
        ("def embed(texts):\n    return None\n", "failed: TypeError"),
    ],
)
def test_an_embedder_that_misbehaves_is_told_and_nothing_worse(install: Install, source: str, said: str) -> None:
    install(source)
    with pytest.raises(RetrievalError, match=said):
        load_embedder("toy").embed(["private", "texts"])


def test_an_embedder_that_is_not_installed_is_named() -> None:
    with pytest.raises(InstalledError, match="there is no embedder 'toy' among the entry points"):
        load_embedder("toy")


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(), dimensions=st.sampled_from([1, 3, 384, 4_096]))
def test_products_of_vectors_are_exact(seed: int, dimensions: int) -> None:
    chance = random.Random(seed)
    many_of_them = [whole_numbers([chance.gauss(0, 1) for _ in range(dimensions)]) for _ in range(5)]
    asked = many_of_them[0]
    exact = [sum(one * other for one, other in zip(asked, each, strict=True)) for each in many_of_them]
    assert [int(each) for each in Vectors(many_of_them).scores(asked)] == exact


# -- the library -------------------------------------------------------------------------------------------------------


async def test_a_library_loads_what_it_was_asked_for_and_keeps_the_last_few(
    tmp_path: Path, store: FilePayloadStore
) -> None:
    names = [(await built(tmp_path, store, REFUNDS | {"id": f"d{n}"})).pointer.sha256 for n in range(3)]
    library = Library(store=store, indexes_max=2)
    for name in names:
        assert library.of(name) is None
        await library.load_wanted()
        assert library.of(name) is not None
    assert library.of(names[0]) is None
    assert library.of(names[1]) is not None
    await library.load_wanted()
    assert (library.of(names[0]) is not None, library.of(names[2]) is None) == (True, True)


async def test_a_snapshot_that_is_gone_or_damaged_is_not_loaded_and_told(
    tmp_path: Path, store: FilePayloadStore
) -> None:
    sha256 = (await built(tmp_path, store, REFUNDS)).pointer.sha256
    file = next((tmp_path / "payloads" / "sha256").glob(f"*/{sha256}"))
    library, content = Library(store=store, indexes_max=2, retry_seconds=0), file.read_bytes()

    async def looked() -> str | None:
        assert library.of(sha256) is None
        await library.load_wanted()
        return None if library.of(sha256) is not None else library.fault(sha256)

    assert library.fault(sha256) == "it is not loaded yet"
    file.write_bytes(content.replace(b"14 days", b"99 days"))
    assert "does not match its content" in (await looked() or "")
    file.unlink()
    assert "is not in" in (await looked() or "")
    file.write_bytes(content)
    assert await looked() is None
    assert library.fault(sha256) == "it is not loaded yet"


async def test_a_file_that_is_no_snapshot_is_not_loaded(store: FilePayloadStore) -> None:
    async def content() -> Any:
        yield b"something else\n"

    other = await store.put(content())
    with pytest.raises(IndexGoneError, match="is no snapshot"):
        await load_index(store, other.sha256)


async def test_what_could_not_be_loaded_is_not_tried_again_at_once(tmp_path: Path, store: FilePayloadStore) -> None:
    library = Library(store=store, indexes_max=2, retry_seconds=3_600)
    sha256 = (await built(tmp_path, store, REFUNDS)).pointer.sha256
    file = next((tmp_path / "payloads" / "sha256").glob(f"*/{sha256}"))
    content = file.read_bytes()
    file.unlink()
    for _ in range(2):
        assert library.of(sha256) is None
        await library.load_wanted()
        file.write_bytes(content)
    assert library.of(sha256) is None


async def test_what_is_only_expected_drives_nothing_out(tmp_path: Path, store: FilePayloadStore) -> None:
    names = [(await built(tmp_path, store, REFUNDS | {"id": f"d{n}"})).pointer.sha256 for n in range(3)]
    library = Library(store=store, indexes_max=2)
    for name in names:
        library.expect(name)
    await library.load_wanted()
    assert [library.of(name) is not None for name in names] == [True, True, False]


async def test_many_tasks_that_ask_at_once_load_once(tmp_path: Path, store: FilePayloadStore) -> None:
    sha256 = (await built(tmp_path, store, REFUNDS)).pointer.sha256
    library = Library(store=store, indexes_max=2)
    library.of(sha256)
    await asyncio.gather(*(library.load_wanted() for _ in range(4)))
    first = library.of(sha256)
    library.of("f" * 64)
    await library.load_wanted()
    assert first is not None
    assert library.of(sha256) is first


# -- ageing ------------------------------------------------------------------------------------------------------------


async def test_what_was_added_changed_removed_or_has_expired_is_told(tmp_path: Path, store: FilePayloadStore) -> None:
    over = PARCELS | {"valid_until": "2026-01-01"}
    later = LEGAL | {"valid_from": "2099-01-01"}
    made = await built(tmp_path, store, REFUNDS, LOGIN, over, later)
    snapshot = (await load_index(store, made.pointer.sha256)).snapshot
    assert not documents_moved_on(made.pointer, tmp_path)
    only_clock = age_of(snapshot, None, now_ms=NOW_MS)
    assert (only_clock.expired, only_clock.not_yet, only_clock.stale) == (("parcels",), ("legal",), True)
    now = read_documents(written(tmp_path, REFUNDS, LOGIN | {"text": "New."}, later, {"id": "new", "text": "x"}))
    assert documents_moved_on(made.pointer, tmp_path)
    age = age_of(snapshot, now.documents, now_ms=NOW_MS)
    assert (age.added, age.changed, age.removed) == (("new",), ("login",), ("parcels",))


async def test_an_index_of_the_documents_as_they_are_is_not_stale(tmp_path: Path, store: FilePayloadStore) -> None:
    made = await built(tmp_path, store, REFUNDS, LOGIN)
    snapshot = (await load_index(store, made.pointer.sha256)).snapshot
    now = read_documents(written(tmp_path, LOGIN, REFUNDS))
    assert not age_of(snapshot, now.documents, now_ms=NOW_MS).stale
