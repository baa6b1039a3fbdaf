"""Logs: one parseable line per event, ids and trace ids on it, and no payload however hard one tries."""

import io
import json
import logging

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from batchmill.agents.logs import TEXT_CHARS_MAX, WITHHELD_KEYS, get_logger, set_up_logging
from batchmill.agents.settings import LogSettings, SettingsError


@pytest.fixture(autouse=True)
def undone():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def said():
    """Set up JSON logging into a buffer; call it for the lines so far."""
    stream = io.StringIO()
    set_up_logging(LogSettings(level="debug"), process="worker", instance="worker-1", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_who_when_what_and_about_which_record(said):
    get_logger("batchmill.test").bind(partition=3).info("chunk_sealed", chunk_id="app-3-7", members=10)
    (line,) = said()
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "event": "chunk_sealed",
        "level": "info",
        "logger": "batchmill.test",
        "process": "worker",
        "instance": "worker-1",
        "partition": 3,
        "chunk_id": "app-3-7",
        "members": 10,
    }


def test_bound_context_reaches_every_line_below_it(said):
    with structlog.contextvars.bound_contextvars(job="triage"):
        get_logger("a").info("one")
    get_logger("a").info("two")
    assert [line.get("job") for line in said()] == ["triage", None]


def test_the_trace_of_the_moment_is_on_the_line(said):
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        get_logger("a").info("one")
    (line,) = said()
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


@pytest.mark.parametrize("key", sorted(WITHHELD_KEYS))
def test_a_payload_bearing_key_is_withheld(said, key):
    get_logger("a").error("odd", **{key: "PRIVATE", key.upper(): "PRIVATE"})
    (line,) = said()
    assert "PRIVATE" not in json.dumps(line)
    assert line[key] == "[withheld]"


def test_a_count_is_not_a_payload(said):
    get_logger("a").info("cut_written", records=500, rows=3)
    assert (said()[0]["records"], said()[0]["rows"]) == (500, 3)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"PRIVATE", "[7 bytes]"),
        ({"x": "PRIVATE"}, "[dict of 1]"),
        (["PRIVATE"], "[list of 1]"),
        (("PRIVATE", 1), "[tuple of 2]"),
    ],
)
def test_bytes_and_containers_are_measured_not_printed(said, value, shown):
    get_logger("a").info("odd", thing=value)
    assert said()[0]["thing"] == shown


def test_a_long_text_is_cut(said):
    get_logger("a").info("odd", note="x" * 10_000)
    assert len(said()[0]["note"]) < TEXT_CHARS_MAX + 50


def test_an_exception_shows_its_class_and_place_but_not_its_message(said):
    def fails():
        raise ValueError("PRIVATE PROMPT")

    try:
        fails()
    except ValueError:
        get_logger("a").exception("failed")
    (line,) = said()
    assert "PRIVATE" not in json.dumps(line)
    assert line["error"] == "builtins.ValueError"
    assert line["frames"][-1].startswith("test_logs.py:")
    assert line["frames"][-1].endswith(" fails")


def test_our_own_errors_show_their_message_and_their_cause(said):
    def fails():
        try:
            int("PRIVATE")
        except ValueError as cause:
            raise SettingsError("view.path: is a directory") from cause

    try:
        fails()
    except SettingsError as error:
        get_logger("a").error("failed", exc_info=error)
    (line,) = said()
    assert line["error"] == "SettingsError: view.path: is a directory"
    assert line["cause"] == "builtins.ValueError"
    assert "PRIVATE" not in json.dumps(line)


def test_libraries_speak_through_the_same_pipe_and_only_when_it_matters(said):
    logging.getLogger("aiokafka.consumer").info("joined")
    logging.getLogger("httpx").info("HTTP Request: POST http://127.0.0.1")
    logging.getLogger("aiokafka.consumer").warning("heartbeat of %s failed", "group")
    try:
        {}["PRIVATE"]
    except KeyError:
        logging.getLogger("faust.agents").exception("crashed")
    heartbeat, crash = said()
    assert (heartbeat["event"], heartbeat["logger"], heartbeat["process"]) == (
        "heartbeat of group failed",
        "aiokafka.consumer",
        "worker",
    )
    assert crash["error"] == "builtins.KeyError"
    assert "PRIVATE" not in json.dumps(crash)


def test_lines_below_the_level_are_not_made():
    stream = io.StringIO()
    set_up_logging(LogSettings(level="warning"), process="p", instance="i", stream=stream)
    get_logger("a").info("quiet")
    get_logger("a").warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_a_terminal_gets_lines_for_people_and_no_color_is_respected(no_color, colored):
    stream = Terminal()
    set_up_logging(LogSettings(no_color=no_color), process="p", instance="i", stream=stream)
    get_logger("a").info("chunk_sealed", members=10, payload="PRIVATE")
    text = stream.getvalue()
    assert "chunk_sealed" in text
    assert ("\x1b[" in text) is colored
    assert "PRIVATE" not in text


def test_a_format_that_was_chosen_wins_over_the_terminal():
    stream = Terminal()
    set_up_logging(LogSettings(format="json"), process="p", instance="i", stream=stream)
    get_logger("a").info("one")
    assert json.loads(stream.getvalue())["event"] == "one"
