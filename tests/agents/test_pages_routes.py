"""The pages behind the gate: who may do what, forms sent twice, addresses that lead back, words for every reason."""

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from batchmill.agents.desk.model import Role
from batchmill.agents.web.pages import words
from batchmill.agents.web.pages.rendering import ASSETS
from batchmill.agents.web.pages.trail import Done, Trail
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Status
from tests.agents.pages_world import Pages, some_pages

VENDOR = Path(__file__).parents[2] / "agents/batchmill/agents/web/pages/static/vendor"
TEMPLATES = VENDOR.parents[1] / "templates"


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    with some_pages(tmp_path) as made:
        yield made


def seen_in(page: httpx.Response) -> dict[str, str]:
    found = re.search(r'name="seen" value="(\w+)"', page.text)
    assert found
    return {"seen": found[1]}


async def test_a_decision_leads_to_the_next_record_and_names_itself(pages: Pages) -> None:
    first, second = pages.world.ask(confidence=0.1), pages.world.ask(confidence=0.9)
    async with pages.browser(Role.REVIEWER) as browser:
        page = await browser.get(f"/review/{first}?job=triage")
        done = await browser.post(f"/review/{first}/accept?job=triage", data=seen_in(page))
        assert done.status_code == 303
        assert done.headers["location"].startswith(f"/review/{second}?job=triage")
        onward = await browser.get(done.headers["location"])
    assert "accepted" in onward.text
    assert f"/review/{first}/undo" in onward.text
    assert pages.world.life(first).status is Status.VALIDATED


@pytest.mark.parametrize("eager", [True, False])
async def test_a_form_that_is_sent_twice_is_decided_once(tmp_path: Path, eager: bool) -> None:
    with some_pages(tmp_path, eager=eager) as pages:
        name = pages.world.ask()
        async with pages.browser(Role.REVIEWER) as browser:
            form = seen_in(await browser.get(f"/review/{name}"))
            answers = [await browser.post(f"/review/{name}/accept", data=form) for _ in range(2)]
            form = {"id": name, "expect": "1", f"seen.{name}": form["seen"]}
            many = await browser.post("/review/bulk/accept", data=form)
        assert [answer.status_code for answer in answers] == [303, 303]
        assert many.status_code == 303
        assert [decision.action for decision in pages.world.decided] == ["accept"]


async def test_a_decision_about_another_answer_is_not_taken_for_this_one(pages: Pages) -> None:
    """It was declined once, and asked again: a second decline that is refused was no double click."""
    name = pages.world.ask()
    async with pages.browser(Role.REVIEWER) as ada:
        form = {**seen_in(await ada.get(f"/review/{name}")), "reason": "wrong"}
        await ada.post(f"/review/{name}/decline", data=form)
        pages.world.answer_anew(name, {"label": "water", "confidence": 0.5})
        form |= seen_in(await ada.get(f"/review/{name}"))
        pages.world.answer_anew(name, {"label": "other", "confidence": 0.5})
        late = await ada.post(f"/review/{name}/decline", data=form)
        assert (late.status_code, "another one now" in late.text) == (409, True)
    assert len(pages.world.decided) == 1


async def test_many_are_accepted_as_they_were_seen_or_not_at_all(pages: Pages) -> None:
    names = [pages.world.ask() for _ in range(2)]
    async with pages.browser(Role.REVIEWER) as browser:
        page = await browser.get("/review/bulk")
        seen = dict(re.findall(r'name="(seen\.\w+)" value="(\w+)"', page.text))
        assert len(seen) == 2
        confirm = await browser.post("/review/bulk", data={"id": names, **seen})
        assert dict(re.findall(r'name="(seen\.\w+)" value="(\w+)"', confirm.text)) == seen
        pages.world.answer_anew(names[1], {"label": "water", "confidence": 0.5})
        late = await browser.post("/review/bulk/accept", data={"id": names, "expect": "2", **seen})
        assert (late.status_code, "another one now" in late.text) == (409, True)
        unsaid = await browser.post("/review/bulk/accept", data={"id": names, "expect": "2"})
        assert unsaid.status_code == 422
    assert pages.world.decided == []


