"""What each kind of provider can do: one table of facts; adapters, planning, checks and the reference page read it.

Adding a provider is a row here and a module `agents/providers/<protocol>_batch.py`. A number is the provider's own
published one; an account may be set lower or higher. What no document says is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from batchmill.streams.ports import Capabilities, FoundBy

__all__ = ["PROVIDERS", "ProviderFacts", "facts_of"]

_HOUR: Final = 3_600
_DAY: Final = 86_400
_CHAT: Final = "/v1/chat/completions"
_OPENAI_ENDPOINTS: Final = (_CHAT, "/v1/responses", "/v1/embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """One row. `protocol` names the adapter; None: described here, and there is no adapter yet."""

    title: str
    protocol: str | None
    base_url: str | None  #: where the public service is; None: every account has its own
    can: Capabilities
    note: str = ""


PROVIDERS: Final[Mapping[str, ProviderFacts]] = MappingProxyType(
    {
        "openai": ProviderFacts(
            title="OpenAI",
            protocol="openai",
            base_url="https://api.openai.com/v1",
            can=Capabilities(
                members_max=50_000,
                bytes_max=200 * 10**6,
                custom_id_chars_max=64,
                found_by=FoundBy.METADATA,
                input_file=True,
                one_model=True,
                bad_row_fails="batch",
                window_seconds=_DAY,
                typical_seconds=2 * _HOUR,
                retention_seconds=30 * _DAY,
                creates_per_hour_max=2_000,
                queue_counts="tokens",
                queue_max=None,  # by tier: 90 thousand to billions
                batch_percent=50,
                endpoints=_OPENAI_ENDPOINTS,
                online_endpoints=_OPENAI_ENDPOINTS,
            ),
        ),
        "azure": ProviderFacts(
            title="Azure OpenAI",
            protocol="openai",
            base_url=None,
            can=Capabilities(
                members_max=100_000,
                bytes_max=200 * 10**6,
                custom_id_chars_max=64,
                found_by=FoundBy.METADATA,
                input_file=True,
                one_model=True,
                bad_row_fails="batch",
                window_seconds=_DAY,
                typical_seconds=6 * _HOUR,
                retention_seconds=None,
                creates_per_hour_max=None,
                queue_counts="tokens",
                queue_max=None,
                batch_percent=50,
                endpoints=_OPENAI_ENDPOINTS,
                online_endpoints=_OPENAI_ENDPOINTS,
            ),
            note="The model is the name of a deployment. A batch is late rather than expired. At most 500 files.",
        ),
        "compatible": ProviderFacts(
            title="OpenAI-compatible server",
            protocol="openai",
            base_url=None,
            can=Capabilities(
                members_max=50_000,
                bytes_max=100 * 10**6,
                custom_id_chars_max=64,
                found_by=FoundBy.METADATA,
                input_file=True,
                one_model=True,
                bad_row_fails="batch",
                window_seconds=_DAY,
                typical_seconds=2 * _HOUR,
                retention_seconds=None,
                creates_per_hour_max=None,
                queue_counts=None,
                queue_max=None,
                batch_percent=50,
                endpoints=_OPENAI_ENDPOINTS,
                online_endpoints=_OPENAI_ENDPOINTS,
            ),
            note="Unknown statuses are running ones, absent members are null.",
        ),
        "anthropic": ProviderFacts(
            title="Anthropic",
            protocol="anthropic",
            base_url="https://api.anthropic.com",
            can=Capabilities(
                members_max=100_000,
                bytes_max=256 * 10**6,
                custom_id_chars_max=64,
                found_by=FoundBy.CONTENT,
                input_file=False,
                one_model=False,
                bad_row_fails="row",
                window_seconds=_DAY,
                typical_seconds=_HOUR,
                retention_seconds=29 * _DAY,
                creates_per_hour_max=None,
                queue_counts="requests",
                queue_max=200_000,  # of the lowest tier
                batch_percent=50,
                endpoints=("/v1/messages",),
                online_endpoints=("/v1/messages",),
                output_tokens_default=4_096,
            ),
            note="Nothing can be written on a batch: an uncertain create is told by time, count and nonce.",
        ),
        "gemini": ProviderFacts(
            title="Gemini Developer API",
            protocol="gemini",
            base_url="https://generativelanguage.googleapis.com",
            can=Capabilities(
                members_max=100_000,
                bytes_max=2 * 10**9,
                custom_id_chars_max=64,
                found_by=FoundBy.DISPLAY_NAME,
                input_file=True,
                one_model=True,
                bad_row_fails="row",
                window_seconds=2 * _DAY,
                typical_seconds=_HOUR,
                retention_seconds=2 * _DAY,
                creates_per_hour_max=None,
                queue_counts="tokens",
                queue_max=3_000_000,
                batch_percent=50,
                endpoints=("generateContent",),
            ),
            note="At most 100 batches at once.",
        ),
        "mistral": ProviderFacts(
            title="Mistral",
            protocol="mistral",
            base_url="https://api.mistral.ai/v1",
            can=Capabilities(
                members_max=1_000_000,
                bytes_max=512 * 10**6,
                custom_id_chars_max=64,
                found_by=FoundBy.METADATA,
                input_file=True,
                one_model=True,
                bad_row_fails="row",
                window_seconds=_DAY,
                typical_seconds=_HOUR,
                retention_seconds=None,
                creates_per_hour_max=None,
                queue_counts="requests",
                queue_max=1_000_000,
                batch_percent=50,
                endpoints=(_CHAT, "/v1/embeddings"),
            ),
        ),
        "bedrock": ProviderFacts(
            title="Amazon Bedrock",
            protocol=None,
            base_url=None,
            can=Capabilities(
                members_max=50_000,
                members_min=100,
                bytes_max=10**9,
                custom_id_chars_max=64,
                found_by=FoundBy.TOKEN,
                input_file=True,
                one_model=True,
                bad_row_fails="row",
                window_seconds=_DAY,
                typical_seconds=6 * _HOUR,
                retention_seconds=None,
                creates_per_hour_max=None,
                queue_counts=None,
                queue_max=None,
                batch_percent=50,
                endpoints=("InvokeModel",),
            ),
            note="Files go through S3; the only one whose create takes a client token.",
        ),
    }
)


def facts_of(kind: str) -> ProviderFacts:
    """The row of a kind; KeyError for a kind that is none."""
    return PROVIDERS[kind]
