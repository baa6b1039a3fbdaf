"""Write the reference pages: `python -m tests.docs.generate`.

What lives here: which pages there are and how each is made from the code that it describes. What must not: a fact that
the code does not say. `test_reference.py` holds the committed pages to what this makes.
"""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from batchmill.agents.cli.exit_codes import MEANINGS
from batchmill.agents.cli.program import program
from batchmill.agents.jobs.loader import job_schema
from batchmill.agents.runtime.failstop import Exit
from batchmill.agents.settings_pages import settings_reference
from batchmill.agents.telemetry.names import METRICS, metrics_reference
from batchmill.schemas.reasons import REASONS
from batchmill.schemas.registry import read_lock, subject_of
from batchmill.schemas.status import PLACE_OF_STATUS, Status
from batchmill.streams import lifecycle
from batchmill.streams.topology import STAGES, TOPICS, topic_name
from tests.chaos.test_invariants import BROKEN
from tests.docs.sources import comments_of, docstrings_of
from tests.simulation.bugs import BUGS

__all__ = ["PAGES", "REFERENCE", "commands", "job_table", "made", "main", "unrecorded"]

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
HELP_COLUMNS = 100
PROSE_COLUMNS = 120
_DAY_MS = 86_400_000
_MADE = "<!-- made by `python -m tests.docs.generate`; tests/docs/test_reference.py holds it -->"


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the command line as (words, click context), groups before their members."""
    command = typer.main.get_command(program())
    yield from _walk(command, ("batchmill",), None)


def _walk(command: Any, words: tuple[str, ...], parent: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    sizes = {"terminal_width": HELP_COLUMNS, "max_content_width": HELP_COLUMNS}
    context = command.make_context(words[-1], [], parent=parent, resilient_parsing=True, **sizes)
    yield words, context
    for name, member in getattr(command, "commands", {}).items():
        yield from _walk(member, (*words, name), context)


def _prose(text: str) -> str:
    """Paragraphs, written here as it suits the code, broken as it suits a page."""
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(_filled(each) for each in paragraphs)


def _filled(paragraph: str) -> str:
    words = " ".join(paragraph.split())
    return textwrap.fill(words, PROSE_COLUMNS, break_long_words=False, break_on_hyphens=False)


_SETTINGS = """
    A setting comes from, in this order: a flag (`batchmill --set NAME=VALUE COMMAND`), the environment, the file
    `batchmill.toml` (another one: `BATCHMILL_CONFIG`), its default. `batchmill config show --sources` prints what is
    in force and who said so. A name nobody knows is refused.

    Every account at a provider is a group of its own: `accounts.<name>.base_url`, and so on. The standard `OPENAI_*`
    variables belong to the account `openai`.
"""
_METRICS = """
    Each long-running process serves Prometheus text at `/metrics`. OTLP leaves when the standard `OTEL_*` variables
    name an endpoint. Labels have few values: never a record id, a key or a text. Histograms add `_bucket`, `_sum` and
    `_count` to their Prometheus name.

"""
_TOPICS = """
    One declared table (`streams/batchmill/streams/topology.py`). `batchmill topics plan` compares a cluster with it,
    `batchmill topics apply --yes` makes it so, every worker verifies it before it starts. Names are shown with the
    default `topic_prefix`. All topics have `partitions` partitions, because a partition number is a task, and
    `message.timestamp.type=LogAppendTime`.
"""
_LIFE = """
    A life belongs to one request id. It is moved by facts, and only by this table: each cell names the new status, or
    says that the fact is *stale* (late or repeated: nothing moves, its cost is still posted) or *impossible* (a bug or
    corrupt state: the worker stops). There is no default.
"""
_GUARDS = """
    Two guards stand before the table. A fact of an older attempt, or about an answer the life no longer has, is stale.
    A member of a chunk is not ended from outside, but when its chunk settles.
"""
_REASONS = """
    Why a record did not go the straight way. Metric labels, dead-letter headers and `--json` use these names.
    *Retried*: a later attempt with the same input may pass. *Attempt*: a failure of this kind uses one up. How many
    attempts there are is the job's to say (`retry`).
