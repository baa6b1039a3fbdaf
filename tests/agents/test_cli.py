"""The command line without a broker: help, exit codes, JSON, and what is said when something is missing."""

import json
import socket
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from batchmill.agents.cli import batches, status
from batchmill.agents.cli.door import Door
from batchmill.agents.cli.exit_codes import MEANINGS, ExitCode
from batchmill.agents.cli.program import program, run
from batchmill.agents.cli.status import Speed, read_report
from batchmill.agents.jobs import load_job
from batchmill.agents.projector import ViewStore
from batchmill.agents.projector.queries import BatchRow, BudgetRow
from batchmill.schemas.status import ChunkState, Place
from batchmill.streams.accounting import Account

NOWHERE = "127.0.0.1:1"
#: commands that read: every one of them can answer in JSON
READS = [
    "doctor", "config show", "topics plan", "topics verify", "job validate", "job plan", "job list", "job show",
    "status", "records list", "records show", "explain", "batches list", "batches show", "review list",
    "review show", "dlq list", "dlq show", "dlq summary", "dlq redrive",
    "commits list", "commits show", "commits revert", "commits replay",
]  # fmt: skip
#: what the first release promises to have
PROMISED = {
    "init", "doctor", "ingest", "up", "worker", "projector", "status", "explain", "pause", "resume", "cancel",
    "approve", "simulate", "demo", "healthcheck", "config show", "topics plan", "topics apply", "topics verify",
    "job validate", "job plan", "job apply", "job list", "job show", "records list", "records show", "batches list",
    "batches show", "review list", "review accept", "review correct", "review decline", "dlq list", "dlq show",
    "dlq redrive", "commits list", "commits show", "commits revert", "commits replay", "commits go",
}  # fmt: skip


def commands() -> Iterator[tuple[str, Any]]:
    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from walk(f"{path} {name}".strip(), child)
        else:
            yield path, command

    yield from walk("", typer.main.get_command(program()))


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Global options that keep a command inside the test's own folder and away from any broker."""
    monkeypatch.chdir(tmp_path)
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return ["--set", f"data_dir={tmp_path}/data", "--set", f"kafka.bootstrap_servers={NOWHERE}"]


@pytest.fixture
def empty_view(tmp_path: Path) -> None:
    with ViewStore(tmp_path / "data" / "view.sqlite", identity={}):
        pass


def test_every_promised_command_is_there() -> None:
    assert {path for path, _ in commands()} >= PROMISED


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_the_help_of_every_command_ends_in_an_example_that_parses(path: str, command: Any) -> None:
    assert command.help is not None
    example = command.help.split("Example", maxsplit=1)[1]
    assert f"batchmill {path}" in example
    for option in command.params:
        assert getattr(option, "help", None) or option.param_type_name == "argument", f"{option.name} has no help"


@pytest.mark.parametrize("path", READS)
def test_every_read_can_answer_in_json(path: str) -> None:
    command = dict(commands())[path]
    assert any("--json" in option.opts for option in command.params)


def test_the_exit_codes_are_all_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    for code, meaning in MEANINGS.items():
        assert f"{code.value:>3}  {meaning}" in told


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--nonsense"]) == ExitCode.USAGE
    assert "--nonsense" in capsys.readouterr().err


def test_a_wrong_setting_is_a_usage_error_that_names_it(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "--set", "partitions=many", "config", "show"]) == ExitCode.USAGE
    assert "partitions" in capsys.readouterr().err
    assert run(["--set", "partitions", "config", "show"]) == ExitCode.USAGE


def test_the_settings_tell_where_they_come_from(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "config", "show", "--sources"]) == 0
    lines = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["kafka.bootstrap_servers"] == f"{NOWHERE}\tflag"
    assert lines["partitions"].endswith("default")


