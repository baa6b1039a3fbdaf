"""What is wrong with the routes of a frozen job: of each what would be wrong with it if it were the only question.

What lives here: asking the other rooms' questions once for each route, and what only a choice among routes can get
wrong. What must not: what is wrong with a question (`linting`, `linting_judge`, `proofreading`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from batchmill.schemas.asking import RouteSpec
from batchmill.schemas.jobs import JobSpec
from batchmill.streams.expressions import ConditionError, compile_condition
from batchmill.streams.finding import Finding
from batchmill.streams.routing import WHEN_VARIABLES, asked_on, models_of

__all__ = ["choices", "on_all_routes"]

_PROMPT = "$.ask.prompt"
_MODEL = "$.ask.model"


def on_all_routes(spec: JobSpec, find: Callable[[JobSpec], Iterable[Finding]]) -> Iterator[Finding]:
    """What `find` says of the question itself, and of the routes what it has not said already."""
    told = list(find(replace(spec, ask=replace(spec.ask, routes=(), cascade=()))))
    yield from told
    known = {(each.where, each.message) for each in told}
    for at, route in enumerate(spec.ask.routes):
        for finding in find(replace(spec, ask=asked_on(spec.ask, route))):
            where = _at_route(finding.where, at, route)
            shared = finding.where in {where, "$.ask"} and (finding.where, finding.message) in known
            if not shared:
                yield replace(finding, where=where)


def choices(spec: JobSpec) -> Iterator[Finding]:
    """What is wrong with choosing among them."""
    for at, route in enumerate(spec.ask.routes):
        where = f"$.ask.routes[{at}]"
        if route.when is not None:
            yield from _condition(f"{where}.when", route.when)
        elif route.name not in spec.ask.cascade:
            what = f"route {route.name!r} is never taken: it has no `when`, and the cascade does not name it"
            yield Finding(where=where, message=what, error=False)
    if spec.ask.cascade and spec.ask.escalate_on == ("unsure",) and spec.judge.confidence is None:
        what = "no answer is ever unsure, since the job has no `judge.confidence`: the cascade is never taken"
        yield Finding(where="$.ask.cascade", message=what, error=False)
    yield from _ambiguous(spec)


def _condition(where: str, when: str) -> Iterator[Finding]:
    try:
        compile_condition(when, variables=WHEN_VARIABLES)
    except ConditionError as fault:
        yield Finding(where=where, message=str(fault), error=True)


def _ambiguous(spec: JobSpec) -> Iterator[Finding]:
    """Prices are looked up by the model's name: one name at two providers could have two prices."""
    sold_by: dict[str, str] = {}
    for where, model in models_of(spec.ask).items():
        other = sold_by.setdefault(model.name, model.provider)
        if other != model.provider:
            what = f"{model.name} is asked at {other} and at {model.provider}, so its price would not be one"
            yield Finding(where=f"{where}.name", message=what, error=True, hint="ask it at one provider in this job")


def _at_route(where: str, at: int, route: RouteSpec) -> str:
    """A place in the question, as the route says it where it says something else."""
    own = {f"{_PROMPT}.system": route.system, f"{_PROMPT}.user": route.user}
    here = f"$.ask.routes[{at}]"
    if where == "$.ask":
        return here
    if own.get(where) is not None or (where.startswith(_MODEL) and route.model is not None):
        return here + where.removeprefix("$.ask")
    return where
