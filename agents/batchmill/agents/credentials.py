"""How Faust is told to prove who it is. The one place that turns the Kafka settings into Faust's own objects."""

import ssl
from typing import Any

from faust.auth import SASLCredentials, SSLCredentials

from batchmill.agents.settings import KafkaSettings

__all__ = ["faust_credentials"]


def faust_credentials(kafka: KafkaSettings) -> Any:
    """A Faust credentials object; None when the brokers ask for nothing."""
    context = _context(kafka) if kafka.security_protocol.endswith("SSL") else None
    if kafka.security_protocol.startswith("SASL"):
        return SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.password(),
            ssl_context=context,
            mechanism=kafka.sasl_mechanism,
        )
    return None if context is None else SSLCredentials(context)


def _context(kafka: KafkaSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if kafka.ssl_cafile is None else str(kafka.ssl_cafile))
    if kafka.ssl_certfile is not None:
        context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
    return context
