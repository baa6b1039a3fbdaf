"""What we work with: the editable install reads the three source roots, as one namespace."""

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "streams", "agents")


def isolated(program: str) -> str:
    """Run in this environment's Python without PYTHONPATH and without the current folder."""
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True).stdout


def test_the_install_is_editable_and_points_here() -> None:
    told = json.loads(distribution("batchmill").read_text("direct_url.json") or "{}")
    assert told["dir_info"] == {"editable": True}
    assert Path(told["url"].removeprefix("file://")).samefile(ROOT)


def test_each_room_is_imported_from_its_source_root() -> None:
    program = "; ".join(f"import batchmill.{room}; print(batchmill.{room}.__file__)" for room in ROOMS)
    files = [Path(line) for line in isolated(program).splitlines()]
    assert files == [ROOT / room / "batchmill" / room / "__init__.py" for room in ROOMS]


def test_the_namespace_has_no_file_and_three_homes() -> None:
    said = isolated("import batchmill, json; print(json.dumps([batchmill.__file__, sorted(batchmill.__path__)]))")
    assert json.loads(said) == [None, sorted(str(ROOT / room / "batchmill") for room in ROOMS)]
    assert not [room for room in ROOMS if (ROOT / room / "batchmill" / "__init__.py").exists()]


def test_no_top_level_package_takes_a_name_that_others_own() -> None:
    assert not [room for room in ROOMS if (ROOT / room / "__init__.py").exists()]
