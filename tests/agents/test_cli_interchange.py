"""The doors of batch files, as far as they can be opened without a broker."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.store import ViewStore
from batchmill.schemas.codec import encode
from batchmill.schemas.ids import chunk_nonce, custom_id
from batchmill.schemas.status import ChunkState
from tests.agents.test_projector import Rec
from tests.streams.making import make_row, make_spec
from tests.streams.rows import make_chunk, make_life, request_name

REQUEST = {"custom_id": "t-1", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}]}}


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--set", f"data_dir={tmp_path}/data", "--set", "kafka.bootstrap_servers=127.0.0.1:1"]


@pytest.fixture
def view(tmp_path: Path) -> None:
    """Three requests: one waits, one is in a batch at the provider, one has been sent once and waits again."""
    spec = make_spec()
    chunk, members = make_chunk([make_life(1)], ChunkState.OPEN)
    rows = [make_row(spec), make_life(0), chunk, *members, make_life(2, sends=1, attempt=1)]
    fold = Fold(raw_generation=1)
    fold.add("state", 0, [Rec(n, n, f"{row.schema}/{row.key}".encode(), encode(row)) for n, row in enumerate(rows)])
    with ViewStore(tmp_path / "data" / "view.sqlite", identity={}) as store:
        store.write(fold.statements(), {})


def result(name: str, text: str = "yes") -> bytes:
    body = {"model": "m", "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    told = {"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}
    return json.dumps(told).encode() + b"\n"


def sent(number: int, send: int) -> str:
    return custom_id(request_name(number), send, chunk_nonce("elsewhere"))


def told(capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    out, err = capsys.readouterr()
    return (json.loads(out) if out.startswith("{") else out), err


@pytest.mark.usefixtures("view")
def test_a_dry_run_says_what_would_become_of_every_line(
    at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.jsonl"
    lines = [sent(0, 1), sent(0, 1), sent(1, 1), sent(2, 1), sent(9, 1), "nobody"]
    file.write_bytes(b"".join(map(result, lines)) + b"{\n")
    assert run([*at, "import", "results", str(file), "--job", "triage", "--json"]) == ExitCode.PARTIAL
    found, said = told(capsys)
    assert found["by_fate"] == {
        "answers": 1, "repeated": 1, "in_flight": 1, "past": 1, "unknown": 2, "unreadable": 1,
    }  # fmt: skip
    assert (found["lines"], found["executed"], found["tasks"]) == (7, False, None)
    assert "line 2: repeated" in said
    assert "line 7: unreadable" in said
    assert "yes" not in said
    assert "dry run" in said


@pytest.mark.usefixtures("view")
def test_a_file_whose_every_line_would_answer_is_fine(at: list[str], tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(result(request_name(0)) + result(sent(2, 2)))
    assert run([*at, "import", "results", str(file), "--job", "triage"]) == ExitCode.OK


@pytest.mark.usefixtures("view")
def test_without_a_broker_nothing_is_handed_over(
    at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(result(sent(0, 1)))
    assert run([*at, "import", "results", str(file), "--job", "triage", "--execute"]) == ExitCode.TEMPORARY
    assert "no Kafka broker answers" in capsys.readouterr().err


@pytest.mark.usefixtures("view")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["import", "results", "x.jsonl", "--job", "nobody"], ExitCode.NOT_FOUND, "no job nobody"),
        (["import", "results", "gone.jsonl", "--job", "triage"], ExitCode.NOT_FOUND, "No such file"),
        (["import", "results", "x.jsonl", "--job", "triage", "--by", "hand"], ExitCode.USAGE, "neither id nor source"),
        (["import", "results", "x.jsonl", "--job", "triage", "--format", "xml"], ExitCode.USAGE, "neither openai"),
        (["export", "requests", "triage", "--id", "name"], ExitCode.USAGE, "none of custom"),
        (["export", "results", "triage", "--format", "auto"], ExitCode.USAGE, "neither openai"),
        (["export", "results", "triage", "--json"], ExitCode.USAGE, "--output FILE"),
        (["export", "requests", "nobody"], ExitCode.NOT_FOUND, "no job nobody"),
        (["export", "results", "nobody"], ExitCode.NOT_FOUND, "no job nobody"),
        (["export", "requests", "triage", "-o", "no/such/folder/x"], ExitCode.USAGE, "No such file"),
    ],
)
def test_what_cannot_be_done_is_said(
    at: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: ExitCode,
    says: str,
) -> None:
    (tmp_path / "x.jsonl").touch()
    assert run([*at, *words]) == code
    assert says in capsys.readouterr().err.replace("\n", " ")


def test_a_dry_run_of_requests_needs_no_broker_and_names_the_lines_it_refuses(
    at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requests.jsonl"
    lines = [REQUEST, REQUEST, {**REQUEST, "custom_id": "t-2"}]
    file.write_bytes(b"".join(json.dumps(each).encode() + b"\n" for each in lines) + b"{}\n\nnonsense\n")
    words = ["import", "requests", str(file), "--job", "triage", "--dry-run", "--json"]
    assert run([*at, *words]) == ExitCode.PARTIAL
    found, said = told(capsys)
    assert (found["read"], found["sent"], found["repeated"], found["refused"]) == (5, 3, 1, 2)
    assert "line 4: not sent: expected a `custom_id`" in said
    assert "line 6: not sent" in said
    assert "dry run: nothing was sent" in said


def test_requests_are_sent_for_certain_or_not_at_all(at: list[str], tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(json.dumps(REQUEST).encode())
    assert run([*at, "import", "requests", str(file), "--job", "triage"]) == ExitCode.TEMPORARY


@pytest.mark.usefixtures("view")
def test_an_export_that_fails_leaves_no_half_a_file(at: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert run([*at, "export", "requests", "triage", "-o", str(output)]) == ExitCode.TEMPORARY
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
