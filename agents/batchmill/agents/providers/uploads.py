"""An input file on its way to a provider: streamed, never held in memory, and as long as was announced.

What lives here: that promise, and the form in which the Files API that OpenAI made, and others took over, wants a file.
What must not: any call.
"""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

__all__ = ["Form", "batch_form", "exactly"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One request body."""

    headers: dict[str, str]
    body: AsyncIterator[bytes]


def batch_form(*, name: str, size_bytes: int, content: AsyncIterator[bytes]) -> Form:
    """Frame the input file of a batch."""
    boundary = secrets.token_hex(16)
    head, tail = _frame(boundary, name)
    headers = {
        "content-type": f"multipart/form-data; boundary={boundary}",
        "content-length": str(len(head) + size_bytes + len(tail)),
    }
    return Form(headers=headers, body=_joined(head, exactly(content, size_bytes), tail))


async def exactly(content: AsyncIterator[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    """The content, or an error in place of a length that was not announced."""
    left = size_bytes
    async for part in content:
        left -= len(part)
        if left < 0:
            break
        yield part
    if left != 0:
        raise ValueError(f"an upload of {size_bytes} bytes was announced, its content has another length")


def _frame(boundary: str, name: str) -> tuple[bytes, bytes]:
    """What stands before the content, and what after."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode("ascii"), f"\r\n--{boundary}--\r\n".encode("ascii")


async def _joined(head: bytes, content: AsyncIterator[bytes], tail: bytes) -> AsyncIterator[bytes]:
    yield head
    async for part in content:
        yield part
    yield tail
