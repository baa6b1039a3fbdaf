"""A real Chromium for everything in this folder: the machine's own, installed where that is possible.

Without one the tests are skipped and say how to get it; in CI they fail instead.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_INSTALL = "apt-get update && apt-get install -y --no-install-recommends chromium"
_INSTALL_SECONDS = 600
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is."""
    found = _found()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        found = _installed()
    if found is not None:
        return found
    told = f"no Chromium on this machine; as root: {_INSTALL}"
    if os.environ.get("CI") == "true":
        pytest.fail(told)
    pytest.skip(told)


def _installed() -> str | None:
    """Install it, one process of this machine at a time."""
    with (Path(tempfile.gettempdir()) / "batchmill-chromium.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if _found() is None:
            subprocess.run(["sh", "-c", _INSTALL], check=False, capture_output=True, timeout=_INSTALL_SECONDS)
        return _found()


def _found() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        yield started
        await started.close()
