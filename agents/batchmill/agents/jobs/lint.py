"""What a job means, tried before anything is paid: what `streams` finds, told at the files' own lines.

`linting` finds what cannot work, `proofreading` what is odd about the prompt. Added here is what needs to know the
provider: whether the way the job wants to go is there, and in time.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from batchmill.agents.checks import installed_checks
from batchmill.agents.jobs.lines import Lined, Steps
from batchmill.agents.jobs.problems import Problem
from batchmill.agents.jobs.texts import Texts
from batchmill.agents.replays.cron import cron_fault
from batchmill.schemas.jobs import JobSpec
from batchmill.streams.capabilities import PROVIDERS, ProviderFacts
from batchmill.streams.chunking import BATCH
from batchmill.streams.finding import Finding
from batchmill.streams.linting import findings as of_spec
from batchmill.streams.paths import PathError, compile_path
from batchmill.streams.proofreading import remarks
from batchmill.streams.routing import models_of
from batchmill.streams.sinks import BY_DATE, FILE_SINKS, table_fault

__all__ = ["findings", "steps_of", "told"]

#: who wants an answer sooner than this waits for it
USER_WAITS_SECONDS = 300
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_TEMPLATE = re.compile(r"(system|user) template(?:, line (\d+))?")
_EXAMPLE = re.compile(r"example (\d+): ")
_EXAMPLES: Steps = ("ask", "examples")


def findings(spec: JobSpec, lined: Lined, texts: Texts) -> Iterator[Problem]:
    """Errors and warnings about `spec`; `texts` = the files it was made of."""
    for finding in (*of_spec(spec), *remarks(spec, installed_checks())):
        yield told(finding, lined, texts)
    yield from _answer_members(spec, lined)
    yield from _ways(spec, lined)
    yield from _destination(spec, lined)
    yield from _clock(spec, lined)


def told(finding: Finding, lined: Lined, texts: Texts) -> Problem:
    """A finding at the line of the file that is to be changed: a template, an example, a schema, or the job file."""
    steps, line, what = _place(finding)
    level: Literal["error", "warning"] = "error" if finding.error else "warning"
    for named in (steps, (*steps, "schema")):
        if named in texts.read:
            if named in texts.numbers:
                line = _line_of_document(texts, named, line or 1)
            return Problem(
                file=texts.read[named], line=line or 1, what=what, hint=finding.hint, level=level, lint=finding.lint
            )
    what = f"{finding.where.removeprefix('$.')}: {what}"
    return Problem(
        file=lined.file, line=lined.line(steps), what=what, hint=finding.hint, level=level, lint=finding.lint
    )


def steps_of(where: str) -> Steps:
    """`$.ask.routes[0].model` as the steps to it in the job file."""
    return tuple(int(at) if at else name for name, at in _STEP.findall(where.removeprefix("$")))


def _place(finding: Finding) -> tuple[Steps, int | None, str]:
    """(member, line, message). A template or example that does not compile is told by its message alone."""
    steps = steps_of(finding.where)
    example, template = _EXAMPLE.match(finding.message), _TEMPLATE.match(finding.message)
    if steps == ("ask",) and example is not None:
        return _EXAMPLES, int(example[1]), finding.message[example.end() :]
    if (steps == ("ask",) or steps[:2] == ("ask", "routes")) and template is not None:
        return (*steps, "prompt", template[1]), int(template[2] or 1), finding.message
    return steps, finding.line, finding.message


def _line_of_document(texts: Texts, steps: Steps, number: int) -> int:
    lines = texts.numbers[steps]
    return lines[number - 1] if number <= len(lines) else 1


def _answer_members(spec: JobSpec, lined: Lined) -> Iterator[Problem]:
    """A category the output schema does not allow is never answered."""
    properties = _properties(spec.ask.output_schema_json)
    for name, allowed in spec.judge.categories.items():
        member = properties.get(name)
        options = member.get("enum") if isinstance(member, dict) else None
        for value in allowed:
            if isinstance(options, list) and value not in options:
                steps: Steps = ("judge", "categories", name)
                what = f"{'.'.join(map(str, steps))} allows {value!r}, which the output schema does not"
                yield Problem(file=lined.file, line=lined.line(steps), what=what, level="warning")


def _ways(spec: JobSpec, lined: Lined) -> Iterator[Problem]:
    """A way that the provider does not have is an error; one that is late is what the author may not have meant."""
    for kind in dict.fromkeys(model.provider for model in models_of(spec.ask).values()):
        if kind in PROVIDERS:
            yield from _way(spec, PROVIDERS[kind], lined)


def _way(spec: JobSpec, facts: ProviderFacts, lined: Lined) -> Iterator[Problem]:
    mode, single = spec.mode, bool(facts.can.online_endpoints)
    if mode.prefer != BATCH and not single:
        what = f"mode.prefer is {mode.prefer}, but {facts.title} has no endpoint for single questions here: say batch"
        yield Problem(file=lined.file, line=lined.line(("mode", "prefer")), what=what)
    elif mode.deadline_seconds is not None and (late := _late(mode.prefer, mode.deadline_seconds, facts)):
        what = f"mode.deadline is {_duration(mode.deadline_seconds)}: {late}"
        yield Problem(file=lined.file, line=lined.line(("mode", "deadline")), what=what, level="warning")


def _destination(spec: JobSpec, lined: Lined) -> Iterator[Problem]:
    """A name that the sink would refuse for every record, and a way of splitting up that it does not have."""
    place = spec.place
    fault = table_fault(place.sink, place.table)
    if fault is not None:
        what = f"place.table of the sink {place.sink} {fault}"
        yield Problem(file=lined.file, line=lined.line(("place", "table")), what=what)
    if place.partition is None:
        return
    line = lined.line(("place", "partition"))
    if place.sink not in FILE_SINKS:
        what = f"place.partition is for files ({', '.join(sorted(FILE_SINKS))}), not for {place.sink}"
        yield Problem(file=lined.file, line=line, what=what, hint="leave it out")
    elif place.partition != BY_DATE:
        try:
            compile_path(place.partition)
        except PathError as error:
            yield Problem(file=lined.file, line=line, what=f"place.partition: {error}")


def _clock(spec: JobSpec, lined: Lined) -> Iterator[Problem]:
    """A schedule that nobody can read would never come."""
    for number, schedule in enumerate(spec.schedules):
        fault = cron_fault(schedule.cron)
        if fault is not None:
            steps: Steps = ("schedule", number, "cron")
            what = f"schedule.cron {schedule.cron!r}: {fault}"
            yield Problem(file=lined.file, line=lined.line(steps), what=what, hint="minute hour day month weekday, UTC")


def _late(prefer: str, deadline_seconds: int, facts: ProviderFacts) -> str | None:
    """What a batch makes of the deadline, and what to do about it; None: it is in time, or nobody waits for one."""
    can = facts.can
    typical, window = _duration(can.typical_seconds), _duration(can.window_seconds)
    other = "there is no other way at this provider: allow more time" if not can.online_endpoints else None
    if prefer == "auto" and deadline_seconds < can.typical_seconds:
        return f"a batch at {facts.title} takes {typical} as a rule, so all of it goes online at full price: say online"
    if prefer != BATCH:
        return None
    if deadline_seconds < USER_WAITS_SECONDS:
        return (
            f"somebody is waiting, and a batch may take {window}: {other or 'this is no work for a batch, say online'}"
        )
    if deadline_seconds < can.typical_seconds:
        fix = other or "say online or auto"
        return f"a batch at {facts.title} takes {typical} as a rule, most answers are late: {fix}"
    if deadline_seconds < can.window_seconds:
        fix = other or "say auto, which sends online what would be late"
        return f"a batch at {facts.title} may take {window}, an answer may be late: {fix}"
    return None


def _duration(seconds: int) -> str:
    for unit, each in (("h", 3_600), ("m", 60)):
        if seconds >= each and seconds % each == 0:
            return f"{seconds // each}{unit}"
    return f"{seconds}s"


def _properties(schema_json: str | None) -> dict[str, Any]:
    schema = json.loads(schema_json) if schema_json is not None else None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}
