"""Standard Webhooks signatures: HMAC-SHA-256 over id, time and body, under a secret that both sides know.

What lives here: pure functions; the time is handed in. What must not: what a webhook says. Nothing that a stranger
sends raises: it is a fault, in a word. Signatures are compared in constant time, as bytes, whatever they are made of.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from typing import Final

__all__ = [
    "ID_HEADER",
    "SIGNATURE_HEADER",
    "TIMESTAMP_HEADER",
    "TOLERANCE_SECONDS",
    "SecretError",
    "fault",
    "headers_for",
    "secret_bytes",
]

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
#: how old or young a webhook may be
TOLERANCE_SECONDS: Final = 300

_PREFIX: Final = "whsec_"
_SECRET_BYTES_MIN: Final = 16
_VERSION: Final = b"v1,"
#: a sender that changes its secret signs with both; more than a few are nobody's
_SIGNATURES_MAX: Final = 10
_ID: Final = re.compile(r"[\x21-\x7e]{1,256}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class SecretError(ValueError):
    """The secret is not one; the message does not show it."""


def secret_bytes(text: str) -> bytes:
    """The key of `whsec_<base64>`."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or len(key) < _SECRET_BYTES_MIN:
        raise SecretError(f"expected {_PREFIX} and at least {_SECRET_BYTES_MIN} bytes in base64")
    return key


def fault(key: bytes, headers: Mapping[str, str], body: bytes, *, now_s: float) -> str | None:
    """What is wrong with a webhook, or None for one that was signed with our key, just now."""
    webhook_id, timestamp = headers.get(ID_HEADER, ""), headers.get(TIMESTAMP_HEADER, "")
    if not _ID.fullmatch(webhook_id) or not _SECONDS.fullmatch(timestamp):
        return "headers"
    if abs(now_s - int(timestamp)) > TOLERANCE_SECONDS:
        return "time"
    expected = _signature(key, webhook_id, timestamp, body)
    given = headers.get(SIGNATURE_HEADER, "").encode("utf-8", "surrogatepass").split()[:_SIGNATURES_MAX]
    # Every one is compared, so that the time taken does not tell which of them was near.
    matches = [hmac.compare_digest(_VERSION + expected, each) for each in given]
    return None if any(matches) else "signature"


def headers_for(key: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers of a webhook that we send ourselves."""
    signature = _signature(key, webhook_id, str(timestamp_s), body)
    return {
        ID_HEADER: webhook_id,
        TIMESTAMP_HEADER: str(timestamp_s),
        SIGNATURE_HEADER: (_VERSION + signature).decode(),
    }


def _signature(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> bytes:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, "sha256"))
