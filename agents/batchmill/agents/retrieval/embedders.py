"""Embedders, as they are installed: entry points of the group `batchmill.embedders`, texts -> vectors.

    [project.entry-points."batchmill.embedders"]
    minilm = "acme_vectors.minilm:embed"

An embedder is a function that is given a list of texts and gives a list of as many lists of numbers, each of the same
length, and the same ones for the same text. It runs in the worker for every record, so it is local and quick: an index
built with a provider's embeddings could not be asked without a paid call that no ledger knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from batchmill.agents.installed import Installed, InstalledError, load_installed
from batchmill.streams.indexing import DocumentError, EmbedderMark, Vector, whole_numbers
from batchmill.streams.retrieving import RetrievalError

__all__ = ["GROUP", "Embedder", "load_embedder"]

GROUP = "batchmill.embedders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """An installed function, marked with what it was when it was loaded."""

    mark: EmbedderMark
    function: Installed

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, or RetrievalError: what a plug-in raises or gives is never the worker's end."""
        try:
            given = self.function.call(list(texts))
            vectors = [whole_numbers(each) for each in given]
        except DocumentError as wrong:
            raise RetrievalError(f"the embedder {self.mark.name!r} gave what is no vector: {wrong}") from None
        except Exception as error:  # noqa: BLE001 - other people's code
            raise RetrievalError(f"the embedder {self.mark.name!r} failed: {type(error).__name__}") from None
        if len(vectors) != len(texts) or len({len(each) for each in vectors}) > 1:
            raise RetrievalError(f"the embedder {self.mark.name!r} gave other vectors than one for each text")
        return vectors


def load_embedder(name: str, *, sha256: str | None = None) -> Embedder:
    """The embedder of that name, or InstalledError; with `sha256`, no other than the one with that source."""
    found = load_installed(GROUP, name, kind="embedder")
    if sha256 is not None and found.sha256 != sha256:
        why = f"the embedder {name!r} that is installed is not the one the index was built with"
        raise InstalledError(why, "install that version here, or build the index anew and apply the job")
    return Embedder(mark=EmbedderMark(name=name, sha256=found.sha256), function=found)
