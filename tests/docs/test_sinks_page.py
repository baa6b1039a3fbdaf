"""docs/sinks.md is true: what each sink promises is what the table of capabilities says, and its jobs are jobs."""

import re

import pytest
import yaml

from batchmill.agents.sinks.rows import COLUMNS, HISTORY_COLUMNS
from batchmill.agents.sinks.webhook import _LATER
from batchmill.schemas.jobs import PlaceSpec
from batchmill.streams.sinks import ROW_MEMBERS, SINKS, table_fault
from tests.docs.pages import blocks, text_of

PAGE = "docs/sinks.md"


def test_every_sink_is_listed_with_what_it_can_do():
    listed = re.findall(r"^\| `(\w+)` \| (yes|no) \| (yes|no) \|", text_of(PAGE), re.MULTILINE)
    told = {name: (compares == "yes", revertible == "yes") for name, compares, revertible in listed}
    assert told == {name: (can.compares, can.revertible) for name, can in SINKS.items()}


def test_every_column_is_listed():
    section = text_of(PAGE).partition("## Tables")[2].partition("## Files")[0]
    listed = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(listed) == sorted(HISTORY_COLUMNS)
    assert set(COLUMNS) < set(HISTORY_COLUMNS)


def test_every_member_of_a_files_row_is_listed():
    section = text_of(PAGE).partition("A row has ")[2].partition("and the output")[0]
    assert tuple(re.findall(r"`(\w+)`", section)) == ROW_MEMBERS


@pytest.mark.parametrize("block", [block.text for block in blocks(PAGE, "yaml")])
def test_every_fragment_is_a_place(block):
    place = PlaceSpec(**yaml.safe_load(block)["place"])
    assert table_fault(place.sink, place.table) is None


def test_the_answers_that_are_asked_again_are_listed():
    (row,) = [line for line in text_of(PAGE).splitlines() if "asked again, later" in line]
    assert {int(status) for status in re.findall(r"\b4\d\d\b", row)} == _LATER
