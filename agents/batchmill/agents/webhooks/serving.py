"""From settings to a running receiver: the wiring of `batchmill webhooks`.

What lives here: keys from the accounts, hints into commands, health beside it. What must not: what is answered to whom
(`receiving`).
"""

import asyncio
from collections.abc import Sequence

from aiokafka.errors import KafkaError

from batchmill.agents import clock
from batchmill.agents.commands import issue
from batchmill.agents.health import serving, serving_health
from batchmill.agents.logs import get_logger, set_up_logging
from batchmill.agents.settings import Settings, SettingsError
from batchmill.agents.telemetry import Telemetry
from batchmill.agents.topics import KafkaUnreachableError
from batchmill.agents.webhooks.receiving import Receiver
from batchmill.agents.webhooks.signing import SecretError, secret_bytes
from batchmill.agents.webhooks.telling import Teller
from batchmill.streams.hinting import COMMAND, JOB, Hint, command_body

__all__ = ["run_webhooks", "webhook_keys"]

ACTOR = "webhook"
#: between two commands: hints that come meanwhile share the next one
_GAP_SECONDS = 0.5
#: beyond this uvicorn answers 503 by itself
_CONNECTIONS_MAX = 200
_MS_PER_SECOND = 1_000


def webhook_keys(settings: Settings) -> dict[str, bytes | None]:
    """The key of every account; None where none is set. A secret that is none is said now, not at the first webhook."""
    keys: dict[str, bytes | None] = {}
    for name, account in settings.accounts.items():
        secret = account.webhook_key()
        try:
            keys[name] = None if secret is None else secret_bytes(secret)
        except SecretError as error:
            raise SettingsError(f"accounts.{name}.webhook_secret: {error}; copy it from the provider's page") from None
    if not any(keys.values()):
        raise SettingsError(
            "no account has a webhook secret, so nothing would be believed: set accounts.<name>.webhook_secret_file"
        )
    return keys


async def run_webhooks(settings: Settings, *, host: str, port: int, stop: asyncio.Event) -> None:
    """Receive until `stop`."""
    set_up_logging(settings.log, process="webhooks", instance=settings.instance)
    keys = webhook_keys(settings)
    telemetry = Telemetry(settings, process="webhooks")

    async def write(hints: Sequence[Hint]) -> None:
        await issue(settings, COMMAND, JOB, actor=ACTOR, body_json=command_body(hints), wait_seconds=0)

    def count(account: str, outcome: str) -> None:
        telemetry.count("batchmill.webhooks", account=account, outcome=outcome)

    def reasons() -> list[str]:
        return [] if teller.well else ["Kafka does not take hints"]

    teller = Teller(write=write, away=(KafkaError, KafkaUnreachableError, OSError), gap_seconds=_GAP_SECONDS)
    receiver = Receiver(keys=keys, teller=teller, now_s=lambda: clock.wall_ms() / _MS_PER_SECOND, count=count)
    telling = asyncio.get_running_loop().create_task(teller.run(), name="telling")
    try:
        async with (
            serving_health(settings.health, reasons=reasons, metrics=telemetry.prometheus),
            serving(receiver.app(), host=host, port=port, name="webhooks", connections_max=_CONNECTIONS_MAX) as url,
        ):
            believed = sorted(name for name, key in keys.items() if key is not None)
            get_logger(__name__).info("webhooks_listening", url=url, accounts=believed)
            stopped = asyncio.get_running_loop().create_task(stop.wait(), name="stop")
            await asyncio.wait({stopped, telling}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if telling.done():
                telling.result()  # only a bug ends it: the process ends with it, and is started again
    finally:
        telling.cancel()
        telemetry.shutdown()
