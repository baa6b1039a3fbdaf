"""What people are told of a job that looks things up: mistakes, missing sources, what would be asked, what was."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from batchmill.agents.cli.door import Door
from batchmill.agents.cli.examining import Level, _jobs, _tools
from batchmill.agents.cli.looked_up import looked_up, source_troubles
from batchmill.agents.cli.planned import tell_plan
from batchmill.agents.cli.program import run
from batchmill.agents.cli.status import lines, plain, read_report
from batchmill.agents.jobs import JobFileError, load_job
from batchmill.agents.jobs.planning import plan_job
from batchmill.agents.projector import ViewStore
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.story import raw_story
from batchmill.schemas.asking import FetchSpec, LookupSpec, ToolsSpec
from batchmill.schemas.codec import encode
from batchmill.schemas.records import Origin
from batchmill.schemas.state import Arrival
from batchmill.schemas.versions import version_of
from batchmill.streams.costing import parse_prices
from batchmill.streams.events import RawLimits
from batchmill.streams.looking_up import WAITS
from tests.agents.test_cli_jobs import Rec
from tests.agents.tool_worlds import fill_sqlite, serving, set_up
from tests.streams.making import make_row, make_spec

LOOKUP = LookupSpec(source="shop", sql="SELECT name\n FROM items WHERE sku = :sku", params={"sku": "$.sku"})
TOOLS = ToolsSpec(
    lookup=LOOKUP,
    fetch=FetchSpec(api="stock", path="/items/{sku}", params={"sku": "$.sku"}),
    calculate={"known": "size(tools.lookup) > 0"},
)
SPEC = replace(make_spec(), ask=replace(make_spec().ask, tools=TOOLS))
JOB = """\
job: shop
input: {schema: input.schema.json}
ask:
  prompt: {user: user.j2}
  model: {provider: openai, name: gpt-5-mini}
  tools:
    lookup:
      source: shop
      sql: SQL
      params: {sku: $.sku}
    calculate: {known: "size(tools.lookup) > 0"}
