"""What `job plan` says of a job that is in force already: the prompt's own diff, and what a new version would meet."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from batchmill.agents.cli.door import Door
from batchmill.agents.cli.planned import tell_plan
from batchmill.agents.jobs.planning import plan_job
from batchmill.agents.projector import ViewStore
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.stakes import Stake, stake
from batchmill.schemas.asking import ModelSpec, RouteSpec
from batchmill.schemas.codec import encode
from batchmill.schemas.jobs import JobSpec, JudgeSpec, PlaceSpec
from batchmill.schemas.state import Source
from batchmill.streams.costing import parse_prices
from batchmill.streams.events import RawLimits
from tests.streams.making import make_spec

SPEC = make_spec()
KNOWN = Stake(sources=1_200, committed=1_100, in_review=7)


def told(capsys: pytest.CaptureFixture[str], planned: JobSpec, known: Stake | None = KNOWN) -> tuple[str, str]:
    prices = parse_prices('{"models": {}}')
    made = plan_job(planned, active=SPEC, samples=(), prices=prices, limits=RawLimits(), now_ms=1)
    tell_plan(Door(), made, stake=known, priced_by="unpriced", records=None)
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_changed_prompt_is_a_diff_and_not_a_quote(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys, replace(SPEC, ask=replace(SPEC.ask, system="You sort letters.")))
    assert "~ ask.system:\n  @@ -1 +1 @@\n  -You sort tickets.\n  +You sort letters.\n" in out
    assert "->" not in out
    assert "asked and paid again; so far 1,200 sources, 1,100 of them committed" in err
    assert "7 records in review keep the version they were taken under" in err


def test_a_changed_judgement_costs_nothing_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys, replace(SPEC, judge=JudgeSpec(review_sample=0.5)))
    assert "~ judge.review_sample: 0 -> 0.5" in out
    assert "judged again at no cost; so far 1,200 sources" in err


def test_a_changed_place_moves_nothing_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = told(capsys, replace(SPEC, place=PlaceSpec(sink="sqlite", table="other")))
    assert "the place changes: what is committed (1,100 sources) stays where it is" in err


def test_without_a_read_model_nothing_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = told(capsys, replace(SPEC, ask=replace(SPEC.ask, system="You sort letters.")), None)
    assert "asked and paid again\n" in err


def test_a_cascade_is_told_and_what_the_most_has_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelSpec(provider="openai", name="dear", params_json='{"max_output_tokens": 10}')
    ask = replace(SPEC.ask, routes=(RouteSpec(name="again", model=model),), cascade=("again",))
    prices, samples = parse_prices('{"models": {}}'), [(None, b'{"body": "hello"}')]
    spec = replace(SPEC, ask=ask)
    made = plan_job(spec, active=None, samples=samples, prices=prices, limits=RawLimits(), now_ms=1)
    tell_plan(Door(), made, stake=None, priced_by="unpriced", records=None)
    out = capsys.readouterr().out
    assert "sample 1: asked; if that is no good: again\n" in out
    assert "at most: each route of the cascade is asked; about: none after the first" in out


@dataclass(frozen=True)
class Rec:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def a_source(number: int, *, job: str = "triage", committed: bool) -> Source:
    return Source(
        job=job,
        source_id=f"s{number}",
        seq=1,
        request_id=f"r{number}",
        committed_request_id=f"r{number}" if committed else None,
        committed_seq=1 if committed else None,
        committed_promotion=0 if committed else None,
        raw_partition=0,
        updated_at_ms=1,
    )


def test_what_a_version_would_meet_is_counted_by_job(tmp_path: Path) -> None:
    sources = [*(a_source(n, committed=n < 2) for n in range(5)), a_source(9, job="other", committed=True)]
    fold = Fold(raw_generation=1)
    rows = [Rec(at, 1, f"{row.schema}/{row.key}".encode(), encode(row)) for at, row in enumerate(sources)]
    fold.add("state", 0, rows)
    with ViewStore(tmp_path / "view.sqlite", identity={}) as store:
        store.write(fold.statements(), {})
    with View(tmp_path / "view.sqlite") as view:
        assert stake(view, "triage") == Stake(sources=5, committed=2, in_review=0)
        assert stake(view, "nobody") == Stake(sources=0, committed=0, in_review=0)
