"""Signatures: what the official SDK signs for is accepted, what we sign the official SDK accepts, and nothing else."""

import base64
import os
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.webhooks.signing import (
    ID_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    TOLERANCE_SECONDS,
    SecretError,
    fault,
    headers_for,
    secret_bytes,
)

openai = pytest.importorskip("openai", reason="the official SDK is a development dependency")

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 24).decode()
KEY = secret_bytes(SECRET)
NOW_S = 1_800_000_000
BODY = b'{"id":"evt_1","object":"event","created_at":1,"type":"batch.completed","data":{"id":"batch_1"}}'


@pytest.fixture(scope="module")
def sdk() -> Any:
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1:1", webhook_secret=SECRET) as client:
        yield client


def test_a_vector_of_the_specification() -> None:
    # id, time, body and secret with the signature that Standard Webhooks publishes for them
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = headers_for(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
    assert headers[SIGNATURE_HEADER] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_official_sdk_accepts_what_we_sign(sdk: Any) -> None:
    headers = headers_for(KEY, "msg_1", int(time.time()), BODY)
    event = sdk.webhooks.unwrap(BODY, headers)
    assert (event.type, event.data.id) == ("batch.completed", "batch_1")


@given(st.binary(max_size=300), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=50))
def test_what_is_signed_is_accepted_by_us_and_by_the_official_sdk_alike(body: bytes, name: str) -> None:
    headers = headers_for(KEY, name, int(time.time()), body)
    assert fault(KEY, headers, body, now_s=time.time()) is None
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1:1") as sdk:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return
        sdk.webhooks.verify_signature(text, headers, secret=SECRET)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            sdk.webhooks.verify_signature(text, headers, secret=OTHER)
    assert fault(secret_bytes(OTHER), headers, body, now_s=time.time()) == "signature"


@given(
    st.sampled_from([ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER, "body"]), st.integers(0, 200), st.integers(1, 255)
)
def test_one_changed_byte_anywhere_is_told(where: str, at: int, change: int) -> None:
    signed = {**headers_for(KEY, "msg_1", NOW_S, BODY), "body": BODY.decode("latin-1")}
    given_ = bytearray(signed[where].encode("latin-1"))
    given_[at % len(given_)] ^= change
    signed[where] = given_.decode("latin-1")
    body = signed.pop("body").encode("latin-1")
    assert fault(KEY, signed, body, now_s=NOW_S) is not None


@pytest.mark.parametrize("skew", [0, TOLERANCE_SECONDS, -TOLERANCE_SECONDS])
def test_a_clock_may_be_off_by_five_minutes(skew: int) -> None:
    assert fault(KEY, headers_for(KEY, "msg_1", NOW_S + skew, BODY), BODY, now_s=NOW_S) is None


@pytest.mark.parametrize("skew", [TOLERANCE_SECONDS + 1, -TOLERANCE_SECONDS - 1, 10**6, -NOW_S])
def test_an_old_or_early_webhook_is_not_believed_however_well_signed(skew: int) -> None:
    assert fault(KEY, headers_for(KEY, "msg_1", NOW_S + skew, BODY), BODY, now_s=NOW_S) == "time"


def test_one_of_several_signatures_is_enough() -> None:
    headers = headers_for(KEY, "msg_1", NOW_S, BODY)
    right = headers[SIGNATURE_HEADER]
    for given_ in (f"v1,AAAA {right}", f"{right} v2,xyz", f"v1a,zz  {right}\tv1,"):
        assert fault(KEY, headers | {SIGNATURE_HEADER: given_}, BODY, now_s=NOW_S) is None
    late = " ".join(["v1,AAAA"] * 50 + [right])
    assert fault(KEY, headers | {SIGNATURE_HEADER: late}, BODY, now_s=NOW_S) == "signature"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({ID_HEADER: ""}, "headers"),
        ({ID_HEADER: "a b"}, "headers"),
        ({ID_HEADER: "ä"}, "headers"),
        ({ID_HEADER: "x" * 300}, "headers"),
        ({TIMESTAMP_HEADER: ""}, "headers"),
        ({TIMESTAMP_HEADER: "1_800_000_000"}, "headers"),
        ({TIMESTAMP_HEADER: " 1800000000"}, "headers"),
        ({TIMESTAMP_HEADER: "-1800000000"}, "headers"),
        ({TIMESTAMP_HEADER: "1800000000".translate({48: 0xFF10})}, "headers"),
        ({TIMESTAMP_HEADER: "9" * 400}, "headers"),
        ({TIMESTAMP_HEADER: "1800000000.0"}, "headers"),
        ({SIGNATURE_HEADER: ""}, "signature"),
        ({SIGNATURE_HEADER: "v1,"}, "signature"),
        ({SIGNATURE_HEADER: "v1,ä\udcff"}, "signature"),
        ({SIGNATURE_HEADER: "v2," + "A" * 44}, "signature"),
    ],
)
def test_hostile_headers_are_a_fault_and_no_error(changed: dict[str, str], says: str) -> None:
    headers = headers_for(KEY, "msg_1", NOW_S, BODY) | changed
    assert fault(KEY, headers, BODY, now_s=NOW_S) == says


def test_headers_that_are_not_there_are_a_fault() -> None:
    assert fault(KEY, {}, BODY, now_s=NOW_S) == "headers"


def test_a_bare_signature_without_its_version_is_not_taken() -> None:
    headers = headers_for(KEY, "msg_1", NOW_S, BODY)
    bare = headers[SIGNATURE_HEADER].removeprefix("v1,")
    assert fault(KEY, headers | {SIGNATURE_HEADER: bare}, BODY, now_s=NOW_S) == "signature"


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_!!!", "whsec_QQ==", base64.b64encode(b"k" * 24).decode(), "sk-" + "a" * 40]
)
def test_a_secret_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(SecretError) as raised:
        secret_bytes(text)
    assert text.removeprefix("whsec_") not in str(raised.value) or len(text) < 10


def test_a_secret_is_its_base64() -> None:
    key = os.urandom(32)
    assert secret_bytes("whsec_" + base64.b64encode(key).decode()) == key