async def test_another_decision_about_a_decided_record_is_refused_on_its_page(pages: Pages) -> None:
    name = pages.world.ask()
    async with pages.browser(Role.REVIEWER, name="ada") as ada, pages.browser(Role.REVIEWER, name="bob") as bob:
        form = seen_in(await bob.get(f"/review/{name}"))
        late = await ada.post(f"/review/{name}/accept", data=form)
        assert (late.status_code, "bob is looking at" in late.text) == (409, True)
        await bob.post(f"/review/{name}/decline", data={**form, "reason": "wrong"})
        late = await ada.post(f"/review/{name}/accept", data=form)
    assert late.status_code == 409
    assert late.headers["content-type"].startswith("text/html")
    assert [decision.actor for decision in pages.world.decided] == ["bob"]


async def test_a_correction_that_fails_its_checks_keeps_what_was_typed(pages: Pages) -> None:
    name = pages.world.ask({"label": "fire", "confidence": 0.5})
    async with pages.browser(Role.REVIEWER) as browser:
        form = {**seen_in(await browser.get(f"/review/{name}")), "do": "save", "m.r": "object", "e.r.2": "absent"}
        form |= {"t.r.0": "earth", "e.r.0": "text", "d.r.1": "0.5", "t.r.2": ""}
        refused = await browser.post(f"/review/{name}/correct", data=form)
        assert refused.status_code == 422
        assert "earth</textarea>" in refused.text
        assert 'aria-describedby="n.r.0"' in refused.text
        assert pages.world.decided == []
        unchanged = await browser.post(f"/review/{name}/correct", data={**form, "t.r.0": "fire"})
        assert "Nothing was changed" in unchanged.text
        done = await browser.post(f"/review/{name}/correct", data={**form, "t.r.0": "water"})
    assert done.status_code == 303
    assert [decision.action for decision in pages.world.decided] == ["correct"]


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/review/{}/accept", {}),
        ("/review/{}/correct", {"do": "save", "j.r": '{"label": "water", "confidence": 1}'}),
        ("/review/{}/decline", {"reason": "wrong"}),
        ("/review/{}/defer", {"for": "3600"}),
        ("/review/{}/undo", {}),
        ("/review/bulk", {"id": "x"}),
        ("/review/bulk/accept", {"id": "x", "expect": "1"}),
        ("/runs/plan", {"run": "x"}),
        ("/runs/do", {"run": "x"}),
        ("/dead-letters/plan", {"name": "x"}),
        ("/dead-letters/do", {"name": "x"}),
    ],
)
async def test_a_viewer_cannot_change_anything(pages: Pages, path: str, form: dict[str, str]) -> None:
    name = pages.world.ask()
    async with pages.browser(Role.VIEWER) as browser:
        answer = await browser.post(path.format(name), data=form)
    assert answer.status_code == 403
    assert (pages.world.decided, pages.given) == ([], [])


async def test_a_reviewer_cannot_take_back_what_is_committed(pages: Pages) -> None:
    async with pages.browser(Role.REVIEWER) as browser:
        for path in ("/runs/plan", "/runs/do", "/dead-letters/plan", "/dead-letters/do"):
            assert (await browser.post(path, data={"run": "x", "name": "x"})).status_code == 403
    assert pages.given == []


async def test_an_operator_counts_before_anything_is_taken_back(pages: Pages) -> None:
    name = pages.world.ask()
    async with pages.browser(Role.OPERATOR) as browser:
        await browser.post(f"/review/{name}/accept", data=seen_in(await browser.get(f"/review/{name}")))
        pages.world.commit(name)
        plan = await browser.post("/runs/plan", data={"request": name, "command": "revert"})
        assert "Take back 1 record?" in plan.text
        assert pages.given == []
        done = await browser.post("/runs/do", data={"request": name, "command": "revert"})
        assert done.headers["location"] == "/runs?told=revert.1"
        assert [command["command"] for command in pages.given] == ["revert"]
        told = await browser.get(done.headers["location"])
    assert "revert of 1 records" in told.text
    assert '<a href="/runs?job=triage"><bdi>triage</bdi></a>' in told.text
    assert f"<code>{pages.world.version}</code>" in told.text


