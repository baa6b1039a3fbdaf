"""From settings to a running server: the wiring of `batchmill serve`.

What lives here: who may be served where, and health beside it. What must not: what is answered to whom.
"""

import asyncio
from collections.abc import Callable

from batchmill.agents.commands import Issued, actor_here, issue
from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.model import DeskError, Role, User
from batchmill.agents.desk.opening import open_desk
from batchmill.agents.health import serving, serving_health
from batchmill.agents.logs import get_logger, set_up_logging
from batchmill.agents.settings import Settings, SettingsError
from batchmill.agents.telemetry import Telemetry
from batchmill.agents.web.access import is_loopback_host
from batchmill.agents.web.app import create_app
from batchmill.agents.web.operating import Operations
from batchmill.agents.web.pages.routes import pages_router
from batchmill.agents.web.tokens import FILE_NAME, TokenFile

__all__ = ["hosts_of", "local_of", "run_web", "token_file"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  to refuse it, not to bind to it
_LOOK_SECONDS = 5.0


def token_file(settings: Settings) -> TokenFile:
    return TokenFile(settings.data_dir / FILE_NAME)


def hosts_of(settings: Settings, host: str) -> frozenset[str]:
    """The names the server goes by; SettingsError when anybody could come in, or nobody."""
    more = frozenset(settings.web.allowed_hosts)
    if not token_file(settings).tokens() and not _serves_here_only(settings, host):
        raise SettingsError(
            "there are no tokens, so only this machine is served: make one with"
            " `batchmill tokens create NAME --role operator`,"
            " or take web.host 127.0.0.1, no web.allowed_hosts and no web.tls_proxy"
        )
    if host in _ANY and not more:
        raise SettingsError(f"web.host {host} is every address; say in web.allowed_hosts by which names people come")
    own = _LOOPBACK if is_loopback_host(host) else frozenset() if host in _ANY else frozenset({host})
    return own | more


def local_of(settings: Settings, host: str) -> User | None:
    """Who comes in without a token, while there is none; None: nobody, also when the token file is lost later on."""
    return User(name=actor_here(), role=Role.OPERATOR) if _serves_here_only(settings, host) else None


def _serves_here_only(settings: Settings, host: str) -> bool:
    return is_loopback_host(host) and not settings.web.allowed_hosts and not settings.web.tls_proxy


async def run_web(
    settings: Settings,
    *,
    host: str,
    port: int,
    stop: asyncio.Event,
    say: Callable[[str], None] = lambda _told: None,
) -> None:
    """Serve until `stop`; `say` is told where."""
    set_up_logging(settings.log, process="web", instance=settings.instance)
    hosts = hosts_of(settings, host)
    local = local_of(settings, host)

    async def give(command: str, job: str, *, actor: str, body_json: str, wait_seconds: float) -> Issued:
        return await issue(settings, command, job, actor=actor, body_json=body_json, wait_seconds=wait_seconds)

    operations = Operations(view_path=settings.view_path, issue=give, wait_seconds=settings.web.command_wait_seconds)
    telemetry = Telemetry(settings, process="web")
    state = _Readiness()
    async with open_desk(settings) as desk:
        app = create_app(
            desk=desk,
            operations=operations,
            tokens=token_file(settings),
            settings=settings.web,
            hosts=hosts,
            local=local,
            pages=(pages_router(desk=desk, operations=operations, review=settings.desk, web=settings.web),),
        )
        looking = asyncio.create_task(state.keep(desk), name="readiness")
        try:
            async with (
                serving_health(settings.health, reasons=lambda: state.reasons, metrics=telemetry.prometheus),
                serving(app, host=host, port=port, name="web", connections_max=settings.web.connections_max) as url,
            ):
                known = bool(token_file(settings).tokens())
                get_logger(__name__).info("web_listening", url=url, tokens=known)
                say(f"the review desk is at {url}; {'a token is needed' if known else 'only this machine comes in'}")
                await stop.wait()
        finally:
            looking.cancel()
            telemetry.shutdown()


class _Readiness:
    """Whether the view can be asked and moves, looked at now and then."""

    def __init__(self) -> None:
        self.reasons: list[str] = ["the view was not looked at yet"]

    async def keep(self, desk: Desk) -> None:
        while True:
            self.reasons = await _missing(desk)
            await asyncio.sleep(_LOOK_SECONDS)


async def _missing(desk: Desk) -> list[str]:
    try:
        seen = await desk.freshness()
    except DeskError as error:
        return [str(error)]
    if seen.stale_seconds is None:
        return []
    return [f"the view has read nothing for {seen.stale_seconds:.0f} s: are projector and workers running?"]
