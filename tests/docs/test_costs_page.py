"""docs/costs.md is true: its list is a list, its causes are all the causes, its numbers are those of the code."""

import re
from pathlib import Path

from batchmill.agents.prices import freeze, load_prices
from batchmill.agents.projector.costs import Cause
from batchmill.streams.costing import OUTPUT_TOKENS_ASSUMED, Usage, cost_nanos, price_of
from tests.docs.pages import blocks, text_of

PAGE = "docs/costs.md"


def test_the_list_that_is_shown_can_be_loaded_and_means_what_is_said(tmp_path: Path):
    (block,) = blocks(PAGE, "json")
    file = tmp_path / "prices.json"
    file.write_text(block.text, encoding="utf-8")
    listed = load_prices(file)
    assert (listed.source, listed.as_of) == ("our contract of March", "2026-03-01")
    million = Usage(input_tokens=1_000_000, output_tokens=0)
    assert (
        cost_nanos(freeze(listed, provider="openai", model="our-model"), "our-model", "batch", million) == 125_000_000
    )
    assert cost_nanos(freeze(listed, provider="azure", model="gpt-4o"), "gpt-4o", "online", million) == 5_000_000_000
    assert freeze(listed, provider="openai", model="gpt-4o").models == {}
    embedding = freeze(listed, provider="openai", model="text-embedding-3-small")
    assert cost_nanos(embedding, "text-embedding-3-small", "online", million) == 20_000_000


def test_every_cause_of_waste_has_its_row():
    rows = re.findall(r"^\| `([a-z]+)` \|", text_of(PAGE), re.MULTILINE)
    assert [row for row in rows if row in set(Cause)] == list(Cause)


def test_the_unit_and_the_assumed_room_are_those_of_the_code():
    assert price_of("m", {"input": "0.25", "output": 1}).bands[0].input.online == 25 * 10**22
    assert f"a quarter of {OUTPUT_TOKENS_ASSUMED:,}" in text_of(PAGE)
