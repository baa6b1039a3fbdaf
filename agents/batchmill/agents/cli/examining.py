"""What `batchmill doctor` looks at: each check says ok, warn or fail, what was found, and how to mend it."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchmill.agents import clock
from batchmill.agents.cli.accounts import account_trouble, key_hint
from batchmill.agents.cli.looked_up import source_troubles
from batchmill.streams.ports import ProviderError

if TYPE_CHECKING:
    from batchmill.agents.settings import AccountSettings, Settings
    from batchmill.agents.sinks.registry import OutsideSink

__all__ = ["Finding", "Level", "examine"]

_DISK_BYTES_WARN = 5 * 2**30
_DISK_BYTES_FAIL = 2**29
_HTTP_SECONDS = 5.0
_STALE_MS = 60_000
#: these need no setting, so that they are there does not mean that anybody wants them
_SINKS_ALWAYS_THERE = frozenset({"sqlite", "jsonl", "parquet"})


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    what: str
    level: Level
    found: str
    mend: str | None = None


async def examine(settings: "Settings") -> list[Finding]:
    """Every check, in the order in which things depend on each other."""
    found = [each async for each in _kafka(settings)]
    for name, account in settings.accounts.items():
        found += [each async for each in _account(name, account, settings)]
    found += [_disk(settings), _view(settings), *_overseer(settings)]
    found += [each async for each in _sinks(settings)]
    found += [each async for each in _tools(settings)]
    return [*found, *_jobs(settings), *[each async for each in _indexes(settings)]]


async def _kafka(settings: "Settings") -> AsyncIterator[Finding]:
    from batchmill.agents.topics import KafkaUnreachableError, TopicAdmin

    servers = settings.kafka.bootstrap_servers
    try:
        async with TopicAdmin(settings) as admin:
            brokers = await admin.brokers()
            yield Finding(what="kafka", level=Level.OK, found=f"brokers behind {servers}: {brokers}")
            yield _replication(settings, brokers)
            changes = await admin.plan()
    except KafkaUnreachableError as error:
        mend = "`make kafka` starts one; or set KAFKA_BOOTSTRAP_SERVERS"
        yield Finding(what="kafka", level=Level.FAIL, found=str(error), mend=mend)
        return
    yield await _transactions(settings)
    if not changes:
        yield Finding(what="topics", level=Level.OK, found=f"as declared, {settings.partitions} partitions each")
        return
    mendable = all(change.mendable for change in changes)
    yield Finding(
        what="topics",
        level=Level.FAIL,
        found=f"{len(changes)} differences, the first: {changes[0]}",
        mend="batchmill topics apply" if mendable else "set BATCHMILL_PARTITIONS to what the cluster has",
    )


def _replication(settings: "Settings", brokers: int) -> Finding:
    factor = settings.replication_factor
    if factor > brokers:
        mend = f"set BATCHMILL_REPLICATION_FACTOR to at most {brokers}"
        return Finding(what="replication", level=Level.FAIL, found=f"factor {factor}, {brokers} brokers", mend=mend)
    if factor == 1 < brokers:
        mend = "set BATCHMILL_REPLICATION_FACTOR=3 before `batchmill topics apply`"
        return Finding(what="replication", level=Level.WARN, found="one copy of everything", mend=mend)
    return Finding(what="replication", level=Level.OK, found=f"factor {factor}")


async def _transactions(settings: "Settings") -> Finding:
    """A transactional producer is started and stopped; nothing is written."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    from batchmill.agents.topics import kafka_client_options

    producer = AIOKafkaProducer(
        **kafka_client_options(settings.kafka),
        transactional_id=f"{settings.app_id}-doctor",
        transaction_timeout_ms=5_000,
    )
    try:
        await producer.start()
    except KafkaError as error:
        mend = "the cluster needs transactions (and this user: Write and Describe on the transactional id)"
        return Finding(what="transactions", level=Level.FAIL, found=f"refused: {type(error).__name__}", mend=mend)
    finally:
        await producer.stop()
    return Finding(what="transactions", level=Level.OK, found="a transactional producer was given an epoch")