def test_a_new_folder_validates_and_plans_as_it_is(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "init", "jobs/My Triage"]) == 0
    assert load_job(Path("jobs/My Triage")).warnings == ()
    assert run([*at, "job", "validate", "jobs/My Triage", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["ok"], told["job"]) == ("batchmill.job.validate/1", True, "my-triage")
    assert run([*at, "job", "plan", "jobs/My Triage", "--offline", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert [sample["outcome"] for sample in plan["samples"]] == ["asked", "asked", "excluded"]
    assert "Charged twice" in plan["samples"][0]["messages"][-1]["content"]
    assert plan["samples"][0]["cost_nanos"] > 0


def test_a_folder_is_not_overwritten_unless_forced(at: list[str]) -> None:
    assert run([*at, "init", "x"]) == 0
    Path("x/job.yaml").write_text("mine")
    assert run([*at, "init", "x"]) == ExitCode.CONFLICT
    assert Path("x/job.yaml").read_text() == "mine"
    assert run([*at, "init", "x", "--force"]) == 0


def test_a_job_with_mistakes_fails_the_gate_and_lists_them(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "init", "x"]) == 0
    with Path("x/job.yaml").open("a") as file:
        file.write("on_delete: delete\n")
    capsys.readouterr()
    assert run([*at, "job", "validate", "x"]) == ExitCode.GATE
    assert "`on_delete` is not supported" in capsys.readouterr().err
    assert run([*at, "job", "validate", "x", "--json"]) == ExitCode.GATE
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], len(told["problems"])) == (False, 1)


def test_a_budget_for_a_model_without_a_price_fails_the_gate(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "init", "x"]) == 0
    file = Path("x/job.yaml")
    file.write_text(file.read_text() + "budget: {job_usd: 5}\n")
    assert run([*at, "job", "validate", "x"]) == 0
    file.write_text(file.read_text().replace("gpt-5-mini", "nobody-prices-this"))
    capsys.readouterr()
    assert run([*at, "job", "validate", "x"]) == ExitCode.GATE
    assert "price list has no model 'nobody-prices-this'" in capsys.readouterr().err


def test_an_account_that_is_not_in_the_settings_is_told_before_anything_waits_for_it(
    at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*at, "init", "jobs/x"]) == 0
    file = Path("jobs/x/job.yaml")
    file.write_text(file.read_text().replace("provider: openai", "provider: anthropic"))
    capsys.readouterr()
    assert run([*at, "job", "validate", "jobs/x", "--json"]) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    (hint,) = [each["hint"] for each in problems if "no account anthropic" in each["what"]]
    assert "ANTHROPIC_API_KEY" in hint
    assert run([*at, "doctor", "--json"]) == ExitCode.PARTIAL
    checks = {check["what"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "no account anthropic" in checks["job x"]["found"]


def test_an_account_at_another_provider_than_the_job_asks_is_told(
    at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*at, "init", "x"]) == 0
    file = Path("x/job.yaml")
    file.write_text(file.read_text().replace("provider: openai", "provider: anthropic, account: openai"))
    capsys.readouterr()
    assert run([*at, "job", "validate", "x"]) == 0
    assert "account openai is at OpenAI, and the job asks Anthropic" in capsys.readouterr().err


def test_a_job_that_is_warned_of_is_refused_when_strict_unless_it_is_allowed(
    at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*at, "init", "x"]) == 0
    assert run([*at, "job", "validate", "x", "--strict"]) == 0
    file = Path("x/system.j2")
    file.write_text(file.read_text() + "Be nice.\n")
    capsys.readouterr()
    assert run([*at, "job", "validate", "x"]) == 0
    assert "x/system.j2:7: warning: `nice`" in capsys.readouterr().err
    assert run([*at, "job", "validate", "x", "--strict", "--json"]) == ExitCode.GATE
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], [each["lint"] for each in told["problems"]]) == (False, ["vague-wording"])
    assert run([*at, "job", "validate", "x", "--strict", "--allow", "vague-wording"]) == 0
    assert "nice" not in capsys.readouterr().err
    assert run([*at, "job", "validate", "x", "--allow", "anything"]) == ExitCode.USAGE


