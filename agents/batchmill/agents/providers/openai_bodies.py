"""From the canonical body, which is a chat completion's, to the body of another OpenAI endpoint.

What lives here: pure translations, one per endpoint. What must not: framing (`openai_rows`), or judging: a parameter
that an endpoint does not know is passed on, and the provider says so. Equal bodies give equal bytes: a payload that was
lost is made again and must match its SHA-256.
"""

from collections.abc import Mapping
from typing import Any

import orjson

__all__ = ["EMBEDDINGS", "RESPONSES", "body_for"]

RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"

#: chat completions -> responses
_RENAMED = {"max_completion_tokens": "max_output_tokens", "max_tokens": "max_output_tokens"}
_SYSTEM_ROLES = frozenset({"system", "developer"})
#: members of a chat completion that an embedding has no use for
_NOT_EMBEDDED = frozenset(
    {"messages", "max_completion_tokens", "max_tokens", "response_format", "temperature", "top_p"}
)


def body_for(endpoint: str, body: bytes) -> bytes:
    """Give the body that `endpoint` takes; a chat completion's is handed on as it is."""
    if endpoint == RESPONSES:
        return _written(_as_response(orjson.loads(body)))
    if endpoint == EMBEDDINGS:
        return _written(_as_embedding(orjson.loads(body)))
    return body


def _as_response(chat: Mapping[str, Any]) -> dict[str, Any]:
    made = {_RENAMED.get(name, name): value for name, value in chat.items()}
    messages = made.pop("messages")
    form, effort, verbosity = (made.pop(name, None) for name in ("response_format", "reasoning_effort", "verbosity"))
    system = [message["content"] for message in messages if message["role"] in _SYSTEM_ROLES]
    made["input"] = [message for message in messages if message["role"] not in _SYSTEM_ROLES]
    text = _given({"format": _text_format(form), "verbosity": verbosity})
    reasoning = _given({"effort": effort})
    return made | _given({"instructions": "\n\n".join(system), "text": text, "reasoning": reasoning})


def _text_format(form: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The same words, one level higher."""
    if form is None:
        return None
    return {"type": form["type"], **form.get("json_schema", {})}


def _as_embedding(chat: Mapping[str, Any]) -> dict[str, Any]:
    asked = [message["content"] for message in chat["messages"] if message["role"] == "user"]
    return {name: value for name, value in chat.items() if name not in _NOT_EMBEDDED} | {"input": asked[-1]}


def _given(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _written(body: Mapping[str, Any]) -> bytes:
    """Members sorted at the top only: those of a schema keep their order, models answer in it."""
    return orjson.dumps(dict(sorted(body.items())))
