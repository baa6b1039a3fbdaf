"""The API: what each role may do, what is answered, and that nothing it answers is undocumented."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from batchmill.agents.desk.model import Role
from batchmill.agents.web.api import ROLE_KEY
from batchmill.agents.web.app import OPENAPI
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Status
from tests.agents.web_world import SAME_SITE, Web, a_web

RANKS = list(Role)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with a_web(tmp_path) as made:
        yield made


def tokens_of(web: Web) -> dict[Role, str]:
    return {role: web.tokens.create(f"a-{role}", role) for role in Role}


async def document(web: Web) -> dict[str, Any]:
    async with web.client() as client:
        found: dict[str, Any] = (await client.get(OPENAPI)).json()
    return found


BODIES: dict[str, Any] = {
    "accept": {},
    "correct": {"output": {"label": "water", "confidence": 1}},
    "decline": {"reason": "wrong"},
    "defer": {"until_ms": 1_800_000_100_000},
    "accept-many": {"request_ids": ["x"], "expect": 1},
    "revert": {"run": "run-1"},
    "replay": {"run": "run-1"},
    "redrive": {"job": "triage"},
}


async def test_every_operation_is_open_to_its_role_and_those_above_and_closed_to_those_below(web: Web) -> None:
    given = tokens_of(web)
    paths = (await document_as(web, given[Role.VIEWER]))["paths"]
    asked = 0
    for path, methods in paths.items():
        for method, operation in methods.items():
            needed = Role(operation[ROLE_KEY])
            if path.endswith("/events"):
                continue  # it never ends; its own test
            for role in Role:
                real = path.format(request_id=web.world.ask(), decision_id="d", job="triage")
                body = BODIES.get(path.rsplit("/", 1)[-1])
                async with web.client(given[role]) as client:
                    answer = await client.request(method, real, json=body)
                allowed = RANKS.index(role) >= RANKS.index(needed)
                assert (answer.status_code != 403) == allowed, (role, method, path, answer.text)
                asked += 1
    assert asked > 60


async def document_as(web: Web, token: str) -> dict[str, Any]:
    async with web.client(token) as client:
        found: dict[str, Any] = (await client.get(OPENAPI)).json()
    return found


async def test_who_changes_something_is_a_reviewer_at_least_and_who_touches_the_sink_an_operator(web: Web) -> None:
    paths = (await document(web))["paths"]
    roles = {
        (method, path): Role(told[ROLE_KEY]) for path, methods in paths.items() for method, told in methods.items()
    }
    assert all(role is Role.VIEWER for (method, _), role in roles.items() if method == "get")
    assert all(role.may(Role.REVIEWER) for (method, _), role in roles.items() if method != "get")
    for word in ("commits/revert", "commits/replay", "dead-letters/redrive", "{job}/pause", "{job}/resume"):
        assert roles["post", f"/api/v1/{'jobs/' if word.startswith('{') else ''}{word}"] is Role.OPERATOR


async def test_a_viewer_decides_nothing_and_a_reviewer_reverts_nothing(web: Web) -> None:
    given = tokens_of(web)
    name = web.world.ask()
    async with web.client(given[Role.VIEWER]) as client:
        refused = await client.post(f"/api/v1/requests/{name}/accept", json={})
    async with web.client(given[Role.REVIEWER]) as client:
        also = await client.post("/api/v1/commits/revert", json={"run": "run-1", "dry_run": False})
    assert (refused.status_code, also.status_code) == (403, 403)
    assert (web.world.decided, web.given) == ([], [])
    assert web.world.life(name).status is Status.NEEDS_REVIEW


async def test_a_review_from_queue_to_undo(web: Web) -> None:
    name = web.world.ask()
    async with web.client(tokens_of(web)[Role.REVIEWER]) as client:
        (item,) = (await client.get("/api/v1/queue")).json()["items"]
        assert item["request_id"] == name == (await client.get("/api/v1/queue/next")).json()["request_id"]
        card = (await client.get(f"/api/v1/requests/{name}")).json()
        assert card["input"] == {"body": "The printer is on fire."}
        seen = {"seen": card["output_sha256"]}
        accepted = await client.post(f"/api/v1/requests/{name}/accept", json=seen)
        assert accepted.status_code == 200
        assert web.world.life(name).status is Status.VALIDATED
        undone = await client.post(f"/api/v1/decisions/{accepted.json()['decision']['id']}/undo")
        assert undone.status_code == 200, undone.text
    assert [each.actor for each in web.world.decided] == ["a-reviewer"] * 2
    assert [each.action for each in web.world.decided] == ["accept", "undo"]


async def test_a_correction_that_fails_is_refused_with_its_checks_and_without_what_was_sent(web: Web) -> None:
    name = web.world.ask()
    async with web.client(headers=SAME_SITE) as client:
        wrong = {"output": {"label": "SECRET-LABEL", "confidence": 1}}
        answer = await client.post(f"/api/v1/requests/{name}/correct", json=wrong)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [check["path"] for check in answer.json()["checks"]] == ["label"]
    assert "SECRET-LABEL" not in answer.text


@pytest.mark.parametrize(
    "body", ['{"output": NaN}', '{"output": "\\ud800"}', '{"output": ' + "[" * 5000 + "]" * 5000 + "}"]
)
async def test_what_is_no_json_is_refused_and_not_a_bug(web: Web, body: str) -> None:
    name = web.world.ask()
    async with web.client(headers={**SAME_SITE, "content-type": "application/json"}) as client:
        answer = await client.post(f"/api/v1/requests/{name}/correct", content=body)
    assert answer.status_code in {400, 422}, answer.text
    assert web.world.decided == []


async def test_many_are_accepted_by_their_exact_number_or_not_at_all(web: Web) -> None:
    names = [web.world.ask() for _ in range(3)]
    async with web.client(headers=SAME_SITE) as client:
        wrong = await client.post("/api/v1/accept-many", json={"request_ids": names, "expect": 2})
        assert (wrong.status_code, web.world.decided) == (422, [])
        right = await client.post("/api/v1/accept-many", json={"request_ids": names, "expect": 3})
    assert right.status_code == 200
    assert [each.request_id for each in web.world.decided] == names


async def test_gold_is_one_object_per_line(web: Web) -> None:
    kept, changed = web.world.ask(), web.world.ask()
    async with web.client(headers=SAME_SITE) as client:
        await client.post(f"/api/v1/requests/{kept}/accept", json={})
        right = {"label": "water", "confidence": 1}
        assert (await client.post(f"/api/v1/requests/{changed}/correct", json={"output": right})).status_code == 200
        lines = (await client.get("/api/v1/jobs/triage/gold")).text.splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["request_id"], first["output"]) == (kept, first["original"])
    assert (second["output"], second["original"]["label"]) == (right, "fire")
    assert first["input"] == {"body": "The printer is on fire."}


async def test_a_revert_counts_first_and_is_a_command_only_when_told(web: Web) -> None:
    name = web.world.ask()
    async with web.client(headers=SAME_SITE) as client:
        await client.post(f"/api/v1/requests/{name}/accept", json={})
        web.world.commit(name)
        run = web.world.life(name).run_id
        dry = (await client.post("/api/v1/commits/revert", json={"run": run})).json()
        assert (dry["records"], dry["executed"], web.given) == (1, False, [])
        done = (await client.post("/api/v1/commits/revert", json={"run": run, "dry_run": False})).json()
    assert (done["executed"], done["by_job"]) == (True, {"triage": 1})
    (command,) = web.given
    assert (command["command"], command["job"], json.loads(command["body"])) == ("revert", "triage", {"run": run})
    assert command["actor"] == "me@here"


async def test_dead_letters_are_listed_and_redriven(web: Web) -> None:
    name = web.world.ask()
    async with web.client(headers=SAME_SITE) as client:
        await client.post(f"/api/v1/requests/{name}/decline", json={"reason": "wrong"})
        (letter,) = (await client.get("/api/v1/dead-letters", params={"reason": "declined"})).json()
        assert letter["request_id"] == name
        planned = await client.post("/api/v1/dead-letters/redrive", json={"reason": "declined"})
        assert (planned.json()["by_reason"], web.given) == ({"declined": 1}, [])
        done = await client.post("/api/v1/dead-letters/redrive", json={"names": [letter["id"]], "dry_run": False})
    assert done.json()["executed"]
    assert json.loads(web.given[0]["body"])["requests"] == [name]


async def test_what_the_broker_does_not_confirm_is_said_to_be_unavailable(web: Web) -> None:
    name = web.world.ask()
    web.world.broken = KafkaTimeoutError()
    async with web.client(headers=SAME_SITE) as client:
        answers = [
            await client.post(f"/api/v1/requests/{name}/accept", json={}),
            await client.get(f"/api/v1/requests/{name}"),
            await client.post("/api/v1/commits/revert", json={"requests": [name]}),
        ]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json()["type"] == "urn:batchmill:503"


async def test_every_answer_that_is_no_success_is_a_problem_and_documented(web: Web) -> None:
    name = web.world.ask(reason=Reason.RULE_FAILED)
    told = (await document(web))["paths"]
    async with web.client(headers=SAME_SITE) as client:
        for method, path, pattern, body, status in [
            ("get", f"/api/v1/requests/{'z' * 32}", "/api/v1/requests/{request_id}", None, 404),
            ("get", "/api/v1/queue?limit=0", "/api/v1/queue", None, 422),
            ("get", "/api/v1/queue?after=nonsense", "/api/v1/queue", None, 422),
            ("post", f"/api/v1/requests/{name}/accept", "/api/v1/requests/{request_id}/accept", {"x": 1}, 422),
            ("post", f"/api/v1/requests/{name}/undo", "/api/v1/requests/{request_id}/undo", None, 404),
            ("post", "/api/v1/jobs/none/pause", "/api/v1/jobs/{job}/pause", None, 404),
        ]:
            answer = await client.request(method, path, json=body)
            assert answer.status_code == status, (path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert str(status) in told[pattern][method]["responses"]
