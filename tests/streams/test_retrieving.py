"""What a record is shown of an index: never what it may not see, never more than its tokens, the same every time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from batchmill.schemas.asking import RetrievalSpec
from batchmill.schemas.jobs import CitationSpec, InputSpec, JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, WorkItem
from batchmill.schemas.state import Arrival
from batchmill.schemas.versions import ask_fingerprint, version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.events import RawLimits
from batchmill.streams.indexing import Document, Piece
from batchmill.streams.linting import findings
from batchmill.streams.normalizing import index_gone, normalize, revisit
from batchmill.streams.orders import Delete, Emit, Put
from batchmill.streams.proofreading import remarks
from batchmill.streams.retrieving import (
    QUERY_CHARS_MAX,
    IndexAwaitedError,
    Inquiry,
    NoIndexes,
    RetrievalError,
    attach,
    compile_retrieval,
    found_for,
    fused,
    groups_of,
    visible,
)
from batchmill.streams.unusable import Unusable
from tests.streams.making import NOW_MS, make_raw, make_row, make_spec, make_view

SHA = "a" * 64
AT_MS = 1_000


def spec(**told: Any) -> RetrievalSpec:
    return RetrievalSpec(**({"index": "faq", "sha256": SHA, "query": "$.question"} | told))


def piece(name: str, text: str = "Some text.", **told: Any) -> Piece:
    return Piece(id=f"{name}#1", document=Document(id=name, text="", **told), text=text)


@dataclass
class Shelf:
    """A retriever that ranks its pieces as they stand, of those that may be seen."""

    pieces: Sequence[Piece]
    asked: list[Inquiry] = field(default_factory=list)

    def of(self, sha256: str) -> "Shelf | None":
        return self if sha256 == SHA else None

    def fault(self, sha256: str) -> str:
        return f"{sha256} is not there"

    def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
        self.asked.append(inquiry)
        return [one for one in self.pieces if visible(one.document, inquiry.groups, inquiry.at_ms)][:limit]


def context(shelf: Shelf, payload: dict[str, Any], **told: Any) -> list[dict[str, str]]:
    retrieval = compile_retrieval(spec(**told), shelf)
    attach(retrieval, payload, groups=groups_of(retrieval, payload), at_ms=AT_MS)
    found: list[dict[str, str]] = payload[told.get("into", "context")]
    return found


def test_the_context_is_a_list_of_documents_as_citations_want_them() -> None:
    given_ = {"question": "how?"}
    assert context(Shelf([piece("a"), piece("b")]), given_) == [
        {"id": "a#1", "document": "a", "text": "Some text."},
        {"id": "b#1", "document": "b", "text": "Some text."},
    ]


@pytest.mark.parametrize(
    ("allow", "groups", "seen"),
    [
        (None, [], True),
        (None, ["sales"], True),
        ((), ["sales"], False),
        (("sales",), [], False),
        (("sales",), ["legal"], False),
        (("sales", "legal"), ["legal"], True),
        (("",), [""], True),
    ],
)
def test_a_document_is_seen_by_its_groups_or_by_everybody(
    allow: tuple[str, ...] | None, groups: list[str], seen: bool
) -> None:
    assert visible(Document(id="a", text="", allow=allow), frozenset(groups), AT_MS) is seen


@pytest.mark.parametrize(
    ("begins", "ends", "seen"),
    [(None, None, True), (1_000, 1_001, True), (1_001, None, False), (None, 1_000, False), (0, 999, False)],
)
def test_a_document_is_seen_while_it_is_valid(begins: int | None, ends: int | None, seen: bool) -> None:
    assert visible(Document(id="a", text="", valid_from_ms=begins, valid_until_ms=ends), frozenset(), AT_MS) is seen


@pytest.mark.parametrize(
    ("member", "groups"),
    [("sales", {"sales"}), (["sales", 7, None, "legal"], {"sales", "legal"}), (None, set()), ("", set()), ({}, set())],
)
def test_a_record_has_the_groups_that_are_texts_and_no_others(member: Any, groups: set[str]) -> None:
    shelf = Shelf([])
    context(shelf, {"question": "how?", "team": member}, allow="$.team")
    assert shelf.asked == [Inquiry(query="how?", groups=frozenset(groups), at_ms=AT_MS)]


def test_a_job_that_names_no_groups_sees_what_is_for_everybody() -> None:
    shelf = Shelf([piece("secret", allow=("sales",)), piece("open")])
    assert [each["document"] for each in context(shelf, {"question": "how?", "allow": "sales"})] == ["open"]


def test_an_index_that_gives_what_may_not_be_seen_is_a_bug_that_stops_the_worker() -> None:
    class Leaky(Shelf):
        @override
        def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
            return self.pieces[:limit]

    with pytest.raises(AssertionError, match="may not be shown"):
        context(Leaky([piece("secret", allow=("sales",))]), {"question": "how?"})


@given(
    sizes=st.lists(st.integers(1, 300), max_size=30),
    top=st.integers(1, 10),
    tokens=st.integers(1, 200),
)
def test_neither_the_tokens_nor_the_number_is_ever_exceeded_and_the_order_is_that_of_the_ranking(
    sizes: list[int], top: int, tokens: int
) -> None:
    shelf = Shelf([piece(f"d{n:02}", "x" * size) for n, size in enumerate(sizes)])
    inquiry = Inquiry(query="how?", groups=frozenset(), at_ms=AT_MS)
    found = found_for(spec(top=top, tokens_max=tokens), shelf, inquiry)
    assert sum(estimate_tokens(len(each.text)) for each in found) <= tokens
    assert len(found) <= top
    assert [each.id for each in found] == sorted(each.id for each in found)
    fits = [size for size in sizes[: top * 4] if estimate_tokens(size) <= tokens]
    assert bool(found) == bool(fits)


def test_a_record_that_brings_its_own_context_is_refused() -> None:
    with pytest.raises(Unusable, match=r"\$\.context: expected not to be there") as caught:
        context(Shelf([piece("a")]), {"question": "how?", "context": []})
    assert caught.value.reason is Reason.INVALID_INPUT


@pytest.mark.parametrize("query", [None, "", "  ", 7, [], {"a": "b"}])
def test_who_asks_nothing_is_shown_nothing_and_the_index_is_not_asked(query: Any) -> None:
    shelf = Shelf([piece("a")])
    assert context(shelf, {"question": query}) == []
    assert shelf.asked == []


def test_a_query_may_be_several_texts_and_is_bounded() -> None:
    shelf = Shelf([])
    context(shelf, {"question": ["one", 2, "two"]})
    context(shelf, {"question": "x" * (QUERY_CHARS_MAX + 1)})
    assert [inquiry.query for inquiry in shelf.asked] == ["one\ntwo", "x" * QUERY_CHARS_MAX]


def test_nothing_found_is_asked_without_or_put_down_as_the_job_says() -> None:
    assert context(Shelf([]), {"question": "how?"}, on_empty="ask") == []
    with pytest.raises(Unusable) as caught:
        context(Shelf([]), {"question": "how?"}, on_empty="dead")
    assert caught.value.reason is Reason.NO_CONTEXT


def test_an_index_that_cannot_answer_puts_the_record_down_with_why() -> None:
    class Broken(Shelf):
        @override
        def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
            raise RetrievalError("the embedder 'toy' failed: ValueError")

    with pytest.raises(Unusable, match="index faq: the embedder 'toy' failed") as caught:
        context(Broken([]), {"question": "how?"})
    assert caught.value.reason is Reason.INDEX_GONE


def test_while_the_index_is_not_loaded_nothing_is_said_of_the_record() -> None:
    payload = {"question": "how?"}
    with pytest.raises(IndexAwaitedError):
        attach(compile_retrieval(spec(), NoIndexes()), payload, groups=frozenset(), at_ms=AT_MS)
    assert payload == {"question": "how?"}
    assert NoIndexes().fault(SHA) == "no index is loaded here"


def test_fusion_prefers_what_several_rankings_have_and_is_stable() -> None:
    assert fused([[3, 1, 2], [2, 3]], constant=60) == [3, 2, 1]
    assert fused([[5], [4]], constant=60) == [4, 5]
    assert fused([], constant=60) == []


# -- on the way to a question ------------------------------------------------------------------------------------------


def a_job(**told: Any) -> JobSpec:
    base = make_spec(user="{% for each in input.context %}{{ each.text }}{% endfor %}{{ input.question }}")
    return replace(base, ask=replace(base.ask, retrieval=spec(**told)), input=InputSpec(filter="input.wanted"))


def looked_at(job: JobSpec, indexes: Any, *, wanted: bool = True, at_ms: int = NOW_MS) -> Any:
    raw = make_raw({"question": "how?", "wanted": wanted}, at_ms=at_ms)
    jobs = CompiledJobs(indexes=indexes)
    (order,) = normalize(make_view(make_row(job)), raw, jobs=jobs, now_ms=NOW_MS, limits=RawLimits())
    return order.record if isinstance(order, Emit) else order


def test_the_context_is_content_it_is_asked_and_names_the_request() -> None:
    job = a_job()
    item, other = (looked_at(job, Shelf([piece("a", text)])) for text in ("One.", "Two."))
    again = looked_at(job, Shelf([piece("a", "One.")]))
    assert isinstance(item, WorkItem)
    assert json.loads(item.input_json)["context"] == [{"id": "a#1", "document": "a", "text": "One."}]
    assert item == again
    assert item.request_id != other.request_id
    assert item.ask_key != other.ask_key


@pytest.mark.parametrize(
    ("said", "cleaning"),
    [
        ("\ufb01nance", {"normalize": "NFKC"}),
        ("\uff46inance", {"normalize": "NFKC"}),
        ("fin\x00ance", {"strip_control": True}),
        ("<b>finance</b>", {"strip_markup": True}),
        (" finance ", {"collapse_space": True}),
        ("finance-guests", {"max_chars": {"$.team": 7}}),
        (["finance-guests", "\ufb01nance"], {"normalize": "NFKC", "max_chars": {"$.team[0]": 7}}),
    ],
)
def test_what_cleaning_makes_of_a_groups_name_opens_nothing(said: Any, cleaning: dict[str, Any]) -> None:
    job = replace(a_job(allow="$.team"), input=InputSpec(**cleaning))
    shelf = Shelf([piece("secret", allow=("finance",)), piece("open")])
    raw = make_raw({"question": "how?", "team": said})
    (order,) = normalize(
        make_view(make_row(job)), raw, jobs=CompiledJobs(indexes=shelf), now_ms=NOW_MS, limits=RawLimits()
    )
    assert isinstance(order, Emit)
    assert isinstance(order.record, WorkItem)
    assert [each["document"] for each in json.loads(order.record.input_json)["context"]] == ["open"]


def test_a_group_counts_though_it_is_not_kept_for_the_question() -> None:
    job = replace(a_job(allow="$.team"), input=InputSpec(keep=("$.question",)))
    shelf = Shelf([piece("secret", allow=("finance",))])
    raw = make_raw({"question": "how?", "team": "finance"})
    (order,) = normalize(
        make_view(make_row(job)), raw, jobs=CompiledJobs(indexes=shelf), now_ms=NOW_MS, limits=RawLimits()
    )
    assert isinstance(order, Emit)
    assert isinstance(order.record, WorkItem)
    told = json.loads(order.record.input_json)
    assert (sorted(told), [each["document"] for each in told["context"]]) == (["context", "question"], ["secret"])


def test_another_snapshot_is_another_version_that_asks_anew() -> None:
    assert version_of(a_job()) != version_of(a_job(sha256="b" * 64))
    assert ask_fingerprint(a_job()) != ask_fingerprint(a_job(sha256="b" * 64))


def test_nothing_is_looked_up_for_what_is_not_wanted() -> None:
    shelf = Shelf([piece("a")])
    assert looked_at(a_job(), shelf, wanted=False).reason is Reason.FILTERED
    assert looked_at(a_job(), NoIndexes(), wanted=False).reason is Reason.FILTERED
    assert shelf.asked == []


def test_validity_is_judged_at_the_time_of_the_event_whenever_that_is_read() -> None:
    shelf = Shelf([piece("old", valid_until_ms=5_000), piece("new", valid_from_ms=5_000)])
    for at_ms, name in ((4_999, "old"), (5_000, "new")):
        item = looked_at(a_job(), shelf, at_ms=at_ms)
        assert [each["document"] for each in json.loads(item.input_json)["context"]] == [name]


def test_a_record_for_which_there_is_nothing_is_a_letter_with_its_version() -> None:
    job = a_job(on_empty="dead")
    letter = looked_at(job, Shelf([]))
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.version) == (Reason.NO_CONTEXT, version_of(job))


def test_a_record_waits_for_its_index_and_then_goes_on_or_is_given_up_with_why() -> None:
    job = a_job()
    view, raw = make_view(make_row(job)), make_raw({"question": "how?", "wanted": True})
    put = looked_at(job, NoIndexes())
    assert isinstance(put, Put)
    arrival = put.row
    assert isinstance(arrival, Arrival)
    assert (arrival.waiting_for, arrival.job, arrival.since_ms) == ("index", "triage", NOW_MS)

    def again(indexes: Any) -> list[Any]:
        jobs = CompiledJobs(indexes=indexes)
        return revisit(view, arrival, raw, jobs=jobs, now_ms=NOW_MS + 5, limits=RawLimits())

    assert again(NoIndexes()) == []
    emitted, gone = again(Shelf([piece("a")]))
    assert isinstance(emitted.record, WorkItem)
    assert gone == Delete(Arrival.schema, arrival.key)
    given_up, gone = index_gone(view, arrival, raw, jobs=CompiledJobs(indexes=NoIndexes()), now_ms=NOW_MS + 9)
    assert given_up.record.reason is Reason.INDEX_GONE
    assert given_up.record.error == "index faq: no index is loaded here"
    assert gone == Delete(Arrival.schema, arrival.key)


def test_a_version_that_is_tried_out_without_its_index_holds_nobody_up() -> None:
    front, shadow = make_spec(user="{{ input.question }}"), a_job()
    row = make_row(front)
    names = {each: json.loads(one.to_json()) for each, one in ((row.version, front), (version_of(shadow), shadow))}
    row = replace(row, versions_json=json.dumps(names), shadows_json=json.dumps({version_of(shadow): 1.0}))
    raw = make_raw({"question": "how?", "wanted": True})
    for indexes, versions in (
        (NoIndexes(), [row.version]),
        (Shelf([piece("a")]), [row.version, version_of(shadow)]),
    ):
        jobs = CompiledJobs(indexes=indexes)
        orders = normalize(make_view(row), raw, jobs=jobs, now_ms=NOW_MS, limits=RawLimits())
        assert [order.record.version for order in orders if isinstance(order, Emit)] == versions


# -- what is wrong with a job that looks things up ---------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}


def faults(schema: Any = None, **told: Any) -> list[str]:
    job = a_job(**told)
    given_ = InputSpec(schema_json=json.dumps(schema or SCHEMA | {"additionalProperties": False}))
    job = replace(job, input=given_)
    return [f"{each.where}: {each.message}" for each in (*findings(job), *remarks(job)) if each.error]


def test_what_is_put_beside_a_record_is_declared_with_it() -> None:
    assert faults() == []
    assert "$.ask.prompt.user: reads `input.context`, which the input schema does not declare" in faults(into="found")


def test_citations_of_a_closed_input_may_point_into_the_context() -> None:
    cites = CitationSpec(id="c", field="summary", within="$.context")
    job = replace(a_job(), input=InputSpec(schema_json=json.dumps(SCHEMA | {"additionalProperties": False})))
    job = replace(job, judge=replace(job.judge, citations=(cites,)))
    assert [each.message for each in findings(job) if each.error] == []
    elsewhere = replace(job, judge=replace(job.judge, citations=(replace(cites, within="$.contxt"),)))
    assert [each.where for each in findings(elsewhere) if each.error] == ["$.judge.citations[0].within"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"query": "$.qestion"}, "$.ask.retrieval.query: the input schema declares no member 'qestion'"),
        ({"allow": "$.team"}, "$.ask.retrieval.allow: the input schema declares no member 'team'"),
        ({"query": "$"}, "$.ask.retrieval.query: the path '$' names nothing: write it as $.a.b[0]"),
        ({"into": "question"}, "$.ask.retrieval.into: the input schema declares 'question', which retrieval writes"),
    ],
)
def test_a_query_or_group_that_no_record_has_is_told_before_any_record_comes(told: Any, said: str) -> None:
    assert any(each.startswith(said) for each in faults(**told)), faults(**told)