def test_a_prompt_that_outweighs_its_samples_is_warned_of(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "init", "x"]) == 0
    file = Path("x/system.j2")
    file.write_text(
        file.read_text() + "".join(f"Rule {n}: a ticket of class {n} is told by its number {n}.\n" for n in range(60))
    )
    capsys.readouterr()
    assert run([*at, "job", "validate", "x", "--json"]) == 0
    assert [each["lint"] for each in json.loads(capsys.readouterr().out)["problems"]] == ["heavy-prompt"]


def test_what_all_questions_begin_with_is_shown_once(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "init", "x"]) == 0
    capsys.readouterr()
    assert run([*at, "job", "plan", "x", "--offline", "--records", "10"]) == 0
    told = capsys.readouterr().out
    assert told.count("You sort support tickets") == 1
    assert "[5 messages as above]" in told
    assert "for 10 events: at most $" in told


def test_less_than_a_dollar_is_not_told_as_nothing(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "init", "x"]) == 0
    capsys.readouterr()
    assert run([*at, "job", "plan", "x", "--offline", "--count", "60"]) == 0
    assert "for 60 events: at most $0.015" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["topics", "plan"], ["topics", "verify"], ["job", "list"], ["pause", "x"], ["job", "show", "x"]]
)
def test_no_broker_is_temporary_and_named(at: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, *words]) == ExitCode.TEMPORARY
    assert NOWHERE in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["status"], ["records", "list"], ["explain", "x"], ["dlq", "list"], ["dlq", "summary"], ["review", "list"]],
)
def test_no_read_model_is_not_found_and_says_how_to_make_one(
    at: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*at, *words]) == ExitCode.NOT_FOUND
    assert "batchmill projector" in capsys.readouterr().err


@pytest.mark.usefixtures("empty_view")
@pytest.mark.parametrize("words", ["status", "records list", "batches list", "review list", "dlq list", "dlq summary"])
def test_reads_of_an_empty_view_answer_in_words_and_in_json(
    at: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*at, *words.split()]) == 0
    capsys.readouterr()
    assert run([*at, *words.split(), "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["schema"] == f"batchmill.{words.replace(' ', '.')}/1"
    if words == "status":
        assert (told["accounting"]["raw"], told["accounting"]["holds"]) == (0, True)
    else:
        assert told["items"] == []


@pytest.mark.usefixtures("empty_view")
@pytest.mark.parametrize("words", ["explain x", "records show x", "batches show x", "dlq show x", "review accept x"])
def test_a_name_nobody_knows_is_not_found(at: list[str], words: str) -> None:
    assert run([*at, *words.split()]) == ExitCode.NOT_FOUND


@pytest.mark.usefixtures("empty_view")
@pytest.mark.parametrize("words", ["status x", "costs x", "export requests x", "export results x"])
def test_a_job_nobody_has_applied_is_not_found(at: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, *words.split()]) == ExitCode.NOT_FOUND
    assert "batchmill job list" in capsys.readouterr().err


@pytest.mark.usefixtures("empty_view")
def test_danger_is_not_asked_about_when_nobody_is_there(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "cancel", "triage"]) == ExitCode.USAGE
    assert "--yes" in capsys.readouterr().err
    assert run([*at, "dlq", "redrive"]) == ExitCode.USAGE
    assert run([*at, "approve"]) == ExitCode.USAGE


def test_the_doctor_says_what_is_wrong_and_how_to_mend_it(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "doctor", "--json"]) == ExitCode.PARTIAL
    told = json.loads(capsys.readouterr().out)
    by_name = {check["what"]: check for check in told["checks"]}
    assert not told["ok"]
    assert (by_name["kafka"]["level"], by_name["account openai"]["level"]) == ("fail", "fail")
    assert by_name["disk"]["level"] == "ok"
    assert all(check["mend"] for check in told["checks"] if check["level"] == "fail")


@pytest.mark.parametrize("words", [["ingest", "no.jsonl"], ["ingest", "x.txt"], ["ingest", "-", "--format", "xml"]])
def test_a_file_that_cannot_be_read_is_a_usage_error(at: list[str], words: list[str]) -> None:
    assert run([*at, *words]) == ExitCode.USAGE


