"""One row that a provider would refuse is found before it takes a whole batch down."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.reasons import Reason
from batchmill.streams.capabilities import facts_of
from batchmill.streams.ports import Capabilities
from batchmill.streams.preflight import Preflight
from batchmill.streams.unusable import Unusable

CAN = facts_of("openai").can
MODEL = "gpt-5-mini"


def a_row(custom_id: str = "r-1", under: str = "body", **body: Any) -> bytes:
    told = {"model": MODEL, "messages": [{"role": "user", "content": "secret"}], **body}
    return orjson.dumps({"custom_id": custom_id, under: told}, option=orjson.OPT_APPEND_NEWLINE)


def refusal(line: bytes, custom_id: str = "r-1", can: Capabilities = CAN) -> Unusable:
    with pytest.raises(Unusable) as caught:
        Preflight(can, model=MODEL).check(custom_id, line)
    assert "secret" not in caught.value.note
    return caught.value


@pytest.mark.parametrize("under", ["body", "params", "request"])
def test_a_row_of_any_protocol_passes(under: str) -> None:
    preflight = Preflight(CAN, model=MODEL)
    for number in range(3):
        preflight.check(f"r-{number}", a_row(f"r-{number}", under))


@pytest.mark.parametrize(
    "line",
    [
        a_row()[:-3],
        b"[1]\n",
        b'{"custom_id":"r-1"}\n',
        b'{"custom_id":"r-1","body":NaN}\n',
        a_row() + a_row(),
        a_row(model="gpt-5"),
        a_row(stream=True),
    ],
    ids=["cut", "no object", "no body", "NaN", "two lines", "another model", "stream"],
)
def test_what_a_provider_would_refuse_ends_the_row_alone(line: bytes) -> None:
    assert refusal(line).reason is Reason.REQUEST_INVALID


@pytest.mark.parametrize("custom_id", ["", "a b", "ä", "x" * 65, "a\n"])
def test_an_id_that_some_provider_does_not_take_is_no_id(custom_id: str) -> None:
    assert refusal(a_row(), custom_id).reason is Reason.REQUEST_INVALID


def test_an_id_is_met_once() -> None:
    preflight = Preflight(CAN, model=MODEL)
    preflight.check("r-1", a_row())
    with pytest.raises(Unusable, match="same id"):
        preflight.check("r-1", a_row())


def test_a_row_larger_than_a_batch_may_be_is_told_by_its_size() -> None:
    small = replace(CAN, bytes_max=50)
    assert refusal(a_row(), can=small).reason is Reason.TOO_LARGE_FOR_PROVIDER


def test_models_may_differ_where_the_provider_lets_them() -> None:
    Preflight(replace(CAN, one_model=False), model=MODEL).check("r-1", a_row(model="gpt-5"))


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_whatever_the_bytes_are_nothing_but_a_reason_is_raised(lines: list[bytes]) -> None:
    preflight = Preflight(CAN, model=MODEL)
    for number, line in enumerate(lines):
        with suppress(Unusable):
            preflight.check(f"r-{number}", line)
