"""A work item becomes a question: prompt templates, then one canonical body.

Templates see `input` and nothing else, so that equal content asks an equal question (the ask key relies on it). They
run in a sandbox, have no chance and no loader, and may print JSON values only. The same item gives the same bytes in
every process: a payload that was lost is rebuilt and must match its SHA-256. The body is a chat completion's, whatever
the endpoint: the provider adapter turns it into what the endpoint takes, and frames it (custom id, method, url).

    system    the system template, closed by the rules for what is missing and what is uncertain
    user      the input of an example, by the same template as the question     } as often as
    assistant its output                                                        } there are examples
    user      the question

All before the question that is the same for each record is rendered once per version.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
import orjson
from jinja2.sandbox import ImmutableSandboxedEnvironment
from typing_extensions import override

from batchmill.schemas.asking import AskSpec
from batchmill.schemas.jobs import InputSpec
from batchmill.schemas.reasons import Reason
from batchmill.streams.capabilities import PROVIDERS
from batchmill.streams.exemplifying import Example, ExampleError, examples_of
from batchmill.streams.unusable import Unusable

__all__ = [
    "CHAT_ENDPOINT",
    "EMBEDDINGS_ENDPOINT",
    "ENDPOINTS",
    "MESSAGE_CHARS_MAX",
    "RESERVED_PARAMS",
    "Prompt",
    "RequestForm",
    "TemplateError",
    "bare_prompt",
    "closing_rules",
    "compile_prompt",
    "is_strict",
    "not_strict",
    "parsed",
    "request_form",
]

#: a rendered message longer than this is a template gone wrong, not a prompt
MESSAGE_CHARS_MAX = 4_000_000
CHAT_ENDPOINT = "/v1/chat/completions"
EMBEDDINGS_ENDPOINT = "/v1/embeddings"
#: all that an adapter can turn a chat completion's body into
ENDPOINTS = frozenset(
    endpoint for facts in PROVIDERS.values() if facts.protocol is not None for endpoint in facts.can.endpoints
)
_VARIABLE = "input"
_PRINTABLE = (str, int, float, bool, type(None), list, dict, tuple, jinja2.Undefined)

#: names that differ between providers: ours -> chat completions
_PARAM_NAMES = {"max_output_tokens": "max_completion_tokens"}
#: names under which a body limits its answer
_OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")
#: never a job's to set: they change the protocol, not the question
RESERVED_PARAMS = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "response_format", "store", "metadata"}
)

#: how the rules of a job are put; other words are another question, so a change raises the meaning in `versions`
_MISSING = "When the input does not say what is asked for: {}"
_UNCERTAIN = "When the input leaves the answer open: {}"

#: JSON Schema words that strict structured output refuses
_NOT_STRICT = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "default"}
    | {"patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties"}
    | {"prefixItems", "contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"}
)
_NOT_SENT = frozenset(["$schema", "$id", "$comment"])


class TemplateError(ValueError):
    """A template is wrong for every record; the message says which and where."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Two compiled templates, and the rules that close the system message."""

    system: jinja2.Template | None
    user: jinja2.Template
    closing: str = ""
    system_fixed: str | None = None  #: the system message, where it is the same for each record

    def system_text(self, item_input: Mapping[str, Any]) -> str | None:
        if self.system_fixed is not None:
            return self.system_fixed
        if self.system is None:
            return self.closing or None
        return _closed(_rendered("system", self.system, item_input), self.closing)

    def user_text(self, item_input: Mapping[str, Any]) -> str:
        return _rendered("user", self.user, item_input)


@dataclass(frozen=True, slots=True)
class RequestForm:
    """How the questions of one version are put: templates, and all of the body that is the same for each record."""

    prompt: Prompt
    fixed: Mapping[str, Any]  #: model, parameters, response format
    room_factor: float = 1.0  #: what the limit on the answer is multiplied by after each truncation
    turns: tuple[orjson.Fragment, ...] = ()  #: the examples, as messages

    def body(self, input_json: str | bytes, *, room: int = 0) -> bytes:
        """The chat-completions body for a stored input, or `Unusable` (render_error).

        Sorted members, no white space: the one way from a work item to its bytes. `room`: truncations so far.
        """
        item_input = orjson.loads(input_json)
        messages: list[Any] = [*self.turns, _message("user", self.prompt.user_text(item_input))]
        system = self.prompt.system_text(item_input)
        if system is not None:
            messages.insert(0, _message("system", system))
        fixed = self.fixed if room == 0 else self._with_room(room)
        return orjson.dumps({**fixed, "messages": messages}, option=orjson.OPT_SORT_KEYS)

    def output_tokens_max(self, room: int = 0) -> int | None:
        """The most tokens an answer may have after `room` truncations; None when the job sets no limit."""
        limits = [self.fixed[name] for name in _OUTPUT_LIMITS if isinstance(self.fixed.get(name), int)]
        return None if not limits else _raised(min(limits), self.room_factor, room)

    def _with_room(self, room: int) -> dict[str, Any]:
        raised = {
            name: _raised(self.fixed[name], self.room_factor, room)
            for name in _OUTPUT_LIMITS
            if isinstance(self.fixed.get(name), int)
        }
        return {**self.fixed, **raised}