async def _account(name: str, account: "AccountSettings", settings: "Settings") -> AsyncIterator[Finding]:
    from batchmill.agents.settings import is_loopback

    what = f"account {name}"
    if account.key() is None and not is_loopback(account.url):
        yield Finding(what=what, level=Level.FAIL, found=f"no key for {account.url}", mend=key_hint(name))
        return
    if settings.loopback_only and not is_loopback(account.url):
        yield Finding(what=what, level=Level.WARN, found="not asked: loopback_only is set")
        return
    yield await _batches(name, account)
    yield await _clock(name, account)


async def _batches(name: str, account: "AccountSettings") -> Finding:
    """The account's batches are listed, as after a lost answer: it tries address, key and permission at once."""
    from batchmill.agents.providers.registry import provider_for
    from batchmill.agents.settings import env_name
    from batchmill.streams.ports import Label, MustPauseError, NotFoundError, ProviderError

    what, address = f"account {name}", env_name(f"accounts.{name}.base_url")
    nobody = Label(app="doctor", chunk_id="doctor", chunk_attempt=0, payload_sha256="", members=0)
    client = provider_for(name, account, on_call=lambda _seen: None, loopback_only=False)
    try:
        await client.find(label=nobody, since_ms=clock.wall_ms())
    except MustPauseError as error:
        mend = f"use a key that may use batches: {key_hint(name)}"
        return Finding(what=what, level=Level.FAIL, found=f"{account.url} refuses the key: {error}", mend=mend)
    except NotFoundError as error:
        # A server of one's own may have single calls only.
        level = Level.WARN if account.kind == "compatible" else Level.FAIL
        return Finding(what=what, level=level, found=f"no batches at {account.url}: {error}", mend=f"check {address}")
    except ProviderError as error:
        mend = f"check {address} and the network; `batchmill simulate` gives one to try with"
        return Finding(what=what, level=Level.FAIL, found=f"{account.url} does not answer: {error}", mend=mend)
    finally:
        await client.close()
    return Finding(what=what, level=Level.OK, found=f"{account.url} lists its batches")


async def _clock(name: str, account: "AccountSettings") -> Finding:
    """Any answer tells the time, a refusal too; so no key is sent."""
    import httpx

    try:
        async with httpx.AsyncClient(timeout=_HTTP_SECONDS) as client:
            asked_ms = clock.wall_ms()
            answer = await client.get(account.url)
    except httpx.HTTPError as error:
        return Finding(what=f"clock against {name}", level=Level.WARN, found=f"not known: {type(error).__name__}")
    return _skew(name, account, answer, asked_ms)


def _skew(name: str, account: "AccountSettings", answer: Any, asked_ms: int) -> Finding:
    """Looking for a batch of unknown outcome allows for so much difference of clocks."""
    from email.utils import parsedate_to_datetime

    what = f"clock against {name}"
    said: str | None = answer.headers.get("date")
    if said is None:
        return Finding(what=what, level=Level.WARN, found="the provider does not say its time")
    seconds = abs(parsedate_to_datetime(said).timestamp() - asked_ms / 1000)
    level = Level.OK if seconds < account.clock_skew_seconds / 10 else Level.WARN
    mend = None if level is Level.OK else "synchronise this machine's clock (NTP)"
    if seconds >= account.clock_skew_seconds:
        level = Level.FAIL
    return Finding(what=what, level=level, found=f"{seconds:.0f} s apart", mend=mend)


def _disk(settings: "Settings") -> Finding:
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        mend = "set BATCHMILL_DATA_DIR to a folder this user may write"
        return Finding(what="disk", level=Level.FAIL, found=f"{folder}: {error.strerror}", mend=mend)
    level = Level.OK if free >= _DISK_BYTES_WARN else Level.WARN if free >= _DISK_BYTES_FAIL else Level.FAIL
    advice = None if level is Level.OK else "free some, or set BATCHMILL_DATA_DIR elsewhere"
    return Finding(what="disk", level=level, found=f"{free / 2**30:.1f} GiB free at {folder}", mend=advice)


