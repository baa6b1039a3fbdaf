"""`batchmill up|worker|projector|overseer|webhooks|serve|simulate|demo`: the long-running processes."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector import Projector
    from batchmill.agents.settings import Settings
    from batchmill.agents.simulator import Fault, FaultRule
    from batchmill.agents.supervise import ProcessSpec
    from batchmill.agents.telemetry import Telemetry

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    for command in (up, worker, projector, overseer, webhooks, serve, simulate, demo):
        app.command()(command)


def up(
    context: typer.Context,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes; one uses one core.")] = 1,
    no_projector: Annotated[bool, typer.Option("--no-projector", help="Without the projector.")] = False,
    no_overseer: Annotated[bool, typer.Option("--no-overseer", help="Without the overseer.")] = False,
    webhooks_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Also receive providers' webhooks, on this port of 127.0.0.1.")
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Also serve the review pages and the API.")] = False,
    logs: Annotated[
        Path | None, typer.Option(help="Folder for one log file per process; default: this terminal.")
    ] = None,
) -> None:
    """Run workers, the projector and the overseer as one group until Ctrl-C or SIGTERM.

    What fails is started again. The first signal lets them finish their slices, commit and leave (open batches stay
    open at the provider); the second one kills.

    \b
    Example:
      batchmill up --workers 2
    """
    from batchmill.agents.topics import verify

    here = door(context)
    asyncio.run(verify(here.settings))
    specs = [_worker_spec(here, number, workers, logs) for number in range(1, workers + 1)]
    if not no_projector:
        specs.append(_spec(here, "projector", ("projector",), logs, {}))
    if not no_overseer:
        specs.append(_spec(here, "overseer", ("overseer",), logs, {}))
    if webhooks_port is not None:
        specs.append(_spec(here, "webhooks", ("webhooks", "--port", str(webhooks_port)), logs, {}))
    if web:
        specs.append(_spec(here, "web", ("serve",), logs, {}))
    raise typer.Exit(asyncio.run(_run(here, specs)))


def worker(
    context: typer.Context,
    instance: Annotated[str | None, typer.Option(help="Its name for ever: static membership, local state.")] = None,
) -> None:
    """Run one worker in this process.

    \b
    Example:
      batchmill worker --instance worker-3
    """
    from batchmill.agents.app import run_worker
    from batchmill.agents.garbage import look_less_often
    from batchmill.agents.settings import load_settings

    here = door(context)
    settings = here.settings if instance is None else load_settings({**here.flags, "instance": instance})
    look_less_often()
    raise typer.Exit(run_worker(settings))


def projector(
    context: typer.Context,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Forget the file and read the whole log again.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when level with the log.")] = False,
) -> None:
    """Keep the read model up to date, which `status`, `records` and `explain` ask, and start what jobs have scheduled.

    \b
    Example:
      batchmill projector --rebuild --once
    """
    here = door(context)
    asyncio.run(_project(here, rebuild=rebuild, once=once))


def overseer(context: typer.Context) -> None:
    """Hand out what all tasks share: budgets, queues at providers, batch creations. A second one stands by.

    Needed by jobs with a budget, by accounts with queued_max or batches_per_hour_max, and by jobs that watch for drift.

    \b
    Example:
      batchmill overseer
    """
    here = door(context)
    asyncio.run(_oversee(here))


def webhooks(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8030,
) -> None:
    """Receive providers' webhooks: a signed hint that a batch has moved makes its next poll earlier.

    Listens on http://HOST:PORT/webhooks/ACCOUNT for every account that has a `webhook_secret`. Nothing is believed but
    that it is time to look: polling goes on as ever. Put a proxy with TLS in front of it.

    \b
    Example:
      batchmill webhooks --port 8030
    """
    from batchmill.agents.webhooks.serving import run_webhooks

    here = door(context)

    async def receive() -> None:
        stop = asyncio.Event()
        _on_signals(stop)
        await run_webhooks(here.settings, host=host, port=port, stop=stop)

    asyncio.run(receive())


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: web.host.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = None,
) -> None:
    """Serve the review pages and the JSON API until Ctrl-C or SIGTERM.

    They show what the projector has read (`batchmill up` runs one) and say so when that stands still. Without tokens
    only this machine is served; `batchmill tokens create` makes the first one.

    \b
    Example:
      batchmill serve --port 8780
    """
    from batchmill.agents.web.serving import run_web

    here = door(context)
    web = here.settings.web

    async def run() -> None:
        stop = asyncio.Event()
        _on_signals(stop)
        taken = web.port if port is None else port
        await run_web(here.settings, host=host or web.host, port=taken, stop=stop, say=here.say)

    asyncio.run(run())


def simulate(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Its memory and ledger; default <data_dir>/simulator.")] = None,
    gold: Annotated[Path | None, typer.Option(help="JSONL with the right labels, known to the simulator only.")] = None,
    gold_text: Annotated[str, typer.Option(help="Member of a gold line that holds the text.")] = "text",
    gold_label: Annotated[str, typer.Option(help="Member of a gold line that holds the label.")] = "label",
    accuracy: Annotated[float, typer.Option(min=0, max=1, help="Share of answers that are right.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Same seed, same behaviour.")] = 0,
    latency: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Seconds a batch takes.")] = "0.3,1.5",
    single_latency: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Seconds a single call takes.")] = "0.05,0.05",
    latency_profile: Annotated[
        str | None, typer.Option(help="Published turn-round times instead: openai, anthropic, gemini or published.")
    ] = None,
    time_scale: Annotated[float, typer.Option(help="How much faster than its profile; 1 is real time.")] = 1_000.0,
    prompt_cache: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the shortest system text that is cached; default: no cache.")
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Where events of ended batches go; on this machine.")] = None,
    webhook_secret: Annotated[str | None, typer.Option(help="Signs the events: whsec_ and base64.")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help="Single calls per minute, of a key at a model.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens of single calls per minute.")] = None,
    control_rpm: Annotated[int | None, typer.Option(min=1, help="Calls per minute about files and batches.")] = None,
    creates_per_hour: Annotated[int | None, typer.Option(min=1, help="Batches a key may create in an hour.")] = None,
    queue_tokens: Annotated[int | None, typer.Option(min=1, help="Prompt tokens of a model's open batches.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="FAULT", help="A misbehaviour: NAME=RATE or NAME@N,N,...; repeatable."),
    ] = None,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="Name the faults and end.")] = False,
) -> None:
    """Run a provider on this machine: batches and single calls, limits and misbehaviour as told. Costs nothing.

    \b
    Example:
      batchmill simulate --port 8020 --accuracy 0.9 --fault accept_then_500=0.1
      batchmill simulate --rpm 500 --tpm 200000 --queue-tokens 2000000 --creates-per-hour 2000
      batchmill simulate --latency-profile openai --time-scale 1000 --webhook-url http://127.0.0.1:8030/webhooks
      OPENAI_BASE_URL=http://127.0.0.1:8020/v1 OPENAI_API_KEY=any batchmill up
    """
    from batchmill.agents.simulator import (
        EVERY_MODEL,
        FAULTS,
        Limits,
        QueueRoom,
        Rate,
        SimulatorConfig,
        running_simulator,
    )

    here = door(context)
    if list_faults:
        here.table(
            ("fault", "strikes", "what happens"), [[each, spec.place, spec.law] for each, spec in FAULTS.items()]
        )
        return
    try:
        config = SimulatorConfig(
            data_dir=data_dir or here.settings.data_dir / "simulator",
            seed=seed,
            accuracy=accuracy,
            gold_path=gold,
            gold_text_field=gold_text,
            gold_label_field=gold_label,
            latency_seconds=_pair("--latency", latency),
            single_latency_seconds=_pair("--single-latency", single_latency),
            latency_profile=latency_profile,
            time_scale=time_scale,
            prompt_cache_tokens_min=prompt_cache,
            webhook_url=webhook_url,
            webhook_secret=webhook_secret,
            limits=Limits(
                rates={EVERY_MODEL: Rate(requests_per_minute=rpm, tokens_per_minute=tpm)},
                queues={EVERY_MODEL: QueueRoom(tokens_max=queue_tokens)} if queue_tokens else {},
                control_per_minute=control_rpm,
                creates_per_hour=creates_per_hour,
            ),
            faults=dict(_fault(text) for text in fault or ()),
        )
    except ValueError as error:
        raise CommandError(f"batchmill simulate: {error}", ExitCode.USAGE) from None

    async def serve() -> None:
        async with running_simulator(config, port=port) as url:
            here.say(f"the simulator answers at {url}/v1 (ledger: {config.ledger_file}); Ctrl-C ends it")
            here.say(f"use it with: OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=any batchmill up")
            here.say(
                f"base_url of other accounts: azure and anthropic {url}, gemini {url}/gemini, mistral {url}/mistral/v1"
            )
            await _until_signalled()

    asyncio.run(serve())


def demo(
    context: typer.Context,
    records: Annotated[int, typer.Option(min=50, help="Labelled sentences to publish.")] = 5_200,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    accuracy: Annotated[float, typer.Option(min=0, max=1, help="Share of answers the simulator gets right.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 5,
    kill: Annotated[bool, typer.Option("--kill/--no-kill", help="Kill a worker with -9 in the middle.")] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the broker's files too, not only view and sink.")] = False,
    work_dir: Annotated[Path | None, typer.Option(help="Where everything lies; default <data_dir>/demo.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show the whole pipeline on real records, with a worker killed in the middle, and end with the account.

    \b
    Example:
      batchmill demo --accuracy 0.7
    """
    from batchmill.agents.demo import run

    door(context)
    code = run(
        records=records,
        workers=workers,
        accuracy=accuracy,
        seed=seed,
        kill=kill,
        keep=keep,
        work_dir=work_dir,
        json_output=json,
    )
    raise typer.Exit(code)


