"""The accounts of this process: one provider client each, made once.

What lives here: which adapter serves which account, and finding an account by the name a job uses. What must not: any
call. An adapter is found by the protocol that the table of capabilities names (`streams.capabilities`): module
`<protocol>_batch`, its `PROVIDER`. A job that names no account says `default`: that is the account of this name, else
the one named after the protocol (`openai`).
"""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from batchmill.agents.providers.http import CallSeen
from batchmill.agents.providers.online import OnlineClient
from batchmill.agents.settings import AccountSettings, Settings, SettingsError, env_name
from batchmill.schemas.state import Chunk
from batchmill.streams.capabilities import facts_of
from batchmill.streams.ports import BatchProvider

__all__ = ["BatchAdapter", "Providers", "provider_for"]

DEFAULT = "default"


class BatchAdapter(BatchProvider, Protocol):
    """What a process needs of an adapter beside the port."""

    def set_share(self, *, owned: int, of: int) -> None:
        """Use `owned`/`of` of the account's rate from now on."""

    async def close(self) -> None:
        """Close idle connections."""


class _Make(Protocol):
    def __call__(
        self, *, name: str, account: AccountSettings, on_call: Callable[[CallSeen], None], loopback_only: bool
    ) -> BatchAdapter: ...


def provider_for(
    name: str, account: AccountSettings, *, on_call: Callable[[CallSeen], None], loopback_only: bool
) -> BatchAdapter:
    """Make the client of one account; refuses one beyond this machine when `loopback_only`."""
    module = import_module(f"batchmill.agents.providers.{facts_of(account.kind).protocol}_batch")
    make = cast("_Make", module.PROVIDER)
    return make(name=name, account=account, on_call=on_call, loopback_only=loopback_only)


class Providers:
    """All accounts of the settings."""

    def __init__(self, settings: Settings, *, on_call: Callable[[CallSeen], None]) -> None:
        self._accounts = settings.accounts
        self._clients = {
            name: provider_for(name, account, on_call=on_call, loopback_only=settings.loopback_only)
            for name, account in settings.accounts.items()
        }
        self._online = {
            name: OnlineClient(name=name, account=account, on_call=on_call, loopback_only=settings.loopback_only)
            for name, account in settings.accounts.items()
            if account.can.online_endpoints
        }

    def name_of(self, account: str) -> str:
        """Tell what the settings call the account a job names: limits are theirs, whatever jobs call it."""
        return self._known(account)

    def of(self, account: str) -> BatchAdapter:
        """Find the client of the account a job names."""
        return self._clients[self._known(account)]

    def online(self, account: str) -> OnlineClient:
        """Find the client for single questions of the account a job names."""
        name = self._known(account)
        if name not in self._online:
            raise SettingsError(
                f"account {account} has no endpoint for single questions: its jobs go by batch (mode.prefer: batch)"
            )
        return self._online[name]

    def by_file(self, chunk: Chunk) -> bool:
        """Say whether the chunk's payload is uploaded as a file before its batch is created.

        Of an account that is gone either answer will do: the step it leads to says that there is none.
        """
        known = self._accounts.get(self._named(chunk.account))
        return chunk.mode == "batch" and (known is None or known.can.input_file)

    def account(self, account: str) -> AccountSettings:
        """Find the numbers of the account a job names."""
        return self._accounts[self._known(account)]

    def kind_of(self, account: str) -> str:
        """Tell which provider an account is at; an account that is none is named as it is."""
        known = self._accounts.get(account) or self._accounts.get("openai" if account == DEFAULT else account)
        return account if known is None else known.kind

    def set_share(self, *, owned: int, of: int) -> None:
        """Tell every gate how many of all tasks this worker has."""
        for client in self._all():
            client.set_share(owned=owned, of=of)

    async def close(self) -> None:
        """Close every client."""
        for client in self._all():
            await client.close()

    def _all(self) -> list[BatchAdapter | OnlineClient]:
        return [*self._clients.values(), *self._online.values()]

    def _named(self, account: str) -> str:
        return account if account in self._clients or account != DEFAULT else "openai"

    def _known(self, account: str) -> str:
        name = self._named(account)
        if name not in self._clients:
            raise SettingsError(
                f"there is no provider account {account}; known: {', '.join(sorted(self._clients))};"
                f" set {env_name(f'accounts.{account}.base_url')} or name another account in the job"
            )
        return name