async def test_opening_a_record_holds_it_unless_a_stranger_led_here(pages: Pages) -> None:
    name = pages.world.ask()
    async with pages.browser(Role.REVIEWER) as browser:
        await browser.get(f"/review/{name}", headers={"sec-fetch-site": "cross-site"})
        assert pages.world.holding.locks(now_ms=pages.world.now_ms) == {}
        await browser.get(f"/review/{name}")
        assert pages.world.holding.locks(now_ms=pages.world.now_ms)[name].holder == "ada"
        await browser.get(f"/review/next?trail={name}")
        await browser.get(f"/review/back?trail={name}")
    assert pages.world.holding.locks(now_ms=pages.world.now_ms) == {}


async def test_a_page_that_was_left_open_does_not_hold_its_record_for_ever(pages: Pages) -> None:
    name = pages.world.ask()
    async with pages.browser(Role.REVIEWER) as browser:
        page = await browser.get(f"/review/{name}")
        (address,) = re.findall(r'hx-post="([^"]+/lock[^"]*)"', page.text)
        for minutes in (20, 9):
            pages.world.now_ms += minutes * 60_000
            assert (await browser.post(address)).text == ""
            assert name in pages.world.holding.locks(now_ms=pages.world.now_ms)
        pages.world.now_ms += 2 * 60_000
        assert "holds its record no longer" in (await browser.post(address)).text
        pages.world.now_ms += int(pages.world.settings.lock_seconds * 1_000)
    assert pages.world.holding.locks(now_ms=pages.world.now_ms) == {}


async def test_what_is_not_there_is_a_page_that_leads_back(pages: Pages) -> None:
    async with pages.browser(Role.VIEWER) as browser:
        for path in ("/review/nobody", "/review/a%00b", "/static/desk.py", "/static/..%2f..%2fsite.py"):
            answer = await browser.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
            assert "To the queue" in answer.text
        for path in ("/review/x/accept", "/review/bulk/accept", "/runs/do", "/dead-letters/plan"):
            assert (await browser.get(path)).status_code == 303


@pytest.mark.parametrize("body", ["%zz", "a" * 10, "&".join("a=1" for _ in range(6_000)), "a=%ff"])
async def test_a_form_that_is_none_is_refused(pages: Pages, body: str) -> None:
    name = pages.world.ask()
    async with pages.browser(Role.REVIEWER) as browser:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await browser.post(f"/review/{name}/correct", content=body, headers=headers)
    assert answer.status_code == 422
    assert pages.world.decided == []


def test_an_address_says_where_one_is_and_drops_what_is_odd() -> None:
    done = Done(request_id="a" * 32, action="accept", undo_until_ms=5)
    trail = Trail(job="j", reason=Reason.UNCITED, mine=True, after="0.5~1~x", steps=("b", "c"), done=done)
    assert Trail.of(dict(httpx.QueryParams(trail.query.removeprefix("?")))) == trail
    odd = {"job": "<b>", "reason": "nope", "after": "\n", "trail": "a.<.b", "done": "x~explode~", "mine": "yes"}
    assert Trail.of(odd) == Trail(steps=("a", "b"))


@pytest.mark.parametrize("reason", [*Reason, None])
def test_every_reason_is_a_sentence(reason: Reason | None) -> None:
    assert re.fullmatch(r"[A-Z].*\.", words.reason_words(reason))


def test_what_is_not_ours_is_what_it_says_it_is() -> None:
    listed = dict(reversed(line.split("  ")) for line in (VENDOR / "sha256sums.txt").read_text().splitlines())
    assert {name: sha256((VENDOR / name).read_bytes()).hexdigest() for name in listed} == listed
    assert {path.name for path in VENDOR.iterdir()} == {*listed, "sha256sums.txt", "SOURCES.md"}


def test_no_page_needs_what_the_policy_forbids() -> None:
    for template in TEMPLATES.glob("*.html"):
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|hx-on|javascript:|js:|\|\s*safe|autoescape|https?://", text)
        assert re.findall(r"<script(?! src=)", text) == []
    assert {Path(name).suffix for name in ASSETS} == {".js", ".css", ".svg"}