def _worker_spec(here: Door, number: int, workers: int, logs: Path | None) -> "ProcessSpec":
    own = here.settings.instance
    name = own if workers == 1 else f"worker-{number}"
    port = here.settings.health.port
    # A fixed port can serve one process; its neighbours take the next ones.
    return _spec(here, name, ("worker",), logs, {"instance": name, "health.port": port and port + number - 1})


def _spec(here: Door, name: str, words: tuple[str, ...], logs: Path | None, settings: dict[str, Any]) -> "ProcessSpec":
    from batchmill.agents.settings import child_environment
    from batchmill.agents.supervise import ProcessSpec, batchmill_argv

    if words[0] != "worker" and here.settings.health.port:
        settings = {"health.port": 0}
    return ProcessSpec(
        name=name,
        argv=batchmill_argv(*words),
        env=child_environment({**here.flags, **settings}),
        log_path=None if logs is None else logs / f"{name}.log",
    )


async def _run(here: Door, specs: "list[ProcessSpec]") -> int:
    from batchmill.agents.supervise import ProcessGroup, Restarts

    grace = here.settings.runtime.drain_timeout_seconds + _GRACE_EXTRA_SECONDS
    restarts = Restarts(grace_seconds=grace)
    async with ProcessGroup(specs, say=lambda name, what: here.say(f"{name}: {what}"), restarts=restarts) as group:
        return await group.run_until_signalled()


