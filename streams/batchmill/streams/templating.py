"""What a prompt template says, and what it reads of the record, by walking its tree.

What lives here: reading templates that compile. What must not: rendering them, or judging what they say (`wording`)
and read (`declaring`). Followed are members, positions, loops, `set`, `with`, conditions and the common filters; what
is reached through a computed name is told as a read of what it is taken from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from jinja2 import nodes

from batchmill.streams.rendering import parsed

__all__ = ["EACH", "Read", "Said", "Steps", "reads_of", "said_in", "told"]

_ROOT = "input"


class _Each(Enum):
    EACH = "each"


EACH: Final = _Each.EACH  #: every item of a list
Steps = tuple[str | int | _Each, ...]  #: from the input to a value in it
_Scope = dict[str, Steps | None]
_Sure = frozenset[Steps]

#: filters that give the items they were given
_SAME_ITEMS = frozenset({"sort", "reverse", "list", "unique", "selectattr", "rejectattr", "select", "reject"})
#: filters that give one of the items
_ONE_ITEM = frozenset({"first", "last", "min", "max"})
_DEFAULTS = frozenset({"default", "d"})
#: tests that may be asked of what is not there; those of the second set hold only of what is there
_ASKABLE = frozenset({"defined", "undefined", "none"})
_KINDS = frozenset(
    {"defined", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "true", "false"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One place where a template takes something out of the record."""

    steps: Steps  #: empty: the whole record
    line: int
    sure: _Sure  #: members that are known to be there when it is reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A line of the template's own text, with what is printed in between left out."""

    line: int
    text: str


def reads_of(template: str) -> tuple[Read, ...]:
    """Every read, in the order of the text."""
    return tuple(_block(parsed(template).body, {}, frozenset()))


def said_in(template: str) -> tuple[Said, ...]:
    """The lines of text that a record may be asked with, comments left out; alternatives are all told."""
    lines: dict[int, str] = {}
    for data in parsed(template).find_all(nodes.TemplateData):
        for at, text in enumerate(data.data.split("\n")):
            lines[data.lineno + at] = f"{lines.get(data.lineno + at, '')} {text}".strip()
    return tuple(Said(line=line, text=text) for line, text in sorted(lines.items()) if text)


def told(steps: Steps) -> str:
    """`input.lines[].text`."""
    return _ROOT + "".join(
        "[]" if each is EACH else f"[{each}]" if isinstance(each, int) else f".{each}" for each in steps
    )


# -- statements --------------------------------------------------------------------------------------------------------


def _block(body: list[nodes.Node], scope: _Scope, sure: _Sure) -> Iterator[Read]:
    for node in body:
        yield from _statement(node, scope, sure)


def _statement(node: nodes.Node, scope: _Scope, sure: _Sure) -> Iterator[Read]:
    match node:
        case nodes.Output():
            for part in node.nodes:
                yield from _expression(part, scope, sure)
        case nodes.If():
            yield from _condition(node, scope, sure)
        case nodes.For():
            yield from _loop(node, scope, sure)
        case nodes.Assign():
            yield from _expression(node.node, scope, sure)
            _bind(scope, node.target, _path(node.node, scope))
        case nodes.With():
            inner = dict(scope)
            for target, value in zip(node.targets, node.values, strict=True):
                yield from _expression(value, scope, sure)
                _bind(inner, target, _path(value, scope))
            yield from _block(node.body, inner, sure)
        case nodes.Macro() | nodes.CallBlock():
            inner = dict(scope) | {argument.name: None for argument in node.args}
            yield from _block(node.body, inner, sure)
        case nodes.Expr():
            yield from _expression(node, scope, sure)
        case _:
            yield from _block(list(node.iter_child_nodes()), scope, sure)


def _condition(node: nodes.If, scope: _Scope, sure: _Sure) -> Iterator[Read]:
    left = sure  # what is known once the tests so far have failed
    for branch in (node, *node.elif_):
        yield from _expression(branch.test, scope, left)
        yield from _block(branch.body, scope, left | _when(branch.test, scope, holds=True))
        left |= _when(branch.test, scope, holds=False)
    yield from _block(node.else_, scope, left)


def _loop(node: nodes.For, scope: _Scope, sure: _Sure) -> Iterator[Read]:
    yield from _expression(node.iter, scope, sure)
    inner, items = dict(scope), _items(node.iter, scope)
    _bind(inner, node.target, None if items is None else (*items, EACH))
    inside = sure
    if node.test is not None:
        yield from _expression(node.test, inner, sure)
        inside |= _when(node.test, inner, holds=True)
    yield from _block(node.body, inner, inside)
    yield from _block(node.else_, scope, sure)


