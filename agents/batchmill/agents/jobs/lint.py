"""What a job means, tried before anything is paid: `streams.linting` over the spec, told at the files' own lines.

Added here is what needs the files (where a template speaks of members that the declared events do not have), and what
needs to know the provider: whether the way the job wants to go is there, and in time.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from batchmill.agents.jobs.lines import Lined, Steps
from batchmill.agents.jobs.problems import Problem
from batchmill.schemas.jobs import JobSpec
from batchmill.streams.capabilities import PROVIDERS, ProviderFacts
from batchmill.streams.chunking import BATCH
from batchmill.streams.linting import Finding
from batchmill.streams.linting import findings as of_spec

__all__ = ["findings"]

#: who wants an answer sooner than this waits for it
USER_WAITS_SECONDS = 300
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_TEMPLATE = re.compile(r"(system|user) template(?:, line (\d+))?")
_MEMBERS_READ = re.compile(r"\binput\.([A-Za-z_][A-Za-z0-9_]*)")


def findings(spec: JobSpec, lined: Lined, read: Mapping[Steps, Path]) -> Iterator[Problem]:
    """Errors and warnings about `spec`; `read` = the files it was made of, by where the job names them."""
    for finding in of_spec(spec):
        yield _told(finding, lined, read)
    yield from _answer_members(spec, lined)
    yield from _template_members(spec, lined, read)
    yield from _ways(spec, lined)


def _told(finding: Finding, lined: Lined, read: Mapping[Steps, Path]) -> Problem:
    """A finding at the line of the file that is to be changed: a template, a schema, or the job file."""
    level: Literal["error", "warning"] = "error" if finding.error else "warning"
    steps: Steps = tuple(int(at) if at else name for name, at in _STEP.findall(finding.where.removeprefix("$")))
    in_template = _TEMPLATE.match(finding.message)
    if in_template is not None:
        file = read.get(("ask", "prompt", in_template[1]), lined.file)
        return Problem(file=file, line=int(in_template[2] or 1), what=finding.message, level=level)
    for named in (steps, (*steps, "schema")):
        if named in read:
            return Problem(file=read[named], line=1, what=finding.message, level=level)
    what = f"{finding.where.removeprefix('$.')}: {finding.message}"
    return Problem(file=lined.file, line=lined.line(steps), what=what, level=level)


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


def _template_members(spec: JobSpec, lined: Lined, read: Mapping[Steps, Path]) -> Iterator[Problem]:
    """A member no declared event has would fail every record when it is rendered."""
    declared = _properties(spec.input.schema_json)
    for role, text in (("system", spec.ask.system), ("user", spec.ask.user)):
        for number, line in enumerate((text or "").splitlines(), start=1):
            for name in dict.fromkeys(_MEMBERS_READ.findall(line)):
                if declared and name not in declared:
                    file = read.get(("ask", "prompt", role), lined.file)
                    what = f"uses `input.{name}`, which the input schema does not declare"
                    yield Problem(file=file, line=number, what=what, level="warning")


def _ways(spec: JobSpec, lined: Lined) -> Iterator[Problem]:
    """A way that the provider does not have is an error; one that is late is what the author may not have meant."""
    facts = PROVIDERS.get(spec.ask.model.provider)
    if facts is None:
        return
    mode, single = spec.mode, bool(facts.can.online_endpoints)
    if mode.prefer != BATCH and not single:
        what = f"mode.prefer is {mode.prefer}, but {facts.title} has no endpoint for single questions here: say batch"
        yield Problem(file=lined.file, line=lined.line(("mode", "prefer")), what=what)
    elif mode.deadline_seconds is not None and (late := _late(mode.prefer, mode.deadline_seconds, facts)):
        what = f"mode.deadline is {_duration(mode.deadline_seconds)}: {late}"
        yield Problem(file=lined.file, line=lined.line(("mode", "deadline")), what=what, level="warning")


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
