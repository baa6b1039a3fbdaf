"""What a replay would do, counted and priced before anything is told to anybody.

The dry run and the execution have the same list: what is counted here is what is handed over. Costs are the target
version's own prices on what its questions weigh: some of the chosen events are normalized under it here, as they would
be there, and what a question weighed under its former version is scaled by what those come to. Expected is one attempt,
the most is every attempt that the job allows, each at its dearest; a question whose answer is known costs nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any, Final

import orjson
from aiokafka.errors import KafkaConnectionError

from batchmill.agents.commands import read_commands
from batchmill.agents.originals import kept_from
from batchmill.agents.projector.reading import View
from batchmill.agents.replays.bodies import BODIES_MAX, Bodies, LogAwayError, opened
from batchmill.agents.replays.choosing import Asked, Candidate, Selecting, candidates, known_under, record_of
from batchmill.agents.replays.plan import FREE, Group, Plan, ReplayError, Way
from batchmill.agents.settings import Settings
from batchmill.agents.topics import KafkaUnreachableError
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import WorkItem
from batchmill.schemas.state import Job
from batchmill.schemas.status import Status
from batchmill.schemas.versions import ask_fingerprint
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.costing import PriceList
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.drawing import CLASSES_MAX, Drawing
from batchmill.streams.events import RawLimits, decoded
from batchmill.streams.expressions import Condition, ConditionError, Scope, compile_condition
from batchmill.streams.items import Standing, item_of
from batchmill.streams.looking_up import Lookups, WaitsError
from batchmill.streams.quoting import cost_of
from batchmill.streams.rerunning import COMMAND, Line
from batchmill.streams.retrieving import IndexAwaitedError
from batchmill.streams.routing import ITSELF
from batchmill.streams.unusable import Unusable
from batchmill.streams.versioning import is_rejected, knows, promotions_of
from batchmill.streams.view import MemoryView

__all__ = ["SELECTIONS", "class_field", "plan_replay", "raw_limits"]

SELECTIONS: Final = ("stale", "failed", "all")
#: what a condition may speak of
_VARIABLES: Final = frozenset({"record", "input", "output"})
#: chosen events that are normalized under the target to see what its questions weigh
_WEIGHED_MAX: Final = 100
#: of a label: the classes of a sample stand in its command
_CLASS_CHARS_MAX: Final = 64


def raw_limits(settings: Settings) -> RawLimits:
    """How much of a raw event is taken, as the workers are set."""
    limits = settings.limits
    return RawLimits(
        value_bytes_max=limits.raw_bytes_max,
        depth_max=limits.nesting_max,
        source_id_chars_max=limits.source_id_chars_max,
    )


async def plan_replay(settings: Settings, view: View, asked: Asked, *, prices: PriceList, now_ms: int) -> Plan:
    """Choose, count and price; ReplayError says what is wrong with what was asked."""
    row = _row(view, asked.job)
    target = asked.version or row.version
    if not knows(row, target):
        raise ReplayError(
            f"job {asked.job} has no version {target}; see `batchmill job show {asked.job}`", missing=True
        )
    if is_rejected(row, target):
        raise ReplayError(f"version {target} of job {asked.job} was rejected: `batchmill job apply` it again first")
    if asked.write and (asked.aside or asked.fresh or target != row.version):
        raise ReplayError("what is written again is the version in force: not aside, not fresh, and nothing is asked")
    if asked.refresh_tools and not asked.fresh:
        raise ReplayError("what is looked up again makes another question of the same event: say --fresh, too")
    if target != row.version and not asked.aside:
        asked = replace(asked, aside=True)
    async with opened(settings) as bodies:
        return await _Planning(settings, view, asked, row, target, bodies, prices, now_ms).made()


def _row(view: View, job: str) -> Job:
    """The job as the task that is farthest has it."""
    found = view.typed(Job, "SELECT * FROM jobs WHERE job = ? ORDER BY updated_at_ms DESC LIMIT 1", (job,))
    if not found:
        raise ReplayError(f"the read model knows no job {job}; see `batchmill job list`", missing=True)
    return found[0]


class _Planning:
    """One planning under way; what cannot be found out becomes a note."""

    def __init__(
        self,
        settings: Settings,
        view: View,
        asked: Asked,
        row: Job,
        target: str,
        bodies: Bodies,
        prices: PriceList,
        now_ms: int,
    ) -> None:
        self._settings, self._view, self._asked, self._row = settings, view, asked, row
        self._target, self._bodies, self._prices, self._now_ms = target, bodies, prices, now_ms
        compiled = CompiledJobs().of(row, target)
        assert compiled is not None, "the job's row knows the version"
        self._job: CompiledJob = compiled
        self._asks = {
            name: ask_fingerprint(JobSpec.from_json(orjson.dumps(spec)))
            for name, spec in orjson.loads(row.versions_json).items()
        }
        self._notes: list[str] = []
        self._no_answer = 0

    async def made(self) -> Plan:
        asked, job = self._asked, self._asked.job
        epochs, next_epoch = await self._epochs()
        fresh_from, fresh_epoch = self._refreshed(epochs)
        selecting = Selecting(
            generation=self._settings.raw_generation,
            target=self._target,
            fresh_from=fresh_from,
            by_source=self._job.spec.dedupe != "content",
        )
        rows = list(candidates(self._view, asked, selecting))
        if asked.select not in SELECTIONS:
            rows = await self._holding(rows, _condition(asked.select))
        chosen, strata = await self._sampled(rows)
        known = known_under(self._view, job, self._target, selecting.generation)
        first = await self._first_offsets()
        placed = [
            (row, *self._way(row, self._line(row, known, fresh_from, fresh_epoch, next_epoch), known, first))
            for row in chosen
        ]
        scale = await self._scale([row for row, _, way in placed if way is Way.ASKED])
        return self._plan(placed, scale, next_epoch if asked.fresh else 0, sampled_from=len(rows), strata=strata)

    # -- which, and as what

    async def _epochs(self) -> tuple[Mapping[str, int], int]:
        """The epochs that commands have given out, by command, and the next that is free."""
        most = self._view.number("SELECT MAX(epoch) FROM lives WHERE job = ?", (self._asked.job,))
        sql = "SELECT command_id, body_json FROM commands WHERE job = ? AND command = ? AND partition = 0"
        rows = self._view.rows(sql, (self._asked.job, COMMAND))
        given = {row["command_id"]: _epoch_of(row["body_json"]) for row in rows}
        try:
            commands = await read_commands(self._settings, self._asked.job)
        except (KafkaUnreachableError, KafkaConnectionError):
            self._notes.append("no Kafka broker answers: what the read model has not heard of is not known")
            return given, max([most, *given.values()]) + 1
        given |= {each.command_id: _epoch_of(each.body_json) for each in commands if each.command == COMMAND}
        return given, max([most, *given.values()]) + 1

    def _refreshed(self, epochs: Mapping[str, int]) -> tuple[int, int]:
        """The promotion from which the target's answers are fresh, and the epoch of those; -1: it was never refreshed.

        A version that follows itself was promoted for a fresh start, or for being written again: that has no epoch.
        """
        promotions = promotions_of(self._row)
        for before, each in reversed(list(pairwise(promotions))):
            if each.version == before.version == self._target and epochs.get(each.command_id):
                return each.number, epochs[each.command_id]
        return -1, 0

    def _line(
        self,
        row: Candidate,
        known: Mapping[tuple[int, int, int], str],
        fresh_from: int,
        fresh_epoch: int,
        next_epoch: int,
    ) -> Line:
        epoch = row.epoch if row.version == self._target and row.request_id is not None else 0
        if row.version == self._target and row.request_id is not None and row.promotion < fresh_from:
            epoch = fresh_epoch  # what a fresh start has not got to yet
        if self._asked.fresh:
            epoch = next_epoch
        same = self._asks.get(row.version or "") == self._job.ask_fingerprint and row.epoch == epoch
        ask_key = row.ask_key if same and row.answered else known.get((*row.place, epoch))
        return Line(offset=row.offset, epoch=epoch, known=ask_key)

    def _way(
        self,
        row: Candidate,
        line: Line,
        known: Mapping[tuple[int, int, int], str],
        first: Mapping[int, int],
    ) -> tuple[Line, Way]:
        if self._asked.write:
            return line, Way.WRITTEN
        own = row.version == self._target and row.status is Status.FAILED_TERMINAL and not self._asked.fresh
        if own and not self._asked.aside and self._asked.select != "all":
            return line, Way.REDRIVEN
        if row.offset < first.get(row.partition, 0):
            return line, Way.GONE
        if own or (*row.place, line.epoch) in known:
            return line, Way.ALREADY
        return line, Way.JUDGED if line.known is not None else Way.ASKED

    async def _first_offsets(self) -> Mapping[int, int]:
        try:
            kept = await kept_from(self._settings, ("raw",))
        except KafkaConnectionError:
            self._notes.append("what retention has removed is not known")
            return {}
        return {partition: topics["raw"] for partition, topics in kept.items()}

    # -- conditions and samples

    async def _holding(self, rows: list[Candidate], condition: Condition) -> list[Candidate]:
        """Those that the condition holds for; those it gives no answer for are counted, and not chosen."""
        spoken = condition.variables & {"input", "output"}
        if spoken and len(rows) > BODIES_MAX:
            raise ReplayError(
                f"--select speaks of {' and '.join(sorted(spoken))} and would read {len(rows):,} bodies, at most"
                f" {BODIES_MAX:,} are read: narrow it with --since, --until or --offsets"
            )
        try:
            inputs = await self._bodies.inputs(rows) if "input" in spoken else {}
            outputs = await self._bodies.outputs(rows) if "output" in spoken else {}
        except LogAwayError:
            raise ReplayError(
                f"--select speaks of {' and '.join(sorted(spoken))}, and no Kafka broker answers to give them"
            ) from None
        found: list[Candidate] = []
        for row in rows:
            said = {
                "record": record_of(row, self._now_ms),
                "input": inputs.get(row.place, {}),
                "output": outputs.get(row.place, {}),
            }
            try:
                if condition.holds(Scope(said)):
                    found.append(row)
            except ConditionError:
                self._no_answer += 1
        return found

    async def _sampled(self, rows: list[Candidate]) -> tuple[list[Candidate], Mapping[str, int]]:
        wanted = self._asked.sample
        if wanted is None or wanted >= len(rows):
            return rows, {}
        label = class_field(self._job.spec)
        outputs: Mapping[tuple[int, int], Any] = {}
        if label is not None and len(rows) <= BODIES_MAX:
            try:
                outputs = await self._bodies.outputs(rows)
            except LogAwayError:
                self._notes.append("the sample is drawn by version and status: no broker gives the labels")
        elif label is not None:
            self._notes.append(f"the sample is drawn by version and status: above {BODIES_MAX:,} no labels are read")
        classes = {row.name: _class(row, label, outputs.get(row.place)) for row in rows}
        names = _drawn(classes, wanted, seed=self._asked.seed)
        drawn = Counter(classes[name] for name in sorted(names))
        return [row for row in rows if row.name in names], dict(drawn.most_common(CLASSES_MAX))

    # -- what it costs

    async def _scale(self, rows: Sequence[Candidate]) -> "_Scale":
        """What the questions of the target weigh, from some of the events."""
        if not rows:
            return _Scale()
        names = _drawn(dict.fromkeys((row.name for row in rows), ""), _WEIGHED_MAX, seed="weighed")
        some = [row for row in rows if row.name in names]
        try:
            events = await self._bodies.events(some)
        except LogAwayError:
            self._notes.append("what the questions weigh is taken from their former version: no broker gives events")
            return _Scale()
        items = {row.place: self._item(events[row.place]) for row in some if row.place in events}
        made = [(row.tokens_estimate, item) for row in some if (item := items.get(row.place)) is not None]
        before = sum(tokens for tokens, _ in made)
        after = sum(item.tokens_estimate for tokens, item in made if tokens)
        self._notes.append(f"questions weighed: {len(made)} of {len(rows):,} under version {self._target}")
        if not made:
            return _Scale()
        return _Scale(
            ratio=after / before if before else 1.0,
            mean=round(sum(item.tokens_estimate for _, item in made) / len(made)),
            routes={route: count / len(made) for route, count in Counter(item.route for _, item in made).items()},
        )

    def _item(self, raw: RawRecord) -> WorkItem | None:
        limits, standing = raw_limits(self._settings), Standing(promotion=0, run_id="weighed", replayed=True)
        try:
            event = decoded(raw, limits, self._settings.default_job)
            return item_of(self._job, event, raw, standing, limits, Lookups(view=MemoryView(), origin=raw.origin))
        except (Unusable, WaitsError, IndexAwaitedError):
            return None  # what needs a look-up or an index is not weighed here

    def _costs(self, routes: Mapping[str, float]) -> Callable[[int], tuple[int | None, int | None]]:
        """What a question of so many tokens is expected to cost by the routes that were seen, and at most by any."""
        prices, every = self._job.costed_by(self._prices), self._job.routes.by_name
        first = [name for name, route in every.items() if name == ITSELF or route.when is not None]

        @cache
        def cost(tokens: int) -> tuple[int | None, int | None]:
            told = {name: cost_of(name, tokens, self._job, prices) for name in first}
            expected = [(told[name][0], share) for name, share in routes.items()]
            most = [at_most for _, at_most in told.values()]
            known = [nanos for nanos in most if nanos is not None]
            return (
                None if any(nanos is None for nanos, _ in expected) else round(sum((n or 0) * s for n, s in expected)),
                max(known) if len(known) == len(most) else None,
            )

        return cost

    def _plan(
        self,
        placed: Iterable[tuple[Candidate, Line, Way]],
        scale: "_Scale",
        epoch: int,
        *,
        sampled_from: int,
        strata: Mapping[str, int],
    ) -> Plan:
        cost = self._costs(scale.routes)
        groups: dict[tuple[str, str, Way], Group] = {}
        lines: dict[int, list[Line | str]] = {}
        most: Counter[int] = Counter()
        redriven: list[str] = []
        for row, line, way in placed:
            status = "" if row.status is None else row.status.value
            group = groups.setdefault((row.version or "", status or f"no request: {row.reason}", way), Group())
            group.count += 1
            if way is Way.WRITTEN and row.request_id is not None:
                lines.setdefault(row.task, []).append(row.request_id)
            elif way is Way.REDRIVEN and row.request_id is not None:
                redriven.append(row.request_id)
            elif way is not Way.GONE:
                lines.setdefault(row.partition, []).append(line)
            if way in FREE:
                continue
            tokens = scale.of(row)
            expected, at_most = cost(tokens)
            group.tokens += tokens
            group.expected_nanos += expected or 0
            group.most_nanos += at_most or 0
            group.unpriced += expected is None or at_most is None
            if way is Way.ASKED:
                most[row.partition] += at_most or 0
        return Plan(
            asked=self._asked,
            version=self._target,
            in_force=self._row.version,
            epoch=epoch,
            groups=groups,
            lines=lines,
            most_nanos=most,
            redriven=redriven,
            sampled_from=sampled_from,
            strata=strata,
            no_answer=self._no_answer,
            notes=tuple(self._notes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Tokens of a question under the target, from what is known of the record."""

    ratio: float = 1.0
    mean: int = 0  #: for records that were never asked
    routes: Mapping[str, float] = field(default_factory=lambda: {ITSELF: 1.0})  #: share of each, of those weighed

    def of(self, row: Candidate) -> int:
        return round(row.tokens_estimate * self.ratio) if row.tokens_estimate else self.mean


