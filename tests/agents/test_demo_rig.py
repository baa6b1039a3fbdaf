"""The demo's installation, as far as it can be seen without starting one."""

from pathlib import Path

import pytest

from batchmill.agents.demo.rig import CONFIG_FILE, RigError, RigPlan, decided_settings, fresh_folder
from batchmill.agents.settings import CONFIG_VARIABLE, load_settings
from batchmill.agents.simulator import SimulatorConfig


def test_an_earlier_run_is_cleared_away(tmp_path: Path) -> None:
    folder = fresh_folder(tmp_path / "demo")
    (folder / "left-over").touch()
    assert fresh_folder(tmp_path / "demo") == folder
    assert not (folder / "left-over").exists()


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RigError, match="not from an earlier run"):
        fresh_folder(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_what_was_decided_is_what_later_commands_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(tmp_path)
    decided = decided_settings(plan, "127.0.0.1:1234", 4321)
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / CONFIG_FILE))
    assert load_settings() == load_settings(decided)


def test_neither_an_environment_nor_a_file_leads_the_demo_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "batchmill.toml").write_text('[view]\npath = "/precious/view.sqlite"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    monkeypatch.setenv("BATCHMILL_SINK__SQLITE_PATH", "/precious/sink.sqlite")
    work = tmp_path / "work"
    work.mkdir()
    settings = load_settings(decided_settings(_plan(work), "127.0.0.1:1234", 4321))
    assert settings.accounts["openai"].base_url == "http://127.0.0.1:4321/v1"
    assert settings.sink_path.is_relative_to(work)
    assert settings.view_path.is_relative_to(work)
    assert settings.loopback_only


def _plan(work_dir: Path) -> RigPlan:
    return RigPlan(work_dir=work_dir, workers=1, simulator=SimulatorConfig(data_dir=work_dir / "simulator"))
