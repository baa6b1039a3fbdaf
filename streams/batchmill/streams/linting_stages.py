"""What is wrong with the jobs that a frozen job feeds, and with the parts it waits for, before any record meets it.

Only what its own spec shows. Whether several jobs feed each other in a circle is `graphing`'s, asked where all of them
are known.
"""

from collections import Counter
from collections.abc import Iterator

from batchmill.schemas.jobs import JobSpec
from batchmill.streams.expressions import ConditionError, compile_condition
from batchmill.streams.finding import Finding
from batchmill.streams.graphing import cycle, edges, told_cycle
from batchmill.streams.paths import PathError, compile_path
from batchmill.streams.staging import THEN_VARIABLES

__all__ = ["staged"]

#: the sink that keeps nothing
_NOWHERE = "none"


def staged(spec: JobSpec) -> Iterator[Finding]:
    """All findings about stages."""
    yield from _then(spec)
    way = cycle(edge for edge in edges(spec) if edge.kind == "then")  # a scorer of itself is the judge's matter
    if way is not None:
        yield Finding(where="$.then", message=told_cycle(way), error=True, hint="feed a job of another name")
    if spec.join is not None and (spec.ask.tools is not None or spec.ask.retrieval is not None):
        what = "a job that joins parts looks nothing up: what was looked up would belong to one part only"
        hint = "look it up in the stage before, or in the one behind"
        yield Finding(where="$.join", message=what, error=True, hint=hint)
    if spec.place.sink == _NOWHERE and not spec.then:
        what = "the sink `none` keeps nothing, and no job follows: what is committed goes nowhere"
        yield Finding(where="$.place.sink", message=what, error=False)


def _then(spec: JobSpec) -> Iterator[Finding]:
    for at, each in enumerate(spec.then):
        try:
            if each.when is not None:
                compile_condition(each.when, variables=THEN_VARIABLES)
        except ConditionError as fault:
            yield Finding(where=f"$.then[{at}].when", message=str(fault), error=True)
        try:
            if each.split is not None:
                compile_path(each.split)
        except PathError as fault:
            yield Finding(where=f"$.then[{at}].split", message=str(fault), error=True)
    for name, times in Counter(each.job for each in spec.then).items():
        if times > 1:
            what = f"names {name!r} {times} times: both events would have one source, and the later one would win"
            yield Finding(where="$.then", message=what, error=True, hint="say it in one `when`, or feed another job")
