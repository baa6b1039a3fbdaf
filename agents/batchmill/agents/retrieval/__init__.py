"""Indexes: built once from documents, kept in the payload store under their hash, searched in memory by the workers.

    building.py    a file of documents -> a snapshot in the store, and the pointer file a job names
    library.py     the snapshots a process has loaded, a bounded number of them
    searching.py   one loaded snapshot: which of its pieces answer best
    lexical.py     by words (BM25);  vectors.py  by meaning, through an embedder that is installed
    embedders.py   the installed embedders
    ageing.py      how an index differs from the documents as they are now

What lives here: carrying out. What must not: what a piece is, and who is shown which (`streams.indexing`,
`streams.retrieving`).
"""

__all__: list[str] = []
