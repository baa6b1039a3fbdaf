"""What the GenAI conventions call our providers and endpoints."""

from typing import Final

__all__ = ["operation_name", "provider_name"]

#: kinds of providers (`streams.capabilities`) -> gen_ai.provider.name; a kind without a name of theirs keeps its own
_PROVIDERS: Final = {
    "openai": "openai",
    "azure": "azure.ai.openai",
    "compatible": "openai",  # as the conventions want it: what the client takes the server for
    "anthropic": "anthropic",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "bedrock": "aws.bedrock",
}


def provider_name(kind: str) -> str:
    return _PROVIDERS.get(kind, kind)


def operation_name(endpoint: str) -> str:
    """The operation an endpoint carries out (gen_ai.operation.name)."""
    if endpoint.endswith("/embeddings"):
        return "embeddings"
    return "generate_content" if endpoint == "generateContent" else "chat"
