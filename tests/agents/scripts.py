"""A loopback server that does exactly what it is told, down to the bytes it holds back; an adapter calls it."""

import asyncio
import json
from contextlib import asynccontextmanager
from email.utils import formatdate

from batchmill.agents.settings import AccountSettings

HANG, CLOSE = object(), object()


class Cut(bytes):
    """Bytes after which the connection closes."""


class Script:
    """A loopback server: answers each request with the next thing in `answers`, and remembers what it heard."""

    def __init__(self):
        self.answers, self.heard = [], []
        self.release = asyncio.Event()

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")]
                body = await reader.readexactly(length[0] if length else 0)
                self.heard.append((head.split(b"\r\n")[0].decode(), head.decode(), body))
                answer = self.answers.pop(0)
                if answer is HANG:
                    await self.release.wait()
                    return
                if answer is CLOSE:
                    return
                writer.write(answer)
                await writer.drain()
                if isinstance(answer, Cut):
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.close()


def reply(status=200, document=None, *, headers=(), body=None, date=True):
    data = json.dumps(document).encode() if body is None else body
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(data)}", *headers]
    if date:
        lines.append(f"date: {formatdate(usegmt=True)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


@asynccontextmanager
async def scripted(adapter, base, **account):
    """Give the script of a server and an adapter whose account is at `base` below it."""
    script = Script()
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    script.calls = []
    numbers = {"requests_per_minute": 600_000, "total_timeout_seconds": 5.0, "cooldown_max_seconds": 0.01} | account
    provider = adapter(
        name="acme",
        account=AccountSettings(base_url=script.url + base, api_key="sk-k", **numbers),
        on_call=script.calls.append,
        loopback_only=True,
    )
    try:
        yield script, provider
    finally:
        script.release.set()
        await provider.close()
        server.close()
        await server.wait_closed()