def _bind(scope: _Scope, target: nodes.Node, steps: Steps | None) -> None:
    for name in target.find_all(nodes.Name) if not isinstance(target, nodes.Name) else (target,):
        scope[name.name] = steps if name is target else None


# -- expressions -------------------------------------------------------------------------------------------------------


def _expression(node: nodes.Node, scope: _Scope, sure: _Sure) -> Iterator[Read]:
    steps = _path(node, scope)
    if steps is not None:
        yield Read(steps=steps, line=node.lineno, sure=sure)
        return
    asked = _asked(node, scope)
    if asked is not None:
        yield Read(steps=asked, line=node.lineno, sure=sure | {asked})
    match node:
        case nodes.And():
            yield from _expression(node.left, scope, sure)
            yield from _expression(node.right, scope, sure | _when(node.left, scope, holds=True))
        case nodes.Or():
            yield from _expression(node.left, scope, sure)
            yield from _expression(node.right, scope, sure | _when(node.left, scope, holds=False))
        case nodes.CondExpr():
            yield from _expression(node.test, scope, sure)
            yield from _expression(node.expr1, scope, sure | _when(node.test, scope, holds=True))
            if node.expr2 is not None:
                yield from _expression(node.expr2, scope, sure | _when(node.test, scope, holds=False))
        case nodes.Filter() | nodes.Test() if asked is not None:
            for part in (*node.args, *node.kwargs):
                yield from _expression(part, scope, sure)
        case nodes.Call(node=nodes.Getattr() as method):  # a method is no member
            for part in (method.node, *node.args, *node.kwargs):
                yield from _expression(part, scope, sure)
        case _:
            for part in node.iter_child_nodes():
                yield from _expression(part, scope, sure)


def _asked(node: nodes.Node, scope: Mapping[str, Steps | None]) -> Steps | None:
    """What `node` may meet absent without failing."""
    match node:
        case nodes.Filter() if node.name in _DEFAULTS and node.node is not None:
            return _path(node.node, scope)
        case nodes.Test() if node.name in _ASKABLE | _KINDS:
            return _path(node.node, scope)
        case nodes.Call(node=nodes.Getattr(attr="get") as method, args=[nodes.Const() as name, *_]):
            return _member(_path(method.node, scope), name.value)
        case nodes.Compare(expr=nodes.Const() as name, ops=[nodes.Operand(op="in" | "notin") as right]):
            return _member(_path(right.expr, scope), name.value)
        case _:
            return None


def _when(test: nodes.Node, scope: Mapping[str, Steps | None], *, holds: bool) -> _Sure:
    """What is known to be there when `test` holds, or when it does not."""
    match test:
        case nodes.Not():
            return _when(test.node, scope, holds=not holds)
        case nodes.And() | nodes.Or():
            both = isinstance(test, nodes.And) is holds
            left, right = (_when(part, scope, holds=holds) for part in (test.left, test.right))
            return left | right if both else left & right
        case nodes.Test():
            tells = test.name in _KINDS if holds else test.name == "undefined"
        case nodes.Compare(ops=[nodes.Operand(op=op)]):
            tells = op == ("in" if holds else "notin")
        case _:
            return frozenset()
    asked = _asked(test, scope)
    return frozenset({asked}) if tells and asked is not None else frozenset()


def _path(node: nodes.Node, scope: Mapping[str, Steps | None]) -> Steps | None:
    """Where in the record the value of `node` lies; None: it is no part of it, or nobody can tell."""
    match node:
        case nodes.Name():
            return scope.get(node.name, () if node.name == _ROOT else None)
        case nodes.Getattr():
            return _member(_path(node.node, scope), node.attr)
        case nodes.Getitem(arg=nodes.Const() as name):
            return _member(_path(node.node, scope), name.value)
        case nodes.Getitem(arg=nodes.Slice()):
            return _path(node.node, scope)
        case nodes.Filter() if node.name in _ONE_ITEM and node.node is not None and not node.args:
            return _member(_items(node.node, scope), EACH)
        case _:
            return None


def _items(node: nodes.Node, scope: Mapping[str, Steps | None]) -> Steps | None:
    """The list that `node` gives the items of."""
    while isinstance(node, nodes.Filter) and node.name in _SAME_ITEMS and node.node is not None:
        node = node.node
    return _path(node, scope)


def _member(steps: Steps | None, name: object) -> Steps | None:
    known = isinstance(name, str | int | _Each) and not isinstance(name, bool)
    return None if steps is None or not known else (*steps, name)  # type: ignore[arg-type]
