"""Who may come in: named tokens with a role, of which only the SHA-256 is kept.

A token is 256 random bits, so its hash needs no salt and no slowness: there is nothing to guess. The file is replaced
as a whole (written beside, fsynced, renamed), mode 0600, and looked at again whenever it has changed: a revoked token
ends with the next request. As long as one entry stands in it, revoked ones included, nobody comes in without a token;
to go back to none, delete the file.
"""

import fcntl
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson

from batchmill.agents import clock
from batchmill.agents.desk.model import Role, User

__all__ = ["FILE_NAME", "Token", "TokenError", "TokenFile"]

FILE_NAME: Final = "tokens.json"
PREFIX: Final = "bm_"
_RANDOM_BYTES: Final = 32
_TOKENS_MAX: Final = 1_000
_DAYS_MAX: Final = 3_650
_MS_PER_DAY: Final = 86_400_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class TokenError(Exception):
    """The file cannot be used, or the wish cannot be met: why, and what to do. Never holds a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One entry of the file."""

    name: str
    role: Role
    sha256: str
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None = None

    def holds(self, now_ms: int) -> bool:
        return self.revoked_at_ms is None and (self.expires_at_ms is None or now_ms < self.expires_at_ms)


class TokenFile:
    """The file; cheap to ask at every request."""

    def __init__(self, path: Path, *, now_ms: Callable[[], int] = clock.wall_ms) -> None:
        self._path = path
        self._now_ms = now_ms
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def tokens(self) -> tuple[Token, ...]:
        """As the file has them now; TokenError when it cannot be read: then nobody comes in."""
        try:
            about = self._path.stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, ()
            return ()
        except OSError as error:
            raise TokenError(f"{self._path} cannot be read: {error.strerror}") from None
        mark = (about.st_mtime_ns, about.st_size, about.st_ino)
        if mark != self._seen:
            if about.st_mode & 0o077:
                raise TokenError(f"{self._path} is open to others: `chmod 600` it, and make new tokens if in doubt")
            self._tokens, self._seen = _read(self._path), mark
        return self._tokens

    def user(self, given: str) -> User | None:
        """Whose token that is; None for nobody's. Every entry is compared, each in constant time."""
        digest = _digest(given)
        found: Token | None = None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None or not found.holds(self._now_ms()):
            return None
        return User(name=found.name, role=found.role)

    def create(self, name: str, role: Role, *, days: int | None = None) -> str:
        """A new token, told once. A name that is in use is refused: its decisions would be two people's."""
        if _NAME.fullmatch(name) is None:
            raise TokenError(
                "a name is 1 to 64 letters, digits, '.', '_', '@' or '-', beginning with a letter or digit"
            )
        if days is not None and not 1 <= days <= _DAYS_MAX:
            raise TokenError(f"a token lasts 1 to {_DAYS_MAX} days")
        given = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        now_ms = self._now_ms()
        with self._alone() as before:
            if any(each.name == name and each.holds(now_ms) for each in before):
                raise TokenError(f"{name} has a token; `batchmill tokens revoke {name}` first")
            if len(before) >= _TOKENS_MAX:
                raise TokenError(f"{self._path} holds {_TOKENS_MAX} tokens; delete revoked entries from it")
            made = Token(
                name=name,
                role=role,
                sha256=_digest(given),
                created_at_ms=now_ms,
                expires_at_ms=None if days is None else now_ms + days * _MS_PER_DAY,
            )
            _write(self._path, (*before, made))
        return given

    def revoke(self, name: str) -> int:
        """End every token of this name; how many there were."""
        now_ms = self._now_ms()
        with self._alone() as before:
            ended = sum(each.name == name and each.revoked_at_ms is None for each in before)
            if ended:
                _write(self._path, [_ended(each, now_ms) if each.name == name else each for each in before])
        return ended

    @contextmanager
    def _alone(self) -> Iterator[tuple[Token, ...]]:
        """The entries, with nobody else changing them meanwhile."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(f"{self._path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.tokens()


def _ended(token: Token, now_ms: int) -> Token:
    return token if token.revoked_at_ms is not None else replace(token, revoked_at_ms=now_ms)


def _digest(given: str) -> str:
    return sha256(given.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> tuple[Token, ...]:
    try:
        told: Any = orjson.loads(path.read_bytes())
        return tuple(Token(**{**each, "role": Role(each["role"])}) for each in told["tokens"])
    except (OSError, ValueError, TypeError, KeyError):
        raise TokenError(f"{path} is no token file; put the right one back, or delete it and make new tokens") from None


def _write(path: Path, tokens: Sequence[Token]) -> None:
    data = orjson.dumps({"tokens": [asdict(each) for each in tokens]}, option=orjson.OPT_INDENT_2)
    beside = path.with_name(f"{path.name}.new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123  the descriptor carries the mode
        os.fchmod(handle, 0o600)
        file.write(data)
        file.flush()
        os.fsync(handle)
    beside.replace(path)
