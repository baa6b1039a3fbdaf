"""One seeded story: events come in any order and twice, an operator meddles, everything breaks; then it must add up.

`simulate(seed)` returns the finished story for the invariants to look at. The same seed gives the same story.
"""

import json
from dataclasses import dataclass, field, replace
from random import Random

from batchmill.schemas import codec
from batchmill.schemas.ids import partition_for
from batchmill.schemas.jobs import BreakerSpec, BudgetSpec, JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control, Decision, Origin, RawEvent
from batchmill.schemas.state import Grant, Life
from batchmill.schemas.status import Status
from batchmill.schemas.versions import version_of
from batchmill.streams import controlling, limiting, promoting, redriving, rerunning, reverting
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.normalizing import BENCHMARK_HEADER
from batchmill.streams.scoring import actor_of
from tests.simulation.oracle import PROMPTS, SECOND, WRONG, Judged, Prefer, scorer, spec_of
from tests.simulation.overseer import SimOverseer
from tests.simulation.provider import NONE, NORMAL, Faults, SimProvider
from tests.simulation.sink import SimSink
from tests.simulation.stages import EFFECTS, TOPICS, Worker
from tests.simulation.world import Killed, SimTask, World

__all__ = ["Scale", "Story", "simulate"]

JOB = "sim"
QUIET_ROUNDS_MAX = 3_000
ENOUGH_NANOS = 10**9
STEP_MS_MAX = 4_000
#: effects that have most to do
MOSTLY = ("dispatch", "dispatch", "poll", "poll")
#: of all actions in a story with changes
CHANGE_SHARE = 0.03
#: of all actions in a story with replays
REPLAY_SHARE = 0.06
#: of all events in a story with replays
GOLD_SHARE = 0.15
#: lines of one run in one task
LINES_MAX = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How long a story is, and how rough."""

    events: int = 80
    sources: int = 25  #: at most; each story draws its own number
    partitions: int = 2
    actions: int = 1_200
    crash_share: float = 0.04
    faults: Faults = NORMAL  #: of the provider
    prefer: Prefer = "batch"  #: which way the questions go
    budget_nanos: int | None = None  #: the job's, at first; with one there is an overseer
    judged: Judged = "plainly"  #: how answers are judged
    breaker: BreakerSpec | None = None
    cascade: bool = False  #: whether there are routes, and an answer that is no good is asked for again by another
    compares: bool = True  #: whether the sink does
    changes: bool = False  #: commits are taken back and put back
    stop_after: int | None = None  #: commits of a version until the operator says `go`
    shared: bool = False  #: sources say the same things, and share paid answers
    replays: bool = False  #: versions change often; runs read again, write again and start afresh; records are gold


@dataclass(slots=True)
class Story:
    """Everything there is to look at when it is over."""

    seed: int
    scale: Scale
    world: World
    worker: Worker
    tasks: list[SimTask]
    versions: list[str]
    corrections: list[dict[str, object]] = field(default_factory=list)
    finished: bool = False
    overseer: SimOverseer | None = None
    stop_after: int | None = None  #: commits of a version that one `go` allows
    budgets: list[int] = field(default_factory=list)  #: every budget the operator has set
    ruled: bool = False  #: there is a rule over input and output
    changes: bool = False  #: the operator takes commits back, and puts them back
    goes: int = 0  #: how often the operator said `go`
    overspent: list[str] = field(default_factory=list)  #: moments at which more was billed or held than any allowed

    def watch_budget(self) -> None:
        """Whether the ledger, or what tasks hold, has grown beyond the highest budget there ever was."""
        if not self.budgets:
            return
        billed = sum(bill.nanos or 0 for bill in self.provider.bills)
        rows = [row for task in self.tasks for row in task.view.rows(Grant.schema)]
        held = sum(row.reserved + row.posted for row in rows if isinstance(row, Grant))
        if max(billed, held) > max(self.budgets):
            self.overspent.append(f"{billed} billed, {held} held or spent of {max(self.budgets)}")

    @property
    def provider(self) -> SimProvider:
        return self.worker.provider

    @property
    def sink(self) -> SimSink:
        return self.worker.sink

    @property
    def undone(self) -> set[str]:
        """Requests that were declined and are not any more: in review again, or ended otherwise since nobody waits."""
        moves = ((before, after) for before, after in self.world.moves if before is not None)
        declined = (after for before, after in moves if before.reason is Reason.DECLINED is not after.reason)
        return {after.request_id for after in declined}

    def lives(self) -> list[Life]:
        return [row for task in self.tasks for row in task.view.rows(Life.schema) if isinstance(row, Life)]


def simulate(seed: int, scale: Scale | None = None) -> Story:
    """Tell the story of `seed` to its end."""
    scale = scale or Scale()
    chance = Random(seed)
    world = World(chance, scale.partitions)
    worker = Worker(world, SimProvider(chance, scale.faults), SimSink(scale.compares), scale.crash_share)
    hold = chance.random() < 0.2
    specs = [
        spec_of(
            number,
            hold=hold,
            count_max=chance.randrange(1, 12),
            budget_nanos=scale.budget_nanos,
            prefer=scale.prefer,
            judged=scale.judged,
            breaker=scale.breaker,
            stop_after=scale.stop_after,
            cascade=scale.cascade,
            shared=scale.shared,
        )
        for number in range(len(PROMPTS))
    ]
    tasks = [SimTask(world, partition) for partition in range(scale.partitions)]
    story = Story(seed, scale, world, worker, tasks, [version_of(spec) for spec in specs])
    story.ruled = scale.judged != "plainly"
    story.stop_after, story.changes = scale.stop_after, scale.changes
    worker.outages = scale.changes or not scale.compares or scale.stop_after is not None
    operator = _Operator(story, specs)
    if scale.budget_nanos is not None:
        story.overseer = SimOverseer(world, Random(seed))
        story.budgets.append(scale.budget_nanos)
    operator.command("apply", version=0)
    if scale.judged == "scored":
        operator.apply(scorer())
    author = _Author(story, scale)
    for _ in range(scale.actions):
        _act(story, operator, author)
        if story.overseer is not None:
            story.overseer.act()
            story.watch_budget()
    author.publish_rest()
    _drain(story, operator)
    return story


def _act(story: Story, operator: "_Operator", author: "_Author") -> None:
    chance = story.world.chance
    story.world.now_ms += chance.randrange(STEP_MS_MAX)
    story.provider.thaw(story.world.now_ms)
    if story.changes and chance.random() < CHANGE_SHARE:
        operator.change(chance.choice(("revert", "revert", "replay")))
    if story.scale.replays and chance.random() < REPLAY_SHARE:
        operator.manage(chance.choice(("promote", "promote", "rerun", "rerun", "rerun", "steer", "redrive", "reject")))
    drawn = chance.random()
    if drawn < 0.1:
        author.publish()
    elif drawn < 0.11:
        operator.meddle()
    elif drawn < 0.15:
        operator.decide()
    elif drawn < 0.17:
        chance.choice(story.tasks).crash()
    else:
        _work(story, chance.choice(story.tasks))


def _work(story: Story, task: SimTask) -> None:
    chance = story.world.chance
    try:
        if chance.random() < 0.4:
            name = chance.choice(list(TOPICS))
            TOPICS[name](story.worker, task, chance.randrange(1, 12))
        else:
            idle = (set() if story.ruled else {"judge"}) | (set() if story.changes else {"change"})
            idle |= set() if story.scale.replays else {"rerun"}
            name = chance.choice([*(each for each in EFFECTS if each not in idle), *MOSTLY])
            EFFECTS[name](story.worker, task)
        if chance.random() < 0.6:
            task.commit()
    except Killed:
        task.crash()


def _drain(story: Story, operator: "_Operator") -> None:
    """Faults stop, the operator lets everything go; in bounded time nothing is left to do."""
    story.worker.crash_share = 0.0
    story.provider.faults = NONE
    operator.resume_all()
    if story.overseer is not None:
        operator.raise_budget(ENOUGH_NANOS)
    for _ in range(QUIET_ROUNDS_MAX):
        story.world.now_ms += 5_000
        story.provider.thaw(story.world.now_ms)
        operator.command("approve") if _held(story) else None
        did = False
        for task in story.tasks:
            for consume in TOPICS.values():
                did = consume(story.worker, task, 1_000) or did
            for effect in EFFECTS.values():
                did = effect(story.worker, task) or did
            task.commit()
        if story.overseer is not None:
            story.overseer.read(len(story.world.state))
            did = story.overseer.write() or did
            story.watch_budget()
        if not did and not _waiting(story):
            story.finished = True
            return
        if _paused(story):
            operator.resume_all()
        if _limited(story):
            operator.go()


def _held(story: Story) -> bool:
    return any(task.view.scan("chunk", "held", limit=1) for task in story.tasks)


def _paused(story: Story) -> bool:
    return any(job.paused for task in story.tasks for job in controlling.jobs(task.view))


def _limited(story: Story) -> bool:
    jobs = [job for task in story.tasks for job in controlling.jobs(task.view)]
    return any(
        limiting.counts_of(task.view, job.job, version).held
        for task in story.tasks
        for job in jobs
        for version in story.versions
    )


def _waiting(story: Story) -> bool:
    for task in story.tasks:
        if task.view.scan("chunk", "", limit=1) or task.view.scan("retry", "", limit=1):
            return True
        if task.view.scan("queue", "", limit=1) or task.view.scan("commit", "", limit=1):
            return True
        if task.view.scan("follow", "", limit=1) or task.view.scan("stored", "", limit=1):
            return True
        if task.view.scan("judge", "", limit=1) or task.view.scan("correction", "", limit=1):
            return True
        if reverting.under_way(task.view) or promoting.sweeps(task.view) or rerunning.under_way(task.view):
            return True
    return False


class _Author:
    """Publishes events: fresh ones, repeated ones, older ones late, nonsense, and lines that no provider reads."""

    def __init__(self, story: Story, scale: Scale) -> None:
        self.story = story
        self.left = scale.events
        self.shared, self.replays = scale.shared, scale.replays
        self.given = story.world.chance.random() < 0.5  #: events say their rank themselves
        self.told: list[tuple[str, str, int]] = []
        self.sources = story.world.chance.randrange(2, scale.sources)

    def publish_rest(self) -> None:
        while self.left > 0:
            self.publish()

    def publish(self) -> None:
        if self.left <= 0:
            return
        self.left -= 1
        chance, world = self.story.world.chance, self.story.world
        if chance.random() < 0.05:
            self._append(b"junk", b"\xff not json", chance.randrange(world.partitions))
            return
        if self.told and chance.random() < 0.2:
            source, text, seq = chance.choice(self.told)  # the same event again
        else:
            source = f"s{chance.randrange(self.sources)}"
            text = f"{'someone' if self.shared else source} says {chance.choice('ABCD')}"
            text += " unreadable" if chance.random() < 0.04 else ""
            seq = len(self.told) + chance.randrange(-4, 5)
        self.told.append((source, text, max(0, seq)))
        event = RawEvent(
            job=JOB, source_id=source, seq=max(0, seq) if self.given else None, payload_json=json.dumps({"text": text})
        )
        gold = self.replays and chance.random() < GOLD_SHARE
        place = partition_for(source.encode(), world.partitions)
        self._append(source.encode(), codec.encode(event), place, gold=gold)

    def _append(self, key: bytes, value: bytes, partition: int, *, gold: bool = False) -> None:
        nowhere = Origin(generation=0, partition=0, offset=0, at_ms=0)
        headers = ((BENCHMARK_HEADER, ",".join(self.story.versions).encode()),) if gold else ()
        self.story.world.append("raw", partition, RawRecord(origin=nowhere, key=key, value=value, headers=headers))


class _Operator:
    def __init__(self, story: Story, specs: list[JobSpec]) -> None:
        self.story = story
        self.specs = specs
        self.version = 0
        self.commands = 0
        self.runs = 0
        self.people = Random(story.seed)
        self.decided: list[tuple[SimTask, Decision]] = []  #: what may be taken back
        more = ("defer",) if story.ruled else ()
        scores = ("score",) if specs[0].judge.scoring is not None else ()
        self.rulings = ("accept", "accept", "correct", "decline", *more, *scores)
        cancels = ("cancel",) if story.world.chance.random() < 0.3 else ()
        budgets = ("raise", "raise", "lower") if specs[0].budget is not None else ()
        goes = ("go",) if specs[0].commit.stop_after is not None else ()
        versions = ("apply", "apply", "promote", "promote", "reread", "reread", "reject")
        self.habits = ("pause", "resume", "resume", "approve", "approve", *versions, *cancels, *budgets, *goes)

    def meddle(self) -> None:
        match self.story.world.chance.choice(self.habits):
            case "apply":
                self.version = 1
                self.command("apply", version=1)
            case "promote" | "reject" as command:
                spec = self.story.world.chance.choice(self.specs)
                self._issue(command, spec.job, version_of(spec), "{}")
            case "reread":
                self.reread()
            case "raise":
                self.raise_budget(self.story.budgets[-1] * 3 // 2)
            case "lower":
                self.raise_budget(self.story.budgets[-1] * 2 // 3)
            case "go":
                self.go()
            case command:
                self.command(command)

    def reread(self) -> None:
        """Have a stretch of raw read again under whatever version is in force by then."""
        world = self.story.world
        partition = world.chance.randrange(world.partitions)
        last = len(world.log["raw", partition])
        first = world.chance.randrange(last + 1)
        self.story.worker.rereads += [(partition, offset) for offset in range(first, min(last, first + 8))]

    def manage(self, what: str) -> None:
        """What people do with versions, in any order, also where it makes no sense."""
        chance = self.story.world.chance
        spec = chance.choice(self.specs)
        match what:
            case "promote" | "reject":
                self.apply(spec)
                self._issue(what, spec.job, version_of(spec), "{}")
            case "rerun":
                self.rerun(version_of(spec))
            case "steer":
                runs = [each.run for task in self.story.tasks for each in rerunning.under_way(task.view)]
                if runs:
                    body = rerunning.steer_body(chance.choice(runs), chance.choice(("pause", "resume", "cancel")))
                    self._issue("rerun", JOB, None, body)
            case "redrive":
                dead = [life.request_id for life in self.story.lives() if life.status is Status.FAILED_TERMINAL]
                if dead:
                    chosen = [chance.choice(dead) for _ in range(5)]
                    self.command("redrive", body_json=redriving.command_body(requests=chosen, letters=[]))

    def rerun(self, version: str) -> None:
        """Start a run: of events, or of requests that are written once more; in front or aside, afresh or not."""
        world, worker = self.story.world, self.story.worker
        self.runs += 1
        kind = world.chance.choice((rerunning.Kind.ASK, rerunning.Kind.ASK, rerunning.Kind.WRITE))
        aside = kind is rerunning.Kind.ASK and world.chance.random() < 0.3
        fresh = kind is rerunning.Kind.ASK and world.chance.random() < 0.4
        epoch = self.runs if fresh else 0
        parts: dict[int, rerunning.Part] = {}
        for task in self.story.tasks:
            lines = self._written(task) if kind is rerunning.Kind.WRITE else self._read(task, epoch)
            uri = f"run-{self.runs}/{task.partition}"
            worker.parts[uri] = lines
            if lines:
                parts[task.partition] = rerunning.Part(uri=uri, lines=len(lines))
        run = f"run-{self.runs}"
        body = rerunning.start_body(run=run, parts=parts, kind=kind, aside=aside, fresh=fresh, epoch=epoch)
        self._issue("rerun", JOB, version, body)

    def _read(self, task: SimTask, epoch: int) -> list[rerunning.Line | str]:
        chance, end = self.story.world.chance, task.read["raw"]
        first = chance.randrange(end + 1)
        return [rerunning.Line(offset=at, epoch=epoch) for at in range(first, min(end, first + LINES_MAX))]

    def _written(self, task: SimTask) -> list[rerunning.Line | str]:
        lives = [row for row in task.view.rows(Life.schema) if isinstance(row, Life) and row.job == JOB]
        return [self.story.world.chance.choice(lives).request_id for _ in range(LINES_MAX)] if lives else []

    def go(self) -> None:
        self.story.goes += 1
        self.command("go")

    def change(self, kind: str) -> None:
        """Take back, or put back, a run or some requests, whatever has become of them."""
        chance, lives = self.story.world.chance, self.story.lives()
        if not lives:
            return
        if chance.random() < 0.3:
            self.command(kind, body_json=reverting.command_body(run=chance.choice(lives).run_id))
            return
        likely = [life for life in lives if life.status is Status.COMMITTED or life.reverted] or lives
        chosen = [chance.choice(likely).request_id for _ in range(chance.randrange(1, 4))]
        self.command(kind, body_json=reverting.command_body(requests=chosen))

    def raise_budget(self, nanos: int) -> None:
        """Apply the same version with another budget; lower ones too."""
        self.story.budgets.append(nanos)
        self.specs = [replace(spec, budget=BudgetSpec(job_nanos=nanos)) for spec in self.specs]
        for number in range(self.version + 1):
            self.command("apply", version=number)

    def command(self, command: str, *, version: int | None = None, body_json: str = "{}") -> None:
        if version is not None:
            self.apply(self.specs[version])
        else:
            self._issue(command, JOB, None, body_json)

    def resume_all(self) -> None:
        """The second job pauses by itself as any other does."""
        for job in (JOB, SECOND):
            self._issue("resume", job, None, "{}")
        for number in range(1, self.runs + 1):
            self._issue("rerun", JOB, None, rerunning.steer_body(f"run-{number}", "resume"))

    def apply(self, spec: JobSpec) -> None:
        self._issue("apply", spec.job, version_of(spec), spec.to_json())

    def _issue(self, command: str, job: str, version: str | None, body_json: str) -> None:
        self.commands += 1
        control = Control(
            command_id=f"command-{self.commands}",
            command=command,
            job=job,
            version=version,
            body_json=body_json,
            actor="operator",
            issued_at_ms=self.story.world.now_ms,
        )
        for partition in range(self.story.world.partitions):
            self.story.world.append("control", partition, control)

    def decide(self) -> None:
        """Rule on a life in review, now and then on an answer it no longer has; or take an earlier ruling back."""
        chance = self.story.world.chance
        if self.decided and self.people.random() < 0.3:
            task, earlier = self.people.choice(self.decided[-20:])
            self._write(task, replace(earlier, id=f"undo-{earlier.id}", action="undo", undoes=earlier.id))
            return
        waiting = [
            (task, life)
            for task in self.story.tasks
            for life in (row for _, row in task.view.scan("review", "", limit=50))
            if isinstance(life, Life)
        ]
        if not waiting:
            return
        task, life = chance.choice(waiting)
        decision = self._decision(life, chance.choice(self.rulings))
        if self.story.ruled:
            self.decided.append((task, decision))
        self._write(task, decision)

    def _decision(self, life: Life, action: str) -> Decision:
        chance, now_ms = self.story.world.chance, self.story.world.now_ms
        correction = self._correction()
        late = {"confidence": 0.9, "label": "late"}  # a score of another answer, and it agrees
        return Decision(
            id=f"decision-{chance.randrange(10**9)}",
            request_id=life.request_id,
            job=life.job,
            action=action,
            output_sha256_seen="stale" if chance.random() < 0.1 or action == "score" else life.output_sha256 or "",
            output_json={"correct": json.dumps(correction), "score": json.dumps(late)}.get(action),
            reason=None,
            until_ms=now_ms + 1_000 if action == "defer" else None,
            actor=actor_of(SECOND) if action == "score" else self.people.choice(("ada", "bob", "cleo")),
            decided_at_ms=now_ms,
        )

    def _correction(self) -> dict[str, object]:
        """Where there is a rule, now and then one that breaks it."""
        breaks = self.story.ruled and self.people.random() < 0.2
        label = f"{WRONG} " if breaks else ""
        correction = {"confidence": 1.0, "label": f"{label}corrected {self.story.world.chance.randrange(1000)}"}
        self.story.corrections.append(correction)
        return correction

    def _write(self, task: SimTask, decision: Decision) -> None:
        self.story.world.append("decisions", task.partition, decision)
