"""Kafka's jars: exactly the locked ones, whole, once, from wherever this user's Maven would get them."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from batchmill.agents.kafka.errors import KafkaStartError
from batchmill.agents.kafka.jars import Jar, ensure_jars, locked_jars, mirror_of_central

BODIES = {f"part-{n}": f"the bytes of part {n}".encode() for n in range(3)}
JARS = tuple(
    Jar(group="org.example", artifact=name, version="1.0", sha256=hashlib.sha256(body).hexdigest())
    for name, body in BODIES.items()
)


class Repository:
    """A Maven repository on the loopback; counts what it is asked for."""

    def __init__(self) -> None:
        self.bodies = {f"/{jar.path}": BODIES[jar.artifact] for jar in JARS}
        self.asked: list[str] = []
        repository = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                repository.asked.append(self.path)
                body = repository.bodies.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """This user's Maven settings name it as the mirror of everything."""
    repository = Repository()
    (tmp_path / "m2").mkdir()
    settings(tmp_path / "m2" / "settings.xml", "*", repository.url)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2" / "repository"))
    thread = threading.Thread(target=repository.server.serve_forever)
    thread.start()
    yield repository
    repository.server.shutdown()
    repository.server.server_close()
    thread.join()


def settings(path: Path, mirror_of: str, url: str) -> None:
    path.write_text(
        '<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors><mirror><id>ours</id>'
        f"<mirrorOf>{mirror_of}</mirrorOf><url>{url}/</url></mirror></mirrors></settings>"
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_lock_names_each_jar_once_with_its_checksum() -> None:
    jars = locked_jars()
    assert len(jars) == 93
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 and int(jar.sha256, 16) for jar in jars)
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {"4.3.1"}


def test_jars_are_fetched_once_and_the_folder_is_exactly_them(repository: Repository, tmp_path: Path) -> None:
    said: list[str] = []
    libs = ensure_jars(tmp_path / "cache", say=said.append, jars=JARS)
    assert ensure_jars(tmp_path / "cache", say=said.append, jars=JARS) == libs
    assert names(libs) == {jar.file_name for jar in JARS}
    assert len(repository.asked) == len(JARS)
    assert len(said) == 1


def test_of_two_who_need_them_at_once_one_fetches(repository: Repository, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: ensure_jars(tmp_path / "cache", jars=JARS), range(2)))
    assert len(set(found)) == 1
    assert len(repository.asked) == len(JARS)


def test_a_folder_that_lost_a_jar_is_filled_again(repository: Repository, tmp_path: Path) -> None:
    libs = ensure_jars(tmp_path / "cache", jars=JARS)
    (libs / JARS[0].file_name).unlink()
    assert names(ensure_jars(tmp_path / "cache", jars=JARS)) == {jar.file_name for jar in JARS}


def test_bytes_that_are_not_the_locked_ones_are_refused_and_nothing_is_left(
    repository: Repository, tmp_path: Path
) -> None:
    repository.bodies[f"/{JARS[1].path}"] = b"something else"
    with pytest.raises(KafkaStartError, match=r"part-1-1\.0\.jar: its SHA-256 is not the one in maven\.lock"):
        ensure_jars(tmp_path / "cache", jars=JARS)
    assert names(tmp_path / "cache" / "kafka-4.3.1") == {"lock"}


def test_a_jar_nobody_has_is_named_with_what_to_do(repository: Repository, tmp_path: Path) -> None:
    del repository.bodies[f"/{JARS[2].path}"]
    with pytest.raises(KafkaStartError, match=r"part-2-1\.0\.jar: HTTPStatusError.*KAFKA_BOOTSTRAP_SERVERS"):
        ensure_jars(tmp_path / "cache", jars=JARS)


def test_a_jar_that_maven_has_already_is_not_fetched_unless_it_is_another(
    repository: Repository, tmp_path: Path
) -> None:
    for jar, body in zip(JARS, (BODIES["part-0"], b"damaged", None), strict=True):
        if body is not None:
            path = tmp_path / "m2" / "repository" / jar.path
            path.parent.mkdir(parents=True)
            path.write_bytes(body)
    libs = ensure_jars(tmp_path / "cache", jars=JARS)
    assert sorted(repository.asked) == [f"/{JARS[1].path}", f"/{JARS[2].path}"]
    assert (libs / JARS[1].file_name).read_bytes() == BODIES["part-1"]


@pytest.mark.parametrize(
    ("mirror_of", "expected"),
    [
        ("*", "http://mirror"),
        ("central", "http://mirror"),
        ("external:*", "http://mirror"),
        ("other, central", "http://mirror"),
        ("*,!central", None),
        ("other", None),
        ("external:http:*", None),
    ],
)
def test_a_mirror_counts_when_it_stands_for_central(tmp_path: Path, mirror_of: str, expected: str | None) -> None:
    settings(tmp_path / "settings.xml", mirror_of, "http://mirror")
    assert mirror_of_central(tmp_path / "settings.xml") == expected


def test_without_maven_settings_there_is_no_mirror(tmp_path: Path) -> None:
    assert mirror_of_central(tmp_path / "settings.xml") is None
