"""The manner of the house, as far as a machine can see it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES_MAX = 500
MODULES = sorted(
    path.relative_to(ROOT) for room in ("schemas", "streams", "agents") for path in (ROOT / room).rglob("*.py")
)
LEFTOVERS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")


@pytest.fixture(params=MODULES, ids=str)
def module(request: pytest.FixtureRequest) -> Path:
    return ROOT / request.param


def test_a_module_opens_with_its_law_and_lists_what_it_promises(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "no docstring: say what lives here and what must not"
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert "__all__" in names


def test_a_module_is_small_and_finished(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LINES_MAX
    assert not [word for word in LEFTOVERS if word in text]


def test_agents_here_are_stream_processors_and_the_first_line_says_so() -> None:
    first, *_ = (ROOT / "agents" / "batchmill" / "agents" / "__init__.py").read_text().splitlines()
    assert "Faust stream processors" in first
    assert "never LLM agents" in first
