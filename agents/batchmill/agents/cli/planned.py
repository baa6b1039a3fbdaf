"""What `batchmill job plan` tells people: first what differs, then what is sent, then what it weighs and costs.

And what `job diff` tells of two versions: the same differences, part by part.

What lives here: words and tables. What must not: finding anything out (`agents.jobs.planning`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from batchmill.agents.cli.door import inert

if TYPE_CHECKING:
    from batchmill.agents.cli.door import Door
    from batchmill.agents.jobs.differing import Comparison, Difference, TextDifference
    from batchmill.agents.jobs.planning import Plan, Sample
    from batchmill.agents.projector.stakes import Stake

__all__ = ["tell_comparison", "tell_plan"]

_NANOS = 10**9
_QUOTE_CHARS = 60
#: how a line of a unified diff is coloured, by its first character; on a terminal only
_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "@": typer.colors.CYAN}
_PARTS = {
    "system": "system message",
    "examples": "examples",
    "template": "template text",
    "form": "schema and parameters",
    "record": "the record",
    "found": "passages found for it",
}


def tell_plan(here: "Door", made: "Plan", *, stake: "Stake | None", priced_by: str, records: int | None) -> None:
    """Print all of it."""
    here.fields(
        [
            ("job", made.job),
            ("version", made.version),
            ("active", made.active_version or "none: this is the first"),
            ("ask", made.ask[:16]),
            ("judge", made.judge[:16]),
            ("place", made.place[:16]),
        ]
    )
    _tell_differences(made)
    _tell_consequences(here, made, stake)
    _tell_samples(made)
    here.say(priced_by)
    _tell_weight(made)
    _tell_estimate(here, made, records)


#: by part, what it is called and what a difference in it means
_MEANS = {
    "ask": ("the question", "every event that comes again is asked and paid again"),
    "judge": ("the judgement", "stored answers are judged again, at no cost"),
    "place": ("the place", "what is committed from now on is written there; what was, when it is replayed"),
    "identity": ("which record an event is", "events that come again may count as other records"),
    "selection": ("which events are taken", "nothing is asked, judged or written again"),
    "operation": ("how it runs", "nothing is asked, judged or written again"),
}


def tell_comparison(found: "Comparison") -> None:
    """Two versions, part by part."""
    if not found.differences:
        typer.echo("nothing differs")
    for part in found.parts:
        title, means = _MEANS[part]
        typer.echo(f"\n{title}: {means}")
        _tell_members([each for each in found.differences if each.part is part], found.texts)


def _tell_differences(made: "Plan") -> None:
    _tell_members(made.differences, made.texts)


def _tell_members(differences: "Sequence[Difference]", texts: "Sequence[TextDifference]") -> None:
    """Texts by their lines, behind everything else."""
    by_lines = {text.member for text in texts}
    for each in differences:
        if each.member not in by_lines:
            typer.echo(f"~ {each.member}: {_quote(each.active)} -> {_quote(each.planned)}")
    told = {each.member for each in differences}
    for text in texts:
        if text.member in told:
            _tell_text(text)


def _tell_text(text: "TextDifference") -> None:
    typer.echo(f"~ {text.member}:")
    for line in text.lines[2:]:  # without the two names
        typer.secho(f"  {line}", fg=_COLOURS.get(line[:1]))


def _tell_consequences(here: "Door", made: "Plan", stake: "Stake | None") -> None:
    known = "" if stake is None else f"; so far {stake.sources:,} sources, {stake.committed:,} of them committed"
    if made.asks_again:
        here.say(f"the question changes: every event that comes again is asked and paid again{known}")
    elif made.judges_again:
        here.say(f"only the judgement changes: stored answers are judged again at no cost{known}")
    if made.places_again:
        rows = "" if stake is None else f" ({stake.committed:,} sources)"
        here.say(f"the place changes: what is committed{rows} stays where it is")
    if stake is not None and stake.in_review and (made.asks_again or made.judges_again):
        here.say(f"{stake.in_review:,} records in review keep the version they were taken under")


def _tell_samples(made: "Plan") -> None:
    """What all questions begin with is shown with the first of them."""
    opening: list[Mapping[str, str]] = []
    for sample in made.samples:
        typer.echo(
            f"\nsample {sample.number}: {sample.outcome}"
            + (f" ({sample.reason})" if sample.reason else "")
            + _way(sample)
        )
        if sample.note:
            typer.echo(f"  {sample.note}")
        if sample.context:
            typer.echo(f"  context: {', '.join(map(inert, sample.context))}")
        for lookup in sample.lookups:
            typer.echo(f"  {_lookup(lookup)}")
        before = list(sample.messages[:-1])
        _tell_messages(sample, skip=len(before) if before and before == opening else 0)
        opening = before or opening


def _way(sample: "Sample") -> str:
    """By which route it goes, where it goes by one, what that costs, and where it may go on."""
    later = f"; if that is no good: {', then '.join(sample.later)}" if sample.later else ""
    if not sample.route:
        return later
    cost = "unpriced" if sample.expected_nanos is None else f"about ${sample.expected_nanos / _NANOS:.6f}"
    return f" by route {sample.route}: {sample.model}, {cost}{later}"


def _lookup(asked: Mapping[str, Any]) -> str:
    if asked["tool"] == "fetch":
        return f"first fetch from {asked['api']}: GET {asked['path']}"
    given = ", ".join(f"{name}={value!r}" for name, value in asked["params"].items())
    return f"first look up in {asked['source']}: {' '.join(asked['sql'].split())}" + (f" with {given}" if given else "")


def _tell_messages(sample: "Sample", *, skip: int) -> None:
    if skip:
        typer.echo(f"  [{skip} messages as above]")
    for message in sample.messages[skip:]:
        typer.echo(f"  [{message['role']}] {message['content']}")


def _tell_weight(made: "Plan") -> None:
    weight = made.weight_mean
    if weight is None:
        return
    typer.echo("\ntokens of a question (estimate, mean of the samples that are asked)")
    rows = [(title, getattr(weight, part)) for part, title in _PARTS.items() if part != "found" or weight.found]
    for title, tokens in (*rows, ("together", weight.asked)):
        typer.echo(f"  {title:<22}{tokens:>9,.0f}{tokens / weight.asked:>7.0%}")
    typer.echo(f"  {'same up to the record':<22}{weight.prefix:>9,.0f}{weight.prefix / weight.asked:>7.0%}")
    room = "no limit" if weight.answer is None else f"{weight.answer:,}"
    typer.echo(f"  {'room for the answer':<22}{room:>9}")


def _tell_estimate(here: "Door", made: "Plan", records: int | None) -> None:
    if not made.samples:
        here.say("no samples: say --sample FILE to see what would be asked")
        return
    if made.tokens_mean is None:
        return
    cost, expected = made.cost_mean_nanos, made.expected_mean_nanos
    most = "of unknown cost (no price, or no max_output_tokens)" if cost is None else f"at most ${cost / _NANOS:.6f}"
    likely = "" if expected is None else f", about ${expected / _NANOS:.6f}"
    typer.echo(f"\nper event: {made.tokens_mean:.0f} input tokens (estimate), {most}{likely}")
    if any(sample.later for sample in made.samples):
        typer.echo("  at most: each route of the cascade is asked; about: none after the first")
    if any(sample.lookups for sample in made.samples):
        typer.echo("  without what is looked up: with it, questions are longer and cost more")
    if records is not None and cost is not None and expected is not None:
        typer.echo(f"for {records:,} events: at most {_usd(cost * records)}, about {_usd(expected * records)}")


def _usd(nanos: float) -> str:
    """Cents where there are dollars; less would be told as nothing."""
    return f"${nanos / _NANOS:,.2f}" if nanos >= _NANOS else f"${nanos / _NANOS:.6f}"


def _quote(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _QUOTE_CHARS else f"{text[:_QUOTE_CHARS]}... ({len(text)} characters)"