"""
_WORKER_EXITS = """
    Fail-stop: when nobody knows what is true, the worker leaves at once, without tidying up, and says `fail_stop` with
    the reason in its log. `batchmill up` starts it again after a growing pause; another supervisor should do the same.
    What to do when one repeats: [operations](../operations.md#a-worker-that-stops-itself).
"""
_GROUP_EXITS = """
    `batchmill up` does not restart a process that ended with 0 (it left on purpose) or with 2, 3, 4 or 5 (a person
    must change something; the whole group ends with that code). A worker that finds no broker when it
    starts ends with 75, as every command does, and is started again.
"""
_LAWS = """
    The laws that are held against whole runs, and for each what was broken on purpose to see it go red. How they are
    used: [exactness](../exactness.md).
"""
_SIMULATED = """
    Held by `tests/simulation` after every story: whole lives over the real decisions, with crashes between any two
    steps, duplicates, reordering and a provider that misbehaves, told by a seed. A planted bug takes the place of one
    function, and `test_a_planted_bug_is_caught_by_the_law_that_names_it` fails if its law sees nothing.
"""
_MEASURED = """
    Held by `tests/chaos` after a run on a real broker, from outside: read out of the log by an independent client, the
    sink, and the provider's own ledger; they share no decision with the pipeline. Each is shown to go red by evidence
    that was falsified in one place (`test_a_broken_promise_is_told_by_its_name`).
"""
_JOB = """
    From the published JSON Schema, `agents/batchmill/agents/jobs/job.schema.json`. What they are for, with examples:
    [jobs](../jobs.md). `*` stands for names of yours. A member that is not here is refused.
"""


def settings_page() -> str:
    return f"# Settings\n\n{_prose(_SETTINGS)}\n\n{settings_reference()}"


def metrics_page() -> str:
    silent = [f"`{name}`" for name in METRICS if name in unrecorded()]
    said = f"Declared, and recorded by nothing yet: {', '.join(silent)}." if silent else ""
    return f"# Metrics and spans\n\n{_prose(_METRICS + said)}\n\n{metrics_reference()}"


def unrecorded() -> set[str]:
    """Metrics of the list that no module but the list itself names."""
    modules = [path for path in (ROOT / "agents").rglob("*.py") if path.parts[-2:] != ("telemetry", "names.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    return {name for name in METRICS if f'"{name}"' not in code}


def topics_page() -> str:
    lines = [
        "# Topics",
        "",
        _prose(_TOPICS),
        "",
        "| topic | one record says | key | written by | read by | cleanup | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in TOPICS:
        kept = "for ever" if each.retention_ms < 0 else f"{each.retention_ms // _DAY_MS} days"
        lines.append(
            f"| `{topic_name('batchmill', each.name)}` | {each.says} | {each.key} | {', '.join(each.written_by)} | "
            f"{', '.join(each.read_by)} | {each.cleanup} | {kept} |"
        )
    lines += ["", "## Stages", "", "| agent | takes | gives | what it does |", "|---|---|---|---|"]
    lines += [f"| {each.name} | `{each.takes}` | {_code(each.gives)} | {each.says} |" for each in STAGES]
    lines += ["", "## Schemas", "", *_schema_rows()]
    return "\n".join([*lines, ""])


def _schema_rows() -> Iterator[str]:
    yield "| subject | version | id | text |"
    yield "|---|---|---|---|"
    for one in sorted(read_lock(), key=lambda one: one.id):
        text = f"schemas/batchmill/schemas/avro/history/{one.schema}/v{one.version}.avsc"
        yield f"| `{subject_of(one.schema)}` | {one.version} | {one.id} | [{one.schema}](../../{text}) |"


def _code(text: str | None) -> str:
    return "-" if text is None else f"`{text}`"


def lifecycle_page() -> str:
    meanings = comments_of(ROOT / "schemas/batchmill/schemas/status.py", "Status")
    faults = comments_of(ROOT / "schemas/batchmill/schemas/reasons.py", "Fault")
    lines = [
        "# The life of a record",
        "",
        _prose(_LIFE),
        "",
        "## Statuses",
        "",
        "| status | meaning | counted as |",
        "|---|---|---|",
    ]
    for status in Status:
        place = (
            PLACE_OF_STATUS[status].value if status in PLACE_OF_STATUS else "dead_lettered or excluded, by its reason"
        )
        lines.append(f"| `{status.value}` | {meanings[status.name]} | {place} |")
    lines += ["", "## Status x fact", "", lifecycle.markdown()]
    lines += [
        _prose(_GUARDS),
        "",
        "## Reasons",
        "",
        _prose(_REASONS),
        "",
        "| reason | retried | attempt | at fault | counted as |",
        "|---|---|---|---|---|",
    ]
    for reason, about in REASONS.items():
        retried, costs = _yes(about.retryable), _yes(about.costs_attempt) if about.retryable else "-"
        counted = "excluded" if about.excluded else "dead_lettered"
        lines.append(f"| `{reason.value}` | {retried} | {costs} | {about.fault.value} | {counted} |")
    lines += ["", "At fault is who must act so that the next record of the kind passes:", ""]
    lines += [f"- `{fault.lower()}`{': ' + meaning if meaning else ''}" for fault, meaning in faults.items()]
    return "\n".join([*lines, ""])


def _yes(said: bool) -> str:
    return "yes" if said else "no"


def cli_page() -> str:
    parts = ["# The command line\n\nEach command's `--help`, as it is.\n"]
    for words, context in commands():
        parts.append(f"## {' '.join(words)}\n\n```text\n{context.command.get_help(context)}\n```\n")
    return "\n".join(parts)


def exit_codes_page() -> str:
    workers = comments_of(ROOT / "agents/batchmill/agents/runtime/failstop.py", "Exit")
    lines = ["# Exit codes", "", "## Commands", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]
    lines += [
        "",
        "## A worker that stopped itself",
        "",
        _prose(_WORKER_EXITS),
        "",
        "| code | name | what happened |",
        "|---|---|---|",
    ]
    lines += [f"| {code.value} | `{code.name}` | {workers[code.name]} |" for code in Exit]
    lines += ["", _prose(_GROUP_EXITS)]
    return "\n".join([*lines, ""])


def job_page() -> str:
    return f"# The members of job.yaml\n\n{_prose(_JOB)}\n\n{job_table(job_schema())}"


def job_table(schema: Mapping[str, Any]) -> str:
    """Every member of a job as one table row."""
    lines = ["| member | type | default | meaning |", "|---|---|---|---|"]
    for path, part, required in _members(schema, schema, ""):
        default = "required" if required else f"`{json.dumps(part['default'])}`" if "default" in part else ""
        meaning = part.get("description", "") or _resolved(schema, part).get("description", "")
        lines.append(f"| `{path}` | {_kind(schema, part)} | {default} | {meaning} |")
    return "\n".join(lines)


def _members(schema: Mapping[str, Any], part: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, bool]]:
    for name, member in part.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path, member, name in part.get("required", ())
        yield from _members(schema, member, f"{path}.")
    values = part.get("additionalProperties")
    if isinstance(values, dict) and "properties" in values:
        yield from _members(schema, values, f"{prefix}*.")
    for option in part.get("oneOf", ()):
        yield from _members(schema, option, prefix)


def _resolved(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    named = part.get("$ref")
    return schema["$defs"][named.rsplit("/", 1)[1]] if named else part


def _kind(schema: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    if "$ref" in part:
        return str(part["$ref"]).rsplit("/", 1)[1]
    if "enum" in part:
        return " or ".join(f"`{option}`" for option in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if "oneOf" in part:
        return " or ".join(_kind(schema, option) for option in part["oneOf"])
    kind = {"object": "mapping", "array": "list", "string": "text", "integer": "whole number"}
    named = kind.get(part["type"], part["type"])
    values = part.get("additionalProperties")
    if isinstance(values, dict) and "enum" in values:
        return f"mapping of {_kind(schema, values)}"
    if "maximum" not in part:
        return named
    return f"{named} {part.get('minimum', 'above ' + str(part.get('exclusiveMinimum')))} to {part['maximum']}"


def laws_page() -> str:
    laws = docstrings_of(ROOT / "tests/simulation/invariants.py", "law")
    measured = docstrings_of(ROOT / "tests/chaos/invariants.py", "invariant")
    planted = {law: [f"{bug.name}: {_what_it_does(bug)}" for bug in BUGS if bug.law == law] for law in laws}
    bent = {name: [why for broken, why, _ in BROKEN if broken == name] for name in measured}
    return "\n\n".join(
        [
            f"# Laws\n\n{_prose(_LAWS)}",
            f"## In the simulation\n\n{_prose(_SIMULATED)}",
            _law_table(laws, planted, "planted bug"),
            f"## On a real broker\n\n{_prose(_MEASURED)}",
            _law_table(measured, bent, "evidence bent so that"),
        ]
    )


def _what_it_does(bug: Any) -> str:
    return _uncapitalised((bug.make.__doc__ or f"`{bug.what}` is replaced").strip().rstrip("."))


def _uncapitalised(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _law_table(laws: Mapping[str, str], reds: Mapping[str, list[str]], head: str) -> str:
    rows = [f"| `{name}` | {says} | {'; '.join(reds[name]) or '-'} |" for name, says in laws.items()]
    return "\n".join([f"| law | says | {head} |", "|---|---|---|", *rows])


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "topics.md": topics_page,
    "lifecycle.md": lifecycle_page,
    "job.md": job_page,
    "cli.md": cli_page,
    "exit-codes.md": exit_codes_page,
    "laws.md": laws_page,
}


def made(page: str) -> str:
    """One page as it should be."""
    return f"{_MADE}\n{PAGES[page]().rstrip()}\n"


def main() -> None:
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        (REFERENCE / page).write_text(made(page), encoding="utf-8")


if __name__ == "__main__":
    main()