#: what a process may need on top of draining: its last commit, closing files
_GRACE_EXTRA_SECONDS = 10.0


async def _project(here: Door, *, rebuild: bool, once: bool) -> None:
    from batchmill.agents.garbage import look_less_often
    from batchmill.agents.health import serving_health
    from batchmill.agents.logs import get_logger, set_up_logging
    from batchmill.agents.projector import Projector
    from batchmill.agents.telemetry import Telemetry
    from batchmill.agents.topics import verify

    settings = here.settings
    look_less_often()
    set_up_logging(settings.log, process="projector", instance=settings.instance)
    await verify(settings)
    async with Projector(settings, rebuild=rebuild) as folding:
        if once:
            folded = await folding.catch_up(timeout_seconds=_CATCH_UP_SECONDS)
            here.say(f"{folded} records folded into {settings.view_path}; level with the log")
            return
        telemetry = Telemetry(settings, process="projector")
        _watch_view(telemetry, folding, settings)
        reasons = lambda: [] if folding.ready else ["the view is not level with the log yet"]  # noqa: E731
        async with serving_health(settings.health, reasons=reasons, metrics=telemetry.prometheus):
            get_logger(__name__).info("projector_started", view=str(settings.view_path))
            stop = asyncio.Event()
            _on_signals(stop)
            await _with_schedules(settings, folding, stop)
        telemetry.shutdown()


