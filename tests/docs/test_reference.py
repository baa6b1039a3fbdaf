"""The reference pages are what the code says, and nothing public is left out or left without a sentence."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from batchmill.agents.cli.exit_codes import MEANINGS, ExitCode
from batchmill.agents.jobs.loader import job_schema
from batchmill.agents.runtime.failstop import Exit
from batchmill.agents.settings import AccountSettings, Settings, env_name
from batchmill.agents.settings_tools import ApiSettings, DatabaseSettings
from batchmill.agents.telemetry.names import METRICS, SPANS, prometheus_name
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Status
from batchmill.streams.lifecycle import FACTS
from batchmill.streams.topology import TOPICS, topic_name
from tests.chaos.invariants import names
from tests.docs.generate import PAGES, REFERENCE, ROOT, commands, made
from tests.docs.sources import comments_of
from tests.simulation.invariants import INVARIANTS

#: groups of which there are several: the name that one of them has on the page, and what it is
NAMED: dict[str, tuple[str, type[BaseModel]]] = {
    "accounts": ("openai", AccountSettings),
    "databases": ("shop", DatabaseSettings),
    "apis": ("stock", ApiSettings),
}


def _page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def _settings(group: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """(dotted name, description) of every setting, of each group by name under the name that its page has."""
    for name, field in group.model_fields.items():
        example, kind = NAMED.get(name, ("", field.annotation))
        path = f"{prefix}{name}{example and f'.{example}'}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{path}.")
        else:
            yield path, field.description


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_the_generator_makes(page: str):
    assert _page(page) == made(page), "run `python -m tests.docs.generate` and look at what changed"


def test_there_is_no_other_page_among_them():
    assert {file.name for file in REFERENCE.iterdir()} == set(PAGES)


def test_every_setting_is_on_its_page_with_its_variable_and_a_sentence():
    page = _page("settings.md")
    settings = dict(_settings(Settings))
    assert {name for name in settings if f"| `{name}` |" not in page} == set()
    assert {name for name in settings if f"`{env_name(name)}`" not in page} == set()
    assert {name for name, description in settings.items() if not description} == set()


def test_every_metric_and_span_is_on_its_page_under_both_names():
    page = _page("metrics.md")
    assert {name for name in METRICS if f"| `{name}` | `{prometheus_name(name)}` |" not in page} == set()
    assert {name for name in SPANS if f"| `{name}` |" not in page} == set()


def test_every_topic_status_fact_and_reason_is_on_its_page():
    topics, life = _page("topics.md"), _page("lifecycle.md")
    assert {each.name for each in TOPICS if f"`{topic_name('batchmill', each.name)}`" not in topics} == set()
    assert {status for status in Status if f"| `{status}` |" not in life} == set()
    assert {fact.__name__ for fact in FACTS if f"| {fact.__name__} |" not in life} == set()
    assert {reason for reason in Reason if f"| `{reason}` |" not in life} == set()


def test_every_command_explains_itself_and_shows_an_example():
    page = _page("cli.md")
    leaves = [(words, context.command) for words, context in commands() if not hasattr(context.command, "commands")]
    assert len(leaves) > 20
    assert {words for words, _ in commands() if f"\n## {' '.join(words)}\n" not in page} == set()
    assert {words for words, command in leaves if "Example" not in (command.help or "")} == set()


def test_every_option_and_argument_has_a_sentence():
    unexplained = {
        (*words, parameter.name)
        for words, context in commands()
        for parameter in context.command.params
        if not getattr(parameter, "help", None)
    }
    assert unexplained == set()


def test_every_read_of_the_command_line_has_json():
    reads = {"show", "list", "status", "explain", "plan", "verify", "doctor"}
    without = {words for words, context in commands() if words[-1] in reads and "--json" not in _options(context)}
    assert without == set()


def _options(context: Any) -> set[str]:
    return {name for parameter in context.command.params for name in parameter.opts}


def test_every_exit_code_of_commands_and_workers_has_a_meaning():
    page = _page("exit-codes.md")
    workers = comments_of(ROOT / "agents/batchmill/agents/runtime/failstop.py", "Exit")
    assert {code for code in ExitCode if f"| {code.value} | {MEANINGS[code]} |" not in page} == set()
    assert {code for code in Exit if f"| {code.value} | `{code.name}` | {workers[code.name]} |" not in page} == set()
    assert all(workers[code.name] for code in Exit)


def test_no_exit_code_says_one_thing_of_a_command_and_another_of_a_worker():
    assert {int(code) for code in ExitCode} & {int(code) for code in Exit} == set()


def test_the_job_page_has_every_member_of_the_job_schema():
    page, missing = _page("job.md"), []
    todo: list[tuple[str, Any]] = [("", job_schema())]
    while todo:
        prefix, part = todo.pop()
        for name, member in part.get("properties", {}).items():
            todo.append((f"{prefix}{name}.", member))
            if f"| `{prefix}{name}` |" not in page:
                missing.append(f"{prefix}{name}")
    assert missing == []


def test_every_law_is_on_its_page_with_a_sentence_and_those_measured_were_seen_red():
    page = _page("laws.md")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} == {*INVARIANTS, *names()}
    assert [name for name, says, _ in rows if not says] == []
    assert [name for name, _, red in rows if name in names() and name not in INVARIANTS and red == "-"] == []
