"""A job folder with routes: what is wrong with them, whom each asks, what they cost, and what is sent for each."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.accounts import account_trouble
from batchmill.agents.cli.program import run
from batchmill.agents.jobs import JobFileError, load_job
from batchmill.agents.jobs.planning import plan_job
from batchmill.agents.prices import prices_for
from batchmill.agents.prices.sources import parse_list
from batchmill.agents.settings import load_settings
from batchmill.streams.costing import expected_nanos
from batchmill.streams.events import RawLimits
from batchmill.streams.routing import models_of

LIST = parse_list(
    b'{"models": {"small": {"input": "1", "output": "4"}, "large": {"input": "10", "output": "40"}}}',
    source="test",
    as_of="2026-01-01",
)
JOB = """\
job: triage
ask:
  prompt: {user: user.j2}
  model: {provider: openai, name: small, params: {max_output_tokens: 100}}
  routes:
    - name: long
      when: size(input.body) > 20
      model: {provider: openai, name: large, params: {max_output_tokens: 100}}
    - name: again
      model: {provider: openai, name: large, account: other, params: {max_output_tokens: 100}}
      prompt: {user: again.j2}
  cascade: {routes: [again], on: [rejected]}
place: {sink: sqlite, table: triage}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user.j2").write_text("Sort this.\n{{ input.body }}")
    (tmp_path / "again.j2").write_text("Sort this, with care.\n{{ input.body }}")
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def mistakes(folder: Path, old: str, new: str) -> list[str]:
    (folder / "job.yaml").write_text(JOB.replace(old, new))
    with pytest.raises(JobFileError) as caught:
        load_job(folder)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems if problem.level == "error"]


def test_a_folder_with_routes_is_read_as_it_stands(folder: Path) -> None:
    ask = load_job(folder).spec.ask
    assert [(route.name, route.when) for route in ask.routes] == [("long", "size(input.body) > 20"), ("again", None)]
    assert (ask.cascade, ask.escalate_on) == (("again",), ("rejected",))
    assert (ask.routes[0].user, ask.routes[1].user) == (None, "Sort this, with care.\n{{ input.body }}")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("size(input.body) > 20", "size(", "job.yaml:7: error: ask.routes[0].when: "),
        ("large, params", "large, endpoint: /v1/no, params", "job.yaml:8: error: ask.routes.0.model.endpoint: "),
        ("openai, name: large, acc", "opnai, name: large, acc", "job.yaml:10: error: ask.routes.1.model.provider: "),
        ("[again], on", "[agian], on", "job.yaml:12: error: ask.cascade: must name routes"),
        ("again.j2", "nowhere.j2", "job.yaml:11: error: "),
    ],
)  # fmt: skip
def test_a_mistake_in_a_route_is_told_at_its_line(folder: Path, old: str, new: str, told: str) -> None:
    assert any(each.startswith(told) for each in mistakes(folder, old, new)), mistakes(folder, old, new)


def test_a_mistake_in_a_routes_template_is_told_in_its_file(folder: Path) -> None:
    (folder / "again.j2").write_text("Sort this.\n{{ body }}")
    (found,) = mistakes(folder, "", "")
    assert found.startswith("again.j2:1: error: user template: 'body' is unknown")


def test_every_model_of_the_job_is_priced_when_it_is_applied(folder: Path) -> None:
    spec = load_job(folder).spec
    assert sorted(prices_for(spec, LIST).models) == ["large", "small"]
    alone = replace(spec, ask=replace(spec.ask, routes=(), cascade=()))
    assert sorted(prices_for(alone, LIST).models) == ["small"]


def test_every_account_of_the_job_is_looked_for(folder: Path) -> None:
    settings = load_settings({"accounts.openai.api_key": "x"})
    models = models_of(load_job(folder).spec.ask)
    troubles = {where: account_trouble(settings, model) for where, model in models.items()}
    assert troubles["$.ask.model"] is troubles["$.ask.routes[0].model"] is None
    assert troubles["$.ask.routes[1].model"] is not None


def test_a_budget_is_refused_where_any_model_has_no_price(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "job.yaml").write_text(JOB + "budget: {job_usd: 1}\n")
    (folder / "prices.json").write_text('{"models": {"small": {"input": "1", "output": "4"}}}')
    words = ["--set", f"prices_file={folder / 'prices.json'}", "job", "validate", str(folder)]
    assert run(words) != 0
    assert "the price list has no model 'large'" in capsys.readouterr().err


def test_a_plan_tells_which_route_each_sample_takes_and_what_that_costs(folder: Path) -> None:
    spec = load_job(folder).spec
    told = plan(spec, "short", "a body that is longer than that")
    assert [(sample.route, sample.model) for sample in told.samples] == [("", "small"), ("long", "large")]
    for sample, model in zip(told.samples, ("small", "large"), strict=True):
        expected = expected_nanos(LIST, model, "batch", input_tokens=sample.tokens, output_tokens_max=100)
        assert sample.expected_nanos == expected


def test_a_changed_template_of_a_route_is_shown_line_by_line(folder: Path) -> None:
    spec = load_job(folder).spec
    changed = replace(spec.ask.routes[1], user="Sort this, with great care.\n{{ input.body }}")
    told = plan(replace(spec, ask=replace(spec.ask, routes=(spec.ask.routes[0], changed))), active=spec)
    (text,) = told.texts
    assert text.member == "ask.routes[again].user"
    assert "+Sort this, with great care." in text.lines
    assert told.asks_again


def plan(spec: Any, *bodies: str, active: Any = None) -> Any:
    samples = [(None, json.dumps({"body": body}).encode()) for body in bodies]
    return plan_job(spec, active=active, samples=samples, prices=LIST, limits=RawLimits(), now_ms=1)
