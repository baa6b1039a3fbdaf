"""Answers are a seeded function of the text; gold labels come from outside and are told as often as was asked for."""

import json
import statistics

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.agents.simulator import Price, SimulatorConfig, parse_fault
from batchmill.agents.simulator.answering import Question, answer
from batchmill.agents.simulator.gold import GoldTable, gold_from_pairs, load_gold
from batchmill.agents.simulator.instances import Hints, instance_of
from batchmill.agents.simulator.mistakes import mistaken
from batchmill.agents.simulator.multipart import FormReader, MultipartError

LABELS = ("pos", "neg", "neu")
TEXTS = [f"Sentence number {n} says something." for n in range(2000)]
GOLD = gold_from_pairs((text, LABELS[n % 3]) for n, text in enumerate(TEXTS))


def _asked(text, schema, model="m"):
    return Question(model=model, text=text, chars=len(text), schema=schema)


def _answered(text, schema, *, accuracy=0.8, gold=GOLD, seed=1, model="m"):
    given = answer(_asked(text, schema, model), seed=seed, accuracy=accuracy, gold=gold)
    return json.loads(given.content)


@pytest.mark.parametrize("accuracy", [0.0, 0.7, 0.95, 1.0])
def test_the_share_of_right_labels_is_the_accuracy_that_was_set(make, accuracy):
    answers = [_answered(text, make.schema, accuracy=accuracy)["label"] for text in TEXTS]
    right = sum(found == LABELS[n % 3] for n, found in enumerate(answers)) / len(TEXTS)
    assert abs(right - accuracy) < 0.03
    assert set(answers) == set(LABELS)


def test_confidence_is_higher_when_the_answer_is_right_and_overlaps(make):
    sure = {True: [], False: []}
    for n, text in enumerate(TEXTS):
        found = _answered(text, make.schema)
        sure[found["label"] == LABELS[n % 3]].append(found["confidence"])
    assert statistics.mean(sure[True]) == pytest.approx(0.83, abs=0.03)
    assert statistics.mean(sure[False]) == pytest.approx(0.55, abs=0.05)
    assert max(sure[False]) > min(sure[True])


def test_answers_depend_on_seed_and_model_and_on_nothing_else(make):
    base = [_answered(text, make.schema) for text in TEXTS[:100]]
    assert base == [_answered(text, make.schema) for text in TEXTS[:100]]
    assert base != [_answered(text, make.schema, seed=2) for text in TEXTS[:100]]
    assert base != [_answered(text, make.schema, model="other") for text in TEXTS[:100]]


@pytest.mark.parametrize(
    "message",
    ["  A  good\tfilm. ", "Classify the text.\n\nA good film.\n\nAnswer in JSON.", "Text:\nA good film.\nEnd."],
)
def test_gold_is_found_in_a_tidied_or_wrapped_text(message):
    assert gold_from_pairs([("A good film.", "pos")]).label_of(message) == "pos"


def test_a_gold_file_may_have_gaps_but_not_broken_lines(tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text('{"text": "a", "label": "pos"}\n\n{"text": "b"}\n{"text": "c", "label": null}\n')
    assert len(load_gold(path).labels) == 1
    path.write_text('{"text": "a", "label": "pos"}\n{"text"\n')
    with pytest.raises(ValueError, match="line 2"):
        load_gold(path)


async def test_gold_reaches_the_answers_through_a_file_and_never_through_a_request(started, make, tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": "neu"}) + "\n" for text in TEXTS[:50]))
    async with started(gold_path=path, accuracy=1.0) as client:
        ended = await client.round([make.row(f"row-{n}", text) for n, text in enumerate(TEXTS[:50])])
        assert {json.loads(content)["label"] for content in ended.contents.values()} == {"neu"}


SCHEMAS = st.recursive(
    st.one_of(
        st.fixed_dictionaries({"type": st.sampled_from(["string", "boolean", "null", "number", "integer"])}),
        st.builds(
            lambda low, width: {"type": "integer", "minimum": low, "maximum": low + width},
            st.integers(-99, 99),
            st.integers(0, 50),
        ),
        st.builds(
            lambda low, width: {"type": "number", "minimum": low, "maximum": low + width},
            st.integers(-9, 9),
            st.integers(0, 5),
        ),
        st.builds(
            lambda low, width: {"type": "string", "minLength": low, "maxLength": low + width},
            st.integers(0, 40),
            st.integers(0, 20),
        ),
        st.builds(
            lambda members: {"enum": members}, st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)
        ),
        st.fixed_dictionaries(
            {
                "type": st.just("string"),
                "format": st.sampled_from(["date", "date-time", "email", "uuid", "ipv4", "uri", "time", "hostname"]),
            }
        ),
        st.builds(lambda step: {"type": "integer", "minimum": 0, "multipleOf": step}, st.integers(1, 7)),
        st.just({"type": ["string", "null"]}),
        st.just({"const": 3}),
    ),
    lambda parts: st.one_of(
        st.builds(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": list(fields),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from(["a", "b", "confidence", "label"]), parts, max_size=3),
        ),
        st.builds(
            lambda part, low: {"type": "array", "items": part, "minItems": low, "maxItems": low + 2},
            parts,
            st.integers(0, 3),
        ),
        st.builds(lambda one, two: {"anyOf": [one, two]}, parts, parts),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(schema=SCHEMAS, seed=st.text(max_size=4), right=st.booleans())
def test_every_answer_satisfies_its_schema(schema, seed, right):
    value = instance_of(schema, Hints(seed=seed, label="pos", right=right, words=("one", "two")))
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)


def test_a_recursive_schema_ends_and_is_satisfied():
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "many": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "next", "many"],
            }
        },
    }
    value = instance_of(schema, Hints(seed="s", label=None, right=True, words=()))
    jsonschema_rs.validator_for(schema).validate(value)
    assert len(json.dumps(value)) < 1_000_000


