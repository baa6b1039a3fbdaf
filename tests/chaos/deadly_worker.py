"""A worker with two mines in it: a raw record, and a provider upload, that end the process outright.

    python -m tests.chaos.deadly_worker

No exception, no cleaning up: `os._exit`, as a crash in native code would be. Everything else is the real worker.
"""

import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from batchmill.agents import app
from batchmill.agents.providers.openai_batch import OpenAIBatchProvider
from batchmill.agents.settings import load_settings
from batchmill.agents.stages import normalizer

__all__ = ["DEADLY_RECORD", "DEADLY_UPLOAD", "main"]

DEADLY_RECORD = "this text ends the process that normalizes it"
DEADLY_UPLOAD = "this text ends the process that uploads it"


def main() -> int:
    normalize, upload = normalizer.normalize, OpenAIBatchProvider.upload

    def deadly_normalize(view: Any, raw: Any, **more: Any) -> Any:
        if DEADLY_RECORD.encode() in (raw.value or b""):
            os._exit(33)
        return normalize(view, raw, **more)

    async def deadly_upload(self: Any, *, content: AsyncIterator[bytes], **more: Any) -> Any:
        async def watched() -> AsyncIterator[bytes]:
            async for part in content:
                if DEADLY_UPLOAD.encode() in part:
                    os._exit(34)
                yield part

        return await upload(self, content=watched(), **more)

    normalizer.normalize = deadly_normalize
    OpenAIBatchProvider.upload = deadly_upload  # type: ignore[method-assign]
    return app.run_worker(load_settings())


if __name__ == "__main__":
    sys.exit(main())