def _view(settings: "Settings") -> Finding:
    from batchmill.agents.projector import queries
    from batchmill.agents.projector.reading import View, ViewMissingError

    try:
        with View(settings.view_path) as view:
            fresh = queries.freshness(view)
    except ViewMissingError as error:
        return Finding(what="read model", level=Level.WARN, found=str(error), mend="batchmill up")
    age_ms = clock.wall_ms() - fresh.newest_at_ms
    told = f"{fresh.records:,} records, the newest {age_ms // 1000:,} s old"
    if fresh.unreadable:
        mend = "another release or a foreign program writes to these topics; upgrade this side first"
        return Finding(what="read model", level=Level.FAIL, found=f"{told}, {fresh.unreadable} unreadable", mend=mend)
    level = Level.WARN if fresh.records and age_ms > _STALE_MS else Level.OK
    return Finding(what="read model", level=level, found=told)


def _overseer(settings: "Settings") -> list[Finding]:
    """Needed only where something has a limit that all tasks share."""
    from batchmill.agents.projector import queries
    from batchmill.agents.projector.reading import View, ViewMissingError

    try:
        with View(settings.view_path) as view:
            seen, budgets = queries.overseen(view), queries.budgets(view)
    except ViewMissingError:
        return []
    limited = any(each.queued_max or each.batches_per_hour_max for each in settings.accounts.values())
    if not seen.silent(clock.wall_ms()):
        return [Finding(what="overseer", level=Level.OK, found=f"{seen.instance} is in charge")]
    if not limited and not any(each.limit_nanos is not None for each in budgets):
        return [Finding(what="overseer", level=Level.OK, found="none is heard of, and nothing needs one")]
    found = f"none is heard of; {sum(seen.waiting.values())} batches wait for one"
    return [Finding(what="overseer", level=Level.WARN, found=found, mend="batchmill overseer")]


async def _sinks(settings: "Settings") -> AsyncIterator[Finding]:
    """Each sink that is set is tried out, nothing is written; one that is not set matters where a job names it."""
    from batchmill.agents.settings import SettingsError
    from batchmill.agents.sinks.registry import UnsetSink, build_sinks

    try:
        sinks = build_sinks(settings)
    except SettingsError as error:
        yield Finding(what="sinks", level=Level.FAIL, found=str(error), mend="correct the setting")
        return
    wanted = _sinks_of_jobs(settings)
    for name, sink in sinks.items():
        if isinstance(sink, UnsetSink) and name in wanted:
            found = f"the job {wanted[name]} writes to it, and it is not there; what it writes waits"
            yield Finding(what=f"sink {name}", level=Level.FAIL, found=found, mend=sink.missing)
        elif not isinstance(sink, UnsetSink) and (name in wanted or name not in _SINKS_ALWAYS_THERE):
            yield await _sink(name, sink)


async def _sink(name: str, sink: "OutsideSink") -> Finding:
    try:
        found = await sink.probe()
    except Exception as error:  # noqa: BLE001 - whatever a sink raises means that it cannot be written to
        told = f"cannot be reached: {error if isinstance(error, ProviderError) else type(error).__name__}"
        mend = f"check the settings sink.* ({name}) and what they point at; until then what it is to hold waits"
        return Finding(what=f"sink {name}", level=Level.FAIL, found=told, mend=mend)
    finally:
        await sink.close()
    return Finding(what=f"sink {name}", level=Level.OK, found=found)


