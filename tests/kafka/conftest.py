"""Everything in this folder needs a broker, so nothing in it has to say so."""

from pathlib import Path

import pytest

from tests.browser.conftest import browser, chromium

__all__ = ["browser", "chromium"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kafka)
