"""What people are told of a job's tools: sources that the settings lack, and what was looked up for one record.

What must not live here: asking a source. What was found lies in the record's input, what was asked follows from it.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from batchmill.agents.projector.reading import View
    from batchmill.agents.settings import Settings
    from batchmill.schemas.jobs import JobSpec

__all__ = ["looked_up", "source_troubles"]


def source_troubles(settings: "Settings", spec: "JobSpec") -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(member, what is wrong, what to do) for each source of a job that these settings do not have."""
    from batchmill.agents.settings import env_name

    tools = spec.ask.tools
    if tools is None:
        return
    waits = "so its records would wait"
    if tools.lookup is not None and tools.lookup.source not in settings.databases:
        name, known = tools.lookup.source, ", ".join(sorted(settings.databases)) or "none"
        what = f"no database {name} in the settings (known: {known}), {waits}"
        hint = f"set {env_name(f'databases.{name}.sqlite_path')} or {env_name(f'databases.{name}.postgres_dsn')}"
        yield ("ask", "tools", "lookup", "source"), what, hint
    if tools.fetch is not None and tools.fetch.api not in settings.apis:
        name, known = tools.fetch.api, ", ".join(sorted(settings.apis)) or "none"
        what = f"no API {name} in the settings (known: {known}), {waits}"
        yield ("ask", "tools", "fetch", "api"), what, f"set {env_name(f'apis.{name}.base_url')}"


def looked_up(view: "View", job: str, version: str, input_json: str) -> Mapping[str, Any] | None:
    """What was asked about a record and what was found; None for a job without tools."""
    from batchmill.schemas.jobs import JobSpec
    from batchmill.streams.tooling import account_of

    row = view.row("SELECT versions_json FROM jobs WHERE job = ? LIMIT 1", (job,))
    frozen = None if row is None else orjson.loads(row["versions_json"]).get(version)
    if frozen is None:
        return None
    tools = JobSpec.from_json(orjson.dumps(frozen)).ask.tools
    return None if tools is None else account_of(tools, orjson.loads(input_json))
