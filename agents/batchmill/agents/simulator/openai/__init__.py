"""Law: the OpenAI dialect of the simulator: Files and Batches over HTTP, the words of its objects, its rows."""

from batchmill.agents.simulator.openai.routes import routes
from batchmill.agents.simulator.openai.rows import OpenAIDialect

__all__ = ["OpenAIDialect", "routes"]
