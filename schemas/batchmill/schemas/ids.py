"""How every id is made: by content, before anything is sent, the same in each process and after each crash.

An id is a SHA-256 over a tag and length-framed parts (so no two lists of parts run together), written in lower-case
base32: sorts, survives case-insensitive stores, fits provider and file name alphabets. Nothing here draws chance or
reads a clock. What must not repeat (event ids) is made elsewhere.
"""

import base64
import hashlib
import re
from typing import Final, Literal, NamedTuple

__all__ = [
    "CUSTOM_ID_CHARS_MAX",
    "Dedupe",
    "SentAs",
    "ask_key",
    "change_id",
    "chunk_id",
    "chunk_nonce",
    "commit_id",
    "content_sha256",
    "custom_id",
    "dead_letter_id",
    "log_seq",
    "murmur2",
    "parse_custom_id",
    "partition_for",
    "place_key",
    "request_id",
]

Dedupe = Literal["source", "content", "near"]

_HALF_CHARS: Final = 16  # 80 bits: ten bytes are sixteen base32 characters without padding
_SEQ_OFFSET_BITS: Final = 44
_SEQ_GENERATIONS_MAX: Final = 2 ** (63 - _SEQ_OFFSET_BITS)
_SENDS_MAX: Final = 10**9  #: a custom id keeps room for this many sends of one request
CUSTOM_ID_CHARS_MAX: Final = 64  #: the smallest limit among providers
_CUSTOM_ID: Final = re.compile(r"([a-z2-7]{32})-(0|[1-9][0-9]{0,8})-([a-z2-7]{16})")


class SentAs(NamedTuple):
    """What a custom id says of the line it names."""

    request_id: str
    sends: int
    nonce: str


def content_sha256(canonical: bytes) -> str:
    """Names normalized content; `canonical` must already be the RFC 8785 form."""
    return hashlib.sha256(canonical).hexdigest()


def request_id(
    job: str,
    source_id: str,
    content_sha256: str,
    version: str,
    epoch: int,
    dedupe: Dedupe = "source",
    alike: str | None = None,
) -> str:
    """16 characters that place the request (all versions of a source together) and 16 that tell it apart.

    With `dedupe="content"` equal content is placed together instead, whatever its source; with `near` what shares
    `alike`, which content that is nearly the same is likely to.
    """
    told = _short("tell", job, source_id, content_sha256, version, str(epoch))
    return _placing(job, source_id, content_sha256 if alike is None else alike, dedupe) + told


def ask_key(
    job: str, source_id: str, content_sha256: str, ask_fingerprint: str, epoch: int = 0, dedupe: Dedupe = "source"
) -> str:
    """Names a question. The same key is paid for once; the full SHA-256 is kept, so equality is proof enough.

    A fresh `epoch` is a wish for a fresh answer, hence another key.
    """
    asker = source_id if dedupe == "source" else ""
    return _base32(_digest("ask", dedupe, job, asker, content_sha256, ask_fingerprint, str(epoch)))


def place_key(request_id: str) -> bytes:
    """What the partition of a request is taken from: never the whole id."""
    if len(request_id) != 2 * _HALF_CHARS:
        raise ValueError(f"a request id has {2 * _HALF_CHARS} characters, this one {len(request_id)}")
    return request_id[:_HALF_CHARS].encode("ascii")


def partition_for(key: bytes, partitions: int) -> int:
    """Where Kafka's default partitioner puts `key`, so that upstream clients and we agree."""
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, not {partitions}")
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 as org.apache.kafka.common.utils.Utils.murmur2: 32 bits, signed."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    whole = len(data) & ~3
    mixed = 0x9747B28C ^ len(data)
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        mixed = (mixed * factor & mask) ^ word
    if len(data) > whole:
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * factor & mask
    mixed = (mixed ^ mixed >> 13) * factor & mask
    mixed ^= mixed >> 15
    return mixed - 2**32 if mixed & 0x80000000 else mixed


def custom_id(request_id: str, sends: int, nonce: str) -> str:
    """What a line is called at the provider: `<request>-<send number>-<chunk nonce>`, at most 64 characters."""
    made = f"{request_id}-{sends}-{nonce}"
    if not 0 <= sends < _SENDS_MAX or _CUSTOM_ID.fullmatch(made) is None:
        raise ValueError(f"no custom id from a request id of {len(request_id)} characters, send {sends}")
    return made


def parse_custom_id(text: str) -> SentAs | None:
    """What `custom_id` put together; None for an id that is none of ours."""
    match = _CUSTOM_ID.fullmatch(text)
    return None if match is None else SentAs(match[1], int(match[2]), match[3])


def chunk_id(app: str, partition: int, counter: int) -> str:
    """`counter` is the task's durable count of chunks; the tail keeps two apps on one account apart."""
    return f"c{partition:04d}-{counter:010d}-{_short('chunk', app, str(partition), str(counter))}"


def chunk_nonce(chunk_id: str) -> str:
    """Marks a chunk's lines at a provider that lets us label nothing else."""
    return _short("nonce", chunk_id)


def commit_id(request_id: str, seq: int, promotion: int, output_sha256: str) -> str:
    """Applying the same commit twice is seen to be the same commit."""
    return _short("commit", request_id, str(seq), str(promotion), output_sha256, chars=32)


def change_id(kind: str, commit_id: str, order: int) -> str:
    """Names what one command did to one commit: a revert, or a replay."""
    return _short("change", kind, commit_id, str(order), chars=32)


def dead_letter_id(
    stage: str,
    reason: str,
    *,
    generation: int,
    partition: int,
    offset: int,
    request_id: str | None = None,
    redrives: int = 0,
) -> str:
    """Of a dead letter or an exclusion: repeats with its cause, differs after each redrive."""
    origin = (str(generation), str(partition), str(offset))
    return _short("dead", stage, reason, *origin, request_id or "", str(redrives), chars=32)


def log_seq(generation: int, offset: int) -> int:
    """The rank `seq: log` gives: a later generation of the topic beats any offset of an earlier one."""
    if not 0 <= offset < 2**_SEQ_OFFSET_BITS or not 0 <= generation < _SEQ_GENERATIONS_MAX:
        raise ValueError(f"no rank from generation {generation}, offset {offset}: out of range")
    return (generation << _SEQ_OFFSET_BITS) + offset


def _placing(job: str, source_id: str, content_sha256: str, dedupe: Dedupe) -> str:
    if dedupe == "content":
        return _short("place-content", job, content_sha256)
    if dedupe == "near":
        return _short("place-near", job, content_sha256)
    return _short("place-source", job, source_id)


def _digest(tag: str, *parts: str) -> bytes:
    framed = bytearray()
    for part in (tag, *parts):
        data = part.encode()
        framed += b"%d:%b," % (len(data), data)
    return hashlib.sha256(framed).digest()


def _short(tag: str, *parts: str, chars: int = _HALF_CHARS) -> str:
    return _base32(_digest(tag, *parts))[:chars]


def _base32(digest: bytes) -> str:
    return base64.b32encode(digest).decode("ascii").rstrip("=").lower()
