"""By which of its routes a job asks a record, and by which it asks again where an answer was no good.

A route is a way to ask: templates, model, account. The question itself is the route without a name. What lives here:
compiling the routes of a version and choosing among them. What must not: what an answer was (`validating`). Whatever is
asked, sized, priced or limited for a life is so by the route that the life names.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from batchmill.schemas.asking import AskSpec, ModelSpec, RouteSpec
from batchmill.schemas.jobs import JobSpec, ModeSpec
from batchmill.schemas.reasons import Reason
from batchmill.streams.chunking import BATCH, ONLINE
from batchmill.streams.expressions import Condition, ConditionError, compile_condition
from batchmill.streams.rendering import RequestForm, request_form
from batchmill.streams.unusable import Unusable

__all__ = [
    "ITSELF",
    "WHEN_VARIABLES",
    "Route",
    "Routes",
    "asked_on",
    "compile_routes",
    "from_here",
    "lane_of",
    "models_of",
    "next_route",
    "route_of",
    "sizes_of",
]

#: the route without a name
ITSELF: Final = ""
WHEN_VARIABLES: Final = frozenset({"input"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to ask, ready to be applied to records."""

    name: str  #: empty: the question itself
    ask: AskSpec  #: the question as it is put on this route; it has no routes itself
    when: Condition | None  #: None: not chosen by the record
    form: RequestForm
    lane: str

    @property
    def model(self) -> ModelSpec:
        return self.ask.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """All ways to ask of one version."""

    by_name: Mapping[str, Route]  #: the question itself first, then in the order of the job
    cascade: tuple[str, ...]
    escalate_on: tuple[Literal["rejected", "unsure"], ...]

    def of(self, name: str) -> Route:
        """The route that a life or an answer of this version names."""
        found = self.by_name.get(name)
        assert found is not None, f"route {name!r} is none of its version's: {', '.join(self.by_name)}"
        return found

    def on(self, lane: str) -> tuple[Route, ...]:
        """The routes whose lives may wait in `lane`: those of its model, whatever its mode, and its account by now."""
        _, *asked, _ = lane.split("|")
        return tuple(each for each in self.by_name.values() if [each.model.name, each.model.endpoint] == asked)

    def account_of(self, lane: str) -> str:
        """Who pays for what waits in `lane`: its own account, unless the job has been applied with another since."""
        named = lane.split("|", maxsplit=1)[0]
        accounts = [each.model.account for each in self.on(lane)]
        return named if named in accounts or not accounts else accounts[0]


def compile_routes(spec: JobSpec) -> Routes:
    """Compile every way to ask, or raise what `rendering` and `expressions` do."""
    itself = replace(spec.ask, routes=(), cascade=())
    others = (_route(each.name, asked_on(spec.ask, each), each.when, spec) for each in spec.ask.routes)
    made = [_route(ITSELF, itself, None, spec), *others]
    return Routes(
        by_name={each.name: each for each in made}, cascade=spec.ask.cascade, escalate_on=spec.ask.escalate_on
    )


def _route(name: str, ask: AskSpec, when: str | None, spec: JobSpec) -> Route:
    return Route(
        name=name,
        ask=ask,
        when=None if when is None else compile_condition(when, variables=WHEN_VARIABLES),
        form=request_form(ask, spec.input, room_factor=spec.retry.truncated.factor),
        lane=lane_of(ask.model, spec.mode),
    )


def asked_on(ask: AskSpec, route: RouteSpec) -> AskSpec:
    """The question as it is put on `route`: what that leaves out is as in the question itself."""
    return replace(
        ask,
        system=ask.system if route.system is None else route.system,
        user=ask.user if route.user is None else route.user,
        model=route.model or ask.model,
        routes=(),
        cascade=(),
    )


def lane_of(model: ModelSpec, mode: ModeSpec) -> str:
    """What may share a chunk: account|model|endpoint|mode. `auto` begins as batch; `hastening` moves what is late."""
    way = ONLINE if mode.prefer == ONLINE else BATCH
    return f"{model.account}|{model.name}|{model.endpoint}|{way}"


def models_of(ask: AskSpec) -> Mapping[str, ModelSpec]:
    """Every model that the job may ask, by the member that says so."""
    said = {f"$.ask.routes[{at}].model": route.model for at, route in enumerate(ask.routes)}
    return {"$.ask.model": ask.model} | {where: model for where, model in said.items() if model is not None}


def route_of(routes: Routes, item_input: Mapping[str, Any]) -> Route:
    """The first route whose condition holds, else the question itself. A condition without an answer is `Unusable`."""
    for route in routes.by_name.values():
        if route.when is None:
            continue
        try:
            holds = route.when.holds({"input": item_input})
        except ConditionError as error:
            raise Unusable(Reason.FILTER_ERROR, f"ask.routes, {route.name}, when: {error}") from None
        if holds:
            return route
    return routes.of(ITSELF)


def next_route(routes: Routes, name: str) -> Route | None:
    """Where the cascade goes on after route `name`; None: there its answers are judged for good.

    A route outside the cascade is followed by the cascade's first.
    """
    after = routes.cascade.index(name) + 1 if name in routes.cascade else 0
    return routes.of(routes.cascade[after]) if after < len(routes.cascade) else None


def from_here(routes: Routes, route: Route) -> tuple[Route, ...]:
    """`route`, and those that the cascade may still come to after it."""
    later = next_route(routes, route.name)
    return (route,) if later is None else (route, *from_here(routes, later))


def sizes_of(routes: Routes, route: Route, input_json: bytes) -> tuple[int, int]:
    """Bytes of the body on `route`, and of the largest that the cascade may make of it later.

    A life keeps one size, by which budgets are held: it must bound every question that may still be asked for it. A
    later route that does not take the input bounds nothing; it refuses when its turn comes.
    """
    own = largest = len(route.form.body(input_json))
    for later in from_here(routes, route)[1:]:
        with suppress(Unusable):
            largest = max(largest, len(later.form.body(input_json)))
    return own, largest
