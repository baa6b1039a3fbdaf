"""What people do with the pages, in a real browser: by keyboard alone, without a script, two at once, under attack.

The pictures in build/screenshots are made to be looked at.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Dialog, Page, expect

from tests.browser.hostile import hostile_records, plant
from tests.browser.keyboard import (
    RECORDS,
    as_decided,
    decide,
    has_focus,
    moved,
    request_of,
    review_everything,
    somebody,
)
from tests.browser.reviewing import ReviewingSite, decide_some, records, reviewing_site

PICTURES = Path(__file__).parents[2] / "build" / "screenshots"


#: one browser for all
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def site(tmp_path: Path) -> AsyncIterator[ReviewingSite]:
    async with reviewing_site(tmp_path, records(RECORDS)) as made:
        yield made


# --- must-show: twenty records by keyboard alone, two people at once ---


async def test_two_people_review_twenty_records_by_keyboard_and_what_is_written_is_what_they_decided(
    browser: Browser, site: ReviewingSite
) -> None:
    await review_everything(browser, site)
    for number, name in enumerate(site.waiting):
        outcome, expected = await site.outcome(name), as_decided(number)
        state = "declined" if expected is None else "accepted"
        assert (outcome.state, outcome.output) == (state, expected)


async def test_an_undone_record_comes_back_by_itself_when_the_pipeline_takes_its_time(
    browser: Browser, tmp_path: Path
) -> None:
    async with (
        reviewing_site(tmp_path, records(3), lag_seconds=0.5) as site,
        somebody(browser, site, "ada") as page,
    ):
        name = await moved(page, lambda: page.keyboard.press("Enter")) or ""
        await moved(page, lambda: page.keyboard.press("a"))
        assert await moved(page, lambda: page.keyboard.press("u")) == name
        await page.locator('[data-key="a"]').wait_for()
        await moved(page, lambda: decide(page, "decline"))
        await page.goto(f"{site.url}/review/{name}")
        await expect(page.locator(".verdict")).to_contain_text("failed terminal: declined")
        assert (await site.outcome(name)).state == "declined"


async def test_a_record_that_somebody_looks_at_is_shown_as_held_until_they_leave(
    browser: Browser, site: ReviewingSite
) -> None:
    async with somebody(browser, site, "ada") as ada, somebody(browser, site, "bob") as bob:
        held = await moved(ada, lambda: ada.keyboard.press("Enter"))
        await bob.goto(f"{site.url}/review/{held}")
        await expect(bob.locator(".record .lock")).to_contain_text("held by ada")
        await expect(bob.locator(".decide")).to_contain_text("ada is looking at it")
        await expect(bob.locator('[data-key="a"]')).to_have_count(0)
        await bob.goto(f"{site.url}/review")
        assert await moved(bob, lambda: bob.keyboard.press("Enter")) != held
        await moved(ada, lambda: ada.keyboard.press("j"))
        await bob.goto(f"{site.url}/review/{held}")
        await expect(bob.locator('[data-key="a"]')).to_be_visible()


async def test_keys_type_in_fields_edits_are_not_lost_and_mistakes_are_told_at_their_fields(
    browser: Browser, site: ReviewingSite
) -> None:
    async with somebody(browser, site, "ada") as page:
        name = await moved(page, lambda: page.keyboard.press("Enter"))
        await page.keyboard.press("e")
        await page.keyboard.type("arjkue?")
        await expect(page.locator("[name='t.r.0']")).to_have_value(value_ending("arjkue?"))
        await page.keyboard.press("Escape")
        await page.keyboard.press("a")
        await expect(page.locator("#said")).to_contain_text("You have edited the answer")
        assert await request_of(page) == name
        await page.locator("[name='d.r.4']").focus()
        await page.keyboard.press("Control+a")
        await page.keyboard.type("7")
        await page.keyboard.press("Enter")
        wrong = page.locator(".field.has-wrong")
        await expect(wrong.locator("label")).to_contain_text("confidence")
        await expect(wrong.locator(".wrong")).to_contain_text("maximum")
        await expect(page.locator("[name='t.r.0']")).to_have_value(value_ending("arjkue?"))
        assert (await site.outcome(name or "")).state == "waiting"
        assert page.url.startswith(f"{site.url}/review/{name}")
        assert "correct" not in page.url


def value_ending(text: str) -> Any:
    return re.compile(re.escape(text) + "$")


async def test_help_opens_over_the_page_and_the_queue_is_walked_line_by_line(
    browser: Browser, site: ReviewingSite
) -> None:
    async with somebody(browser, site, "vera") as page:
        await page.keyboard.press("?")
        await expect(page.locator("#help")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#help")).to_be_hidden()
        rows = page.locator("[data-row]")
        for _ in range(3):
            await page.keyboard.press("j")
        await page.keyboard.press("k")
        await has_focus(rows.nth(1))
        assert await moved(page, lambda: page.keyboard.press("Enter")) is not None
        await expect(page.locator('[data-key="a"]')).to_have_count(0)
        await expect(page.locator(".decide")).to_contain_text("deciding needs the role reviewer")


async def test_counts_in_the_head_change_while_one_looks(browser: Browser, site: ReviewingSite) -> None:
    async with somebody(browser, site, "vera") as vera, somebody(browser, site, "ada") as ada:
        await expect(vera.locator(".live")).to_contain_text(f"{RECORDS} waiting")
        await moved(ada, lambda: ada.keyboard.press("Enter"))
        await moved(ada, lambda: ada.keyboard.press("a"))
        await expect(vera.locator(".live")).to_contain_text(f"{RECORDS - 1} waiting")
        await expect(vera.locator(".live")).to_contain_text("1 being looked at")


# --- without a script ---


async def test_everything_can_be_read_and_decided_without_a_script(browser: Browser, site: ReviewingSite) -> None:
    async with somebody(browser, site, "ada", java_script_enabled=False) as page:
        await page.get_by_role("button", name="Begin reviewing").click()
        accepted = await request_of(page)
        await page.get_by_role("button", name="Accept").click()
        await expect(page.locator(".note.good")).to_contain_text("accepted")
        await page.get_by_role("button", name="Undo").click()
        assert await request_of(page) == accepted
        await page.get_by_role("button", name="Add an item").click()
        notes = page.locator("[name^='t.r.5.']")
        await expect(notes).to_have_count(2)
        await notes.nth(1).fill("a second note")
        await page.get_by_role("button", name="Remove item 1").click()
        await expect(notes).to_have_count(1)
        await page.get_by_role("button", name="Save the correction").click()
        outcome = await site.outcome(accepted or "")
        assert (outcome.state, outcome.output["notes"]) == ("accepted", ["a second note"])
        declined = await request_of(page)
        await page.get_by_text("Decline").first.click()
        await page.get_by_label("incomplete").check()
        await page.locator("form[action*='/decline'] button").click()
        assert (await site.outcome(declined or "")).state == "declined"
        deferred = await request_of(page)
        await page.get_by_text("Defer").first.click()
        await page.get_by_label("until tomorrow").check()
        await page.locator("form[action*='/defer'] button").click()
        await page.goto(f"{site.url}/review")
        await expect(page.locator(".facts")).to_contain_text("1 deferred")
        assert deferred is not None
        assert (await site.outcome(deferred)).state == "waiting"


async def test_many_are_accepted_after_their_number_is_confirmed(browser: Browser, site: ReviewingSite) -> None:
    async with somebody(browser, site, "ada", java_script_enabled=False) as page:
        await page.goto(f"{site.url}/review/bulk?reason=sampled")
        boxes = page.locator("[name=id]")
        chosen = [await boxes.nth(at).get_attribute("value") or "" for at in range(3)]
        for at in range(3):
            await boxes.nth(at).check()
        await page.get_by_role("button", name="Accept the chosen ones").click()
        await expect(page.locator("h1")).to_have_text("Accept 3 answers as they are?")
        assert [(await site.outcome(name)).state for name in chosen] == ["waiting"] * 3
        await page.get_by_role("button", name="Accept 3").click()
        await expect(page.locator("h1")).to_have_text("3 accepted")
        assert [(await site.outcome(name)).state for name in chosen] == ["accepted"] * 3


# --- under attack: inputs, answers, names, reasons and errors written to break out of their place ---


@dataclass
class Watcher:
    """Whatever a page does that it must not."""

    url: str
    seen: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("dialog", self._dialog)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        page.on("popup", lambda popup: self.seen.append(f"popup: {popup.url}"))
        page.on("request", lambda asked: self._request(asked.url))

    def _console(self, told: ConsoleMessage) -> None:
        """A refusal of ours is no error of the page: a browser notes every status above 399."""
        if told.type in {"error", "warning"} and "responded with a status of 422" not in told.text:
            self.seen.append(f"console: {told.text}")

    def _request(self, url: str) -> None:
        if not url.startswith((self.url, "data:image/svg+xml")):
            self.seen.append(f"request: {url}")

    async def _dialog(self, dialog: Dialog) -> None:
        self.seen.append(f"dialog: {dialog.message}")
        await dialog.dismiss()


_NEVER = (
    ".pwned, base, object, embed, iframe, meta[http-equiv], a[href^='javascript'], script:not([src]), style, [style], "
    "[onerror], [onload], [onclick], form[action^='http'], main [hx-get]:not(.verdict), main img, main svg"
)


async def inert(page: Page) -> None:
    """Nothing that a stranger wrote has become part of the page."""
    found = await page.locator(_NEVER).evaluate_all("all => all.map(each => each.outerHTML.slice(0, 200))")
    assert found == [], page.url
    assert await page.locator("link, script[src]").count() == 6
    assert "pwned-49" not in await page.content()
    assert await page.title() != "pwned"


async def test_what_strangers_wrote_stays_text_on_every_page(browser: Browser, tmp_path: Path) -> None:
    async with reviewing_site(tmp_path, hostile_records()) as site:
        request_id = await plant(site)
        watcher = Watcher(site.url)
        async with somebody(browser, site, "olga") as page:
            watcher.watch(page)
            for path in (
                "/review",
                *(f"/review/{name}" for name in site.waiting),
                f"/review/{site.waiting[0]}?all=1",
                f"/review/{request_id}",
                "/review/bulk",
                "/review/progress?job=addresses",
                "/runs",
                "/dead-letters",
            ):
                await page.goto(site.url + path)
                await inert(page)
            await page.goto(f"{site.url}/review")
            for _ in site.waiting:  # the same again, put in place by the script
                await moved(page, page.locator("[data-row], [data-key='j']").first.click)
                await inert(page)
            await page.goto(f"{site.url}/review/{site.waiting[0]}")
            await moved(page, page.locator("[value='json r'], [value='form r']").first.click)
            await inert(page)
            await page.goto(f"{site.url}/review/bulk")
            await page.locator("[data-all]").check()
            await moved(page, lambda: page.keyboard.press("a"))
            await inert(page)
            for form in ("/runs/plan", "/dead-letters/plan"):
                await page.goto(site.url + form.removesuffix("/plan"))
                if form.startswith("/dead"):
                    await page.locator("[data-all]").check()
                await moved(page, lambda form=form: page.locator(f"form[action='{form}'] button").first.click())  # type: ignore[misc]
                await inert(page)
        assert watcher.seen == []


# --- pictures ---

_LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


async def picture(page: Page, name: str, *, end: bool = False) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    if end:
        await page.mouse.wheel(0, 10_000)
    await page.screenshot(path=PICTURES / f"{name}.png")


@pytest.mark.parametrize("look", _LOOKS)
async def test_no_page_is_wider_than_its_window(browser: Browser, site: ReviewingSite, look: str) -> None:
    """And of each a picture, for people."""
    await decide_some(site)
    async with somebody(browser, site, "olga", **_LOOKS[look]) as page:
        for path, name in (
            ("/review", "queue"),
            (f"/review/{site.waiting[1]}", "record"),
            (f"/review/{site.waiting[0]}", "decided"),
            ("/review/bulk", "bulk"),
            ("/review/progress?job=addresses", "progress"),
            ("/runs", "runs"),
            ("/dead-letters", "letters"),
            ("/login", "login"),
        ):
            await page.goto(site.url + path)
            await picture(page, f"{look}-{name}")
            wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, path
        await page.goto(f"{site.url}/review/{site.waiting[1]}")
        await picture(page, f"{look}-end", end=True)
        await page.keyboard.press("r")
        await picture(page, f"{look}-decline")
        await page.keyboard.press("Escape")
        await page.keyboard.press("?")
        await picture(page, f"{look}-help")
