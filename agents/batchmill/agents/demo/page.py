"""The report as people read it, on stdout: the funnel, the books, the money, the accuracy, and what was promised.

What must not: computing anything that a check depends on (`report`, `measures`).
"""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from batchmill.agents.demo.report import Check, Report, checks

__all__ = ["print_report", "report_lines"]

_NANOS = 10**9
_STYLES = {"PASS": "bold green", "FAIL": "bold red"}


def print_report(report: Report) -> None:
    """The whole page; colours only on a terminal."""
    console = Console(highlight=False, soft_wrap=True)
    for line in report_lines(report):
        text = Text(line)
        for word, style in _STYLES.items():
            text.highlight_words([word], style)
        console.print(text)


def report_lines(report: Report) -> Iterator[str]:
    """The page, line by line."""
    yield ""
    sentences = f"{report.published.sentences:,} labelled sentences"
    yield f"batchmill demo: {sentences}, {report.workers} workers, seed {report.seed}"
    for title, rows in _sections(report):
        yield ""
        yield title
        yield from _aligned(rows)
    yield ""
    judged = checks(report)
    yield "Promises"
    yield from (_check_line(check) for check in judged)
    yield ""
    yield "To look further (everything has stopped; these read what is left)"
    for what, command in report.commands:
        yield f"  # {what}"
        yield f"  {command}"
    yield ""
    failed = sum(not check.passed for check in judged)
    yield "PASS: every promise was kept" if not failed else f"FAIL: {failed} of {len(judged)} promises were not kept"


def _sections(report: Report) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    yield "Funnel (requests that got at least this far)", _funnel(report)
    yield "Where every raw event is now", _books(report)
    yield "Run metrics", _metrics(report)
    yield "Money (simulated)", _money(report)
    yield "Accuracy against the gold labels, which only the simulator knew", _accuracy(report)
    yield "Put down, and why", _put_down(report)
    yield (
        "Hostile events",
        [(each.kind, f"{each.put_down} of {each.published}", each.reason) for each in report.hostiles],
    )
    yield (
        "What the provider did to us",
        [(fault, f"{times:,}", "requests struck") for fault, times in report.faults.items()],
    )
    yield "Time", _times(report)


def _funnel(report: Report) -> list[tuple[str, str, str]]:
    funnel, sent = report.funnel, report.published
    about = f"{sent.sentences:,} sentences, {sent.repeated} of them again, {sent.hostile} hostile"
    return [
        ("raw", f"{funnel.raw:,}", about),
        ("normalized", f"{funnel.normalized:,}", ""),
        ("submitted", f"{funnel.submitted:,}", f"in {report.money.batches} batches"),
        ("answered", f"{funnel.answered:,}", ""),
        ("validated", f"{funnel.validated:,}", ""),
        ("committed", f"{funnel.committed:,}", ""),
    ]


def _books(report: Report) -> list[tuple[str, str, str]]:
    books = report.ledgers
    rows = [
        ("committed", f"{books.committed:,}", ""),
        ("in review", f"{books.in_review:,}", "answered, unsure: they wait for a person"),
        ("held", f"{books.held:,}", ""),
        ("in flight", f"{books.in_flight:,}", ""),
        ("dead-lettered", f"{books.dead_lettered:,}", ""),
        ("excluded", f"{books.excluded:,}", "filtered, duplicates, tombstones: never paid for"),
        ("sum", f"{books.places:,}", ""),
    ]
    holds = books.places == books.raw and not books.doubled
    return [*rows, ("raw", f"{books.raw:,}", f"identity: {'PASS' if holds else 'FAIL'}")]


def _metrics(report: Report) -> list[tuple[str, str, str]]:
    found = report.metrics
    return [
        ("submitted", f"{found.submitted:,}", "requests ever sent to the provider"),
        ("completed", f"{found.completed:,}", "of these, the provider is done with them"),
        ("success rate", _percent(found.success_rate), "completed ones with a usable answer"),
        ("validation pass rate", _percent(found.validation_pass_rate), "answers that passed every rule"),
        ("retry rate", _percent(found.retry_rate), "submitted ones sent more than once"),
        ("terminal failure rate", _percent(found.terminal_failure_rate), "requests that ended dead-lettered"),
        ("mean tokens per record", _number(found.mean_tokens), "input and output, all attempts"),
        ("cost per record", _dollars(found.cost_per_record_usd), ""),
        ("cost per success", _dollars(found.cost_per_success_usd), "all money, per committed record"),
        ("manual review rate", _percent(found.manual_review_rate), "judged requests a person is asked about"),
        ("commit rate", _percent(found.commit_rate), "requests that are committed"),
        ("sampled quality score", _percent(found.quality_score), "reviewed answers accepted as they were; none yet"),
        ("records per dollar", _number(found.records_per_dollar), ""),
    ]


def _money(report: Report) -> list[tuple[str, str, str]]:
    money = report.money
    agrees = money.ours == money.ledger - money.undelivered
    return [
        ("our books", _exact(money.ours), f"{report.metrics.unpriced_calls} calls without a known price"),
        ("of that wasted", _exact(money.wasted), ""),
        ("the provider's bill", _exact(money.ledger), f"{money.billed_answers:,} answers in {money.batches} batches"),
        ("of that never delivered", _exact(money.undelivered), ""),
        (
            "batches paid twice",
            str(money.batches_paid_twice),
            f"equal to the nano-dollar: {'PASS' if agrees else 'FAIL'}",
        ),
    ]


def _accuracy(report: Report) -> list[tuple[str, str, str]]:
    found = report.accuracy
    span = f"95 % interval {found.interval.low:.4f} to {found.interval.high:.4f} (Wilson)"
    return [
        ("answered", f"{found.answered:,}", "committed and in review: unsure answers are wrong more often"),
        ("right", f"{found.right:,}", ""),
        ("accuracy", _number(found.share, 4), f"{span}; the simulator was set to {report.accuracy_setting:g}"),
    ]


def _put_down(report: Report) -> list[tuple[str, str, str]]:
    return [
        (str(each.reason), f"{each.count:,}", f"{each.place.replace('_', ' ')} by the {each.stage}")
        for each in report.put_down
    ]


def _times(report: Report) -> list[tuple[str, str, str]]:
    rows = [(name, f"{seconds:.1f} s", "") for name, seconds in report.seconds.items()]
    kill = report.kill
    if kill is not None:
        back = "not seen again" if kill.ready_again_seconds is None else f"{kill.ready_again_seconds:.1f} s"
        about = f"{kill.worker}, pid {kill.pid}, kill -9 with {kill.open_chunks} chunks open"
        rows.append(("killed worker back", back, about))
    return rows


def _check_line(check: Check) -> str:
    return f"  {'PASS' if check.passed else 'FAIL'}  {check.name}: {check.detail}"


def _aligned(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    names = max((len(name) for name, _, _ in rows), default=0)
    values = max((len(value) for _, value, _ in rows), default=0)
    for name, value, about in rows:
        yield f"  {name:<{names}}  {value:>{values}}  {about}".rstrip()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _dollars(value: float | None) -> str:
    return "-" if value is None else f"${value:.7f}"


def _exact(nanos: int) -> str:
    return f"${nanos // _NANOS}.{nanos % _NANOS:09d}"
