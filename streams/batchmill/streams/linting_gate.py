"""What is wrong with the gate of a frozen job, or can never be met: told before anything is paid for a benchmark.

What must not live here: judging a version (`gating`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.promotion import GateSpec
from batchmill.streams.finding import Finding
from batchmill.streams.golden import Gold, GoldError, gold_of
from batchmill.streams.paths import ABSENT, PathError, compile_path

__all__ = ["gate_findings"]

_BENCHMARK = "$.gate.benchmark"


def gate_findings(spec: JobSpec, declared: Mapping[str, Any] | None) -> Iterator[Finding]:
    """`declared`: the members of the answer, where the output schema names them."""
    if spec.gate is None:
        return
    try:
        golden = _golden(spec.gate)
    except GoldError as error:
        yield Finding(where=_BENCHMARK, message=error.message, error=True, line=error.line)
        return
    yield from _fields(spec.gate, golden, declared)
    yield from _records(spec, golden)
    if spec.gate.min_accuracy is not None and not golden:
        what = "without `benchmark` no accuracy can be known: the gate is never met"
        yield Finding(where="$.gate.min_accuracy", message=what, error=False)


def _golden(gate: GateSpec) -> dict[str, Gold]:
    return {} if gate.benchmark_json is None else gold_of(enumerate(orjson.loads(gate.benchmark_json), start=1))


def _fields(gate: GateSpec, golden: Mapping[str, Gold], declared: Mapping[str, Any] | None) -> Iterator[Finding]:
    """A member that no answer has is never right; one that no right output has is never judged."""
    for name in gate.fields:
        try:
            path = compile_path(name)
        except PathError as error:
            yield Finding(where="$.gate.fields", message=str(error), error=True)
            continue
        if declared is not None and path.steps[0] not in declared:
            what = f"{name!r} is not a member of the output schema"
            yield Finding(where="$.gate.fields", message=what, error=True, hint=f"it has {', '.join(sorted(declared))}")
        elif golden and all(path.find(gold.output) is ABSENT for gold in golden.values()):
            yield Finding(where="$.gate.fields", message=f"no record of the benchmark has {name!r}", error=True)


def _records(spec: JobSpec, golden: Mapping[str, Gold]) -> Iterator[Finding]:
    """The first record that can be no event of this job."""
    path = None if spec.id_path is None else compile_path(spec.id_path)
    for number, gold in enumerate(golden.values(), start=1):
        if gold.input is None:
            what = "it has no `input`, so nobody can be asked about it"
        elif path is not None and str(path.find(gold.input)) != gold.id:
            what = f"the job takes the source id from {path.text}; `id` must be the same"
        else:
            continue
        yield Finding(where=_BENCHMARK, message=what, error=True, line=number)
        return
