"""What can be set of the databases and APIs that jobs may look things up in: where, who asks, how much at once.

A part of `settings_groups` in a file of its own. A secret comes from a variable or a file and is never shown.
"""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from batchmill.agents.settings_groups import Positive, Seconds, _Group, _is_web_address, _secret

__all__ = ["ApiSettings", "DatabaseSettings", "ToolSettings"]


class _SourceSettings(_Group):
    """What holds for either kind."""

    concurrent_max: Positive = Field(default=4, description="Questions of one worker running at once.")
    tries: Positive = Field(default=3, description="Tries of one question before its source is taken to be away.")
    connect_timeout_seconds: Seconds = Field(default=5, description="Longest wait for a connection.")
    cache_seconds: float = Field(
        default=60, ge=0, description="How long an answer serves other records that ask the same; 0: not at all."
    )


class DatabaseSettings(_SourceSettings):
    """A database that is only read: a SQLite file, or a PostgreSQL server."""

    sqlite_path: Path | None = Field(default=None, description="A SQLite file; opened for reading only.")
    postgres_dsn: SecretStr | None = Field(
        default=None, description="A PostgreSQL server, postgresql://user:password@host/database; a role that may read."
    )
    postgres_dsn_file: Path | None = Field(default=None, description="File that holds the address of PostgreSQL.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        of_server = self.postgres_dsn is not None or self.postgres_dsn_file is not None
        if (self.sqlite_path is not None) == of_server:
            msg = "a database is either a file (sqlite_path) or a server (postgres_dsn or postgres_dsn_file)"
            raise ValueError(msg)
        return self

    def address(self) -> str | None:
        """Give the address of PostgreSQL in clear, from the variable or its file; only the client asks."""
        return _secret(self.postgres_dsn, self.postgres_dsn_file, "databases.*.postgres_dsn_file")


class ApiSettings(_SourceSettings):
    """An API that is only asked: GET, JSON, below one address."""

    base_url: str = Field(description="Where the API begins; paths of jobs are below it.")
    token: SecretStr | None = Field(default=None, description="Sent as Authorization: Bearer.")
    token_file: Path | None = Field(default=None, description="File that holds the token.")
    headers: dict[str, SecretStr] = Field(default={}, description="Sent with each question, as an object of texts.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        parts = urlsplit(self.base_url)
        if not _is_web_address(self.base_url) or "@" in parts.netloc or parts.query or parts.fragment:
            msg = "base_url must be an absolute http(s) URL without password, query or fragment"
            raise ValueError(msg)
        return self

    def sent_headers(self) -> dict[str, str]:
        """Give the headers in clear; only the client asks."""
        token = _secret(self.token, self.token_file, "apis.*.token_file")
        told = {name: value.get_secret_value() for name, value in self.headers.items()}
        return told if token is None else told | {"authorization": f"Bearer {token}"}


class ToolSettings(_Group):
    """What is kept of look-ups, and how many run."""

    turn_rows: Positive = Field(default=100, description="Waiting records one task asks about in one turn.")
    keep_hours: Positive = Field(
        default=720, description="How long what was found for a raw event is kept for replays, if raw keeps the event."
    )
    cache_entries_max: Positive = Field(default=10_000, description="Answers kept in memory, of each source.")
    cache_bytes_max: Positive = Field(default=16 * 2**20, description="Bytes of answers in memory, of each source.")
    wait_max_seconds: Seconds = Field(default=60, description="Longest pause before a source that is away is asked.")
