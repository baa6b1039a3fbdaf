"""The README is true: its picture is the topology's, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest

from batchmill.streams.topology import mermaid

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_picture_is_generated_from_the_topology():
    shown = re.search(r"<!-- flow:.*?-->\n```mermaid\n(.*?)```\n<!-- /flow -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == mermaid()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ROADMAP.md"])
def test_every_relative_link_leads_to_a_file(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert named
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()
