"""What a replay would be about, from a view filled by hand: which records, what becomes of them, what it costs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.projector.reruns import replay, replays
from batchmill.agents.replays import planning
from batchmill.agents.replays.choosing import Asked, Candidate, Range, Selecting, candidates, record_of
from batchmill.agents.replays.planning import class_field
from batchmill.schemas.codec import encode
from batchmill.schemas.drift import DriftSpec
from batchmill.schemas.jobs import JobSpec, JudgeSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control, Excluded
from batchmill.schemas.state import Job, Life
from batchmill.schemas.status import Status
from batchmill.schemas.versions import ask_fingerprint, version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.costing import parse_prices, write_prices
from batchmill.streams.quoting import cost_of
from batchmill.streams.rerunning import COMMAND, Part, Progress, RunState, start_body
from batchmill.streams.versioning import listed, promoted
from tests.agents.test_letters import NOWHERE, _newest
from tests.agents.test_projector import Log, a_letter, a_life
from tests.streams.making import make_row, make_spec

PRICES = parse_prices('{"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}')
SPEC = make_spec(prices_json=write_prices(PRICES))
#: another question; other rules
ASKED = make_spec(system="You sort letters.", prices_json=write_prices(PRICES))
RULED = make_spec(judge=JudgeSpec(categories={"label": ("a", "b")}), prices_json=write_prices(PRICES))
V1, V2, V3 = map(version_of, (SPEC, ASKED, RULED))
TOKENS = 100


def job_in(*promotions: JobSpec) -> Job:
    """The job with all three versions, those of `promotions` promoted one after the other."""
    versions = {version_of(each): json.loads(each.to_json()) for each in (SPEC, ASKED, RULED)}
    told = json.dumps({version: 0 for version in versions if version != V1})
    row = replace(listed(make_row(SPEC)), versions_json=json.dumps(versions), shadows_json=told)
    for number, each in enumerate(promotions):
        row = promoted(row, version_of(each), at_ms=1, command_id=f"promote-{number}")
    return row


class Held:
    """A view filled by hand, one life at a time."""

    def __init__(self, path: Path) -> None:
        self.log = Log(path)
        self._names = iter("abcdefghijklmnopqrstuvw")

    def job(self, row: Job) -> None:
        self.log.row(row)
        self.log.fold()

    def life(self, *, partition: int = 0, newest: bool = True, **changes: Any) -> Life:
        told: dict[str, Any] = {
            "status": Status.COMMITTED,
            "version": V1,
            "tokens_estimate": TOKENS,
            "output_sha256": "sha",
            "ask_key": "k",
        }
        life = a_life(self.log.raw(partition), next(self._names), **(told | changes))
        self.log.row(life)
        if newest:
            self.log.row(replace(_newest(life.source_id, life.request_id), raw_partition=partition))
        self.log.fold()
        return life

    def letter(self, reason: Reason) -> None:
        """An event that never became a request."""
        made = replace(a_letter(self.log.raw(), reason=reason), id=f"dl-{next(self._names)}", source_id="lone")
        self.log.add("dead-letter", 0, encode(made))
        self.log.fold()

    def filtered(self) -> None:
        made = Excluded(
            id=f"ex-{next(self._names)}",
            request_id=None,
            job=SPEC.job,
            version=V1,
            source_id="lone",
            stage="normalizer",
            reason=Reason.FILTERED,
            detail="",
            of_request_id=None,
            cost_nanos=None,
            excluded_at_ms=1,
            origin=self.log.raw(),
        )
        self.log.add("excluded", 0, encode(made))
        self.log.fold()

    def chosen(self, select: str, *, fresh_from: int = -1, target: str = V2, **asked: Any) -> list[Candidate]:
        selecting = Selecting(generation=1, target=target, fresh_from=fresh_from, by_source=True)
        with self.log.view() as view:
            return list(candidates(view, Asked(job=SPEC.job, select=select, **asked), selecting))

    def names(self, select: str, **more: Any) -> str:
        return "".join(row.request_id[0] if row.request_id else "-" for row in self.chosen(select, **more))


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    made = Held(tmp_path / "data" / "view.sqlite")
    yield made
    made.log.store.close()


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--set", f"data_dir={tmp_path}/data", "--set", f"kafka.bootstrap_servers={NOWHERE}"]


# -- which are meant ---------------------------------------------------------------------------------------------------


def test_stale_is_what_is_committed_in_front_under_another_version(held: Held) -> None:
    held.life()
    held.life(version=V2)
    held.life(aside=True)
    held.life(status=Status.QUEUED)
    held.life(newest=False)  # a newer event of its source has come
    held.life(job="other")
    assert held.names("stale") == "a"
    assert held.names("stale", target=V1) == "b"


def test_after_a_fresh_start_what_was_answered_before_it_is_stale_too(held: Held) -> None:
    held.life(version=V2, promotion=1)
    held.life(version=V2, promotion=2)
    assert held.names("stale") == ""
    assert held.names("stale", fresh_from=2) == "a"


def test_failed_is_what_stands_dead_lettered_with_a_life_or_without(held: Held) -> None:
    held.life()
    held.life(status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON)
    held.life(status=Status.FAILED_TERMINAL, reason=Reason.SUPERSEDED)
    held.life(status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON, aside=True)
    held.letter(Reason.INVALID_INPUT)
    held.filtered()
    assert held.names("failed") == "b-"
    (_, lone) = held.chosen("failed")
    assert (lone.reason, lone.source_id, lone.status) == (Reason.INVALID_INPUT, "lone", None)


def test_all_is_every_newest_event_whatever_became_of_it(held: Held) -> None:
    held.life()
    held.life(status=Status.QUEUED)
    held.life(status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON)
    held.life(status=Status.FAILED_TERMINAL, reason=Reason.CANCELLED)
    held.life(newest=False)
    held.letter(Reason.INVALID_INPUT)
    held.filtered()
    assert held.names("all") == "abc--"


def test_offsets_and_times_narrow(held: Held) -> None:
    for partition in (0, 0, 1):
        held.life(partition=partition)
    (first, second, third) = held.chosen("stale")
    assert [row.place for row in (first, second, third)] == [(0, 0), (0, 2), (1, 0)]
    assert held.names("stale", ranges=(Range(0, 1, 9),)) == "b"
    assert held.names("stale", ranges=(Range(0, 0, 0), Range(1, 0, 0))) == "ac"
    assert held.names("stale", since_ms=first.at_ms + 1) == ""
    assert held.names("stale", until_ms=first.at_ms + 1) == "abc"


def test_what_is_written_again_is_what_is_committed_under_the_version_itself(held: Held) -> None:
    held.life()
    held.life(version=V2)
    held.life(version=V2, reverted=True, status=Status.VALIDATED)
    held.letter(Reason.INVALID_INPUT)
    assert held.names("all", write=True) == "b"


def test_a_condition_sees_a_record_without_its_content(held: Held) -> None:
    held.life(confidence=0.25, cost_nanos=2_000_000_000, route="small")
    (row,) = held.chosen("all")
    told = record_of(row, row.at_ms + 43_200_000)
    assert (told["status"], told["confidence"], told["cost_usd"], told["age_days"]) == ("committed", 0.25, 2.0, 0.5)
    assert (told["route"], told["reason"], told["version"]) == ("small", "", V1)


def test_the_class_of_an_answer_is_the_member_that_is_watched_or_the_first_of_few_values() -> None:
    assert class_field(SPEC) is None
    listed = {"type": "object", "properties": {"why": {"type": "string"}, "kind": {"enum": ["a", "b"]}}}
    spec = make_spec(output_schema=listed)
    assert class_field(spec) == "kind"
    assert class_field(replace(spec, drift=DriftSpec(field="why"))) == "why"
    assert class_field(make_spec(output_schema=None)) is None


# -- what becomes of them, and what it costs ---------------------------------------------------------------------------


def planned(at: list[str], capsys: pytest.CaptureFixture[str], *words: str, code: int = ExitCode.OK) -> Any:
    assert run([*at, "replay", "--job", SPEC.job, *words, "--json"]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_another_question_is_priced_and_nothing_is_done(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in(ASKED))
    held.life()
    held.life()
    told, said = planned(at, capsys)
    compiled = CompiledJobs().of(job_in(ASKED), V2)
    assert compiled is not None
    expected, most = cost_of("", TOKENS, compiled, PRICES)
    assert expected is not None
    assert most is not None
    assert (told["executed"], told["version"], told["by_way"]) == (False, V2, {"asked": 2})
    assert (told["tokens"], told["expected_usd"], told["most_usd"]) == (200, 2 * expected / 1e9, 2 * most / 1e9)
    assert "no Kafka broker answers" in said
    assert "dry run" in said


def test_only_rules_changed_is_said_and_costs_nothing(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask_fingerprint(SPEC) == ask_fingerprint(RULED)
    held.job(job_in(RULED))
    held.life()
    told, said = planned(at, capsys)
    assert (told["by_way"], told["most_usd"]) == ({"judged again": 1}, 0)
    assert "only rules changed: 1 stored answers are judged again, 0 requests" in said


def test_under_the_same_version_there_is_nothing_to_ask(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in())
    held.life()
    told, said = planned(at, capsys, "--select", "all")
    assert told["by_way"] == {"nothing: asked already": 1}
    assert "If only the place changed, say --write" in said


def test_a_failure_under_the_version_itself_is_redriven_and_one_under_another_is_asked(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in(ASKED))
    failed = {"status": Status.FAILED_TERMINAL, "reason": Reason.NOT_JSON}
    held.life(**failed)
    held.life(version=V2, **failed)
    told, said = planned(at, capsys, "--select", "failed")
    assert told["by_way"] == {"asked": 1, "redriven": 1}
    assert told["read_again"] == 1
    assert "1 failed under this version: they are redriven" in said


def test_a_version_that_is_not_in_force_stands_aside(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in())
    held.life()
    told, said = planned(at, capsys, "--version", V2)
    assert (told["aside"], told["version"], told["by_way"]) == (True, V2, {"asked": 1})
    assert "stand aside" in said
    assert run([*at, "replay", "--job", SPEC.job, "--version", "nope"]) == ExitCode.NOT_FOUND


def test_a_fresh_start_asks_what_was_answered_before_at_the_next_epoch(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in())
    held.life(epoch=6)
    told, said = planned(at, capsys, "--select", "all", "--fresh")
    assert (told["by_way"], told["epoch"]) == ({"asked": 1}, 7)
    assert "a fresh start" in said


def test_what_a_fresh_start_has_not_got_to_yet_is_stale_and_goes_on_at_its_epoch(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    body = start_body(run="fresh", parts={0: Part(uri="u", lines=2)}, fresh=True, epoch=3)
    command = Control(
        command_id="promote-0", command=COMMAND, job=SPEC.job, version=V1, body_json=body, actor="me", issued_at_ms=1
    )
    held.log.add("control", 0, encode(command), b"0")
    held.job(job_in(SPEC))
    held.life(promotion=0)
    held.life(promotion=1, epoch=3)
    told, _ = planned(at, capsys)
    assert told["by_way"] == {"asked": 1}
    every, _ = planned(at, capsys, "--select", "all")
    assert every["by_way"] == {"asked": 1, "nothing: asked already": 1}


def test_above_the_limit_nothing_is_started_and_a_sample_that_fits_is_named(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in(ASKED))
    for _ in range(4):
        held.life()
    told, _ = planned(at, capsys)
    enough = f"{told['most_usd']:.9f}"
    planned(at, capsys, "--max-cost", enough)
    half, said = planned(at, capsys, "--max-cost", f"{told['most_usd'] * 0.55:.9f}", "--execute", code=ExitCode.GATE)
    assert half["executed"] is False
    assert "--sample 2 would fit" in said


def test_without_a_price_a_limit_stops_everything(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(system="Another.", prices_json=write_prices(parse_prices('{"models": {}}')))
    held.job(make_row(spec))
    held.life()
    _, said = planned(at, capsys, "--max-cost", "1000", code=ExitCode.GATE)
    assert "nobody knows what they can cost" in said


def test_a_sample_has_its_share_of_each_version_and_the_same_seed_draws_the_same(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in(RULED, ASKED))
    for number in range(12):
        held.life(version=V1 if number < 8 else V3)
    first, _ = planned(at, capsys, "--sample", "6")
    again, _ = planned(at, capsys, "--sample", "6")
    assert first["strata"] == again["strata"] == {f"{V1}/committed": 4, f"{V3}/committed": 2}
    assert (first["count"], first["sampled_from"]) == (6, 12)


def test_the_class_of_a_sampled_record_is_short_whatever_its_label_says(held: Held) -> None:
    held.life()
    (row,) = held.chosen("stale")
    told = planning._class(row, "label", {"label": "x" * 1_000_000})
    assert told.startswith(f"{V1}/xxx")
    assert len(told) < 100


def test_a_condition_chooses_and_records_without_an_answer_are_told(
    held: Held, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held.job(job_in(ASKED))
    for confidence in (0.2, 0.9, None):
        held.life(confidence=confidence, verdict_offset=0)
    told, said = planned(at, capsys, "--select", "record.confidence < 0.5")
    assert (told["count"], told["no_answer"]) == (1, 1)
    assert "1 records gave no answer" in said
    assert run([*at, "replay", "--job", SPEC.job, "--select", "recrod.x"]) == ExitCode.USAGE
    assert "did you mean 'record'" in capsys.readouterr().err
    assert run([*at, "replay", "--job", SPEC.job, "--select", "output.label == 'a'"]) == ExitCode.USAGE
    assert "no Kafka broker answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--offsets", "3"],
        ["--offsets", "3:9-1"],
        ["--rate", "0"],
        ["--run", "a b"],
        ["--since", "soon"],
        ["--max-cost", "x"],
        ["--refresh-tools"],
    ],
)
def test_what_cannot_be_meant_is_told(held: Held, at: list[str], words: list[str]) -> None:
    held.job(job_in())
    assert run([*at, "replay", "--job", SPEC.job, *words]) == ExitCode.USAGE


def test_a_job_has_to_be_named_and_known(held: Held, at: list[str]) -> None:
    held.job(job_in())
    assert run([*at, "replay"]) == ExitCode.USAGE
    assert run([*at, "replay", "--job", "nobody"]) == ExitCode.NOT_FOUND


def test_what_is_written_again_asks_nothing(held: Held, at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    held.job(job_in())
    held.life()
    told, said = planned(at, capsys, "--write")
    assert (told["by_way"], told["most_usd"], told["read_again"]) == ({"written again": 1}, 0, 1)
    assert "1 are written once more" in said
    assert run([*at, "replay", "--job", SPEC.job, "--write", "--aside"]) == ExitCode.USAGE


# -- runs --------------------------------------------------------------------------------------------------------------


def progress(partition: int, state: RunState, **changes: Any) -> Progress:
    told: dict[str, Any] = {"counts": {"asked": 2}, "done": 2, "at_ms": 5 + partition}
    part = Part(uri="u", lines=4)
    return Progress(run="nightly", job=SPEC.job, version=V1, state=state, part=part, **(told | changes))


def test_a_run_is_told_over_all_its_tasks(held: Held, at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    held.job(job_in())
    held.log.row(progress(0, RunState.DONE, done=4).row)
    held.log.row(progress(1, RunState.RUNNING).row, partition=1)
    held.life(run_id="replay:nightly", cost_nanos=7)
    with held.log.view() as view:
        (row,) = replays(view)
        one = replay(view, "nightly")
    assert (row.state, row.lines, row.done, row.counts, row.started_at_ms) == (RunState.RUNNING, 8, 6, {"asked": 4}, 5)
    assert one is not None
    assert (one.lives, one.cost_nanos) == ({"committed": 1}, 7)
    assert run([*at, "replay", "show", "nightly"]) == ExitCode.OK
    assert "6 of 8" in capsys.readouterr().out
    assert run([*at, "replay", "list", "--job", SPEC.job, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["items"][0]["tasks"] == {"done": 1, "running": 1}


def test_only_a_run_that_is_known_and_not_over_can_be_steered(held: Held, at: list[str]) -> None:
    held.job(job_in())
    held.log.row(progress(0, RunState.DONE).row)
    held.log.fold()
    assert run([*at, "replay", "pause", "nightly"]) == ExitCode.CONFLICT
    assert run([*at, "replay", "cancel", "nobody"]) == ExitCode.NOT_FOUND
