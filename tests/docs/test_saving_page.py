"""docs/saving.md is true: its levers are all the levers, its examples are read, its error is the signature's."""

import re

import yaml

from batchmill.agents.projector.savings import Lever
from batchmill.schemas.asking import NearSpec
from batchmill.streams.likeness import VALUES
from batchmill.streams.validating import DERIVED
from tests.docs.pages import blocks, text_of

PAGE = "docs/saving.md"


def test_every_lever_of_the_report_has_its_row():
    report = text_of(PAGE).partition("## The report")[2]
    assert re.findall(r"^\| `([a-z]+)` \|", report, re.MULTILINE) == list(Lever)


def test_what_is_shown_of_near_duplicates_is_what_there_is():
    shown = yaml.safe_load(blocks(PAGE, "yaml")[0].text)
    assert shown == {"dedupe": "near", "near": {"threshold": NearSpec().threshold, "shingle": NearSpec().shingle}}
    assert f"about {(0.9 * 0.1 / VALUES) ** 0.5:.3f} at 0.9" in text_of(PAGE)
    assert f"the check `{DERIVED}`" in text_of(PAGE)
