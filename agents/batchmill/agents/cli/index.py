"""`batchmill index`: build an index of documents, look at it, search it as a record would, and see whether it aged."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, inert
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.jobs import LoadedJob
    from batchmill.agents.jobs.problems import Problem
    from batchmill.agents.retrieval.ageing import Age
    from batchmill.agents.retrieval.embedders import Embedder
    from batchmill.agents.retrieval.pointers import Pointer
    from batchmill.agents.retrieval.searching import Index

__all__ = ["add", "index_warnings"]

POINTER = typer.Argument(metavar="POINTER", help="The pointer file, NAME.index.json.")
_IDS_SHOWN = 20


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build and look at indexes of documents.")
    for command in (build, show, search, check):
        group.command()(command)
    app.add_typer(group, name="index")


def build(
    context: typer.Context,
    documents: Annotated[Path, typer.Argument(metavar="DOCS", help="JSONL: {id, text, title?, allow?, ...} a line.")],
    name: Annotated[str, typer.Option(help="What the index is called.")],
    out: Annotated[Path, typer.Option(help="Folder for the pointer file; the job's folder, as a rule.")],
    piece_tokens: Annotated[int, typer.Option(help="Most tokens of a piece, by estimate.")] = 200,
    overlap_tokens: Annotated[int, typer.Option(help="Tokens of a piece that the next one repeats.")] = 30,
    embedder: Annotated[str | None, typer.Option(help="An installed embedder, to find by meaning as well.")] = None,
    require_allow: Annotated[
        bool, typer.Option("--require-allow", help="Refuse documents that do not say who may see them.")
    ] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Cut documents into pieces, store them as a snapshot under their hash, and write the pointer a job names.

    The same documents give the same hash. What is applied keeps the snapshot it was applied with: to use a new one,
    apply the job again.

    \b
    Example:
      batchmill index build handbook.jsonl --name handbook --out jobs/support
    """
    from batchmill.agents import clock
    from batchmill.agents.payloads import PayloadError
    from batchmill.agents.retrieval.building import DocumentsError, build_index
    from batchmill.agents.retrieval.looking import store_of
    from batchmill.agents.retrieval.pointers import PointerError
    from batchmill.streams.indexing import Cutting, DocumentError
    from batchmill.streams.retrieving import RetrievalError

    here = door(context)
    try:
        making = build_index(
            documents,
            name=name,
            folder=out,
            store=store_of(here.settings),
            cutting=Cutting(tokens_max=piece_tokens, overlap_tokens=overlap_tokens),
            embedder=_embedder(embedder),
            now_ms=clock.wall_ms(),
            require_allow=require_allow,
        )
        built = asyncio.run(making)
    except (PointerError, DocumentError, RetrievalError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    except DocumentsError as error:
        raise CommandError(str(error), ExitCode.GATE) from None
    except PayloadError as error:
        raise CommandError(str(error), ExitCode.CONFLICT) from None
    if json:
        here.emit("index.build", _told(built.pointer) | {"pointer": str(built.file), "bytes": built.size_bytes})
        return
    pointer = built.pointer
    here.say(
        f"{built.file}: {pointer.documents:,} documents, {pointer.pieces:,} pieces, snapshot {pointer.sha256[:16]}"
    )


def show(context: typer.Context, pointer: Annotated[Path, POINTER], json: Annotated[bool, JSON] = False) -> None:
    """Show what an index is made of, and how it was made.

    \b
    Example:
      batchmill index show jobs/support/handbook.index.json
    """
    here = door(context)
    told, index = _opened(here, pointer)
    snapshot = index.snapshot
    groups = sorted({group for document in snapshot.documents for group in document.allow or ()})
    facts = _told(told) | {
        "piece_tokens": snapshot.cutting.tokens_max,
        "overlap_tokens": snapshot.cutting.overlap_tokens,
        "embedder": None if snapshot.embedder is None else snapshot.embedder.name,
        "public": sum(document.allow is None for document in snapshot.documents),
        "groups": groups,
    }
    if json:
        here.emit("index.show", facts)
        return
    here.fields([(name, ", ".join(value) if isinstance(value, list) else value) for name, value in facts.items()])


def search(
    context: typer.Context,
    pointer: Annotated[Path, POINTER],
    query: Annotated[str, typer.Argument(help="What a record would ask.")],
    group: Annotated[list[str] | None, typer.Option(help="A group the record belongs to. Repeatable.")] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="Pieces at most.")] = 5,
    tokens_max: Annotated[int, typer.Option(min=1, help="Tokens of all pieces together.")] = 1_500,
    at: Annotated[str | None, typer.Option(help="When the record's event was, as RFC 3339; default: now.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what a record would be shown: what it may see, best first, within its tokens.

    \b
    Example:
      batchmill index search jobs/support/handbook.index.json "lost parcel" --group staff
    """
    from batchmill.schemas.asking import RetrievalSpec
    from batchmill.streams.retrieving import Inquiry, RetrievalError, found_for

    here = door(context)
    told, index = _opened(here, pointer)
    spec = RetrievalSpec(index=told.name, sha256=told.sha256, query="$.query", top=top, tokens_max=tokens_max)
    inquiry = Inquiry(query=query, groups=frozenset(group or ()), at_ms=_moment_ms(at))
    try:
        found = found_for(spec, index, inquiry)
    except RetrievalError as error:
        raise CommandError(str(error), ExitCode.CONFLICT) from None
    if json:
        here.emit("index.search", [{"id": each.id, "document": each.document.id, "text": each.text} for each in found])
        return
    for each in found:
        print(f"{inert(each.id)}\n{_inert_lines(each.text)}\n")
    if not found:
        here.say("nothing: no piece that this record may see has a word of the query")


def check(
    context: typer.Context,
    pointer: Annotated[Path, POINTER],
    documents: Annotated[
        Path | None, typer.Option(help="The documents as they are now; default: the file it was built from, if there.")
    ] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Compare an index with its documents as they are now: added, changed, removed, expired. Exit code 1 when stale.

    \b
    Example:
      batchmill index check jobs/support/handbook.index.json --documents handbook.jsonl
    """
    from batchmill.agents import clock
    from batchmill.agents.retrieval.ageing import age_of
    from batchmill.agents.retrieval.building import DocumentsError, read_documents

    here = door(context)
    told, index = _opened(here, pointer)
    file = documents or pointer.parent / told.documents_file
    now = None
    if documents is not None or file.is_file():
        try:
            now = read_documents(file).documents
        except DocumentsError as error:
            raise CommandError(str(error), ExitCode.GATE) from None
    age = age_of(index.snapshot, now, now_ms=clock.wall_ms())
    if json:
        compared = None if now is None else str(file)
        here.emit("index.check", {"stale": age.stale, "compared_with": compared} | _ids(age))
    else:
        _tell(here, told, age, None if now is None else file)
    if age.stale:
        raise typer.Exit(ExitCode.PARTIAL)


def index_warnings(here: Door, loaded: "LoadedJob") -> "list[Problem]":
    """What is odd about the index the job names; the workers may have another payload store than this command."""
    from batchmill.agents import clock
    from batchmill.agents.jobs import Problem
    from batchmill.agents.jobs.lines import read_yaml
    from batchmill.agents.retrieval.looking import Shelf, troubles_of

    retrieval = loaded.spec.ask.retrieval
    if retrieval is None:
        return []
    lined = read_yaml(loaded.file)
    line, name = lined.line(("ask", "retrieval", "index")), lined.data["ask"]["retrieval"]["index"]
    index = Shelf(here.settings).look(retrieval.sha256)
    return [
        Problem(
            file=loaded.file, line=line, what=f"index {retrieval.index}: {each.what}", hint=each.hint, level="warning"
        )
        for each in troubles_of(index, loaded.file.parent / name, now_ms=clock.wall_ms())
    ]


def _tell(here: Door, told: "Pointer", age: "Age", file: Path | None) -> None:
    for name, ids in _ids(age).items():
        if ids:
            shown = ", ".join(map(inert, ids[:_IDS_SHOWN])) + (", ..." if len(ids) > _IDS_SHOWN else "")
            print(f"{name.replace('_', ' ')} {len(ids)}: {shown}")
    against = "the clock alone: say --documents to compare" if file is None else str(file)
    verdict = "is stale" if age.stale else "is not stale"
    here.say(f"index {told.name} of {told.built_at} {verdict}, compared with {against}")


def _ids(age: "Age") -> dict[str, tuple[str, ...]]:
    return {
        "added": age.added,
        "changed": age.changed,
        "removed": age.removed,
        "expired": age.expired,
        "not_yet_valid": age.not_yet,
    }


def _opened(here: Door, file: Path) -> "tuple[Pointer, Index]":
    from batchmill.agents.retrieval.library import IndexGoneError
    from batchmill.agents.retrieval.looking import index_at
    from batchmill.agents.retrieval.pointers import PointerError, read_pointer

    try:
        told = read_pointer(file)
        return told, index_at(here.settings, told.sha256)
    except (PointerError, IndexGoneError) as error:
        raise CommandError(str(error), ExitCode.NOT_FOUND) from None


def _embedder(name: str | None) -> "Embedder | None":
    from batchmill.agents.installed import InstalledError
    from batchmill.agents.retrieval.embedders import load_embedder

    if name is None:
        return None
    try:
        return load_embedder(name)
    except InstalledError as error:
        raise CommandError(f"{error}; {error.hint}", ExitCode.USAGE) from None


def _moment_ms(text: str | None) -> int:
    from batchmill.agents import clock
    from batchmill.streams.indexing import DocumentError, moment_ms

    if text is None:
        return clock.wall_ms()
    try:
        return moment_ms(text, "--at")
    except DocumentError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None


def _inert_lines(text: str) -> str:
    return "\n".join(f"  {inert(line)}" for line in text.split("\n"))


def _told(pointer: "Pointer") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(pointer)