def _condition(source: str) -> Condition:
    try:
        return compile_condition(source, variables=_VARIABLES)
    except ConditionError as error:
        raise ReplayError(
            f"--select {source[:80]}: neither stale, failed or all, nor a condition that can be read: {error}"
        ) from None


def class_field(spec: JobSpec) -> str | None:
    """The output member that tells the class of an answer: the one that is watched, else the first of few values."""
    if spec.drift is not None and spec.drift.field is not None:
        return spec.drift.field
    if spec.ask.output_schema_json is None:
        return None
    members = orjson.loads(spec.ask.output_schema_json).get("properties", {})
    listed = (name for name, member in members.items() if isinstance(member, dict) and "enum" in member)
    return next(listed, None)


def _class(row: Candidate, label: str | None, output: Any) -> str:
    """The stratum of a record: its version and label; where it has none, its version and status."""
    value = output.get(label) if isinstance(output, dict) and label is not None else None
    told = (
        str(value)[:_CLASS_CHARS_MAX]
        if value is not None
        else ("no request" if row.status is None else row.status.value)
    )
    return f"{row.version or '-'}/{told}"


def _epoch_of(body_json: str) -> int:
    body = orjson.loads(body_json)
    epoch = body.get("epoch") if isinstance(body, dict) else None
    return epoch if type(epoch) is int else 0


def _drawn(classes: Mapping[str, str], wanted: int, *, seed: str) -> frozenset[str]:
    """The names that are drawn of these, each class by its share."""
    drawing: Drawing[str] = Drawing(limit=wanted, seed=seed)
    for name, label in classes.items():
        drawing.offer(name, label, name)
    return frozenset(drawing.drawn())