def request_form(ask: AskSpec, given: InputSpec | None = None, *, room_factor: float = 1.0) -> RequestForm:
    """Compile the ask part of a spec, or `TemplateError` / `ExampleError` saying what is wrong with it.

    `given`: the input part, by which the inputs of the examples are cleaned like any other.
    """
    params = orjson.loads(ask.model.params_json)
    reserved = sorted(RESERVED_PARAMS & set(params))
    if reserved:
        raise TemplateError(f"ask.model.params may not set {reserved[0]!r}: batchmill sets it")
    if ask.model.endpoint not in ENDPOINTS:
        known = ", ".join(sorted(ENDPOINTS))
        raise TemplateError(f"ask.model.endpoint {ask.model.endpoint!r} is not known; known are {known}")
    if ask.model.endpoint == EMBEDDINGS_ENDPOINT:
        _only_a_text(ask, params)
    fixed: dict[str, Any] = {_PARAM_NAMES.get(name, name): value for name, value in params.items()}
    fixed["model"] = ask.model.name
    if ask.output_schema_json is not None:
        schema = orjson.loads(ask.output_schema_json)
        if not isinstance(schema, dict):
            raise TemplateError("ask.output is no JSON object: providers take a schema that is one")
        fixed["response_format"] = _response_format(schema, ask.output_name)
    prompt = compile_prompt(system=ask.system, user=ask.user, closing=closing_rules(ask))
    turns = tuple(turn for each in examples_of(ask, given or InputSpec()) for turn in _turns(prompt, each))
    return RequestForm(prompt, fixed, room_factor, turns)


def closing_rules(ask: AskSpec) -> str:
    """What closes the system message; empty when the job has no such rule."""
    rules = ((_MISSING, ask.missing), (_UNCERTAIN, ask.uncertain))
    return "\n".join(wording.format(rule.strip()) for wording, rule in rules if rule is not None)


def _only_a_text(ask: AskSpec, params: Mapping[str, Any]) -> None:
    """An embedding is made of one text: whatever else the job asks for would be dropped in silence."""
    asked = {"ask.system": ask.system, "ask.output": ask.output_schema_json, "ask.examples": ask.examples_json}
    asked |= {"ask.missing": ask.missing, "ask.uncertain": ask.uncertain}
    asked |= {f"ask.model.params.{name}": params.get(name) for name in ("max_output_tokens", "max_completion_tokens")}
    for where, value in asked.items():
        if value is not None:
            raise TemplateError(f"{where}: {EMBEDDINGS_ENDPOINT} takes a text and gives a vector; leave it out")


def compile_prompt(*, system: str | None, user: str, closing: str = "") -> Prompt:
    """Compile both templates, or `TemplateError`: bad syntax, a name that is not `input`, a reference to a file."""
    compiled = None if system is None else _compiled("system", system)
    fixed = None if compiled is None or system is None or _reads_input(system) else _fixed(compiled)
    return Prompt(compiled, _compiled("user", user), closing, None if fixed is None else _closed(fixed, closing))


def bare_prompt(ask: AskSpec) -> Prompt:
    """The same templates with nothing of the record printed: what is left is the author's own text."""
    system = None if ask.system is None else _BARE.from_string(ask.system)
    return Prompt(system, _BARE.from_string(ask.user), closing_rules(ask))


def parsed(text: str) -> jinja2.nodes.Template:
    """The tree of a template that compiles."""
    return _ENVIRONMENT.parse(text)


def is_strict(schema: Any) -> bool:
    """Whether strict structured output takes `schema`: each object closed, all members required, no refused word."""
    return next(not_strict(schema), None) is None


