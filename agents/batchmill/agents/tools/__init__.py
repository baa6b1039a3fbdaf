"""Bounded tools: who asks the databases and APIs of the settings what `streams.tooling` wants to know of a record.

    asking       several questions about one record
    sources      all of them by name: turns, tries, cache
    sqlite       a file, opened for reading only
    postgres     a server, in a read-only transaction
    api          one GET of an address that the settings fix
    values       what a database gives, as JSON
    cache        answers that were had a moment ago

What must not live here: what is asked, and what an answer means. Nothing here can write.
"""

from batchmill.agents.tools.asking import Findings, ask_all
from batchmill.agents.tools.sources import Asked, SourceAwayError, ToolSources

__all__ = ["Asked", "Findings", "SourceAwayError", "ToolSources", "ask_all"]
