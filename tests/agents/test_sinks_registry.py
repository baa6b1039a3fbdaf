"""Which sinks a process has: the set ones, and for the others a place that holds the writes and says what to set."""

import sys

import pytest

from batchmill.agents.cli.examining import Level, _sinks
from batchmill.agents.settings import SettingsError, load_settings
from batchmill.agents.settings_pages import shown_settings
from batchmill.agents.sinks import registry
from batchmill.agents.sinks.registry import UnsetSink, build_sinks
from batchmill.streams.ports import SinkOutcome, TransientError
from batchmill.streams.sinks import SINKS
from tests.agents.sink_worlds import SECRET, a_write, receiving

JOB = """\
job: triage
ask:
  prompt: {{user: user.j2}}
  model: {{provider: openai, name: gpt-5-mini}}
place: {{sink: {sink}, table: triage}}
"""


def a_setup(tmp_path, sink="sqlite", **flags):
    folder = tmp_path / "jobs" / "triage"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(JOB.format(sink=sink), encoding="utf-8")
    (folder / "user.j2").write_text("Sort this: {{ input.body }}", encoding="utf-8")
    return load_settings({"data_dir": str(tmp_path / "data"), "jobs_dir": str(tmp_path / "jobs")} | flags)


async def examined(settings):
    return {finding.what: finding async for finding in _sinks(settings)}


def test_every_sink_that_is_not_inside_kafkas_transaction_is_built():
    sinks = build_sinks(load_settings())
    assert set(sinks) == {name for name, can in SINKS.items() if not can.inside}
    assert all(sink.name == name and sink.capabilities == SINKS[name] for name, sink in sinks.items())


async def test_a_sink_that_is_not_set_holds_its_writes_and_says_what_to_set():
    for name, variable in (("postgres", "BATCHMILL_SINK__POSTGRES_DSN"), ("webhook", "BATCHMILL_SINK__WEBHOOK_URL")):
        sink = build_sinks(load_settings())[name]
        assert list(await sink.apply([])) == []
        with pytest.raises(TransientError, match=variable):
            await sink.apply([a_write()])
        await sink.close()


async def test_building_connects_nothing_and_makes_nothing(tmp_path):
    flags = {"sink.postgres_dsn": "postgresql://nobody@127.0.0.1:9/none", "data_dir": str(tmp_path / "data")}
    sinks = build_sinks(load_settings(flags))
    assert not isinstance(sinks["postgres"], UnsetSink)
    for sink in sinks.values():
        await sink.close()
    assert list(tmp_path.iterdir()) == []


async def test_what_is_set_is_written_to(tmp_path, postgres):
    with receiving() as receiver:
        (tmp_path / "dsn").write_text(postgres.make_database() + "\n", encoding="utf-8")
        flags = {"sink.postgres_dsn_file": str(tmp_path / "dsn"), "data_dir": str(tmp_path / "data")}
        hook = {"sink.webhook_url": receiver.url, "sink.webhook_secret": SECRET}
        for sink in build_sinks(load_settings(flags | hook)).values():
            assert [result.outcome for result in await sink.apply([a_write(table=f"of_{sink.name}")])] == [
                SinkOutcome.APPLIED
            ]
            await sink.close()


def test_secrets_are_not_shown(tmp_path):
    flags = {
        "sink.postgres_dsn": "postgresql://u:hunter2@h/x",
        "sink.webhook_url": "http://127.0.0.1/",
        "sink.webhook_secret": SECRET,
    }
    shown = " ".join(f"{each.value}" for each in shown_settings(load_settings(flags), flags))
    assert "hunter2" not in shown
    assert SECRET not in shown


@pytest.mark.parametrize("url", ["ftp://x", "example.org/hook", "http://u:hunter2@127.0.0.1/"])
def test_a_webhooks_address_must_be_one_and_hold_no_password(url):
    with pytest.raises(SettingsError) as caught:
        load_settings({"sink.webhook_url": url, "sink.webhook_secret": SECRET})
    assert "hunter2" not in str(caught.value)


def test_a_webhook_without_a_secret_is_refused():
    with pytest.raises(SettingsError, match="not signed"):
        load_settings({"sink.webhook_url": "http://127.0.0.1/"})


async def test_doctor_tries_the_sinks_that_matter(tmp_path):
    found = await examined(a_setup(tmp_path))
    assert {what: finding.level for what, finding in found.items()} == {"sink sqlite": Level.OK}


async def test_doctor_says_that_a_jobs_sink_is_not_there(tmp_path):
    found = await examined(a_setup(tmp_path, sink="postgres"))
    assert found["sink postgres"].level is Level.FAIL
    assert "BATCHMILL_SINK__POSTGRES_DSN" in found["sink postgres"].mend


async def test_doctor_says_that_a_sink_cannot_be_reached(tmp_path):
    settings = a_setup(
        tmp_path,
        **{
            "sink.postgres_dsn": "postgresql://u:hunter2@127.0.0.1:9/x",
            "sink.postgres_connect_timeout_seconds": 1,
            "sink.webhook_url": "http://127.0.0.1:9/",
            "sink.webhook_secret": SECRET,
        },
    )
    found = await examined(settings)
    for what in ("sink postgres", "sink webhook"):
        assert found[what].level is Level.FAIL
        assert "hunter2" not in found[what].found


async def test_a_sink_whose_library_is_missing_holds_its_writes_and_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "batchmill.agents.sinks.postgres", None)
    monkeypatch.setattr(registry, "find_spec", lambda _name: None)
    sinks = build_sinks(load_settings({"sink.postgres_dsn": "postgresql://nobody@127.0.0.1:9/none"}))
    for name in ("postgres", "parquet"):
        with pytest.raises(TransientError, match=rf"batchmill\[{name}\]"):
            await sinks[name].apply([a_write()])
