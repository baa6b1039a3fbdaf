"""What is wrong with what a frozen job looks up for its records (documents, tools), before any record meets it.

What lives here: where it is put, and whether a record still has what it is found by. What must not: whether SQL, path
or expression can work at all (`tooling`), and whether an index is there.
"""

from collections.abc import Iterator

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.streams.compiling import FAULTS
from batchmill.streams.finding import Finding
from batchmill.streams.paths import Path, compile_path
from batchmill.streams.subschemas import members_of

__all__ = ["looked_up"]


def looked_up(spec: JobSpec) -> Iterator[Finding]:
    """All findings about look-ups."""
    yield from _found_by_nothing(spec)
    yield from _left_out(spec)
    yield from _taken_places(spec)
    retrieval = spec.ask.retrieval
    if spec.dedupe == "near" and retrieval is not None and retrieval.allow is not None:
        what = "an answer would be given to records of other groups, and may tell what their documents do not"
        hint = "say `dedupe: source` or `content`, or leave `allow` out and index only what is for everybody"
        yield Finding(where="$.dedupe", message=what, error=True, hint=hint)


def _found_by_nothing(spec: JobSpec) -> Iterator[Finding]:
    """A query that no record has would find nothing for any of them; groups that none has would hide everything."""
    declared, beside = _declared(spec), _places(spec)
    for where, text in _paths(spec):
        try:
            first = compile_path(text).steps[0]
        except FAULTS as fault:
            if where.startswith("$.ask.retrieval"):  # those of the tools are told by `tooling`
                yield Finding(where=where, message=str(fault), error=True)
            continue
        if declared and first not in declared and first not in beside.values():
            what = f"the input schema declares no member {first!r}"
            yield Finding(where=where, message=what, error=True, hint=f"it has {', '.join(sorted(declared))}")


def _left_out(spec: JobSpec) -> Iterator[Finding]:
    """What `input.keep` leaves out is gone before it is asked for; the groups alone are read before."""
    kept = _compiled(spec.input.keep)
    if not kept:
        return
    wanted = [(where, text) for where, text in _paths(spec) if where != "$.ask.retrieval.allow"]
    wanted += [("$.input.required", text) for text in spec.input.required]
    wanted += [("$.place.key", spec.place.key)] if spec.place.key.startswith("$") else []
    for where, text in wanted:
        for path in _compiled((text,)):
            if path.steps[0] not in _places(spec).values() and not any(_meet(path, each) for each in kept):
                what = f"no record has {path.text}, since `input.keep` leaves it out"
                yield Finding(where=where, message=what, error=True, hint="name it under input.keep")


def _taken_places(spec: JobSpec) -> Iterator[Finding]:
    places = _places(spec)
    for where, into in places.items():
        if into in _declared(spec):
            what = f"the input schema declares {into!r}, which {where.split('.')[2]} writes: such a record is refused"
            yield Finding(where=where, message=what, error=True, hint="choose a name that no record has")
    if len(set(places.values())) < len(places):
        what = "documents are put there as well: every record would be refused"
        yield Finding(where="$.ask.tools.into", message=what, error=True, hint="choose another name")


def _places(spec: JobSpec) -> dict[str, str]:
    """Where what is looked up is put: member of the spec -> member of the input."""
    retrieval, tools = spec.ask.retrieval, spec.ask.tools
    found = {} if retrieval is None else {"$.ask.retrieval.into": retrieval.into}
    return found if tools is None else found | {"$.ask.tools.into": tools.into}


def _paths(spec: JobSpec) -> list[tuple[str, str]]:
    """By what it is found, and as whom."""
    retrieval, tools = spec.ask.retrieval, spec.ask.tools
    found: list[tuple[str, str]] = []
    if retrieval is not None:
        found.append(("$.ask.retrieval.query", retrieval.query))
        found += [] if retrieval.allow is None else [("$.ask.retrieval.allow", retrieval.allow)]
    if tools is not None:
        for tool, each in (("lookup", tools.lookup), ("fetch", tools.fetch)):
            params = {} if each is None else each.params
            found += [(f"$.ask.tools.{tool}.params.{name}", path) for name, path in params.items()]
    return found


def _declared(spec: JobSpec) -> dict[str, object]:
    schema = None if spec.input.schema_json is None else orjson.loads(spec.input.schema_json)
    return members_of(schema, schema)


def _compiled(texts: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    for text in texts:
        try:
            found.append(compile_path(text))
        except FAULTS:
            continue  # told where it stands
    return found


def _meet(one: Path, other: Path) -> bool:
    """Whether one lies within the other. A list is kept whole: from a place in it on the steps do not count."""
    pairs = zip(one.steps, other.steps, strict=False)
    return all(a == b for a, b in pairs if isinstance(a, str) and isinstance(b, str))
