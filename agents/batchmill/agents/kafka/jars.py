"""Kafka's jars: the exact list, and how they come to this machine.

What lives here: reading `maven.lock`, and filling a folder with exactly its files. Works with neither Java nor Maven:
`jgo` knows Maven's repository layout, its caches and its central address; we fetch over one kept-alive client and
believe no byte whose SHA-256 is not in the lock. What must not: choosing versions, or a repository address.
"""

import fcntl
import hashlib
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import certifi
import httpx

from batchmill.agents.kafka.errors import KafkaStartError

__all__ = ["KAFKA_VERSION", "Jar", "ensure_jars", "locked_jars", "mirror_of_central"]

KAFKA_VERSION = "4.3.1"
PARALLEL_DOWNLOADS = 4
DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_TIMEOUT_SECONDS = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """Where it is in any Maven repository, local or remote."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file_name}"


def locked_jars() -> tuple[Jar, ...]:
    """Read the committed list."""
    text = files("batchmill.agents.kafka").joinpath("maven.lock").read_text(encoding="utf-8")
    return tuple(_parse(line) for line in text.splitlines() if line and not line.startswith("#"))


def ensure_jars(cache_dir: Path, *, say: Say = lambda _: None, jars: tuple[Jar, ...] | None = None) -> Path:
    """Return a folder holding exactly the jars (default: the locked ones), downloading them once per user.

    The folder appears by one rename, so whoever sees it sees it whole; a lock keeps two processes from both fetching.
    """
    jars = locked_jars() if jars is None else jars
    libs = cache_dir / f"kafka-{KAFKA_VERSION}" / "libs"
    if _is_whole(libs, jars):
        return libs
    libs.parent.mkdir(parents=True, exist_ok=True)
    with _locked(libs.parent / "lock"):
        if not _is_whole(libs, jars):  # another process may have filled it while we waited
            say(f"fetching {len(jars)} jars of Apache Kafka {KAFKA_VERSION} (55 MB, once per user)")
            _fill(libs, jars)
    return libs


def mirror_of_central(settings_xml: Path) -> str | None:
    """Name the mirror that this user's Maven settings put in the place of the central repository, if any."""
    if not settings_xml.is_file():
        return None
    for mirror in ET.parse(settings_xml).iterfind(".//{*}mirror"):  # noqa: S314 (the user's own file)
        found = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in mirror}
        patterns = {pattern.strip() for pattern in found.get("mirrorOf", "").split(",")}
        if patterns & {"*", "external:*", "central"} and "!central" not in patterns and found.get("url"):
            return found["url"].rstrip("/")
    return None


def _parse(line: str) -> Jar:
    coordinates, sha256 = line.split()
    group, artifact, version = coordinates.split(":")
    return Jar(group=group, artifact=artifact, version=version, sha256=sha256)


def _is_whole(libs: Path, jars: tuple[Jar, ...]) -> bool:
    return libs.is_dir() and {entry.name for entry in libs.iterdir()} == {jar.file_name for jar in jars}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fill(libs: Path, jars: tuple[Jar, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=libs.parent) as temporary:
        fresh = Path(temporary) / "libs"
        fresh.mkdir()
        context = _maven_context()
        with (
            httpx.Client(verify=_trust(), timeout=DOWNLOAD_TIMEOUT_SECONDS, follow_redirects=True) as client,
            ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
        ):
            for _ in pool.map(lambda jar: _fetch(jar, fresh, context, client), jars):
                pass
        shutil.rmtree(libs, ignore_errors=True)  # an incomplete one of an earlier layout
        fresh.rename(libs)


def _maven_context() -> Any:
    try:
        from jgo.maven import MavenContext  # noqa: PLC0415 (an optional extra)
    except ImportError:
        raise KafkaStartError(
            "no local Kafka: the extra `local` is not installed; run `pip install 'batchmill[local]'`,"
            " or name a broker in KAFKA_BOOTSTRAP_SERVERS"
        ) from None
    return MavenContext()


def _trust() -> ssl.SSLContext:
    """Trust what this machine trusts (a company's own authority is there) and what certifi knows (bare images)."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _fetch(jar: Jar, folder: Path, context: Any, client: httpx.Client) -> None:
    already = Path(context.repo_cache) / jar.path
    body = already.read_bytes() if already.is_file() else b""
    if hashlib.sha256(body).hexdigest() != jar.sha256:
        body = _download(jar, context, client)
    (folder / jar.file_name).write_bytes(body)


def _download(jar: Jar, context: Any, client: httpx.Client) -> bytes:
    mirror = mirror_of_central(Path(context.repo_cache).parent / "settings.xml")
    bases = [mirror] if mirror else [str(url).rstrip("/") for url in context.remote_repos.values()]
    why = "no repository configured"
    for base in bases * DOWNLOAD_ATTEMPTS:
        try:
            body = client.get(f"{base}/{jar.path}").raise_for_status().content
        except httpx.HTTPError as error:
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            continue
        if hashlib.sha256(body).hexdigest() == jar.sha256:
            return body
        why = f"its SHA-256 is not the one in maven.lock ({len(body)} bytes came)"
    raise KafkaStartError(
        f"cannot fetch {jar.file_name}: {why}; check the network and proxy variables, or name a running broker in"
        " KAFKA_BOOTSTRAP_SERVERS"
    )
