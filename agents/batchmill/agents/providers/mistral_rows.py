"""Rows of Mistral's batches: a canonical body as an input line, a line of a result file as an outcome.

What lives here: two pure functions and what differs from OpenAI's rows, in whose words result lines come. What must
not: any call, or judging an answer. The model is the job's, so no row repeats it.

An answer may be a list of parts, of which the texts count: thoughts come as parts of their own. `model_length` is a cut
like any other; `error` means that the model broke off, and what is there cannot be taken for a whole answer.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from batchmill.agents.providers import openai_rows
from batchmill.agents.providers.loose import listed, mapping
from batchmill.agents.providers.openai_bodies import body_for
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import RowOutcome

__all__ = ["parse_row", "request_line"]

#: parameters of a chat completion -> Mistral's; any other name goes as it is
_PARAMS = {"max_completion_tokens": "max_tokens", "seed": "random_seed", "dimensions": "output_dimension"}
_FINISH = {"model_length": "length"}
BROKE_OFF = "error"


def request_line(*, custom_id: str, endpoint: str, body: bytes) -> bytes:
    """Frame a rendered body as an input line, line end included; equal arguments give equal bytes."""
    members = orjson.loads(body_for(endpoint, body))
    asked = {_PARAMS.get(name, name): value for name, value in members.items() if name != "model"}
    line = {"custom_id": custom_id, "body": dict(sorted(asked.items()))}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def parse_row(line: bytes) -> RowOutcome | None:
    """Read one line of an output or error file."""
    row = openai_rows.parse_row(_with_plain_content(line))
    if row is None:
        return None
    if row.outcome is Outcome.SUCCEEDED and row.finish_reason == BROKE_OFF:
        code = "finished_with_error"
        return replace(row, outcome=Outcome.ERROR, reason=Reason.PROVIDER_ERROR, error_code=code, output=None)
    return replace(row, finish_reason=_FINISH.get(row.finish_reason or "", row.finish_reason))


def _with_plain_content(line: bytes) -> bytes:
    """The same line with the texts of each answer joined; as it is where there is nothing to join."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line
    choices = listed(mapping(mapping(mapping(row).get("response")).get("body")).get("choices"))
    messages = [mapping(mapping(choice).get("message")) for choice in choices]
    listing = [message for message in messages if isinstance(message.get("content"), list)]
    for message in listing:
        message["content"] = _joined(message["content"])
    return orjson.dumps(row) if listing else line


def _joined(parts: list[Any]) -> str:
    texts = [part["text"] for part in parts if _is_text(part)]
    return "".join(texts)


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
