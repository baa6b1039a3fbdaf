"""The page about the simulator says what the code does."""

import dataclasses
import re
from pathlib import Path

from batchmill.agents.simulator import FAULTS, SimulatorConfig
from batchmill.agents.simulator.ledger import (
    BatchCancelAsked,
    BatchCreated,
    BatchEnded,
    Bill,
    FileCreated,
    FileDeleted,
    RequestSeen,
)

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
KINDS = {
    "request": RequestSeen,
    "file_created": FileCreated,
    "file_deleted": FileDeleted,
    "batch_created": BatchCreated,
    "batch_cancel_asked": BatchCancelAsked,
    "batch_ended": BatchEnded,
    "bill": Bill,
}


def _names(cls):
    return {field.name for field in dataclasses.fields(cls)}


def _rows(title):
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if "| `" in line[:4]
    ]


def test_the_page_lists_every_fault_with_its_place_and_law():
    marks = {fault: "" if spec.transient else " (by text)" for fault, spec in FAULTS.items()}
    expected = [[f"`{fault}`", spec.place, spec.law + marks[fault]] for fault, spec in FAULTS.items()]
    assert [[cell.rstrip(" |") for cell in row] for row in _rows("Faults")] == expected
    assert f"breaks in {len(FAULTS)} named ways" in PAGE


def test_the_page_lists_every_setting():
    assert {name for row in _rows("Settings") for name in re.findall(r"`(\w+)`", row[0])} == _names(SimulatorConfig)


def test_the_page_lists_every_field_of_the_ledger():
    shown = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in _rows("The ledger")}
    common = {"seq", "at_ms", "mono_s"}
    assert shown == {kind: _names(cls) - common for kind, cls in KINDS.items()}


def test_the_example_of_the_page_prints_what_it_says(capsys):
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/simulator.md", "exec"), {})
    assert capsys.readouterr().out.split() == re.findall(r"# (\S+)\n", example)
