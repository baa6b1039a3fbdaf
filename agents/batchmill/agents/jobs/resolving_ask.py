"""The `ask` section of `job.yaml` -> the frozen `AskSpec`: the question, its routes, what is looked up for it.

What must not live here: what the words may be (`job.schema.json`), and what they mean together (`lint`).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from batchmill.agents.jobs.lines import Steps
from batchmill.agents.jobs.texts import Texts, seconds_of
from batchmill.schemas.asking import AskSpec, FetchSpec, LookupSpec, ModelSpec, RetrievalSpec, RouteSpec, ToolsSpec
from batchmill.streams.capabilities import PROVIDERS

__all__ = ["ask_of"]


def ask_of(data: Mapping[str, Any], texts: Texts) -> AskSpec:
    """What is wrong with the files is left in `texts.problems`."""
    prompt, model, output = data["prompt"], data["model"], data.get("output")
    cascade = data.get("cascade", {})
    form = {"schema": output} if isinstance(output, str) else output or {}
    where: Steps = ("ask", "output") if isinstance(output, str) else ("ask", "output", "schema")
    user = texts.text(("ask", "prompt", "user"), prompt["user"])
    if texts.problems and not user:
        user = "unreadable"  # so that the other mistakes are found too; the job is refused all the same
    return AskSpec(
        system=texts.text(("ask", "prompt", "system"), prompt.get("system")),
        user=user or "",
        model=_model(model),
        output_schema_json=texts.document(where, form.get("schema")),
        output_name=form.get("name", "output"),
        examples_json=texts.lines(("ask", "examples"), data.get("examples")),
        missing=data.get("missing"),
        uncertain=data.get("uncertain"),
        routes=tuple(_route(each, texts, ("ask", "routes", at)) for at, each in enumerate(data.get("routes", ()))),
        cascade=tuple(cascade.get("routes", ())),
        escalate_on=tuple(cascade.get("on", ("rejected", "unsure"))),
        retrieval=_retrieval(data.get("retrieval"), texts),
        tools=_tools(data.get("tools")),
    )


def _default_endpoint(provider: str) -> str | None:
    facts = PROVIDERS.get(provider)
    return None if facts is None else facts.can.endpoints[0]


def _model(data: Mapping[str, Any]) -> ModelSpec:
    endpoint = data.get("endpoint") or _default_endpoint(data["provider"])
    named = {} if endpoint is None else {"endpoint": endpoint}
    return ModelSpec(
        provider=data["provider"],
        name=data["name"],
        account=data.get("account", data["provider"]),
        params_json=json.dumps(data.get("params", {})),
        **named,
    )


def _route(data: Mapping[str, Any], texts: Texts, steps: Steps) -> RouteSpec:
    prompt, model = data.get("prompt", {}), data.get("model")
    return RouteSpec(
        name=data["name"],
        when=data.get("when"),
        model=None if model is None else _model(model),
        system=texts.text((*steps, "prompt", "system"), prompt.get("system")),
        user=texts.text((*steps, "prompt", "user"), prompt.get("user")) or None,
    )


def _retrieval(data: Mapping[str, Any] | None, texts: Texts) -> RetrievalSpec | None:
    """The pointer file says which snapshot is meant; without one, that the file is wrong is a problem already."""
    if data is None:
        return None
    told = dict(data)
    steps = ("ask", "retrieval", "index")
    pointer = json.loads(texts.document(steps, told.pop("index")) or "{}")
    if (
        not isinstance(pointer, dict)
        or not isinstance(pointer.get("name"), str)
        or not _is_sha256(pointer.get("sha256"))
    ):
        texts.wrong(steps, "is no pointer to an index", "`batchmill index build` writes one")
        pointer = {"name": "unreadable", "sha256": ""}
    return RetrievalSpec(index=pointer["name"], sha256=pointer["sha256"], **told)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _tools(data: Mapping[str, Any] | None) -> ToolsSpec | None:
    if data is None:
        return None
    told = dict(data)
    lookup, fetch = told.pop("lookup", None), told.pop("fetch", None)
    return ToolsSpec(
        lookup=None if lookup is None else LookupSpec(**_timed(lookup)),
        fetch=None if fetch is None else FetchSpec(**_timed(fetch)),
        **told,
    )


def _timed(data: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(data)
    return told | {"timeout_seconds": seconds_of(told.pop("timeout"))} if "timeout" in told else told