def not_strict(schema: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    """(where, word) of all that strict structured output does not take."""
    if isinstance(schema, list):
        for at, part in enumerate(schema):
            yield from not_strict(part, f"{path}[{at}]")
    if not isinstance(schema, dict):
        return
    yield from ((path, word) for word in sorted(_NOT_STRICT & set(schema)))
    members = schema.get("properties")
    if schema.get("type") == "object" or members is not None:
        if schema.get("additionalProperties") is not False:
            yield path, "additionalProperties"
        if set(members or ()) != set(schema.get("required") or ()):
            yield path, "required"
    for word, part in schema.items():
        if word in {"properties", "$defs", "definitions"} and isinstance(part, dict):
            for name, member in part.items():
                yield from not_strict(member, f"{path}.{word}.{name}")
        elif word in {"items", "anyOf", "prefixItems"}:
            yield from not_strict(part, f"{path}.{word}")


def _raised(limit: int, factor: float, times: int) -> int:
    return math.ceil(limit * factor**times)


class _Environment(ImmutableSandboxedEnvironment):
    """Dots mean members first: `input.items` is the field of that name, not the method of a dict."""

    @override
    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def _environment(finalize: Callable[[Any], Any]) -> _Environment:
    made = _Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False, finalize=finalize
    )
    made.globals = {name: made.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")}
    made.filters.pop("random")
    made.filters["tojson"] = made.filters["json"] = _as_json
    return made


def _printed(value: Any) -> Any:
    """What a template prints: text as it is, other JSON values as JSON, nothing else (a method prints its address)."""
    if not isinstance(value, _PRINTABLE):
        raise jinja2.TemplateRuntimeError("prints something that is not a JSON value")
    if isinstance(value, str | jinja2.Undefined):
        return value
    return _as_json(value)


def _as_json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS).decode()


_ENVIRONMENT = _environment(_printed)
_BARE = _environment(lambda _: "")


def _compiled(role: str, text: str) -> jinja2.Template:
    try:
        tree = _ENVIRONMENT.parse(text)
        unknown = sorted(jinja2.meta.find_undeclared_variables(tree) - {_VARIABLE})
        if unknown:
            raise TemplateError(f"{role} template: {unknown[0]!r} is unknown; templates see `input` only")
        if next(jinja2.meta.find_referenced_templates(tree), "") != "":
            raise TemplateError(f"{role} template: it includes another template; write it out instead")
        return _ENVIRONMENT.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{role} template, line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise TemplateError(f"{role} template: is nested too deeply to be read") from None


def _reads_input(text: str) -> bool:
    return bool(jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(text)))


def _fixed(template: jinja2.Template) -> str | None:
    """None: it cannot be rendered; that is each record's render error, as with any other template."""
    try:
        return _rendered("system", template, {})
    except Unusable:
        return None


def _closed(text: str, closing: str) -> str:
    return "\n\n".join(part for part in (text, closing) if part)


def _message(role: str, content: str) -> dict[str, str]:
    return {"content": content, "role": role}


def _turns(prompt: Prompt, example: Example) -> Iterator[orjson.Fragment]:
    try:
        asked = prompt.user_text(example.input)
    except Unusable as error:
        raise ExampleError(example.number, error.note) from None
    for message in (_message("user", asked), _message("assistant", example.answer)):
        yield orjson.Fragment(orjson.dumps(message))


def _rendered(role: str, template: jinja2.Template, item_input: Mapping[str, Any]) -> str:
    try:
        text = template.render(input=item_input)
    except Exception as error:  # noqa: BLE001 - templates are a language; whatever it raises is this record's
        raise Unusable(Reason.RENDER_ERROR, f"{role} template{_line_of(error)}: {_cause(error)}") from None
    if len(text) > MESSAGE_CHARS_MAX:
        raise Unusable(Reason.RENDER_ERROR, f"{role} template: {len(text)} characters, at most {MESSAGE_CHARS_MAX}")
    return text


def _cause(error: Exception) -> str:
    """By class: messages of the template language quote values."""
    match error:
        case jinja2.UndefinedError():
            return "a member it uses is absent; guard it with `is defined`"
        case jinja2.exceptions.SecurityError():
            return "it uses something that templates may not"
        case jinja2.TemplateRuntimeError():
            return "it prints something that is not a JSON value"
        case _:
            return f"a value does not fit the filter or operator it is used with ({type(error).__name__})"


def _line_of(error: Exception) -> str:
    line, traceback = 0, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f", line {line}" if line else ""


def _response_format(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    sent = {word: part for word, part in schema.items() if word not in _NOT_SENT}
    # models answer in the order of the schema's members, so these keep the author's order: a fragment is not sorted
    written = orjson.Fragment(orjson.dumps(sent))
    return {"type": "json_schema", "json_schema": {"name": name, "schema": written, "strict": is_strict(sent)}}
