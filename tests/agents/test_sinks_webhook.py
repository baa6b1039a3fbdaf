"""The webhook sink: one key per commit, signed, bounded, and no answer but the receiver's own."""

import asyncio

import pytest

from batchmill.agents.settings import SettingsError
from batchmill.agents.sinks.webhook import WebhookSink
from batchmill.streams.ports import ProviderError, SinkOutcome
from tests.agents.sink_worlds import SECRET, a_write, receiving

APPLIED, ALREADY, REFUSED = SinkOutcome.APPLIED, SinkOutcome.ALREADY, SinkOutcome.REFUSED


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


@pytest.fixture
async def sink(receiver):
    made = a_sink(receiver.url)
    yield made
    await made.close()


def a_sink(url, **changes):
    given = {"secret": SECRET, "timeout_seconds": 5, "concurrent_max": 4, "loopback_only": True}
    return WebhookSink(url=url, **(given | changes))


async def test_each_post_is_signed_and_its_key_is_the_commit_id(sink, receiver):
    await sink.apply([a_write(), a_write("t2")])
    assert receiver.faults == []
    assert {key for key, _ in receiver.posts} == {"c-t1-1-1", "c-t2-1-1"}


async def test_a_second_try_says_the_same_bytes_under_the_same_key(receiver):
    for _ in range(2):  # another process each time
        sink = a_sink(receiver.url)
        await sink.apply([a_write()])
        await sink.close()
    assert len(receiver.posts) == 2
    assert len(set(receiver.posts)) == 1
    assert len(receiver.taken) == 1


@pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 415, 422])
async def test_a_no_is_a_no_to_that_write_alone(sink, receiver, status):
    receiver.answers = {"t1": [status]}
    results = await sink.apply([a_write(), a_write("t2")])
    assert [result.outcome for result in results] == [REFUSED, APPLIED]
    assert str(status) in results[0].error


@pytest.mark.parametrize("status", [301, 307, 401, 403, 408, 409, 425, 429, 500, 502, 503])
async def test_what_is_not_about_the_write_is_asked_again_and_what_was_taken_is_not_posted_twice(
    sink, receiver, status
):
    receiver.answers = {"t1": [status]}
    with pytest.raises(ProviderError) as caught:
        await sink.apply([a_write(), a_write("t2"), a_write("t3")])
    assert caught.value.http_status == status
    results = await sink.apply([a_write(), a_write("t2"), a_write("t3")])
    assert [result.outcome for result in results] == [APPLIED, ALREADY, ALREADY]
    assert sorted(key for key, _ in receiver.posts) == ["c-t1-1-1", "c-t1-1-1", "c-t2-1-1", "c-t3-1-1"]


async def test_how_long_the_receiver_wants_to_be_left_alone_is_passed_on(sink, receiver):
    receiver.answers, receiver.extra = {"t1": [429]}, {"Retry-After": "7"}
    with pytest.raises(ProviderError) as caught:
        await sink.apply([a_write()])
    assert caught.value.retry_after_seconds == 7


async def test_a_redirect_is_not_followed(sink, receiver):
    receiver.answers, receiver.extra = {"t1": [307]}, {"Location": receiver.url + "/elsewhere"}
    with pytest.raises(ProviderError, match="redirects are not followed"):
        await sink.apply([a_write()])
    assert len(receiver.posts) == 1


async def test_posts_of_one_target_keep_their_order_and_no_more_run_at_once_than_allowed(sink, receiver):
    receiver.delay_seconds = 0.01
    await sink.apply([a_write(f"t{n % 10}", seq=n // 10 + 1) for n in range(40)])
    assert 1 < receiver.running_max <= 4
    for n in range(10):
        posted = [key for key, _ in receiver.posts if key.startswith(f"c-t{n}-")]
        assert posted == [f"c-t{n}-{seq}-1" for seq in (1, 2, 3, 4)]


async def test_a_silent_receiver_is_given_up_in_time(receiver):
    receiver.delay_seconds = 2
    sink = a_sink(receiver.url, timeout_seconds=0.2)
    async with asyncio.timeout(10):
        with pytest.raises(ProviderError):
            await sink.apply([a_write()])
    await sink.close()


async def test_an_output_that_is_no_json_is_refused_unsent(sink, receiver):
    results = await sink.apply([a_write(output='{"a":1'), a_write("t2", output='1}, "x": {')])
    assert [result.outcome for result in results] == [REFUSED, REFUSED]
    assert receiver.posts == []


@pytest.mark.parametrize("url", ["https://example.org/hook", "http://10.0.0.1/", "http://localhost.example.org/"])
def test_another_machine_is_refused_when_only_this_one_is_allowed(url):
    with pytest.raises(SettingsError, match="loopback_only"):
        a_sink(url)


def test_a_secret_that_is_none_is_refused_without_being_shown():
    with pytest.raises(SettingsError) as caught:
        a_sink("http://127.0.0.1/", secret="hunter2")
    assert "hunter2" not in str(caught.value)
