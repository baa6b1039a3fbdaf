"""What the declarations name is there: metrics and labels, settings, commands, files."""

import re
import shlex
from typing import Any

import pytest
import yaml

from batchmill.agents.settings import Settings, env_name
from batchmill.agents.telemetry.names import METRICS, prometheus_name
from tests.docs.generate import unrecorded
from tests.docs.pages import ROOT
from tests.docs.test_commands import _fault

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "infra/alerts/batchmill.rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
DOCKERFILE = (ROOT / "infra/image/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def _instructions(word: str) -> list[str]:
    return re.findall(rf"^{word} +(.*)$", DOCKERFILE, re.MULTILINE)


def _exported() -> dict[str, str]:
    """What Prometheus scrapes -> our name."""
    named = {}
    for name, metric in METRICS.items():
        base = prometheus_name(name)
        for suffix in ("",) if metric.buckets is None else ("_bucket", "_sum", "_count"):
            named[base + suffix] = name
    return named


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_metrics_that_are_recorded_and_labels_they_have(rule: dict[str, Any]):
    exported = _exported()
    asked = re.findall(r"\b(?:batchmill|gen_ai|messaging)_\w+", rule["expr"])
    assert asked
    assert [name for name in asked if name not in exported] == []
    assert [name for name in asked if exported[name] in unrecorded()] == []
    labels = {label for name in asked for label in METRICS[exported[name]].labels} | {"le"}
    used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(",")}
    used |= set(re.findall(r"[{,](\w+)[!=~]+\"", rule["expr"]))
    used |= set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used - labels == set()


def test_every_rule_says_who_is_to_be_woken_and_why():
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    assert all(rule["annotations"]["summary"] for rule in RULES)


def test_the_image_does_not_run_as_root():
    assert _instructions("USER") == ["10001"]


def test_the_image_asks_the_command_line_for_its_health_and_starts_a_worker():
    (health,) = _instructions("HEALTHCHECK")
    asked = yaml.safe_load(health.partition("CMD ")[2])
    assert asked[0] == "batchmill"
    assert _fault(asked[1:], mention=False) is None
    (entry,), (command,) = _instructions("ENTRYPOINT"), _instructions("CMD")
    assert yaml.safe_load(entry) == ["batchmill"]
    assert _fault(yaml.safe_load(command), mention=False) is None


def test_the_image_sets_only_settings_that_exist():
    settings = {env_name(name) for name in _names(Settings)}
    said = {word.partition("=")[0] for line in _instructions("ENV") for word in shlex.split(line)}
    named = re.findall(r"BATCHMILL_\w+", DOCKERFILE)
    assert {name for name in said if name.startswith("BATCHMILL_")} <= settings
    assert {name for name in named if name not in settings} == set()


def _names(group: Any, prefix: str = "") -> list[str]:
    found = []
    for name, field in group.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        found += _names(field.annotation, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


def test_the_image_copies_what_there_is():
    sources = [word for line in _instructions("COPY") if "--from" not in line for word in shlex.split(line)[:-1]]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
