"""Fingerprints of a frozen job: what must be asked again, what must be judged again, what merely moves.

    ask    text preprocessing + prompt + model and params + requested output form + routes + retrieval + tools
    judge  the judge section + the output schema
    place  sink, table and key

Ask and judge together make the version that names a request. Left out on purpose, because they change which records are
asked or how they travel but not one question or judgement: input schema, required members and filter; `account` (who
pays); mode, retry, budget, id and seq. A member at its default is left out too, so that a new member with a default
renames nothing that exists; defaults are therefore for life.
"""

import base64
import hashlib
from typing import Any, Final

from batchmill.schemas.asking import ModelSpec, RouteSpec
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.strict_json import canonical_json, parse_json, plain

__all__ = ["ask_fingerprint", "judge_fingerprint", "place_fingerprint", "version_of"]

#: Raised by hand when the code that preprocesses, renders or judges comes to mean something else by the same spec.
_ASK_MEANING: Final = 1
_JUDGE_MEANING: Final = 1

_PREPROCESSING: Final = ("normalize", "strip_control", "max_chars", "keep", "strip_markup", "collapse_space")
_VERSION_CHARS: Final = 16


def ask_fingerprint(spec: JobSpec) -> str:
    """Sha256 of whatever shapes the request; member order of the output schema counts, models answer in it."""
    asked = _told(spec.ask) | {"model": _model(spec.ask.model)}
    if spec.ask.routes:
        asked["routes"] = [_route(route) for route in spec.ask.routes]
    if spec.near is not None:
        asked["near"] = plain(spec.near)
    given = _told(spec.input)
    text = {name: given[name] for name in _PREPROCESSING if name in given}
    return _sha256({"meaning": _ASK_MEANING, "text": text, "ask": asked})


def _route(route: RouteSpec) -> dict[str, Any]:
    return _told(route) | ({} if route.model is None else {"model": _model(route.model)})


def _model(spec: ModelSpec) -> dict[str, Any]:
    """Who pays is no part of the question."""
    told = _told(spec)
    told.pop("account", None)
    return told | {"params_json": parse_json(spec.params_json, "$.ask.model.params_json")}


def judge_fingerprint(spec: JobSpec) -> str:
    """Sha256 of whatever an answer is measured by."""
    written = spec.ask.output_schema_json
    schema = None if written is None else parse_json(written, "$.ask.output_schema_json")
    return _sha256({"meaning": _JUDGE_MEANING, "judge": _told(spec.judge), "output_schema": schema})


def place_fingerprint(spec: JobSpec) -> str:
    """Sha256 of where output goes; may change without a new version."""
    return _sha256(_told(spec.place))


def version_of(spec: JobSpec) -> str:
    """Sixteen base32 characters that name ask and judge together."""
    both = f"{ask_fingerprint(spec)}\n{judge_fingerprint(spec)}"
    return base64.b32encode(hashlib.sha256(both.encode()).digest()).decode("ascii").lower()[:_VERSION_CHARS]


def _told(part: object) -> dict[str, Any]:
    told: dict[str, Any] = plain(part, omit_defaults=True)
    return told


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