async def _tools(settings: "Settings") -> AsyncIterator[Finding]:
    """Each database and API is asked the smallest thing there is; what a job names and nobody has set waits."""
    from batchmill.agents.settings import SettingsError
    from batchmill.agents.tools import ToolSources

    try:
        sources = ToolSources(settings)
    except SettingsError as error:
        yield Finding(what="tools", level=Level.FAIL, found=str(error), mend="correct the setting")
        return
    for what, probe in sources.probes().items():
        try:
            yield Finding(what=what, level=Level.OK, found=await probe())
        except ProviderError as error:
            mend = "check its settings and what they point at; until then records that need it wait"
            yield Finding(what=what, level=Level.FAIL, found=f"gives no answer: {error}", mend=mend)
    await sources.close()


def _sinks_of_jobs(settings: "Settings") -> dict[str, str]:
    """Sink -> a job that writes to it."""
    from batchmill.agents.jobs import JobFileError, load_job

    wanted = {}
    for file in sorted(settings.jobs_dir.glob("*/job.yaml")):
        with contextlib.suppress(JobFileError):
            spec = load_job(file).spec
            wanted[spec.place.sink] = spec.job
    return wanted


def _jobs(settings: "Settings") -> list[Finding]:
    from batchmill.agents.jobs import JobFileError, load_job
    from batchmill.streams.routing import models_of

    found = []
    for file in sorted(settings.jobs_dir.glob("*/job.yaml")):
        try:
            loaded = load_job(file)
        except JobFileError as error:
            first = next(problem for problem in error.problems if problem.level == "error")
            mend = f"batchmill job validate {file.parent}"
            found.append(Finding(what=f"job {file.parent.name}", level=Level.FAIL, found=str(first), mend=mend))
            continue
        what, models = f"job {loaded.spec.job}", models_of(loaded.spec.ask).values()
        trouble = next(filter(None, (account_trouble(settings, model) for model in models)), None)
        if trouble is not None:
            found.append(Finding(what=what, level=Level.FAIL, found=trouble[0], mend=trouble[1]))
            continue
        lacking = list(source_troubles(settings, loaded.spec))
        found += [Finding(what=what, level=Level.FAIL, found=told, mend=hint) for _, told, hint in lacking]
        if not lacking:
            found.append(Finding(what=what, level=Level.OK, found=f"version {loaded.version}"))
    return found


async def _indexes(settings: "Settings") -> AsyncIterator[Finding]:
    """What the jobs look things up in: there, whole, and made of the documents as they are."""
    from batchmill.agents.jobs import JobFileError, load_job
    from batchmill.agents.jobs.lines import read_yaml

    for file in sorted(settings.jobs_dir.glob("*/job.yaml")):
        with contextlib.suppress(JobFileError):
            retrieval = load_job(file).spec.ask.retrieval
            if retrieval is not None:
                pointer = file.parent / read_yaml(file).data["ask"]["retrieval"]["index"]
                yield await _index(settings, retrieval.index, retrieval.sha256, pointer)


async def _index(settings: "Settings", name: str, sha256: str, pointer: Path) -> Finding:
    from batchmill.agents.payloads import PayloadError
    from batchmill.agents.retrieval.library import IndexGoneError, load_index
    from batchmill.agents.retrieval.looking import store_of, troubles_of

    what = f"index {name}"
    try:
        index = await load_index(store_of(settings), sha256)
    except PayloadError as error:
        return Finding(what=what, level=Level.FAIL, found=str(error), mend="see the settings payloads.*")
    except IndexGoneError as error:
        (gone,) = troubles_of(error, pointer, now_ms=clock.wall_ms())
        return Finding(what=what, level=Level.FAIL, found=gone.what, mend=gone.hint)
    troubles = troubles_of(index, pointer, now_ms=clock.wall_ms())
    if troubles:
        found = "; ".join(each.what for each in troubles)
        return Finding(what=what, level=Level.WARN, found=found, mend=troubles[0].hint)
    return Finding(what=what, level=Level.OK, found=f"{len(index.snapshot.pieces):,} pieces, snapshot {sha256[:16]}")
