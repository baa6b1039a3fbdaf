"""Bounded tools: who asks the databases and APIs of the settings what `streams.tooling` wants to know of a record.

    sources      all of them by name: turns, tries, cache
    sqlite       a file, opened for reading only
    postgres     a server, in a read-only transaction
    api          one GET of an address that the settings fix
    cache        answers that were had a moment ago

What must not live here: what is asked, and what an answer means. Nothing here can write.
"""

from batchmill.agents.tools.sources import Asked, ToolSources

__all__ = ["Asked", "ToolSources"]
