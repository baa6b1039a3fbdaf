"""What people install: the wheel holds all three rooms and runs in an environment that has never seen this folder."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "streams", "agents")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a clean environment: ours is the wheel, the dependencies are lent from this environment.

    A path in a .pth file is searched, but the .pth files inside it are not run, so the editable install stays out.
    """
    venv = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    run(sys.executable, "-m", "pip", "--python", venv, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def run(*words: str | Path) -> str:
    """Run in an empty environment and somewhere else, so that neither PYTHONPATH nor the folder can help."""
    # No PATH is needed: every program is named in full.
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sources(pattern: str) -> set[str]:
    """The files of the source roots, as they must be named inside the wheel."""
    return {
        str(path.relative_to(ROOT / room))
        for room in ROOMS
        for path in (ROOT / room / "batchmill").rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_of_the_three_rooms_is_in_the_wheel(contents: set[str]) -> None:
    assert {f"batchmill/{room}/__init__.py" for room in ROOMS} <= contents
    assert sources("*") <= contents


def test_data_files_travel_along(contents: set[str]) -> None:
    assert {f"batchmill/{room}/py.typed" for room in ROOMS} <= contents
    assert "batchmill/agents/kafka/maven.lock" in contents
    assert "batchmill/agents/kafka/compose.yml" in contents
    assert "batchmill/schemas/avro/raw.avsc" in contents
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


def test_nothing_but_our_namespace_is_put_on_the_path(contents: set[str]) -> None:
    tops = {name.split("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"batchmill"}
    assert "batchmill/__init__.py" not in contents, "a namespace package has no __init__"
    assert {name.split("/")[1] for name in contents if name.startswith("batchmill/")} == set(ROOMS)


def test_the_installed_wheel_imports_all_rooms_from_the_wheel(installed: Path) -> None:
    program = "; ".join(f"import batchmill.{room}; print(batchmill.{room}.__file__)" for room in ROOMS)
    files = run(installed / "python", "-c", program).split()
    assert len(files) == 3
    assert all(Path(file).is_relative_to(installed.parent) for file in files)


def test_the_installed_wheel_finds_its_data(installed: Path) -> None:
    program = (
        "from batchmill.agents.kafka.container import COMPOSE_FILE; import batchmill.schemas.codec;"
        "from batchmill.agents.kafka.jars import locked_jars; print(COMPOSE_FILE.is_file(), len(locked_jars()))"
    )
    assert run(installed / "python", "-c", program).split() == ["True", "93"]


def test_the_installed_command_explains_itself(installed: Path) -> None:
    said = run(installed / "batchmill", "--help")
    assert "ingest" in said
    assert "demo" in said
