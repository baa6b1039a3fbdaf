"""Hypothesis strategies for every record, row and job: anything the types allow, edges included.

`anything()` draws from all record and row classes; `of(cls)` from one; `job_specs()` makes valid frozen jobs. Text
excludes lone surrogates and numbers stay within 64 bits, since nothing else has bytes.
"""

import json
import types
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import (
    BudgetSpec,
    CheckKind,
    ChunkSpec,
    ConfidenceSpec,
    InputSpec,
    JobSpec,
    JudgeSpec,
    LengthSpec,
    ModeSpec,
    PlaceSpec,
    RetryRule,
    RetrySpec,
    Severity,
)
from batchmill.schemas.reasons import Reason
from batchmill.schemas.registry import CLASSES

__all__ = ["anything", "job_specs", "of", "texts"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}", fullmatch=True)
_paths = st.sampled_from(["$.id", "$.a.b", "$['x']"])
_seconds = st.floats(0, 10**6) | st.integers(0, 10**6)

_PRIMITIVES: dict[type, st.SearchStrategy[Any]] = {
    str: texts,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    types.NoneType: st.none(),
}


@cache
def of(cls: Any) -> st.SearchStrategy[Any]:
    """Any value of a record or row class."""
    hints = get_type_hints(cls)
    return st.builds(cls, **{field.name: _of_hint(hints[field.name]) for field in fields(cls)})


def anything() -> st.SearchStrategy[Any]:
    """Any record or row at all."""
    return st.one_of([of(cls) for cls in CLASSES.values()])


def _of_hint(hint: Any) -> st.SearchStrategy[Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of([_of_hint(member) for member in inner])
    if origin is tuple:
        return st.lists(_of_hint(inner[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(_of_hint(inner[0]), _of_hint(inner[1]), max_size=3)
    if is_dataclass(hint):
        return of(hint)
    return st.sampled_from(hint) if issubclass(hint, StrEnum) else _PRIMITIVES[hint]


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
_json_objects = st.dictionaries(texts, _json_values, max_size=4).map(json.dumps)

_models = st.builds(
    ModelSpec, provider=names, name=names, account=names, endpoint=st.just("/v1/responses"), params_json=_json_objects
)
_asks = st.builds(
    AskSpec,
    system=st.none() | texts,
    user=texts.map(lambda text: f"{text}{{{{ input.text }}}}"),
    model=_models,
    output_schema_json=st.none() | _json_objects,
    output_name=names,
)
_inputs = st.builds(
    InputSpec,
    schema_json=st.none() | _json_objects,
    required=st.lists(texts, max_size=3).map(tuple),
    normalize=st.sampled_from(["NFC", "NFKC", None]),
    strip_control=st.booleans(),
    max_chars=st.dictionaries(texts, st.integers(1, 10**6), max_size=3),
    filter=st.none() | texts,
)
_modes = st.builds(
    ModeSpec,
    deadline_seconds=st.none() | st.integers(1, 10**6),
    hold_submit=st.booleans(),
    chunk=st.builds(ChunkSpec, max_count=st.integers(1, 10**5), max_age_seconds=st.floats(0.01, 10**5)),
)
_lengths = st.tuples(st.integers(0, 100), st.none() | st.integers(100, 200)).map(
    lambda pair: LengthSpec(min=pair[0], max=pair[1])
)
_judges = st.builds(
    JudgeSpec,
    required=st.lists(texts, max_size=3).map(tuple),
    categories=st.dictionaries(texts, st.lists(texts, min_size=1, max_size=3).map(tuple), max_size=2),
    lengths=st.dictionaries(texts, _lengths, max_size=2),
    confidence=st.none() | st.builds(ConfidenceSpec, field=texts, review_below=st.floats(0, 1)),
    review_sample=st.floats(0, 1),
    on_reject=st.sampled_from(["retry", "review", "dead"]),
    severity=st.dictionaries(st.sampled_from(CheckKind), st.sampled_from(Severity), max_size=3),
)
_rules = st.tuples(st.none() | st.integers(1, 9), st.none() | _seconds).map(
    lambda pair: RetryRule(max_attempts=pair[0], backoff_seconds_base=pair[1])
)
_retries = st.builds(
    RetrySpec,
    max_attempts=st.integers(1, 20),
    backoff_seconds_base=_seconds,
    backoff_seconds_max=st.just(10**6),
    on=st.dictionaries(st.sampled_from(Reason), _rules, max_size=3),
)
_places = st.builds(PlaceSpec, sink=names, table=names, key=st.just("source_id") | _paths)
_nanos = st.none() | st.integers(1, 10**15)


_drifts = st.builds(
    DriftSpec,
    field=st.just("label"),
    against=st.sampled_from(["first", "current"]),
    reference=st.integers(50, 100_000),
    window=st.integers(50, 100_000),
    policy=st.sampled_from(["warn", "pause"]),
    psi_above=st.floats(0.01, 10),
    signals=st.lists(st.sampled_from(DriftSignal), unique=True).map(tuple),
)


def job_specs() -> st.SearchStrategy[JobSpec]:
    """Any valid frozen job."""
    return st.builds(
        JobSpec,
        job=names,
        id_path=st.none() | _paths,
        seq=st.just("log") | _paths,
        input=_inputs,
        ask=_asks,
        mode=_modes,
        judge=_judges,
        retry=_retries,
        place=_places,
        dedupe=st.sampled_from(["source", "content"]),
        budget=st.none() | st.builds(BudgetSpec, job_nanos=_nanos, record_nanos=_nanos),
        drift=st.none() | _drifts,
    )
