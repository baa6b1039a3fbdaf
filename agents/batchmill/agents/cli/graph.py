"""`batchmill job graph`: which job feeds which; and the circle that is told before it is applied."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector.stages import Stage
    from batchmill.schemas.jobs import JobSpec
    from batchmill.streams.graphing import Edge

__all__ = ["applied_specs", "graph", "refuse_circle"]

_NANOS = 10**9


def graph(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(help="Only this job and what it feeds.")] = None,
    costs: Annotated[bool, typer.Option("--costs", help="With what the records of each job came to.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="As a graph for Graphviz.")] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Draw which job feeds which, with its conditions and splits.

    \b
    Examples:
      batchmill job graph --costs
      batchmill job graph classify --dot | dot -Tsvg > jobs.svg
    """
    from batchmill.agents.projector import stages

    here = door(context)
    with here.view() as view:
        found = stages.graph(view)
        known = stages.stages(view) if costs else {}
    if job is not None:
        if job not in found:
            raise CommandError(
                f"no job {job} is applied; `batchmill job list` names those that are", ExitCode.NOT_FOUND
            )
        found = _behind(found, job)
    if json:
        edges = [edge for fed in found.values() for edge in fed]
        told = [{"job": name} | ({"cost": known.get(name)} if costs else {}) for name in sorted(found)]
        here.emit("job.graph", {"jobs": told, "edges": edges})
    elif dot:
        typer.echo("\n".join(_dot(found, known)))
    elif found:
        typer.echo("\n".join(_tree(found, known)))
    else:
        here.say("no job is applied")


def refuse_circle(specs: "Sequence[JobSpec]", beside: "Sequence[JobSpec]" = ()) -> None:
    """Raise CommandError when `specs` would feed each other in a circle, alone or with those `beside` them."""
    from batchmill.streams.graphing import cycle, edges, told_cycle

    named = {spec.job for spec in specs}
    others = (spec for spec in beside if spec.job not in named)
    way = cycle(edge for spec in (*specs, *others) for edge in edges(spec))
    if way is not None:
        raise CommandError(f"{told_cycle(way)}; take one of these `then` or `judge.scoring.job` away", ExitCode.GATE)


def applied_specs(here: Door) -> "list[JobSpec]":
    """What is in force now, as the log tells it."""
    import asyncio

    from batchmill.agents.commands import read_commands
    from batchmill.agents.versions import promoted_version

    commands = asyncio.run(read_commands(here.settings))
    jobs = sorted({command.job for command in commands if command.command == "apply"})
    in_force = [promoted_version([command for command in commands if command.job == job]) for job in jobs]
    return [each.spec for each in in_force if each is not None]


def _behind(found: "Mapping[str, tuple[Edge, ...]]", job: str) -> "dict[str, tuple[Edge, ...]]":
    """The job and everything it feeds, at whatever remove."""
    kept: dict[str, tuple[Edge, ...]] = {}
    todo = [job]
    while todo:
        name = todo.pop()
        if name not in kept:
            kept[name] = found.get(name, ())
            todo += [edge.to for edge in kept[name]]
    return kept


# -- as a tree ---------------------------------------------------------------------------------------------------------


def _tree(found: "Mapping[str, tuple[Edge, ...]]", known: "Mapping[str, Stage]") -> Iterator[str]:
    """Every job below those that feed it; one that was drawn before is named and not drawn again."""
    fed = {edge.to for edges in found.values() for edge in edges}
    drawn: set[str] = set()
    for root in [name for name in sorted(found) if name not in fed]:
        yield root + _told(known.get(root))
        yield from _below(root, "", found, known, drawn)


def _below(
    job: str,
    indent: str,
    found: "Mapping[str, tuple[Edge, ...]]",
    known: "Mapping[str, Stage]",
    drawn: set[str],
) -> Iterator[str]:
    drawn.add(job)
    edges = found.get(job, ())
    for at, edge in enumerate(edges):
        is_last = at == len(edges) - 1
        again = edge.to in drawn
        mark = " (see above)" if again and found.get(edge.to) else _told(known.get(edge.to))
        unknown = "" if edge.to in found else " (not applied)"
        yield f"{indent}{'└─' if is_last else '├─'} {edge.to}{_condition(edge)}{unknown}{mark}"
        if not again:
            yield from _below(edge.to, indent + ("   " if is_last else "│  "), found, known, drawn)


def _condition(edge: "Edge") -> str:
    if edge.kind == "score":
        return "  scores its answers"
    split = "" if edge.split is None else f"  for each of {edge.split}"
    return split + ("" if edge.when is None else f"  when {edge.when}")


def _told(stage: "Stage | None") -> str:
    if stage is None:
        return ""
    failed = f", {stage.failed:,} failed" if stage.failed else ""
    return f"  [{stage.records:,} records, {stage.committed:,} committed{failed}, ${stage.spent_nanos / _NANOS:.6f}]"


# -- for Graphviz ------------------------------------------------------------------------------------------------------


def _dot(found: "Mapping[str, tuple[Edge, ...]]", known: "Mapping[str, Stage]") -> Iterator[str]:
    yield "digraph jobs {"
    yield "  rankdir=LR; node [shape=box];"
    for name in sorted(found):
        yield f"  {_quoted(name)} [label={_quoted(name + _told(known.get(name)))}];"
    for edge in (edge for name in sorted(found) for edge in found[name]):
        style = ", style=dashed" if edge.kind == "score" else ""
        yield f"  {_quoted(edge.job)} -> {_quoted(edge.to)} [label={_quoted(_condition(edge).strip())}{style}];"
    yield "}"


def _quoted(text: Any) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
