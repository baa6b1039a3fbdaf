"""Gathers the facts of the report from where they lie: the view, the sink, the provider's ledger, the log itself.

Runs once the workers have left and the broker still answers. What must not: arithmetic (`measures`) or judging
(`report`).
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents.clock import monotonic_s
from batchmill.agents.demo.events import Hostile, Script
from batchmill.agents.demo.report import Hostiles, Ledgers, Log, Money
from batchmill.agents.projector.metrics import Accounting
from batchmill.agents.projector.reading import View
from batchmill.agents.providers.batch_account import WRITTEN
from batchmill.agents.runtime import BodyCache, LogReader
from batchmill.agents.settings import Settings
from batchmill.agents.simulator import Ledger
from batchmill.agents.topics import kafka_client_options
from batchmill.schemas.codec import decode
from batchmill.schemas.records import Committed, Verdict
from batchmill.schemas.status import Place
from batchmill.streams.topology import topic_name

__all__ = [
    "answers_in_review",
    "compared_answers",
    "faults_met",
    "gold_of",
    "hostiles_found",
    "labels_committed",
    "ledgers_of",
    "log_against_sink",
    "money_of",
    "read_committed",
]

_BODY_CACHE_BYTES = 2**20
_NO_TEXT = hashlib.sha256(b"").hexdigest()
_READ_SECONDS_MAX = 30.0
_POLL_MS = 200


def ledgers_of(found: Accounting, *, unreadable: int) -> Ledgers:
    """The accounting of the view, with nothing left out."""
    places = found.account.places
    return Ledgers(
        raw=found.account.raw,
        committed=places.get(Place.COMMITTED, 0),
        in_review=places.get(Place.IN_REVIEW, 0),
        held=places.get(Place.HELD, 0),
        in_flight=places.get(Place.IN_FLIGHT, 0),
        dead_lettered=places.get(Place.DEAD_LETTERED, 0),
        excluded=places.get(Place.EXCLUDED, 0),
        lost=found.lost,
        doubled=found.doubled,
        unreadable=unreadable,
    )


def money_of(view: View, ledger: Ledger) -> Money:
    """Our books beside the provider's."""
    wasted = view.number("SELECT SUM(wasted_nanos) FROM chunks")
    created = ledger.batches_by_label(WRITTEN["chunk_id"])
    return Money(
        ours=view.number("SELECT SUM(cost_nanos) FROM lives") + wasted,
        wasted=wasted,
        ledger=ledger.cost_nanos,
        undelivered=sum(bill.cost_nanos for bill in ledger.bills if not bill.delivered),
        batches=len(ledger.batches_created),
        batches_paid_twice=sum(1 for times in created.values() if times > 1),
        billed_answers=len(ledger.bills),
    )


def faults_met(ledger: Ledger) -> dict[str, int]:
    """Requests to the provider that a fault struck, by its name."""
    return dict(Counter(request.fault for request in ledger.requests if request.fault is not None).most_common())


def compared_answers(view: View, ledger: Ledger) -> tuple[int, int]:
    """Our answers beside what the provider says it gave to that very custom id: how many, and how many are unlike.

    A refusal has no text to compare: the provider's ledger has the hash of its words, we that of no text at all.
    """
    said = {bill.custom_id: bill.result_sha256 for bill in ledger.bills}
    ours = view.rows(
        "SELECT custom_id, output_sha256 FROM results WHERE output_sha256 <> ? AND answered_by <> 'store'", (_NO_TEXT,)
    )
    alike = Counter(said.get(row["custom_id"]) == row["output_sha256"] for row in ours)
    return alike.total(), alike[False]


