"""Law: the Gemini dialect of the simulator: Files and Batches of the Developer API, its objects, its rows."""

from batchmill.agents.simulator.gemini.routes import routes
from batchmill.agents.simulator.gemini.rows import GeminiDialect

__all__ = ["GeminiDialect", "routes"]
