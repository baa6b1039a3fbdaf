"""`batchmill review` and `batchmill tokens` at a terminal, over a desk without a broker."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.door import Door
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.desk import opening
from batchmill.agents.desk.desk import Desk
from batchmill.agents.settings import Settings
from batchmill.schemas.records import Check
from batchmill.schemas.status import Status
from tests.agents.desk_world import World


class Terminal:
    def __init__(self, folder: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = world
        self._words = ["--set", f"data_dir={folder}", "--set", "kafka.bootstrap_servers=127.0.0.1:1"]
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = run([*self._words, *words])
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Terminal]:
    world = World(tmp_path)

    @asynccontextmanager
    async def here(_: Settings) -> AsyncIterator[Desk]:
        yield world.desk()  # instead of the broker's

    monkeypatch.setattr(opening, "open_desk", here)
    yield Terminal(tmp_path, world, capsys)
    world.close()


def test_a_review_at_a_terminal(at: Terminal) -> None:
    check = Check(id="category", severity="review", passed=False, path="label", note="expected one of 3")
    name = at.world.ask(checks=(check,))
    (item,) = at.json("review", "list", "--job", "triage")["items"]
    assert item["request_id"] == name
    code, out, _ = at("review", "next", "--actor", "ada")
    assert code == 0
    assert "failed: category at label: expected one of 3" in out
    assert at("review", "next", "--actor", "bob")[0] == ExitCode.NOT_FOUND  # ada holds it
    assert at("review", "accept", name, "--actor", "bob")[0] == ExitCode.CONFLICT
    assert at("review", "accept", name, "--actor", "ada")[0] == 0
    assert at.world.life(name).status is Status.VALIDATED
    assert at("review", "undo", name, "--actor", "ada")[0] == 0
    assert at.world.life(name).status is Status.NEEDS_REVIEW


def test_a_correction_comes_from_a_file_and_is_refused_with_its_checks(at: Terminal, tmp_path: Path) -> None:
    name = at.world.ask()
    right, wrong = tmp_path / "right.json", tmp_path / "wrong.json"
    right.write_text('{"label": "water", "confidence": 1}')
    wrong.write_text('{"label": "SECRET", "confidence": 1}')
    code, out, err = at("review", "correct", name, "--output", str(wrong))
    assert code == ExitCode.GATE
    assert "category at label" in err
    assert "SECRET" not in out + err
    assert at("review", "correct", name, "--output", str(right))[0] == 0
    assert at("review", "correct", name, "--output", str(tmp_path / "none"))[0] == ExitCode.NOT_FOUND
    target = tmp_path / "gold.jsonl"
    assert at("review", "export", "triage", "--output", str(target))[0] == 0
    assert json.loads(target.read_text())["output"]["label"] == "water"


def test_many_have_to_be_confirmed(at: Terminal) -> None:
    names = [at.world.ask() for _ in range(2)]
    assert at("review", "accept", *names)[0] == ExitCode.USAGE  # nobody is there to ask
    assert at.world.decided == []
    assert len(at.json("review", "accept", *names, "--yes")["items"]) == 2


def test_decline_and_defer_say_what_they_need(at: Terminal) -> None:
    one, other = at.world.ask(), at.world.ask()
    code, _, err = at("review", "decline", one, "--reason", "bad")
    assert (code, "one of: wrong" in err) == (ExitCode.GATE, True)
    assert at("review", "decline", one, "--reason", "wrong")[0] == 0
    assert at("review", "defer", other, "--for", "soon")[0] == ExitCode.USAGE
    told = at.json("review", "progress")
    assert (told["declined"], told["waiting"]) == (1, 1)


def test_a_card_is_inert_on_a_terminal(at: Terminal) -> None:
    name = at.world.ask({"label": "fire", "confidence": 0.5, "summary": "\x1b[2J\x9b31m\u202e evil"})
    code, out, _ = at("review", "show", name)
    assert code == 0
    assert all(char.isprintable() or char == "\n" for char in out)
    assert "evil" in out


def test_agreement_and_calibration_are_told_when_there_is_nothing(at: Terminal) -> None:
    assert at.json("review", "agreement")["records"] == 0
    assert at("review", "agreement")[0] == 0
    assert at.json("review", "calibration", "triage")["proposed"] == []
    assert at("review", "calibration", "triage")[0] == 0


def test_a_token_is_told_once(at: Terminal) -> None:
    code, out, _ = at("tokens", "create", "ada", "--role", "reviewer", "--days", "3")
    assert code == 0
    given = out.strip()
    listed = at("tokens", "list")[1]
    assert "ada" in listed
    assert given not in listed + json.dumps(at.json("tokens", "list"))
    assert at("tokens", "create", "ada", "--role", "viewer")[0] == ExitCode.USAGE
    assert at("tokens", "revoke", "ada")[0] == 0
    assert at("tokens", "revoke", "ada")[0] == ExitCode.NOT_FOUND


def test_serving_other_machines_without_a_token_is_refused(at: Terminal) -> None:
    code, _, err = at("serve", "--host", "0.0.0.0")
    assert code == ExitCode.USAGE
    assert "batchmill tokens create" in err


def test_what_a_stranger_named_is_neither_markup_nor_obeyed_at_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    Door().table(("source",), [["[/x]"], ["[red]a"], ["\x1b]0;owned\x07"]])
    told = capsys.readouterr().out
    assert "[/x]" in told
    assert "[red]a" in told
    assert "\x1b]0" not in told
    assert "\\u001b]0;owned\\u0007" in told