place: {sink: sqlite, table: shop}
"""


def a_folder(directory: Path, sql: str = "SELECT name FROM items WHERE sku = :sku") -> Path:
    folder = directory / "jobs" / "shop"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(JOB.replace("SQL", f'"{sql}"'), encoding="utf-8")
    (folder / "user.j2").write_text("{{ input.sku }} is {{ input.tools.lookup[0].name }}", encoding="utf-8")
    (folder / "input.schema.json").write_text('{"type":"object","properties":{"sku":{}},"required":["sku"]}')
    return folder


def test_a_template_may_read_what_is_looked_up_though_no_event_has_it(tmp_path: Path) -> None:
    loaded = load_job(a_folder(tmp_path))
    assert not [warning for warning in loaded.warnings if "tools" in str(warning)]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DELETE FROM items WHERE sku = :sku", "must begin with SELECT"),
        ("SELECT name FROM items WHERE sku = :other", "names :other"),
        ("SELECT name FROM items", "does not use the parameter 'sku'"),
    ],
)
def test_a_mistake_is_told_at_its_line(tmp_path: Path, sql: str, told: str) -> None:
    with pytest.raises(JobFileError) as error:
        load_job(a_folder(tmp_path, sql))
    (problem,) = [each for each in error.value.problems if each.level == "error"]
    assert told in problem.what
    assert problem.line == 9


def test_validate_warns_of_a_source_that_the_settings_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_folder(tmp_path)
    assert run(["job", "validate", str(folder)]) == 0
    assert "no database shop in the settings" in capsys.readouterr().err
    monkeypatch.setenv("BATCHMILL_DATABASES__SHOP__SQLITE_PATH", str(tmp_path / "shop.sqlite"))
    assert run(["job", "validate", str(folder)]) == 0
    assert "no database" not in capsys.readouterr().err


def test_each_source_that_is_missing_says_what_to_set() -> None:
    troubles = {steps[2]: (what, hint) for steps, what, hint in source_troubles(set_up(), SPEC)}
    assert "BATCHMILL_DATABASES__SHOP__SQLITE_PATH" in troubles["lookup"][1]
    assert "BATCHMILL_APIS__STOCK__BASE_URL" in troubles["fetch"][1]
    assert not list(source_troubles(set_up(), make_spec()))


def test_plan_shows_what_would_be_asked_and_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    samples = [(None, b'{"body": "on fire", "sku": "A/1"}'), (None, b'{"body": "on fire"}')]
    prices, limits = parse_prices('{"models": {}}'), RawLimits()
    made = plan_job(SPEC, active=None, samples=samples, prices=prices, limits=limits, now_ms=1)
    assert [(sample.outcome, sample.reason) for sample in made.samples] == [
        ("asked", None),
        ("dead_lettered", "tool_failed"),
    ]
    tell_plan(Door(), made, stake=None, priced_by="unpriced", records=None)
    out = capsys.readouterr().out
    assert "first look up in shop: SELECT name FROM items WHERE sku = :sku with sku='A/1'" in out
    assert "first fetch from stock: GET /items/A%2F1" in out
    assert "without what is to be looked up" in out
    assert "with it, questions are longer and cost more" in out


def test_plan_of_a_question_that_cannot_be_written_without_the_answers(capsys: pytest.CaptureFixture[str]) -> None:
    spec = replace(SPEC, ask=replace(SPEC.ask, user="{{ input.tools.lookup[0].name }}"))
    samples = [(None, b'{"body": "on fire", "sku": "A1"}')]
    prices, limits = parse_prices('{"models": {}}'), RawLimits()
    made = plan_job(spec, active=None, samples=samples, prices=prices, limits=limits, now_ms=1)
    assert made.samples[0].outcome == "looked_up"
    tell_plan(Door(), made, stake=None, priced_by="unpriced", records=None)
    assert "first look up in shop" in capsys.readouterr().out


async def test_doctor_tries_the_sources_and_names_those_that_a_job_lacks(tmp_path: Path) -> None:
    a_folder(tmp_path)
    with serving() as shelf:
        settings = set_up(
            databases__shop__sqlite_path=fill_sqlite(tmp_path / "shop.sqlite"),
            databases__gone__sqlite_path=tmp_path / "gone.sqlite",
            apis__stock__base_url=shelf.url,
            jobs_dir=tmp_path / "jobs",
        )
        found = {each.what: each.level async for each in _tools(settings)}
        assert found == {"database shop": Level.OK, "database gone": Level.FAIL, "api stock": Level.OK}
        assert [each.level for each in _jobs(settings)] == [Level.OK]
    lacking = _jobs(set_up(jobs_dir=tmp_path / "jobs"))
    assert [(each.what, each.level) for each in lacking] == [("job shop", Level.FAIL)]


def a_view(directory: Path) -> Path:
    """Of a task that knows the job and has two events that wait for a look-up."""
    path, fold = directory / "view.sqlite", Fold(raw_generation=1)
    rows = [
        make_row(SPEC),
        *(
            Arrival(
                job="triage",
                waiting_for=WAITS,
                since_ms=1,
                origin=Origin(generation=1, partition=0, offset=offset, at_ms=1),
            )
            for offset in range(2)
        ),
    ]
    recs = [Rec(at, 1_000 + at, f"{row.schema}/{row.key}".encode(), encode(row)) for at, row in enumerate(rows)]
    fold.add("state", 0, recs)
    with ViewStore(path, identity={}) as store:
        store.write(fold.statements(), {})
    return path


def test_status_counts_what_waits_for_a_look_up(tmp_path: Path) -> None:
    path = a_view(tmp_path)
    report = read_report(Door(flags={"view.path": str(path)}), job=None)
    assert "2 records of triage wait for what is looked up for them" in lines(report, None)
    assert plain(report, None)["waiting_for_tools"] == {"triage": 2}
    other = read_report(Door(flags={"view.path": str(path)}), job="other")
    assert plain(other, None)["waiting_for_tools"] == {}
    with View(path) as view:
        assert "looked up" in (raw_story(view, (1, 0, 0)).waits_for or "")


def test_explain_tells_apart_what_was_asked_and_what_was_found(tmp_path: Path) -> None:
    item = {"sku": "A1", "tools": {"lookup": [{"name": "lamp"}], "fetch": None, "known": True}}
    with View(a_view(tmp_path)) as view:
        found = looked_up(view, "triage", version_of(SPEC), orjson.dumps(item).decode())
        assert looked_up(view, "triage", "unheard-of", "{}") is None
    assert found is not None
    assert found["lookup"]["params"] == {"sku": "A1"}
    assert found["lookup"]["found"] == [{"name": "lamp"}]
    assert (found["fetch"]["path"], found["fetch"]["found"], found["known"]["found"]) == ("/items/A1", None, True)
