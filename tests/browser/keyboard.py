"""People at the keyboard of a browser: what they press, and what twenty records are then expected to have become.

What lives here: keys and waits that hold at any `ReviewingSite`. What must not: a site, or what lies behind one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page

from tests.browser.reviewing import ReviewingSite, records

__all__ = [
    "CORRECTED",
    "RECORDS",
    "Plan",
    "as_decided",
    "decide",
    "has_focus",
    "moved",
    "request_of",
    "review_everything",
    "somebody",
]

RECORDS = 20
WAIT_MS = 10_000
LOOK_MS = 20
CORRECTED = "jar road: every letter of it is a key"


@asynccontextmanager
async def somebody(browser: Browser, site: ReviewingSite, name: str, **how: Any) -> AsyncIterator[Page]:
    """A person at a browser of their own, logged in by keyboard, looking at the queue."""
    context: BrowserContext = await browser.new_context(**how)
    context.set_default_timeout(WAIT_MS)
    try:
        page = await context.new_page()
        await page.goto(f"{site.url}/review")
        await has_focus(page.locator("#token"))
        await page.keyboard.insert_text(site.tokens[name])
        await page.keyboard.press("Enter")
        await page.locator("#main table.queue").wait_for()
        yield page
    finally:
        await context.close()


async def has_focus(place: Locator) -> None:
    """Whether keys go there: also in a window that is not the foremost one."""
    await place.first.wait_for()
    for _ in range(WAIT_MS // LOOK_MS):
        if await place.first.evaluate("element => document.activeElement === element"):
            return
        await asyncio.sleep(LOOK_MS / 1_000)
    pytest.fail(f"the caret is not at {place}")


def shown(page: Page) -> Locator:
    return page.locator("#main [data-request]")


async def request_of(page: Page) -> str | None:
    """The record on the page, None on any other page."""
    return await shown(page).get_attribute("data-request") if await shown(page).count() else None


async def moved(page: Page, press: Callable[[], Awaitable[Any]]) -> str | None:
    """Do something that leads to another page; the record on it, None: the queue."""
    await page.locator("#main").evaluate("main => main.setAttribute('data-old', '')")
    await press()
    await page.locator("#main:not([data-old])").wait_for()
    return await request_of(page)


@dataclass
class Plan:
    """What is to be decided about each record, whoever comes to it."""

    site: ReviewingSite
    undone: set[str] = field(default_factory=set)
    done_by: dict[str, set[str]] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return set().union(*self.done_by.values()) == set(self.site.waiting)

    def action(self, request_id: str) -> str:
        kind = self.site.waiting.index(request_id) % 5
        if kind == 3 and request_id not in self.undone:
            return "accept, then undo"
        return ("accept", "correct", "decline", "decline", "accept")[kind]


async def review(page: Page, plan: Plan, name: str) -> None:
    """Decide until everything is decided, with keys only."""
    now = await moved(page, lambda: page.keyboard.press("Enter"))
    for _ in range(RECORDS * 5):
        if now is None:
            if plan.is_done:
                return
            await asyncio.sleep(LOOK_MS * 10 / 1_000)  # what was undone is on its way back, or the other has the last
            await page.goto(f"{plan.site.url}/review/next")
            now = await request_of(page)
        elif not await page.locator('[data-key="a"]').count():
            now = await moved(page, lambda: page.keyboard.press("j"))
        else:
            now = await one_step(page, plan, name, now)
    pytest.fail("the queue never came to its end")


async def one_step(page: Page, plan: Plan, name: str, now: str) -> str | None:
    await has_focus(page.locator("h1"))
    action = plan.action(now)
    if action == "accept, then undo":
        plan.undone.add(now)
        await moved(page, lambda: page.keyboard.press("a"))
        return await moved(page, lambda: page.keyboard.press("u"))
    plan.done_by.setdefault(name, set()).add(now)
    return await moved(page, lambda: decide(page, action))


async def decide(page: Page, action: str) -> None:
    match action:
        case "accept":
            await page.keyboard.press("a")
        case "decline":
            await page.keyboard.press("r")
            await has_focus(page.locator("details[open] input[type=radio]").first)
            await page.keyboard.press("2")
            await page.keyboard.press("Enter")
        case "correct":
            await page.keyboard.press("e")
            await has_focus(page.locator("[name='t.r.0']"))
            await page.keyboard.press("Control+a")
            await page.keyboard.type(CORRECTED)
            await page.keyboard.press("Control+Enter")


async def review_everything(browser: Browser, site: ReviewingSite) -> Plan:
    """Ada and Bob decide the twenty records at the same time; each has a share of them, none has both."""
    plan = Plan(site)
    async with somebody(browser, site, "ada") as ada, somebody(browser, site, "bob") as bob:
        await asyncio.gather(review(ada, plan, "ada"), review(bob, plan, "bob"))
    first, second = plan.done_by["ada"], plan.done_by["bob"]
    assert first & second == set()
    assert first | second == set(site.waiting)
    assert min(len(first), len(second)) >= 3
    return plan


def as_decided(number: int) -> Any:
    """What is written downstream of this record; None: nothing."""
    expected = dict(records(RECORDS)[number].output)
    match number % 5:
        case 0 | 4:
            return expected
        case 1:
            return {**expected, "road": CORRECTED}
        case _:
            return None
