"""Whoever meets a reason is told what to do about it."""

import re
from pathlib import Path

from batchmill.schemas.reasons import Fault, Reason, info
from batchmill.streams.remedies import REMEDIES

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"


def test_every_reason_has_one_sentence_that_ends() -> None:
    assert set(REMEDIES) == set(Reason)
    assert [text for text in REMEDIES.values() if not text.endswith(".") or len(text) > 130] == []


def test_what_is_excluded_or_asks_a_person_is_not_called_a_thing_to_mend() -> None:
    for reason, text in REMEDIES.items():
        if info(reason).excluded:
            assert text.startswith("Nothing to mend"), reason


def test_a_mistake_of_the_prompt_is_not_said_to_be_mended_by_a_redrive_which_keeps_the_version() -> None:
    of_the_version = {Reason.NOT_JSON, Reason.SCHEMA_MISMATCH, Reason.RULE_FAILED, Reason.MODEL_REFUSAL}
    for reason in of_the_version:
        assert "redrive" not in REMEDIES[reason]
        assert "publish the events again" in REMEDIES[reason]
        assert info(reason).fault in {Fault.JOB, Fault.PROVIDER}


def test_the_page_has_each_dead_letters_reason_with_its_remedy() -> None:
    told = dict(re.findall(r"^\| `([a-z_0-9]+)` \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert told == {reason.value: REMEDIES[reason] for reason in Reason if not info(reason).excluded}