async def _with_schedules(settings: "Settings", folding: "Projector", stop: asyncio.Event) -> None:
    """Whoever keeps the read model also watches the clock, which needs it."""
    from batchmill.agents.replays.scheduling import Scheduler

    scheduler = Scheduler(settings, ready=lambda: folding.ready)
    watching = asyncio.get_running_loop().create_task(scheduler.run(stop), name="schedules")
    try:
        await folding.run(stop)
    finally:
        stop.set()
        await asyncio.wait([watching], timeout=_GRACE_EXTRA_SECONDS)


_CATCH_UP_SECONDS = 3_600.0


async def _oversee(here: Door) -> None:
    from aiokafka.errors import KafkaError

    from batchmill.agents.health import serving_health
    from batchmill.agents.logs import get_logger, set_up_logging
    from batchmill.agents.overseer import Overseer
    from batchmill.agents.runtime.producers import LostOwnershipError
    from batchmill.agents.telemetry import Telemetry
    from batchmill.agents.topics import verify

    settings = here.settings
    set_up_logging(settings.log, process="overseer", instance=settings.instance)
    await verify(settings)
    overseeing, telemetry, stop = Overseer(settings), Telemetry(settings, process="overseer"), asyncio.Event()
    telemetry.watch(
        "batchmill.drift.score",
        lambda: [(each.psi, {"job": each.job, "signal": each.signal}) for each in overseeing.scores()],
    )
    telemetry.watch(
        "batchmill.drift.moved",
        lambda: [(int(each.moved), {"job": each.job, "signal": each.signal}) for each in overseeing.scores()],
    )
    _on_signals(stop)
    reasons = lambda: [] if overseeing.in_charge else ["another overseer is in charge, or the log is being read"]  # noqa: E731
    async with serving_health(settings.health, reasons=reasons, metrics=telemetry.prometheus):
        try:
            await overseeing.run(stop)
        except (KafkaError, LostOwnershipError, TimeoutError) as error:
            # Another one is in charge now, or nobody knows what was written: whoever starts next reads what is so.
            get_logger(__name__).error("overseer_stopped", error=f"{type(error).__name__}: {error}")
            raise typer.Exit(ExitCode.PARTIAL) from None
    telemetry.shutdown()


def _watch_view(telemetry: "Telemetry", folding: "Projector", settings: "Settings") -> None:
    """What only the read model knows: how far behind it is, and who waits for a person."""
    from batchmill.agents import clock
    from batchmill.agents.projector import queries
    from batchmill.agents.projector.reading import View

    def waiting() -> list[tuple[str, int, int]]:
        with View(settings.view_path) as view:
            return queries.review_queue(view)

    telemetry.watch("batchmill.view.lag", lambda: [(n, {"topic": topic}) for topic, n in folding.lag().items()])
    telemetry.watch("batchmill.review.queue.depth", lambda: [(n, {"job": job}) for job, n, _ in waiting()])
    telemetry.watch(
        "batchmill.review.age",
        lambda: [((clock.wall_ms() - oldest) / 1000, {"job": job}) for job, _, oldest in waiting()],
    )


async def _until_signalled() -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    await stop.wait()


def _on_signals(stop: asyncio.Event) -> None:
    import signal

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)


def _pair(flag: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise CommandError(f"{flag} {text}: write LOW,HIGH in seconds, such as 0.3,1.5", ExitCode.USAGE) from None
    return low, high


def _fault(text: str) -> "tuple[Fault, FaultRule]":
    from batchmill.agents.simulator import parse_fault

    try:
        return parse_fault(text)
    except ValueError as error:
        hint = "`batchmill simulate --list-faults` names them"
        raise CommandError(f"--fault {text}: {error}; {hint}", ExitCode.USAGE) from None
