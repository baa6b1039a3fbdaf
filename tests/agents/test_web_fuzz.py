"""Requests that nobody would think of: no bug is found by them, and no answer that is not documented."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from batchmill.agents.desk.model import Role
from batchmill.agents.web.app import OPENAPI
from batchmill.schemas.reasons import Reason
from tests.agents.web_world import Web, a_web

#: what an answer is held against
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: requests made up per operation
EXAMPLES = 40


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with a_web(tmp_path_factory.mktemp("fuzz"), hosts=("testserver", "127.0.0.1")) as made:
        for reason in (Reason.LOW_CONFIDENCE, Reason.RULE_FAILED, None):
            made.world.ask(reason=reason)
        yield made


def test_no_bug_is_found_and_no_answer_that_is_not_documented(web: Web) -> None:
    token = {"Authorization": f"Bearer {web.tokens.create('fuzz', Role.OPERATOR)}"}
    schema = schemathesis.openapi.from_asgi(OPENAPI, web.app, headers=token)
    statuses: Counter[int] = Counter()
    operations, turns = 0, itertools.count()
    for found in schema.exclude(path_regex="/events$").get_all_operations():  # it never ends; its own test
        operations += 1

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
        @given(case=found.ok().as_strategy())
        def every(case: Any) -> None:
            if "request_id" in (case.path_parameters or {}) and next(turns) % 2:
                case.path_parameters["request_id"] = web.world.ask()  # or few would ever get past 404
            response = case.call(headers=token)
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        every()
    assert operations >= 25
    assert statuses[200] > operations, statuses
    assert statuses[422] + statuses[404] > operations, statuses
