"""Bodies for people: the read model says where they lie, the log (or the payload store) has them."""

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchmill.agents.settings import Settings

__all__ = ["At", "read_bodies", "sent_line"]

At = tuple[str, int, int]  #: topic's short name, partition, offset


async def read_bodies(settings: "Settings", places: Iterable[At]) -> dict[At, dict[str, Any]]:
    """What the log holds at these places; what retention took is absent."""
    from batchmill.agents.bodies import LogBodies

    async with LogBodies(settings) as bodies:
        return await bodies.read(places)


async def sent_line(settings: "Settings", uri: str, custom_id: str) -> str | None:
    """The line that was sent under `custom_id`, from the payload file of its batch; None when it is not there."""
    from batchmill.agents.payloads import FilePayloadStore, PayloadError

    store = FilePayloadStore(directory=settings.payload_dir, shared=settings.payloads.shared)
    marked = f'"{custom_id}"'.encode()
    try:
        async for line in _lines(store.read(uri)):
            if marked in line:
                return line.decode("utf-8", "backslashreplace")
    except (PayloadError, OSError):
        return None
    return None


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest
