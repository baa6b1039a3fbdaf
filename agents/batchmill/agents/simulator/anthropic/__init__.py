"""Law: the Anthropic dialect of the simulator: Message Batches over HTTP, the words of its objects, its rows."""

from batchmill.agents.simulator.anthropic.routes import routes
from batchmill.agents.simulator.anthropic.rows import AnthropicDialect

__all__ = ["AnthropicDialect", "routes"]
