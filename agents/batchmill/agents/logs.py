"""What a process says on stderr: one line per event, with ids, without payloads.

What lives here: setting structlog up once per process (JSON, or a console for people), putting the standard library's
loggers through the same pipe at sane levels, and the guard that keeps payloads out whatever a caller passes. What must
not: a payload, not even at debug level. Say where a record is (topic, partition, offset, request id), not what it is.

The guard knows payload-bearing keys by name, measures bytes instead of printing them, cuts long texts, and shows of an
exception its class and frames; its message only when it is one of ours, whose messages are payload-free by rule.
"""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson
import structlog
from opentelemetry import trace

from batchmill.agents import clock
from batchmill.agents.settings import LogSettings

__all__ = ["TEXT_CHARS_MAX", "WITHHELD_KEYS", "Logger", "get_logger", "set_up_logging"]

Logger = structlog.stdlib.BoundLogger
Event = MutableMapping[str, Any]

#: Whatever text is logged under one of these names is a payload or a secret, or will be one day. Numbers pass.
WITHHELD_KEYS = frozenset(
    {
        "answer",
        "api_key",
        "authorization",
        "body",
        "completion",
        "content",
        "contents",
        "correction",
        "data",
        "document",
    }
    | {"headers", "input", "input_json", "line", "message", "messages", "original", "output", "output_json", "password"}
    | {"payload", "payload_json", "prompt", "raw", "record", "records", "refusal", "request", "response", "result"}
    | {"row", "rows", "secret", "system", "text", "token", "user", "value", "value_json", "values"}
)
WITHHELD = "[withheld]"
TEXT_CHARS_MAX = 500
FRAMES_MAX = 12
#: A list of so many whole numbers (partitions, offsets) is shown; numbers carry no text.
NUMBERS_MAX = 64
#: How Faust's services announce that they start and stop, under the names of our own modules.
SERVICE_STEP = "[^"

#: Loggers of libraries: what they say at INFO is about every request or every rebalance step.
QUIET = ("faust", "mode", "aiokafka", "httpx", "httpcore", "uvicorn", "asyncio", "opentelemetry", "urllib3")


def set_up_logging(settings: LogSettings, *, process: str, instance: str, stream: TextIO | None = None) -> None:
    """Route everything this process logs to `stream` (stderr); call once, at the start."""
    target = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and target.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared = _shared(process, instance)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.addFilter(lambda line: line.levelno >= logging.WARNING or not str(line.msg).startswith(SERVICE_STEP))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(console=console, colors=target.isatty() and not settings.no_color),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)


def get_logger(name: str) -> Logger:
    """Give a logger; bind the ids of what you work on: `log.bind(partition=3, chunk_id=...)`."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def _shared(process: str, instance: str) -> list[structlog.typing.Processor]:
    def whose(_: Any, __: str, event: Event) -> Event:
        event["process"], event["instance"] = process, instance
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        whose,
        _when,
        _trace_ids,
        _exception,
        _guard,
    ]


def _renderer(*, console: bool, colors: bool) -> structlog.typing.Processor:
    if console:
        return structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)
    return structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode())


def _when(_: Any, __: str, event: Event) -> Event:
    event["at"] = datetime.fromtimestamp(clock.wall_ms() / 1_000, tz=UTC).isoformat(timespec="milliseconds")
    return event


def _trace_ids(_: Any, __: str, event: Event) -> Event:
    found = trace.get_current_span().get_span_context()
    if found.is_valid:
        event["trace_id"], event["span_id"] = f"{found.trace_id:032x}", f"{found.span_id:016x}"
    return event


def _exception(_: Any, __: str, event: Event) -> Event:
    """Replace `exc_info` by the class, our own message, and where it happened, for the error and its causes."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else (info[1] if isinstance(info, tuple) else None)
    if info is True:
        error = sys.exception()
    event.pop("stack_info", None)
    if error is not None:
        event["error"] = _described(error)
        event["frames"] = _frames(error)
        if error.__cause__ is not None:
            event["cause"] = _described(error.__cause__)
    return event


def _described(error: BaseException) -> str:
    kind = type(error)
    ours = kind.__module__.startswith("batchmill.")
    return f"{kind.__qualname__}: {error}" if ours else f"{kind.__module__}.{kind.__qualname__}"


def _frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-FRAMES_MAX:]]


def _guard(_: Any, __: str, event: Event) -> Event:
    """Keep payloads out: the last word before rendering."""
    for key, value in event.items():
        if isinstance(value, bool | int | float | None) or key in {"frames", "_record"}:
            continue
        event[key] = WITHHELD if key.lower() in WITHHELD_KEYS else _short(value)
    return event


def _short(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, list | tuple) and len(value) <= NUMBERS_MAX and all(type(item) is int for item in value):
        return str(value)
    if isinstance(value, dict | list | tuple | set | frozenset):
        # What is inside has no name the guard could know it by.
        return f"[{type(value).__name__} of {len(value)}]"
    text = str(value)
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]}... [{len(text)} characters]"
