"""Law: the OpenAI dialect of the simulator: files, batches and single calls over HTTP, its objects, its rows."""

from batchmill.agents.simulator.openai.objects import event_object
from batchmill.agents.simulator.openai.routes import routes
from batchmill.agents.simulator.openai.rows import OpenAIDialect

__all__ = ["OpenAIDialect", "event_object", "routes"]
