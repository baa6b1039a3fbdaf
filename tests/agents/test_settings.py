"""Settings: who wins, what is refused, and that a secret never prints."""

import ast
import os
from pathlib import Path

import pytest

import batchmill.agents
from batchmill.agents.settings import (
    Settings,
    SettingsError,
    child_environment,
    env_name,
    is_loopback,
    load_settings,
    nest,
)
from batchmill.agents.settings_pages import settings_reference, shown_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("BATCHMILL_", "KAFKA_", "OPENAI_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sources_of(flags=None):
    settings = load_settings(flags)
    return {shown.name: (shown.value, shown.source) for shown in shown_settings(settings, flags)}


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(clean, monkeypatch):
    (clean / "batchmill.toml").write_text("partitions = 4\n[runtime]\ncommit_bytes = 4\nslice_records = 4\n")
    monkeypatch.setenv("BATCHMILL_RUNTIME__SLICE_RECORDS", "5")
    monkeypatch.setenv("BATCHMILL_RUNTIME__COMMIT_BYTES", "5")
    got = sources_of({"runtime.slice_records": 6})
    assert got["runtime.slice_records"] == ("6", "flag")
    assert got["runtime.commit_bytes"] == ("5", "env BATCHMILL_RUNTIME__COMMIT_BYTES")
    assert got["partitions"] == ("4", "file batchmill.toml")
    assert got["runtime.slice_bytes"] == (str(2**20), "default")


def test_standard_variables_are_heard_and_our_own_name_wins_over_them(monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("BATCHMILL_ACCOUNTS__OPENAI__BASE_URL", "http://127.0.0.1:2/v1")
    got = sources_of()
    assert got["kafka.bootstrap_servers"] == ("broker:1", "env KAFKA_BOOTSTRAP_SERVERS")
    assert got["accounts.openai.base_url"][0] == "http://127.0.0.1:2/v1"


def test_an_absent_flag_does_not_override(monkeypatch):
    monkeypatch.setenv("BATCHMILL_PARTITIONS", "3")
    assert load_settings({"partitions": None}).partitions == 3


def test_a_key_never_prints_and_is_still_usable(monkeypatch, clean):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    settings = load_settings()
    pages = repr(settings) + str(shown_settings(settings)) + settings.model_dump_json()
    assert "sk-very-secret" not in pages
    assert settings.accounts["openai"].key() == "sk-very-secret"


def test_a_key_can_come_from_a_file_and_a_missing_file_is_named(monkeypatch, clean):
    (clean / "key").write_text("sk-filed\n")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(clean / "key"))
    assert load_settings().accounts["openai"].key() == "sk-filed"
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(clean / "absent"))
    with pytest.raises(SettingsError, match="absent"):
        load_settings().accounts["openai"].key()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("BATCHMILL_RUNTME__COMMIT_BYTES", "1", "did you mean BATCHMILL_RUNTIME"),
        ("BATCHMILL_RUNTIME__COMMIT_BYTE", "1", "runtime.commit_byte: Extra inputs"),
        ("BATCHMILL_PARTITIONS", "0", "BATCHMILL_PARTITIONS"),
        ("BATCHMILL_INSTANCE", "a b", "BATCHMILL_INSTANCE"),
        ("BATCHMILL_RUNTIME__HEARTBEAT_SECONDS", "9", "third of session_timeout"),
        ("BATCHMILL_RUNTIME__POISON_DEATHS", "2", "exceed suspicion_deaths"),
        ("BATCHMILL_ACCOUNTS__A__BASE_URL", "api.example.com", "absolute http"),
        ("BATCHMILL_ACCOUNTS__A__POLL_MIN_SECONDS", "1000", "must not exceed poll_max"),
        ("BATCHMILL_CONFIG", "/nowhere/x.toml", "is not a file"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(monkeypatch, variable, value, says):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=says):
        load_settings()


def test_a_wrong_secret_is_refused_without_showing_it(clean):
    (clean / "batchmill.toml").write_text('[accounts.openai]\napi_key = ["sk-leak"]\n')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "sk-leak" not in str(caught.value)
    assert "accounts.openai.api_key" in str(caught.value)


def test_loopback_only_refuses_any_other_host(monkeypatch):
    monkeypatch.setenv("BATCHMILL_LOOPBACK_ONLY", "true")
    monkeypatch.setenv("BATCHMILL_ACCOUNTS__SIM__BASE_URL", "http://127.0.0.1:9/v1")
    assert load_settings().loopback_only
    monkeypatch.setenv("BATCHMILL_ACCOUNTS__SIM__BASE_URL", "https://api.openai.com/v1")
    with pytest.raises(SettingsError, match=r"api\.openai\.com"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:2/", True),
        ("http://localhost.example.com/", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://10.0.0.1/", False),
        ("http://127.0.0.1@api.openai.com/", False),
        ("not a url", False),
    ],
)
def test_only_this_machine_is_loopback(url, near):
    assert is_loopback(url) is near


def test_a_child_process_sees_the_same_settings(monkeypatch):
    flags = {"runtime.commit_interval_ms": 50, "accounts.openai.base_url": "http://127.0.0.1:3/v1"}
    for name, value in child_environment(flags).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.runtime.commit_interval_ms == 50
    assert settings.accounts["openai"].base_url == "http://127.0.0.1:3/v1"


def test_local_paths_follow_the_data_dir_until_they_are_set():
    settings = load_settings({"data_dir": "d", "instance": "w2", "view.path": "elsewhere/v.sqlite"})
    assert str(settings.payload_dir) == "d/payloads"
    assert str(settings.sink_path) == "d/sink.sqlite"
    assert str(settings.view_path) == "elsewhere/v.sqlite"
    assert str(settings.state_dir) == "d/state/batchmill/w2"


def test_every_setting_has_a_sentence_and_stands_in_the_reference():
    page = settings_reference()
    for shown in shown_settings(load_settings()):
        assert shown.description.endswith("."), shown.name
        assert f"`{shown.name}`" in page
        assert f"`{env_name(shown.name)}`" in page


def test_a_number_names_its_unit_last():
    units = ("_ms", "_seconds", "_hours", "_bytes", "_bytes_max", "_records", "_rows", "_max")
    counts = {"partitions", "replication_factor", "raw_generation", "port", "requests_per_minute", "reconcile_looks"}
    counts |= {"suspicion_deaths", "poison_deaths", "chunks_at_once", "online_chunks_at_once"}
    for name, value in _leaves(load_settings().model_dump()):
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert name.endswith(units) or name in counts, name


def _leaves(tree):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield name, value


def test_every_setting_is_read_by_something_outside_the_settings_modules():
    settings_modules = {"settings.py", "settings_groups.py", "settings_pages.py"}
    read, through = set(), {}
    for file in Path(batchmill.agents.__path__[0]).rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if file.name not in settings_modules:
            read |= _attributes_read(tree)
        else:  # a method of a group, such as `password`, reads on behalf of its callers
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            through |= {function.name: _attributes_read(function) for function in functions}
    read |= {name for function, names in through.items() if function in read for name in names}
    declared = {shown.name for shown in shown_settings(load_settings())}
    assert {name for name in declared if name.rpartition(".")[2] not in read} == set()


def _attributes_read(tree):
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))
    return {node.attr for node in nodes}


def test_nesting_builds_a_tree():
    assert nest({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().partitions = 3
