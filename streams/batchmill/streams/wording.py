"""What the words of a prompt leave open: things that a careful reader would ask about before starting.

Each lint is a warning with a name, told at the line of the template. They read the author's own text (`templating`),
never a record, and rather stay silent than cry wolf: words in quotes or backticks are names, and so are the values that
the job declares.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.streams.declaring import templates_of
from batchmill.streams.dialects import carries
from batchmill.streams.finding import Finding, Lint
from batchmill.streams.subschemas import members_of, required_of, walk
from batchmill.streams.templating import said_in

__all__ = ["VAGUE_WORDS", "loose_words"]


#: words that every reader fills with another meaning
VAGUE_WORDS = (
    "and so on", "and so forth", "and the like", "appropriate", "appropriately", "as appropriate", "as best you can",
    "as needed", "as necessary", "as required", "etc", "good", "if appropriate", "if necessary", "if needed",
    "if possible", "if relevant", "in a nice way", "nice", "nicely", "or similar", "properly", "reasonable",
    "reasonably", "something like", "suitable", "suitably", "try to", "when appropriate", "where appropriate",
    "where possible",
)  # fmt: skip
_VAGUE = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, VAGUE_WORDS), key=len, reverse=True))})\b", re.IGNORECASE)
_QUOTED = re.compile(r"`[^`\n]*`|\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d|\u00ab[^\u00bb\n]*\u00bb")

_MISSING = re.compile(
    r"""\b(?:missing|absent|unknown|null|empty|blank|none|n/a|omit|nothing|unstated
    |leave\s+(?:it\s+)?out|left\s+out
    |(?:not|n't|never)\s+(?:\w+\s+){0,2}?(?:given|stated|mentioned|present|said|say|state|mention|specified|specify|known
       |found|provided|available|there|contain|include|included|name|named|appear))\b""",
    re.IGNORECASE | re.VERBOSE,
)
_UNCERTAIN = re.compile(
    r"""\b(?:unsure|uncertain|ambiguous|unclear|doubt|doubtful|undecided|guess|not\s+(?:\w+\s+)?(?:sure|certain|clear)
    |can(?:not|'t)\s+(?:tell|decide|be\s+told))\b""",
    re.IGNORECASE | re.VERBOSE,
)
#: what a task begins with; two words in one group are one task
_TASKS = (
    ("classify", "categorize", "categorise", "label", "sort", "choose", "pick", "assign", "tag"),
    ("summarize", "summarise", "condense"),
    ("translate",),
    ("extract", "list", "identify", "find", "detect"),
    ("rewrite", "rephrase", "correct", "paraphrase"),
    ("write", "draft", "compose", "generate", "create"),
    ("score", "rate", "rank", "grade"),
    ("explain", "describe"),
    ("compare",),
    ("answer", "reply"),
    ("count", "calculate", "compute"),
)
_TASK_OF = {verb: group[0] for group in _TASKS for verb in group}
_NUMBERED = re.compile(
    r"^\s*(?:\d{1,2}[.)]|[-*\u2022])\s+(?:(?:then|next|first|second|third|finally),?\s+)?([A-Za-z]+)\b"
)
_VERBS = "|".join(sorted(_TASK_OF))
_ALSO = re.compile(
    rf"\b(?:then\s+also|and\s+then|and\s+also|in\s+addition,?|additionally,?|as\s+well\s+as|after\s+that,?)\s+({_VERBS})\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"[A-Za-z][^.?!\n]*\?")
_SENTENCE = re.compile(r"[^.!?\n]+")
#: sentences of fewer words are repeated by everybody
_REPEATED_WORDS_MIN = 5
#: longer enumerations are looked up, not explained
_CATEGORIES_MAX = 20
_TOLD_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line of a template, quotes blanked."""

    where: str
    line: int
    text: str


def loose_words(spec: JobSpec) -> Iterator[Finding]:
    """All that is to be said about the words of a job that compiles."""
    schema = None if spec.ask.output_schema_json is None else orjson.loads(spec.ask.output_schema_json)
    whole = [
        _Line(where=where, line=said.line, text=said.text)
        for where, text in templates_of(spec)
        for said in said_in(text)
    ]
    lines = [_Line(where=each.where, line=each.line, text=_QUOTED.sub(" ", each.text)) for each in whole]
    values = _values(spec, schema)
    yield from _vague(spec, lines, frozenset(value.lower() for found in values.values() for value in found))
    yield from _unruled(spec, schema, whole)
    yield from _several(lines)
    yield from _unshown(spec, schema, whole)
    yield from _unmentioned(spec, schema, values, whole)
    yield from _repeated(lines)


def _warning(lint: Lint, where: str, line: int | None, message: str, hint: str) -> Finding:
    return Finding(where=where, line=line, lint=lint, message=message, hint=hint, error=False)


def _vague(spec: JobSpec, lines: list[_Line], names: frozenset[str]) -> Iterator[Finding]:
    rules = [("$.ask.missing", spec.ask.missing), ("$.ask.uncertain", spec.ask.uncertain)]
    rows = [(each.where, each.line, each.text) for each in lines]
    rows += [(where, None, _QUOTED.sub(" ", text)) for where, text in rules if text is not None]  # type: ignore[misc]
    for where, line, text in rows:
        for word in dict.fromkeys(found[0].lower() for found in _VAGUE.finditer(text)):
            if word not in names:
                message = f"`{word}` means something else to every reader"
                yield _warning(
                    Lint.VAGUE_WORDING, where, line, message, "say what exactly, or put it in quotes if it is a name"
                )


def _unruled(spec: JobSpec, schema: Any, lines: list[_Line]) -> Iterator[Finding]:
    text = "\n".join(each.text for each in lines)
    first = lines[0] if lines else _Line(where="$.ask.prompt.user", line=1, text="")
    open_at = _may_lack(spec, schema)
    if open_at is not None and spec.ask.missing is None and not _MISSING.search(text):
        message = f"no rule says what to answer where the input does not say it, and {open_at}"
        yield _warning(
            Lint.NO_MISSING_RULE, first.where, first.line, message, "add it to the prompt, or as ask.missing"
        )
    confidence = spec.judge.confidence
    if confidence is None or confidence.field is None or spec.ask.uncertain is not None or _UNCERTAIN.search(text):
        return
    message = f"`{confidence.field}` is asked for, and no rule says what to answer where the input leaves it open"
    yield _warning(
        Lint.NO_UNCERTAIN_RULE, first.where, first.line, message, "add it to the prompt, or as ask.uncertain"
    )


def _may_lack(spec: JobSpec, schema: Any) -> str | None:
    """Why an answer may have to leave something out."""
    for path, part in walk(schema):
        kinds = part.get("type")
        if kinds == "null" or (isinstance(kinds, list) and "null" in kinds):
            return f"the output schema allows null at {path}"
        optional = [name for name in members_of(part, schema) if name not in required_of(part, schema)]
        if optional:
            return f"the output schema lets `{optional[0]}` be absent"
    return f"judge requires `{spec.judge.required[0]}`" if spec.judge.required else None


def _several(lines: list[_Line]) -> Iterator[Finding]:
    hint = "one job per task: each is asked, checked and paid for on its own; or put it as one task"
    listed: dict[str, _Line] = {}
    for each in lines:
        numbered, also = _NUMBERED.match(each.text), _ALSO.search(each.text)
        if numbered is not None and numbered[1].lower() in _TASK_OF:
            listed.setdefault(_TASK_OF[numbered[1].lower()], each)
        if also is not None:
            message = f"asks for more than one task: `{' '.join(also[0].lower().split())}`"
            yield _warning(Lint.SEVERAL_TASKS, each.where, each.line, message, hint)
    if len(listed) > 1:
        last = list(listed.values())[-1]
        message = f"asks for more than one task: {', '.join(listed)}"
        yield _warning(Lint.SEVERAL_TASKS, last.where, last.line, message, hint)
    asked = [(each, found[0]) for each in lines for found in _QUESTION.finditer(each.text)]
    if len(asked) > 1:
        second = asked[1][0]
        message = f"asks {len(asked)} questions"
        yield _warning(Lint.SEVERAL_TASKS, second.where, second.line, message, hint)


def _unshown(spec: JobSpec, schema: Any, lines: list[_Line]) -> Iterator[Finding]:
    if schema is None or carries(schema, spec.ask.model.provider):
        return
    text = "\n".join(each.text for each in lines)
    missing = [name for name in members_of(schema, schema) if not _mentions(text, name)]
    if missing:
        first = lines[0] if lines else _Line(where="$.ask.prompt.user", line=1, text="")
        message = f"the model is not shown the output schema, and the prompt does not name {_few(missing)}"
        yield _warning(
            Lint.SCHEMA_NOT_SHOWN, first.where, first.line, message, "name every member, and say that JSON is wanted"
        )


def _unmentioned(spec: JobSpec, schema: Any, values: Mapping[str, list[str]], lines: list[_Line]) -> Iterator[Finding]:
    """Descriptions in the schema and the outputs of examples explain a value as well."""
    parts = [part.get(word) for _, part in walk(schema) for word in ("title", "description")]
    texts = [*(each.text for each in lines), spec.ask.missing, spec.ask.uncertain, spec.ask.examples_json, *parts]
    text = "\n".join(each for each in texts if isinstance(each, str))
    first = lines[0] if lines else _Line(where="$.ask.prompt.user", line=1, text="")
    for name, allowed in values.items():
        missing = [value for value in allowed if not _mentions(text, value)]
        if missing and len(allowed) <= _CATEGORIES_MAX:
            message = f"the prompt never says when `{name}` is {_few(missing)}"
            yield _warning(Lint.UNMENTIONED_CATEGORY, first.where, first.line, message, "say what each value means")


def _values(spec: JobSpec, schema: Any) -> dict[str, list[str]]:
    """Member -> the texts it may be, as the schema and the judge say."""
    found: dict[str, list[str]] = {}
    for path, part in walk(schema):
        options = part.get("enum")
        texts = [each for each in options if isinstance(each, str)] if isinstance(options, list) else []
        if texts:
            found[path.removeprefix("$.properties.").replace(".properties.", ".")] = texts
    return found | {name: list(allowed) for name, allowed in spec.judge.categories.items()}


def _repeated(lines: list[_Line]) -> Iterator[Finding]:
    said: dict[str, str] = {}
    for each in lines:
        for sentence in _SENTENCE.findall(each.text):
            words = re.findall(r"\w+", sentence.lower())
            key = " ".join(words)
            if len(words) >= _REPEATED_WORDS_MIN and said.setdefault(key, each.where) != each.where:
                message = f"says again what the system message says: `{_short(sentence.strip())}`"
                yield _warning(
                    Lint.REPEATED_INSTRUCTION, each.where, each.line, message, "say it once: each copy is paid for"
                )


def _mentions(text: str, name: str) -> bool:
    """As a word of its own; `out_of_stock` is mentioned by `out of stock` as well."""
    words = re.escape(name).replace("_", r"[_\s-]").replace(r"\-", r"[_\s-]").replace(r"\ ", r"[_\s-]+")
    return re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def _few(names: list[str]) -> str:
    told = ", ".join(f"`{name}`" for name in names[:_TOLD_MAX])
    return told if len(names) <= _TOLD_MAX else f"{told} and {len(names) - _TOLD_MAX} more"


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= 60 else f"{sentence[:57]}..."
