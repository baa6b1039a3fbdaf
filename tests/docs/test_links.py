"""What pages point at is there: files, headings, settings, metrics, tests."""

import re

import pytest

from batchmill.agents.settings import AccountSettings, Settings
from batchmill.agents.telemetry.names import METRICS
from tests.docs.generate import PAGES, unrecorded
from tests.docs.pages import GUIDES, ROOT, anchors, inline_code, links

REFERENCE = [f"docs/reference/{page}" for page in PAGES]


@pytest.mark.parametrize("page", [*GUIDES, *REFERENCE])
def test_every_link_leads_to_a_file_and_a_heading(page: str):
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(str(file.resolve().relative_to(ROOT)))):
            lost.append(target)
    assert lost == []


def test_the_guides_are_reached_from_the_readme_or_from_each_other():
    linked = {
        str(((ROOT / page).parent / target.partition("#")[0]).resolve().relative_to(ROOT))
        for page in GUIDES
        for target in links(page)
    }
    alone = [page for page in (*GUIDES, *REFERENCE) if page.startswith("docs/") and page not in linked]
    assert [page for page in alone if not re.match(r"docs/decisions/\d{4}-", page)] == []


@pytest.mark.parametrize("page", GUIDES)
def test_every_setting_it_names_exists(page: str):
    groups = {name for name, field in Settings.model_fields.items() if hasattr(field.annotation, "model_fields")}
    named = [code.split(".") for code in inline_code(page) if re.fullmatch(r"[a-z_]+(\.(\*|[a-z_]+))+", code)]
    wrong = [
        ".".join(steps)
        for steps in named
        if (steps[0] in groups and steps[1] not in Settings.model_fields[steps[0]].annotation.model_fields)
        or (steps[0] == "accounts" and steps[-1] not in AccountSettings.model_fields)
    ]
    assert wrong == []


@pytest.mark.parametrize("page", GUIDES)
def test_every_metric_it_names_is_recorded(page: str):
    named = {code for code in inline_code(page) if re.fullmatch(r"(batchmill|gen_ai|messaging)(\.[a-z_]+)+", code)}
    assert {name for name in named - _NO_METRICS if name not in METRICS or name in unrecorded()} == set()


#: dotted names that are something else: a Python package, a file
_NO_METRICS = frozenset({"batchmill.agents.kafka", "batchmill.toml"})


@pytest.mark.parametrize("page", GUIDES)
def test_every_test_it_names_exists(page: str):
    """`tests/x/test_y.py::test_z`, and plain paths of this repository."""
    paths = [
        code
        for code in inline_code(page)
        if re.fullmatch(r"(tests|agents|streams|schemas|infra)/[\w./*-]+(::\w+)?", code)
    ]
    lost = []
    for path in paths:
        file, _, name = path.partition("::")
        found = list(ROOT.glob(file.rstrip("/")))
        if not found or (name and f"def {name}(" not in found[0].read_text(encoding="utf-8")):
            lost.append(path)
    assert lost == []