def test_without_a_schema_the_answer_is_the_label_or_an_object_or_words():
    plain = answer(Question(model="m", text=TEXTS[0], chars=9), seed=1, accuracy=1.0, gold=GOLD)
    boxed = answer(Question(model="m", text=TEXTS[0], chars=9, json_only=True), seed=1, accuracy=1.0, gold=GOLD)
    unknown = answer(Question(model="m", text="What is this?", chars=9), seed=1, accuracy=1.0, gold=GoldTable())
    assert (plain.content, json.loads(boxed.content)) == ("pos", {"answer": "pos"})
    assert unknown.content == "What is this?"
    assert (plain.input_tokens, plain.output_tokens) == (3, 1)


def test_a_price_that_half_of_does_not_exist_in_nano_dollars_is_refused(tmp_path):
    with pytest.raises(ValueError, match="whole number of nano-dollars"):
        SimulatorConfig(data_dir=tmp_path, prices={"m": Price(input_nanos=75, output_nanos=300)})


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("row_500=0.05", {"rate": 0.05, "nth": (), "transient": True}),
        ("row_400=0.05", {"rate": 0.05, "transient": False}),
        ("row_400=1,transient=yes", {"rate": 1.0, "transient": True}),
        ("accept_then_500@1,3", {"rate": 0.0, "nth": (1, 3)}),
        ("expire=0.2,share=0.4", {"rate": 0.2, "share": 0.4}),
        ("accept_then_hang@2,seconds=5", {"nth": (2,), "seconds": 5.0}),
        ("shuffled=0", {"rate": 0.0}),
        ("status_flap", {"rate": 1.0}),
    ],
)
def test_a_fault_is_written_in_one_word_on_the_command_line(text, fields):
    fault, rule = parse_fault(text)
    assert text.startswith(fault)
    assert {name: getattr(rule, name) for name in fields} == fields


@pytest.mark.parametrize(
    "text", ["nobody=1", "row_500=often", "row_500=1,2", "row_500@0", "row_500@", "expire=1,share=3", ""]
)
def test_a_fault_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="fault"):
        parse_fault(text)


@given(
    content=st.binary(max_size=400).map(lambda data: data.replace(b"--edge", b"")),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20),
)
def test_a_form_is_read_the_same_in_pieces_of_any_size(content, sizes):
    head = b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    file = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\nContent-Type: x/y\r\n\r\n'
    body, got = head + file + content + b"\r\n--edge--\r\n", []
    form = FormReader(b"edge", file_field="file", sink=got.append)
    turn = 0
    while body:
        size = sizes[turn % len(sizes)]
        form.feed(body[:size])
        body, turn = body[size:], turn + 1
    form.close()
    assert (b"".join(got), form.fields, form.filename) == (content, {"purpose": "batch"}, "in.jsonl")


def test_a_form_that_ends_early_is_refused():
    form = FormReader(b"edge", file_field="file", sink=lambda _: None)
    form.feed(b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhalf')
    with pytest.raises(MultipartError):
        form.close()


ADDRESS_SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["street", "PO box", "unparseable"]},
        "components": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"enum": ["number", "street", "city"]}, "value": {"type": "string"}},
                "required": ["name", "value"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["label", "components"],
    "additionalProperties": False,
}


def _address(n):
    parts = (("number", str(n)), ("street", f"Main {n}"), ("city", f"Springfield {n}"))
    return {"label": "street", "components": [{"name": name, "value": value} for name, value in parts]}


def test_a_whole_answer_is_told_as_it_is_or_with_one_mistake_that_the_schema_allows():
    texts = [f"{n} Main {n}, Springfield {n}" for n in range(400)]
    gold = gold_from_pairs((text, _address(n)) for n, text in enumerate(texts))
    told = [_answered(text, ADDRESS_SCHEMA, accuracy=0.6, gold=gold) for text in texts]
    wrong = [(n, found) for n, found in enumerate(told) if found != _address(n)]
    assert 0.3 < len(wrong) / len(texts) < 0.5
    assert all(jsonschema_rs.is_valid(ADDRESS_SCHEMA, found) for found in told)
    kinds = {_kind_of(_address(n), found) for n, found in wrong}
    assert kinds == {"relabelled", "left out", "exchanged", "invented"}


def _kind_of(right, wrong):
    if right["label"] != wrong["label"] or _names(right) != _names(wrong):
        return "relabelled" if len(right["components"]) == len(wrong["components"]) else "left out"
    before, after = (sorted(item["value"] for item in each["components"]) for each in (right, wrong))
    return "exchanged" if before == after else "invented"


def _names(value):
    return [item["name"] for item in value["components"]]


def test_a_mistake_is_the_same_every_time_and_an_answer_without_room_for_one_stays_right():
    gold = gold_from_pairs([("the text", _address(7))])
    assert _answered("the text", ADDRESS_SCHEMA, accuracy=0.0, gold=gold) == _answered(
        "the text", ADDRESS_SCHEMA, accuracy=0.0, gold=gold
    )
    only = {"type": "object", "properties": {"label": {"const": "street"}}, "required": ["label"]}
    assert _answered("x", only, accuracy=0.0, gold=gold_from_pairs([("x", {"label": "street"})])) == {"label": "street"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    st.text(max_size=4),
)
def test_a_mistake_in_any_value_is_made_without_failing(value, seed):
    made = mistaken({"value": value}, None, seed)
    assert set(made) == {"value"}