def hostiles_found(view: View, hostile: Iterable[Hostile]) -> tuple[Hostiles, ...]:
    """What became of every hostile event, found by its own place in raw."""
    letters = view.rows(
        """SELECT raw.key, letters.reason FROM raw JOIN (
          SELECT origin_generation, origin_partition, origin_offset, reason FROM dead_letters
          UNION ALL SELECT origin_generation, origin_partition, origin_offset, reason FROM excluded) letters
        ON origin_generation = raw.generation AND origin_partition = raw.partition AND origin_offset = raw.offset"""
    )
    found = {(row["key"], row["reason"]) for row in letters}
    published, put_down, reasons = Counter[str](), Counter[str](), dict[str, str]()
    for event in hostile:
        published[event.kind] += 1
        put_down[event.kind] += (event.key, str(event.reason)) in found
        reasons[event.kind] = str(event.reason)
    return tuple(
        Hostiles(kind=kind, reason=reasons[kind], published=count, put_down=put_down[kind])
        for kind, count in published.items()
    )


async def read_committed(settings: Settings) -> list[Committed]:
    """All of `committed`, by a client that knows nothing of the pipeline but the topic's name."""
    name = topic_name(settings.topic_prefix, "committed")
    tps = [TopicPartition(name, partition) for partition in range(settings.partitions)]
    consumer = AIOKafkaConsumer(
        **kafka_client_options(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: list[Committed] = []
        deadline_s = monotonic_s() + _READ_SECONDS_MAX
        while [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
            if monotonic_s() > deadline_s:
                raise TimeoutError(f"{name} could not be read within {_READ_SECONDS_MAX:g} s")
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                found += [decode(record.value, Committed) for record in records]
        return found
    finally:
        await consumer.stop()


def log_against_sink(committed: Iterable[Committed], sink: Path, table: str, compared: tuple[int, int]) -> Log:
    """The sink must hold the newest committed record of every target, and nothing else."""
    every = list(committed)
    newest: dict[str, Committed] = {}
    for record in every:
        before = newest.get(record.target_key)
        if before is None or (record.seq, record.promotion) >= (before.seq, before.promotion):
            newest[record.target_key] = record
    rows = _sink_rows(sink, table)
    alike = sum(
        1 for key, row in rows.items() if key in newest and row == (newest[key].commit_id, newest[key].output_json)
    )
    return Log(
        committed=len(every),
        different=len({record.request_id for record in every}),
        sink_rows=len(rows),
        sink_unlike=len(rows) - alike,
        compared=compared[0],
        swapped=compared[1],
    )


def _sink_rows(sink: Path, table: str) -> dict[str, tuple[str, str]]:
    if not sink.is_file():
        return {}
    with closing(sqlite3.connect(f"{sink.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(f"SELECT target_key, commit_id, output_json FROM {table}")  # noqa: S608  our job's
        return {key: (commit_id, output) for key, commit_id, output in rows}


async def answers_in_review(view: View, settings: Settings, field: str) -> dict[str, str]:
    """The label of every answer that waits for a person: source id -> label, read back from the log."""
    waiting: dict[int, dict[int, str]] = {}
    waits = "status = 'needs_review' AND NOT aside"
    for row in view.rows(f"SELECT partition, verdict_offset, source_id FROM lives WHERE {waits}"):  # noqa: S608  ours
        waiting.setdefault(row["partition"], {})[row["verdict_offset"]] = row["source_id"]
    options = kafka_client_options(settings.kafka)
    servers = str(options.pop("bootstrap_servers"))
    reader = LogReader(bootstrap_servers=servers, bodies=BodyCache(bytes_max=_BODY_CACHE_BYTES), options=options)
    found: dict[str, str] = {}
    try:
        for partition, sources in waiting.items():
            bodies = await reader.read(topic_name(settings.topic_prefix, "validated"), partition, sources)
            for offset, body in bodies.items():
                verdict = decode(body.value or b"", Verdict)
                assert verdict.source_id == sources[offset], f"offset {offset} of validated is another source's"
                found[verdict.source_id] = json.loads(verdict.output_json)[field]
    finally:
        await reader.close()
    return found


def labels_committed(committed: Iterable[Committed], field: str) -> dict[str, str]:
    """The label of every committed answer: source id -> label."""
    return {record.source_id: json.loads(record.output_json)[field] for record in committed}


def gold_of(script: Script) -> dict[str, str]:
    """What people said: source id -> label."""
    return {sentence.id: sentence.label for sentence in script.sentences}
