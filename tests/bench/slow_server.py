"""A chat endpoint that takes its time and does nothing else: what online calls are measured against.

    python -m tests.bench.slow_server PORT MILLISECONDS

In its own process, so that it does not share the event loop of the client that is measured.
"""

import asyncio
import sys

import orjson
from aiohttp import web

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-5-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": '{"label":"pos"}'}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105},
}


def main() -> None:
    port, seconds = int(sys.argv[1]), int(sys.argv[2]) / 1_000
    body = orjson.dumps(ANSWER)

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(seconds)
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
