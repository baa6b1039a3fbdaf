"""Texts are normalised as the job declares, everywhere in a payload, and cut behind that."""

from typing import Any

import pytest

from batchmill.schemas.jobs import InputSpec
from batchmill.streams.cleaning import compile_cleaner
from batchmill.streams.paths import PathError


def cleaned(payload: dict[str, Any], given: InputSpec) -> dict[str, Any]:
    compile_cleaner(given).apply(payload)
    return payload


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        (InputSpec(), "ﬁé"),
        (InputSpec(normalize="NFKC"), "fié"),
        (InputSpec(normalize=None), "ﬁe\u0301"),
        (InputSpec(normalize=None, strip_control=False), "ﬁe\u0301\x07"),
    ],
)
def test_every_text_is_normalised_as_declared(given: InputSpec, clean: str) -> None:
    dirty = "ﬁe\u0301\x07"
    assert cleaned({"a": dirty, "b": [{"c": dirty}], "n": 1}, given) == {"a": clean, "b": [{"c": clean}], "n": 1}


def test_a_text_is_cut_after_it_is_normalised() -> None:
    given = InputSpec(max_chars={"a": 2, "$.b.c": 1, "absent": 1, "n": 1})
    assert cleaned({"a": "e\u0301e\u0301x", "b": {"c": "xy"}, "n": 12}, given) == {"a": "éé", "b": {"c": "x"}, "n": 12}


def test_a_path_that_cannot_be_read_is_told_when_the_job_is_compiled() -> None:
    with pytest.raises(PathError):
        compile_cleaner(InputSpec(max_chars={"$..a": 1}))
