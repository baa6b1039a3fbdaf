"""Law: the Mistral dialect of the simulator: Files and Batch Jobs over HTTP, the words of its objects, its rows."""

from batchmill.agents.simulator.mistral.routes import routes
from batchmill.agents.simulator.mistral.rows import MistralDialect

__all__ = ["MistralDialect", "routes"]
