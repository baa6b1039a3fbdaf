"""The first command a stranger types: it lists itself, and says what is missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder as after a clone: no environment yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # These tests may run under make themselves, whose flags are not theirs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_make_alone_lists_every_target_with_a_sentence(fresh: Path) -> None:
    listed = re.findall(r"^  make (\S+) +\S", make(fresh).stdout, re.MULTILINE)
    declared = re.search(r"^\.PHONY: (.*)$", (fresh / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    assert listed == declared[1].split()


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "exactness", "story", "kafka"])
def test_without_a_python_each_target_says_how_to_get_one(fresh: Path, target: str) -> None:
    done = make(fresh, target, "PYTHON=")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr


def test_make_test_runs_three_parts_that_are_all_tests_together_and_no_test_twice(fresh: Path) -> None:
    done = make(fresh, "--dry-run", "test", "PYTHON=python3")
    ran = " ".join(line.strip(" \t\\") for line in done.stdout.splitlines()[-3:])
    assert ran == (
        '.venv/bin/pytest -n 2 -m "not (kafka or alone or chaos)"; first=$?;'
        ' .venv/bin/pytest -n 2 --dist loadfile -m "(kafka or alone) and not (timed or chaos)"; second=$?;'
        ' .venv/bin/pytest -m "timed and not chaos" && exit $((first | second))'
    )


def test_what_is_timed_is_large_as_well_so_that_it_is_in_one_part_only(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        assert item.get_closest_marker("timed") is None or item.get_closest_marker("alone") is not None, item.nodeid


@pytest.mark.parametrize("codes", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_make_test_fails_when_any_part_does_and_runs_all(fresh: Path, codes: tuple[int, int, int]) -> None:
    binary = fresh / ".venv" / "bin" / "pytest"
    binary.parent.mkdir(parents=True)
    binary.write_text(
        f'#!/bin/sh\ncase "$3" in -m) echo small; exit {codes[0]};; --dist) echo large; exit {codes[1]};;'
        f" *) echo timed; exit {codes[2]};; esac\n"
    )
    binary.chmod(0o755)
    for step in (".python", ".run", ".dev"):
        (fresh / ".venv" / step).touch()
    done = make(fresh, "test", "PYTHON=python3")
    assert (done.stdout.split()[:3], done.returncode) == (["small", "large", "timed"], 2 if any(codes) else 0)


def test_with_arguments_make_test_is_one_plain_run(fresh: Path) -> None:
    done = make(fresh, "--dry-run", "test", "PYTHON=python3", "ARGS=-k name")
    assert done.stdout.splitlines()[-1] == '.venv/bin/pytest -m "not chaos" -k name'


def test_make_exactness_is_the_full_run_of_the_fault_harness_with_the_arguments_handed_on(fresh: Path) -> None:
    done = make(fresh, "--dry-run", "exactness", "PYTHON=python3", "ARGS=--seed 7")
    assert done.stdout.splitlines()[-1] == ".venv/bin/python -m tests.chaos --seed 7"


def test_a_python_that_cannot_make_environments_is_named_with_the_package_to_install(fresh: Path) -> None:
    python = fresh / "python-without-venv"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) echo python3.12-venv;; esac\n')
    python.chmod(0o755)
    done = make(fresh, "test", f"PYTHON={python}")
    assert done.returncode != 0
    assert "apt-get install python3.12-venv" in done.stderr
    assert not (fresh / ".venv").exists()


def test_ci_runs_make_test_and_passes_its_exit_code_on(fresh: Path) -> None:
    (fresh / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", fresh / ".ci" / "run")
    (fresh / "Makefile").write_text("test:\n\t@echo called in $(CURDIR); exit 1\n")
    done = subprocess.run([fresh / ".ci" / "run"], cwd="/", capture_output=True, text=True, check=False)
    assert f"called in {fresh}" in done.stdout
    assert done.returncode == 2
