"""What people see of drift: the command, its JSON, the plot, the page, and the line in `status`."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest

from batchmill.agents.cli.drift import bars, plot_lines
from batchmill.agents.cli.program import run
from batchmill.agents.projector.drift import watch_rows
from batchmill.agents.runtime.restore import OVERSEER
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.strict_json import to_json
from batchmill.schemas.versions import version_of
from batchmill.streams.drifting import Score, Timed, begun, take
from batchmill.streams.signalling import Heard
from batchmill.streams.watching import JobWatch
from tests.agents.test_projector import Log
from tests.streams.making import make_row, make_spec

SPEC = make_spec(drift=DriftSpec(field="label", reference=100, window=50, psi_above=0.25))
KEY = f"{OVERSEER}/drift/triage".encode()
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def log(tmp_path: Path) -> Any:
    made = Log(tmp_path / "view.sqlite")
    yield made
    made.store.close()


def counted(log: Log, names: list[str]) -> None:
    told = [Timed(Heard(DriftSignal.CLASSES, name), 1_000 * at) for at, name in enumerate(names)]
    watch, _ = take(begun(SPEC), SPEC, told)
    about = JobWatch(version=version_of(SPEC), versions={version_of(SPEC): watch})
    log.row(make_row(SPEC))
    log.add("state", 0, to_json(about).encode(), KEY)
    log.fold()


def moved(log: Log) -> list[str]:
    counted(log, ["pos", HOSTILE] * 50 + ["pos", HOSTILE] * 25 + ["pos"] * 50 + ["pos"] * 7)
    return ["--set", f"view.path={log.path}"]


def test_the_view_has_what_the_overseer_remembers(log: Log) -> None:
    moved(log)
    with log.view() as view:
        (row,) = watch_rows(view, "triage")
        assert watch_rows(view, "another") == []
    (classes,) = row.signals
    assert (row.in_force, row.held, row.spec) == (True, False, SPEC.drift)
    assert (classes.looks, classes.filling, classes.last) == (2, 7, {"pos": 50})
    assert [score.moved for score in classes.scores] == [False, True]


def test_what_is_forgotten_is_not_shown(log: Log) -> None:
    moved(log)
    log.add("state", 0, None, KEY)
    log.fold()
    with log.view() as view:
        assert watch_rows(view) == []


def test_the_command_names_what_moved_from_what_to_what(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*moved(log), "drift", "triage", "--json"]) == 0
    (row,) = orjson.loads(capsys.readouterr().out)["items"]
    assert row["signals"][0]["moved"]["shares"][0] == {"name": HOSTILE, "before": 0.5, "after": 0.0}
    (alarm,) = row["alarms"]
    assert "50% -> 100%" in alarm
    assert run([*moved(log), "drift"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"triage  moved, version {version_of(SPEC)}\n  classes moved (PSI ")
    assert run([*moved(log), "status"]) == 0
    assert f"drift of triage: {alarm}" in capsys.readouterr().out


def test_a_page_is_one_file_without_a_script_and_draws_every_window(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "drift.html"
    assert run([*moved(log), "drift", "triage", "--html", str(page)]) == 0
    text = page.read_text()
    assert "<script" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    chart, shares = [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert [dot.get("class") for dot in chart.iter("circle")] == ["calm", "moved"]
    assert len(list(shares.iter("rect"))) == 4
    assert "prefers-color-scheme: dark" in text
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "code"), [(["drift", "--html", "x.html"], 2), (["drift", "nobody"], 4), (["drift", "triage"], 0)]
)
def test_what_cannot_be_shown_is_said(
    log: Log, words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log.row(make_row(SPEC))
    log.fold()
    assert run(["--set", f"view.path={log.path}", *words]) == code
    assert capsys.readouterr().err


def score(look: int, psi: float, *, moved: bool = False) -> Score:
    return Score(look=look, at_ms=1_000 * look, psi=psi, js=0.1, p=0.5, moved=moved)


def test_bars_are_one_a_window_and_mark_those_that_moved() -> None:
    assert bars([score(1, 0.0), score(2, 0.2), score(3, 0.4, moved=True)], 0.4) == "▁▅█!"


def test_the_plot_has_a_line_at_the_threshold() -> None:
    told = list(plot_lines([score(1, 0.0), score(2, 0.8, moved=True)], 0.2))
    assert len(told) == 9
    assert [line for line in told if "--█!" in line] == [told[5]]
    assert told[-1].endswith("windows 1 to 2, 1970-01-01 00:00:01 to 1970-01-01 00:00:02 UTC")
