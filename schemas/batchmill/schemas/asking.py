"""What is asked, and of whom: a part of the frozen job, and all of its ask fingerprint but the preprocessing of text.

The question itself (prompt, model, form of the answer), its other routes, what is looked up for it (documents, tools).
What must not live here: how a question travels (`jobs.ModeSpec`) and what an answer must be (`jobs.JudgeSpec`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from batchmill.schemas.spec_rules import compacted, named, require, written

__all__ = [
    "AskSpec",
    "FetchSpec",
    "LookupSpec",
    "ModelSpec",
    "NearSpec",
    "RetrievalSpec",
    "RouteSpec",
    "ToolsSpec",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Whom is asked. `account` says who pays and whose limits count; it is no part of the question."""

    provider: str
    name: str  #: as the provider calls the model
    account: str = "default"
    endpoint: str = "/v1/chat/completions"
    params_json: str = "{}"  #: sent as they are

    def __post_init__(self) -> None:
        named(self.provider, "$.ask.model.provider")
        named(self.account, "$.ask.model.account")
        for member, text in (("name", self.name), ("endpoint", self.endpoint)):
            require(bool(text) and "|" not in text, f"$.ask.model.{member}", "must not be empty nor hold '|'")
        compacted(self, "params_json", "$.ask.model.params_json")
        require(self.params_json.startswith("{"), "$.ask.model.params_json", "must be an object")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """Another way to ask: what is None is as in the question itself."""

    name: str
    when: str | None = None  #: CEL over `input`; None: taken only by the cascade
    model: ModelSpec | None = None
    system: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        named(self.name, "$.ask.routes.name")
        for member in ("when", "user"):
            written(getattr(self, member), f"$.ask.routes.{member}")
        different = (self.model, self.system, self.user) != (None, None, None)
        require(different, "$.ask.routes", f"must say what is different on route {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NearSpec:
    """When two records are so alike that one answer serves both; it is marked as derived."""

    threshold: float = 0.9  #: estimated Jaccard similarity of their shingles
    shingle: int = 5  #: words of one shingle

    def __post_init__(self) -> None:
        require(0.5 <= self.threshold <= 1, "$.near.threshold", "must be from 0.5 to 1")
        require(1 <= self.shingle <= 20, "$.near.shingle", "must be from 1 to 20")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSpec:
    """Passages of a frozen index that are put beside the record, as a list of {id, document, text} under `into`."""

    index: str  #: its name
    sha256: str  #: of the snapshot that was current when the job was read
    query: str  #: JSON path into the input
    top: int = 5  #: passages at most
    tokens_max: int = 1_500  #: of all passages together
    allow: str | None = None  #: JSON path to the group, or list of groups, whose documents may be shown
    into: str = "context"
    on_empty: Literal["ask", "dead"] = "ask"  #: what becomes of a record for which nothing was found

    def __post_init__(self) -> None:
        named(self.index, "$.ask.retrieval.index")
        named(self.into, "$.ask.retrieval.into")
        for member in ("query", "allow"):
            path = getattr(self, member)
            require(path is None or path.startswith("$"), f"$.ask.retrieval.{member}", "must be a JSON path")
        require(1 <= self.top <= 50, "$.ask.retrieval.top", "must be from 1 to 50")
        require(self.tokens_max > 0, "$.ask.retrieval.tokens_max", "must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupSpec:
    """One read-only SQL question per record; its rows become a list of objects."""

    source: str  #: a database of the settings, by name
    sql: str  #: one SELECT with named parameters, :name
    params: Mapping[str, str] = field(default_factory=dict)  #: parameter -> JSON path into the input
    rows_max: int = 20
    timeout_seconds: float = 5

    def __post_init__(self) -> None:
        named(self.source, "$.ask.tools.lookup.source")
        written(self.sql, "$.ask.tools.lookup.sql")
        require(1 <= self.rows_max <= 100, "$.ask.tools.lookup.rows_max", "must be from 1 to 100")
        require(0 < self.timeout_seconds <= 60, "$.ask.tools.lookup.timeout", "must be above 0 and at most 60 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSpec:
    """One GET per record from an API of the settings; its JSON answer is taken as it is."""

    api: str  #: by name
    path: str  #: below the API's address, with {name} where a parameter belongs
    params: Mapping[str, str] = field(default_factory=dict)  #: name -> JSON path into the input
    timeout_seconds: float = 5

    def __post_init__(self) -> None:
        named(self.api, "$.ask.tools.fetch.api")
        require(self.path.startswith("/"), "$.ask.tools.fetch.path", "must begin with '/'")
        require(0 < self.timeout_seconds <= 60, "$.ask.tools.fetch.timeout", "must be above 0 and at most 60 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsSpec:
    """What is looked up, fetched and worked out for each record, in this order, and put under `into`."""

    lookup: LookupSpec | None = None
    fetch: FetchSpec | None = None
    calculate: Mapping[str, str] = field(default_factory=dict)  #: name -> CEL over `input` and `tools`
    into: str = "tools"
    on_failure: Literal["dead", "ask"] = "dead"  #: ask: without what could not be had

    def __post_init__(self) -> None:
        named(self.into, "$.ask.tools.into")
        anything = self.lookup is not None or self.fetch is not None or bool(self.calculate)
        require(anything, "$.ask.tools", "must have a lookup, a fetch or a calculation")
        require(len(self.calculate) <= 20, "$.ask.tools.calculate", "must have at most 20 members")
        for name, expression in self.calculate.items():
            named(name, "$.ask.tools.calculate")
            written(expression, f"$.ask.tools.calculate.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskSpec:
    """The question: prompt templates (their text), model, and the form of answer asked for."""

    system: str | None = None
    user: str
    model: ModelSpec
    output_schema_json: str | None = None  #: None: free text is asked for
    output_name: str = "output"  #: what the provider is told the form is called
    examples_json: str | None = None  #: list of {input, output}: shown to the model as turns before the question
    missing: str | None = None  #: what to answer where the input does not say; closes the system message
    uncertain: str | None = None  #: what to answer where the input leaves it open
    routes: tuple[RouteSpec, ...] = ()  #: the first whose `when` holds is taken; else the question as it stands above
    cascade: tuple[str, ...] = ()  #: routes tried one after another where the answer of the one before was no good
    escalate_on: tuple[Literal["rejected", "unsure"], ...] = ("rejected", "unsure")
    retrieval: RetrievalSpec | None = None
    tools: ToolsSpec | None = None

    def __post_init__(self) -> None:
        require(bool(self.user.strip()), "$.ask.user", "must not be blank")
        named(self.output_name, "$.ask.output_name")
        compacted(self, "output_schema_json", "$.ask.output_schema_json")
        compacted(self, "examples_json", "$.ask.examples_json")
        for member in ("missing", "uncertain"):
            written(getattr(self, member), f"$.ask.{member}")
        names = [route.name for route in self.routes]
        require(len(set(names)) == len(names), "$.ask.routes", "must not name a route twice")
        known = set(self.cascade) <= set(names) and len(set(self.cascade)) == len(self.cascade)
        require(known, "$.ask.cascade", "must name routes, each once")