def test_a_process_that_does_not_answer_is_not_healthy(at: list[str]) -> None:
    assert run([*at, "healthcheck", "--url", "http://127.0.0.1:1"]) == ExitCode.PARTIAL
    assert run([*at, "healthcheck"]) == ExitCode.USAGE


def test_the_faults_of_the_simulator_are_named(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*at, "simulate", "--list-faults"]) == 0
    assert "accept_then_500\tcreate\t" in capsys.readouterr().out
    assert run([*at, "simulate", "--fault", "row_501=0.1"]) == ExitCode.USAGE
    for wrong in (
        ("--latency-profile", "nobody"),
        ("--webhook-url", "https://example.org/hook"),
        ("--webhook-secret", "no base64"),
        ("--single-latency", "1"),
        ("--time-scale", "0"),
    ):
        assert run([*at, "simulate", *wrong]) == ExitCode.USAGE


@pytest.mark.parametrize("command", ["simulate", "serve"])
def test_a_port_that_is_taken_is_said_without_a_traceback(
    at: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run([*at, "--set", "health.enabled=false", command, "--port", str(port)]) == ExitCode.CONFLICT
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err


@pytest.mark.usefixtures("empty_view")
def test_a_dash_is_standard_output_for_letters_too(at: list[str], tmp_path: Path) -> None:
    assert run([*at, "dlq", "export", "--output", "-"]) == 0
    assert not (tmp_path / "-").exists()


@pytest.mark.usefixtures("empty_view")
def test_the_speed_is_that_of_what_got_finished_between_two_looks(at: list[str], tmp_path: Path) -> None:
    first = read_report(Door(flags={"data_dir": f"{tmp_path}/data"}), job=None)

    def after(seconds: int, committed: int, in_flight: int) -> Any:
        account = Account(committed + in_flight, {Place.COMMITTED: committed, Place.IN_FLIGHT: in_flight})
        accounting = replace(first.accounting, account=account)
        return replace(first, at_ms=first.at_ms + seconds * 1000, accounting=accounting)

    speed = Speed()
    speed.look(after(0, 0, 100))
    assert speed.per_second is None
    speed.look(after(2, 20, 80))
    assert speed.per_second == pytest.approx(10)
    assert speed.eta_seconds(after(2, 20, 80)) == pytest.approx(8)


# -- budgets -----------------------------------------------------------------------------------------------------------


def a_budget(**changes: Any) -> BudgetRow:
    told = {"job": "triage", "limit_nanos": 10**9, "reserved_nanos": 0, "posted_nanos": 4 * 10**8, "waiting": 0}
    return BudgetRow(**{**told, **changes})


def test_a_budget_is_told_as_spent_reserved_and_left() -> None:
    told = status._budget(a_budget(reserved_nanos=10**8))
    assert told == "budget of triage: $1.000000; $0.400000 spent, $0.100000 reserved, $0.500000 left"


def test_a_budget_is_used_up_when_batches_wait_and_none_is_on_its_way() -> None:
    assert "used up" in status._budget(a_budget(waiting=2))
    assert "used up" not in status._budget(a_budget(waiting=2, reserved_nanos=1))
    assert "none any more" in status._budget(a_budget(limit_nanos=None))


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state": ChunkState.OPEN, "note": "an old one"}, "open"),
        ({"state": ChunkState.PREPARED, "failures": 2, "note": "http_404"}, "prepared: http_404"),
        ({"state": ChunkState.FAILED, "note": "too large: split"}, "failed: too large: split"),
        ({"state": ChunkState.PREPARED, "waits_for": "money/x", "note": "used up"}, "prepared, waits for money/x"),
    ],
)
def test_a_batch_that_stays_behind_says_why(changes: dict[str, Any], told: str) -> None:
    known = {each.name for each in fields(BatchRow)}
    values = {"failures": 0, "waits_for": None, "note": None} | changes
    assert batches._state(BatchRow(**{**dict.fromkeys(known), **values})) == told
