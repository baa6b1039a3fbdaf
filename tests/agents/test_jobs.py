"""A job folder is read into one frozen spec, and every mistake in it is told with its line."""

import json
from dataclasses import fields
from pathlib import Path

import jsonschema_rs
import pytest

from batchmill.agents.jobs import JobFileError, job_schema, load_job
from batchmill.agents.jobs.lines import read_yaml
from batchmill.agents.jobs.resolving import seconds_of
from batchmill.schemas.asking import NearSpec
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import (
    BudgetSpec,
    CheckKind,
    ChunkSpec,
    JobSpec,
    OnlineSpec,
    RetrySpec,
    Severity,
    TruncationSpec,
)
from batchmill.schemas.promotion import GateSpec, JoinSpec, ScheduleSpec, ThenSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.versions import version_of

INPUT = {"type": "object", "properties": {"subject": {"type": "string"}, "body": {"type": "string"}}}
OUTPUT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["label", "confidence"],
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}, "confidence": {"type": "number"}},
}
SMALL = """\
job: triage
ask:
  prompt: {user: user.j2}
  model: {provider: openai, name: gpt-5-mini, params: {max_output_tokens: 9}}
place: {sink: sqlite, table: triage}
"""
WITH_OUTPUT = SMALL.replace("place:", "  output: output.schema.json\nplace:")
FULL = """\
job: triage
id: $.ticket_id
seq: $.updated_at
dedupe: near
input:
  schema: input.schema.json
  required: [subject]
  text: {normalize: none, strip_control: false, max_chars: {body: 8000}}
  filter: "size(input.body) > 20"
ask:
  prompt: {system: system.j2, user: user.j2}
  model: {provider: openai, name: gpt-5-mini, account: team-b, params: {temperature: 0, max_output_tokens: 9}}
  output: {schema: output.schema.json, name: ticket}
mode:
  {prefer: auto, deadline: 6h, hold: submit, online: {max_count: 8, on_unknown: dead},
  chunk: {max_count: 10, max_bytes: 1000, max_tokens: 99, max_age: 500ms}}
judge:
  required: [label]
  categories: {label: [a, b]}
  lengths: {label: {min: 1, max: 9}}
  confidence: {field: confidence, review_below: 0.7}
  review: {sample: 0.02}
  on_reject: review
  severity: {length: warn}
retry:
  {max_attempts: 5, backoff: 30s, backoff_max: 1h, truncated: {factor: 1.5, times: 2},
  on: {truncated: {max_attempts: 2, backoff: 0}}}
place: {sink: sqlite, table: triage, key: $.ticket_id}
budget: {job_usd: 12.5, record_usd: 0.01}
drift: {field: label, against: current, policy: pause, signals: [classes, input_length]}
near: {threshold: 0.8}
gate: {min_accuracy: 0.9, max_cost_ratio: 1.2, live_sample: 0.05}
then: [{job: extract, when: "output.label == 'order'", split: $.output.items}]
join: {deadline: 10m, on_missing: ask}
schedule: [{cron: "0 2 * * *", select: failed, max_usd: 1.5}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "input.schema.json").write_text(json.dumps(INPUT))
    (tmp_path / "output.schema.json").write_text(json.dumps(OUTPUT))
    (tmp_path / "system.j2").write_text("You sort tickets.")
    (tmp_path / "user.j2").write_text("{{ input.subject }}\n{{ input.body }}")
    (tmp_path / "job.yaml").write_text(SMALL)
    return tmp_path


def mistakes(folder: Path, text: str) -> list[str]:
    (folder / "job.yaml").write_text(text)
    with pytest.raises(JobFileError) as caught:
        load_job(folder)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def oddities(folder: Path) -> list[str]:
    """What is warned of besides the words of the prompt."""
    return [problem.what for problem in load_job(folder).warnings if problem.lint is None]


def test_the_smallest_job_takes_every_default(folder: Path) -> None:
    loaded = load_job(folder)
    assert [problem.lint for problem in loaded.warnings] == ["undeclared-input"]
    assert loaded.version == version_of(loaded.spec)
    assert loaded.spec.ask.model.account == "openai"
    assert loaded.spec.mode.chunk == ChunkSpec()
    assert loaded.spec.retry == RetrySpec()


def test_a_full_job_says_everything_the_spec_can_hold(folder: Path) -> None:
    (folder / "job.yaml").write_text(FULL)
    spec = load_job(folder / "job.yaml").spec
    assert JobSpec.from_json(spec.to_json()) == spec
    assert (spec.id_path, spec.seq, spec.dedupe) == ("$.ticket_id", "$.updated_at", "near")
    assert (spec.input.normalize, spec.input.strip_control, spec.input.max_chars) == (None, False, {"body": 8000})
    assert (spec.ask.output_name, spec.ask.model.account) == ("ticket", "team-b")
    assert spec.mode.hold_submit
    assert spec.mode.chunk == ChunkSpec(max_count=10, max_bytes=1000, max_tokens=99, max_age_seconds=0.5)
    assert spec.judge.severity == {CheckKind.LENGTH: Severity.WARN}
    assert spec.judge.review_sample == 0.02
    assert (spec.retry.backoff_seconds_base, spec.retry.backoff_seconds_max) == (30, 3600)
    assert spec.retry.on[Reason.TRUNCATED].max_attempts == 2
    assert spec.place.key == "$.ticket_id"


def test_the_grammar_can_say_every_part_of_the_spec(folder: Path) -> None:
    (folder / "job.yaml").write_text(FULL)
    spec = load_job(folder).spec
    plain = json.loads(spec.to_json())
    at_default = {field.name for field in fields(JobSpec) if plain[field.name] is None}
    assert at_default == {"prices_json"}  # frozen by `job apply`, not written by people
    assert spec.drift is not None
    assert (spec.drift.field, spec.drift.against, spec.drift.policy) == ("label", "current", "pause")
    assert spec.drift.signals == (DriftSignal.CLASSES, DriftSignal.INPUT_LENGTH)
    assert spec.budget == BudgetSpec(job_nanos=12_500_000_000, record_nanos=10_000_000)
    assert (spec.mode.deadline_seconds, spec.mode.online) == (21_600, OnlineSpec(max_count=8, on_unknown="dead"))
    assert spec.retry.truncated == TruncationSpec(factor=1.5, times=2)
    assert spec.near == NearSpec(threshold=0.8)
    assert spec.gate == GateSpec(min_accuracy=0.9, max_cost_ratio=1.2, live_sample=0.05)
    assert spec.then == (ThenSpec(job="extract", when="output.label == 'order'", split="$.output.items"),)
    assert spec.join == JoinSpec(deadline_seconds=600, on_missing="ask")
    assert spec.schedules == (ScheduleSpec(cron="0 2 * * *", select="failed", max_nanos=1_500_000_000),)


def test_a_schedule_may_be_no_more_than_its_cron(folder: Path) -> None:
    (folder / "job.yaml").write_text(SMALL + 'schedule: "0 2 * * *"\n')
    assert load_job(folder).spec.schedules == (ScheduleSpec(cron="0 2 * * *"),)


def test_the_published_schema_agrees_with_the_spec(folder: Path) -> None:
    schema = job_schema()
    jsonschema_rs.meta.validate(schema)
    parts = schema["properties"]
    chunk = parts["mode"]["properties"]["chunk"]["properties"]
    assert {name: chunk[name]["default"] for name in ("max_count", "max_bytes", "max_tokens", "max_age")} == {
        "max_count": ChunkSpec().max_count,
        "max_bytes": ChunkSpec().max_bytes,
        "max_tokens": ChunkSpec().max_tokens,
        "max_age": ChunkSpec().max_age_seconds,
    }
    drift = parts["drift"]["properties"]
    given = {name: drift[name]["default"] for name in drift if "default" in drift[name]}
    assert given == {name: getattr(DriftSpec(), name) for name in given}
    assert drift["signals"]["items"]["enum"] == list(DriftSignal)
    retry = parts["retry"]["properties"]
    assert retry["max_attempts"]["default"] == RetrySpec().max_attempts
    assert retry["backoff"]["default"] == RetrySpec().backoff_seconds_base
    assert retry["backoff_max"]["default"] == RetrySpec().backoff_seconds_max
    severity = parts["judge"]["properties"]["severity"]
    assert severity["propertyNames"]["enum"] == [str(kind) for kind in CheckKind]
    assert severity["additionalProperties"]["enum"] == [str(each) for each in Severity]
    jsonschema_rs.validate(schema, read_yaml(folder / "job.yaml").data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALL + "judgee: {}\n", "job.yaml:6: error: unknown member `judgee` (did you mean `judge`?)"),
        (
            SMALL.replace("provider: openai", "provder: openai"),
            "job.yaml:4: error: unknown member `provder` in ask.model (did you mean `provider`?)",
        ),
        (SMALL.replace("job: triage\n", ""), "job.yaml:1: error: the job needs the member `job`"),
        (SMALL + "retry: {max_attempts: 0}\n", "job.yaml:6: error: retry.max_attempts must be at least 1"),
        (SMALL + "retry: {backoff: soon}\n", "must be seconds or a duration such as 30s, 15m, 6h"),
        (SMALL + "seq: updated\n", "job.yaml:6: error: seq must be `log` or a path such as $.updated_at"),
        (SMALL + "mode:\n  prefer: post\n", "job.yaml:7: error: mode.prefer must be one of: batch, online, auto"),
        (SMALL + "job: again\n", "job.yaml:6: error: 'job' is said twice (keep one of them)"),
        (SMALL + "a: [\n", "is not YAML"),
        (SMALL + "retry: &x {max_attempts: 1}\nmode: *x\n", "job.yaml:7: error: is not YAML: anchors are not read"),
        (SMALL.replace("user.j2", "nowhere.j2"), "job.yaml:3: error: nowhere.j2 cannot be read: No such file"),
        (SMALL.replace("user.j2", "../x.j2"), "job.yaml:3: error: ../x.j2 lies outside the job's folder"),
        (SMALL + "retry: {on: {duplicate: {max_attempts: 1}}}\n", "is no reason that is ever retried"),
        (SMALL + "retry: {backoff: 2h}\n", "job.yaml:6: error: retry.backoff_max: must not be below backoff"),
        (SMALL + "mode: {prefer: auto}\n", "job.yaml:6: error: mode.deadline: must be there"),
        (SMALL + "budget: {job_usd: 0}\n", "job.yaml:6: error: budget.job_usd must be more than 0"),
        (
            SMALL.replace("provider: openai", "provider: opnai"),
            "job.yaml:4: error: ask.model.provider: there is no adapter for 'opnai' (did you mean",
        ),
        (
            SMALL.replace("provider: openai", "provider: bedrock"),
            "no adapter for 'bedrock' (there is one for openai,",
        ),
        (
            SMALL.replace("provider: openai", "provider: mistral, endpoint: /v1/responses"),
            "job.yaml:4: error: ask.model.endpoint: Mistral has no /v1/responses (it has",
        ),
        (SMALL.replace("name: ", "name: '', x: "), "ask.model.name must not be empty"),
        (SMALL + "input: {filter: 'size(input.'}\n", "job.yaml:6: error: input.filter:"),
        (SMALL + "input: {filter: 'size(row.body) > 1'}\n", "unknown variable 'row'"),
        (SMALL + "id: '$.['\n", "job.yaml:6: error: id: cannot read the path"),
        (SMALL + "judge:\n  required: [label]\n", "job.yaml:6: error: judge: looks into the members of an answer"),
        (SMALL.replace("max_output_tokens: 9", "model: y"), "ask.model.params may not set 'model'"),
        (SMALL.replace("table: triage", "table: Triage!"), "job.yaml:5: error: place.table must be 1 to 64 letters"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_to_write(folder: Path, text: str, expected: str) -> None:
    told = mistakes(folder, text)
    assert any(expected in each for each in told), told


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("on_delete: delete", "on_delete"),
    ],
)
def test_what_is_not_supported_yet_is_refused_by_name_not_ignored(folder: Path, section: str, name: str) -> None:
    (told,) = mistakes(folder, SMALL + section + "\n")
    assert told.startswith(f"job.yaml:6: error: `{name}` is not supported by this version of batchmill")


def test_all_mistakes_of_one_reading_are_told_at_once(folder: Path) -> None:
    told = mistakes(folder, SMALL + "retry: {max_attempts: 0}\nmode: {prefer: post}\nnews: 1\n")
    assert [each.split(":")[1] for each in told] == ["6", "7", "8"]


def test_a_template_mistake_is_told_in_the_template(folder: Path) -> None:
    (folder / "user.j2").write_text("fine\n{% if %}\n")
    (told,) = mistakes(folder, SMALL)
    assert told.startswith("user.j2:2: error: user template, line 2:")
    (folder / "user.j2").write_text("{{ event.body }}")
    (told,) = mistakes(folder, SMALL)
    assert "'event' is unknown" in told


def test_a_schema_mistake_is_told_in_the_schema(folder: Path) -> None:
    (folder / "output.schema.json").write_text('{"type": "objekt"}')
    told = mistakes(folder, WITH_OUTPUT)
    assert any(each.startswith("output.schema.json:1: error: ") for each in told), told
    (folder / "output.schema.json").write_text('{\n"type": }')
    (only,) = mistakes(folder, WITH_OUTPUT)
    assert only.startswith("output.schema.json:2: error: is not JSON")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5_000 + "]" * 5_000, "nested too deeply"),
        ('{"maxLength": ' + "9" * 5_000 + "}", "too many digits"),
        ("[]", "no JSON object"),
        ("true", "no JSON object"),
        ("null", "no JSON object"),
    ],
    ids=["deep", "digits", "list", "true", "null"],
)
def test_a_schema_that_is_json_and_nothing_to_send_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "output.schema.json").write_text(text)
    assert any(said in each for each in mistakes(folder, WITH_OUTPUT))


@pytest.mark.parametrize("value", ["[" * 5_000 + "]" * 5_000, "9" * 5_000], ids=["deep", "digits"])
def test_an_example_that_is_too_deep_or_too_long_to_read_is_refused_at_its_line(folder: Path, value: str) -> None:
    (folder / "examples.jsonl").write_text('\n{"input": {"body": ' + value + '}, "output": "a"}\n')
    (only,) = mistakes(folder, SMALL.replace("place:", "  examples: examples.jsonl\nplace:"))
    assert only.startswith("examples.jsonl:2: error: is nested too deeply")


def test_a_judge_that_looks_for_members_the_output_has_not_is_told_at_its_line(folder: Path) -> None:
    (folder / "job.yaml").write_text(FULL.replace("field: confidence", "field: certainty"))
    told = [str(problem).removeprefix(f"{folder}/") for problem in load_job(folder).warnings]
    assert any(each.startswith("job.yaml:21: warning: judge.confidence.field: 'certainty'") for each in told), told


def test_an_answer_without_a_length_limit_is_a_warning(folder: Path) -> None:
    (folder / "job.yaml").write_text(SMALL.replace("max_output_tokens: 9", ""))
    (told,) = oddities(folder)
    assert "as the model can write" in told


def test_what_works_but_is_probably_not_meant_is_a_warning(folder: Path) -> None:
    (folder / "output.schema.json").write_text(json.dumps(OUTPUT | {"additionalProperties": True}))
    (folder / "job.yaml").write_text(FULL.replace("[a, b]", "[a, c]"))
    told = [str(problem) for problem in load_job(folder).warnings]
    assert any("$ `additionalProperties`: OpenAI holds answers only to closed objects" in each for each in told)
    assert any("allows 'c', which the output schema does not" in each for each in told)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x: " + "[" * 5_000, "is nested deeper than 32 levels"),
        ("x: !!binary aGVsbG8=", "tags are not read"),
        ("x: !!timestamp 2026-11-25", "tags are not read"),
        ("x: !!timestamp soon", "tags are not read"),
        ('x: !!int ""', "tags are not read"),
        ("x: !!bool perhaps", "tags are not read"),
        ("x: !!set {a}", "tags are not read"),
        ("x: 1e999", "a number beyond all that are read"),
        ("x: " + "9" * 5_000, "a number beyond all that are read"),
        (r'x: "\ud800"', "half a character"),
        (r'"\ud800": x', "half a character"),
        (r'x: "a\0b"', "the character NUL"),
    ],
    ids=lambda each: each[:24],
)
def test_yaml_that_json_could_not_say_is_refused_with_its_line(folder: Path, line: str, said: str) -> None:
    (folder / "job.yaml").write_text(f"{SMALL}{line}\n", encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        load_job(folder)
    (problem,) = caught.value.problems
    assert said in problem.what
    assert problem.line in {1, SMALL.count("\n") + 1}


def test_words_that_older_yaml_takes_for_booleans_stay_words(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("on: yes\nno: 012\nat: 2026-01-01\nbase: 1:30\nempty:\n")
    assert read_yaml(file).data == {"on": "yes", "no": "012", "at": "2026-01-01", "base": "1:30", "empty": None}


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("1.5m", 90), ("6h", 21_600), ("2d", 172_800), (7, 7)]
)
def test_durations_are_read_as_people_write_them(text: str | int, seconds: float) -> None:
    assert seconds_of(text) == seconds


def told_of(folder: Path, mode: str, provider: str = "openai") -> list[str]:
    """What is said of a job that travels so; errors as well."""
    text = SMALL.replace("provider: openai", f"provider: {provider}") + f"mode: {mode}\n"
    (folder / "job.yaml").write_text(text)
    try:
        return oddities(folder)
    except JobFileError as error:
        return [f"error: {problem.what}" for problem in error.problems if problem.level == "error"]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("{prefer: batch, deadline: 6h}", "mode.deadline is 6h: a batch at OpenAI may take 24h, an answer may be late"),
        ("{prefer: batch, deadline: 1h}", "takes 2h as a rule, most answers are late: say online or auto"),
        (
            "{prefer: batch, deadline: 30s}",
            "somebody is waiting, and a batch may take 24h: this is no work for a batch",
        ),
        ("{prefer: auto, deadline: 1h}", "all of it goes online at full price: say online"),
    ],
)
def test_a_deadline_that_a_batch_may_not_meet_is_a_warning_with_the_way_out(folder: Path, mode: str, said: str) -> None:
    (told,) = told_of(folder, mode)
    assert said in told
    assert not told.startswith("error")


@pytest.mark.parametrize(
    "mode", ["{prefer: batch}", "{prefer: batch, deadline: 24h}", "{prefer: auto, deadline: 6h}", "{prefer: online}"]
)
def test_a_way_that_is_there_and_in_time_is_no_matter(folder: Path, mode: str) -> None:
    assert told_of(folder, mode) == []


@pytest.mark.parametrize("mode", ["{prefer: online}", "{prefer: auto, deadline: 6h}"])
def test_single_questions_at_a_provider_without_them_are_an_error(folder: Path, mode: str) -> None:
    (told,) = told_of(folder, mode, "gemini")
    assert told.startswith("error: mode.prefer is ")
    assert told.endswith("has no endpoint for single questions here: say batch")


def test_where_there_is_no_other_way_only_time_helps(folder: Path) -> None:
    (told,) = told_of(folder, "{prefer: batch, deadline: 10m}", "gemini")
    assert told.endswith("there is no other way at this provider: allow more time")


def with_examples(folder: Path, *lines: str) -> list[str]:
    (folder / "examples.jsonl").write_text("\n".join(lines))
    text = WITH_OUTPUT.replace("place:", "  examples: examples.jsonl\nplace:")
    (folder / "job.yaml").write_text(text + "input: {schema: input.schema.json, required: [subject, body]}\n")
    try:
        return [str(problem).removeprefix(f"{folder}/") for problem in load_job(folder).warnings]
    except JobFileError as error:
        return [str(problem).removeprefix(f"{folder}/") for problem in error.problems if problem.level == "error"]


RIGHT = '{"input": {"subject": "s", "body": "b\u2028c"}, "output": {"label": "a", "confidence": 1}}'


def test_an_example_is_told_at_its_line_in_its_file(folder: Path) -> None:
    assert [each for each in with_examples(folder, RIGHT, "", RIGHT) if each.startswith("examples")] == []
    (told,) = with_examples(folder, RIGHT, "", RIGHT.replace('"a"', '"c"'))
    assert told.startswith("examples.jsonl:3: error: output.label: expected enum")
    assert told.endswith("[unfit-example]")
    (told,) = with_examples(folder, "", RIGHT.replace("subject", "title"))
    assert told.startswith("examples.jsonl:2: error: user template, line 1: a member it uses is absent")
    (told,) = with_examples(folder, RIGHT, "{")
    assert told.startswith("examples.jsonl:2: error: is not JSON")


def test_the_examples_are_frozen_with_the_job(folder: Path) -> None:
    with_examples(folder, RIGHT)
    one = load_job(folder)
    with_examples(folder, RIGHT, RIGHT)
    assert json.loads(one.spec.ask.examples_json or "") == [json.loads(RIGHT)]
    assert one.version != load_job(folder).version


def test_a_remark_on_a_template_is_told_at_its_line_with_its_name(folder: Path) -> None:
    (folder / "user.j2").write_text("Sort properly.\n{{ input.sujbect }}")
    (folder / "job.yaml").write_text(SMALL + "input: {schema: input.schema.json}\n")
    with pytest.raises(JobFileError) as caught:
        load_job(folder)
    told = [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]
    assert told == [
        (
            "user.j2:1: warning: `properly` means something else to every reader "
            "(say what exactly, or put it in quotes if it is a name) [vague-wording]"
        ),
        (
            "user.j2:2: error: reads `input.sujbect`, which the input schema does not declare "
            "(did you mean `subject`?) [unknown-member]"
        ),
    ]


def test_an_output_schema_that_a_provider_refuses_is_an_error_in_the_schema(folder: Path) -> None:
    (folder / "output.schema.json").write_text('{"type": "array", "items": {"type": "string"}}')
    told = mistakes(folder, WITH_OUTPUT)
    assert any(
        each.startswith("output.schema.json:1: error: $ `type`: OpenAI refuses a schema whose root") for each in told
    )
