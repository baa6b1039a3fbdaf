"""A frozen spec in the form decisions use: templates, schemas, paths and conditions compiled once per version.

`CompiledJobs` is the explicit cache of a stage. Compiling is pure and its result is never written anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.state import Job
from batchmill.schemas.versions import ask_fingerprint
from batchmill.streams.checking import NO_FUNCTIONS, CheckFunction
from batchmill.streams.cleaning import Cleaner, compile_cleaner
from batchmill.streams.costing import PriceError, PriceList, Prices, parse_prices
from batchmill.streams.exemplifying import ExampleError
from batchmill.streams.expressions import Condition, ConditionError, compile_condition
from batchmill.streams.judging import Judge, compile_judge
from batchmill.streams.paths import Path, PathError, compile_path
from batchmill.streams.rendering import TemplateError
from batchmill.streams.retrieving import Indexes, NoIndexes, Retrieval, compile_retrieval
from batchmill.streams.routing import Routes, compile_routes
from batchmill.streams.shapes import Shape, ShapeError, compile_shape
from batchmill.streams.staging import CompiledThen, compile_then
from batchmill.streams.tooling import ToolError, Tools, compile_tools

__all__ = ["FAULTS", "FILTER_VARIABLES", "CompiledJob", "CompiledJobs", "compile_job"]

#: what compiling a spec can raise; each message names the mistake
FAULTS = (TemplateError, ExampleError, ShapeError, PathError, ConditionError, PriceError, ToolError)
FILTER_VARIABLES = frozenset({"input"})
#: versions kept compiled per stage; the oldest unused one leaves first
VERSIONS_MAX = 64
_NO_INDEXES = NoIndexes()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledJob:
    """One version of one job, ready to be applied to records."""

    spec: JobSpec
    version: str
    ask_fingerprint: str
    id_path: Path | None
    seq_path: Path | None  #: None: by place in the log
    target_path: Path | None  #: None: the source id
    cleaner: Cleaner
    input_shape: Shape | None
    required: tuple[Path, ...]
    filter: Condition | None
    retrieval: Retrieval | None
    tools: Tools | None
    routes: Routes  #: by which its records are asked
    judge: Judge
    then: tuple[CompiledThen, ...]
    prices: Prices | None  #: frozen with the job; None: it was applied without any

    def costed_by(self, otherwise: PriceList) -> PriceList:
        """The prices that this version's calls are costed by, whatever list a worker has."""
        return otherwise if self.prices is None else self.prices


class CompiledJobs:
    """The compiled versions of one stage, by job row. Compiles again when a job's frozen specs change.

    `functions`: the checks written in Python that are installed, by name. `indexes`: what context is taken from.
    """

    def __init__(self, functions: Mapping[str, CheckFunction] = NO_FUNCTIONS, indexes: Indexes = _NO_INDEXES) -> None:
        self._functions = functions
        self._indexes = indexes
        self._compiled: dict[tuple[str, str], tuple[str, CompiledJob | None]] = {}

    def of(self, row: Job, version: str | None = None) -> CompiledJob | None:
        """`version` (default: the promoted one) of a job; None when the row does not know that version."""
        key = (row.job, version or row.version)
        kept = self._compiled.get(key)
        if kept is None or (kept[0] is not row.versions_json and kept[0] != row.versions_json):
            kept = (row.versions_json, _from_row(row, key[1], self._functions, self._indexes))
            self._compiled.pop(key, None)
            self._compiled[key] = kept
            if len(self._compiled) > VERSIONS_MAX:
                del self._compiled[next(iter(self._compiled))]
        return kept[1]


def compile_job(
    spec: JobSpec,
    version: str,
    functions: Mapping[str, CheckFunction] = NO_FUNCTIONS,
    indexes: Indexes = _NO_INDEXES,
) -> CompiledJob:
    """Compile all parts, or raise one of FAULTS."""
    given, seq, key = spec.input, spec.seq, spec.place.key
    return CompiledJob(
        spec=spec,
        version=version,
        ask_fingerprint=ask_fingerprint(spec),
        id_path=None if spec.id_path is None else compile_path(spec.id_path),
        seq_path=None if seq == "log" else compile_path(seq),
        target_path=None if key == "source_id" else compile_path(key),
        cleaner=compile_cleaner(given),
        input_shape=None if given.schema_json is None else compile_shape(orjson.loads(given.schema_json)),
        required=tuple(compile_path(name) for name in given.required),
        filter=None if given.filter is None else compile_condition(given.filter, variables=FILTER_VARIABLES),
        retrieval=None if spec.ask.retrieval is None else compile_retrieval(spec.ask.retrieval, indexes),
        tools=None if spec.ask.tools is None else compile_tools(spec.ask.tools),
        routes=compile_routes(spec),
        judge=compile_judge(spec, functions),
        then=compile_then(spec),
        prices=None if spec.prices_json is None else parse_prices(spec.prices_json),
    )


def _from_row(row: Job, version: str, functions: Mapping[str, CheckFunction], indexes: Indexes) -> CompiledJob | None:
    spec = orjson.loads(row.versions_json).get(version)
    return None if spec is None else compile_job(JobSpec.from_json(orjson.dumps(spec)), version, functions, indexes)
