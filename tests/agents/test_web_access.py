"""Who is let in: by name, by site, by token; what is kept of a token; what every answer carries."""

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from batchmill.agents.desk.model import Role
from batchmill.agents.projector import ViewStore
from batchmill.agents.settings import Settings, SettingsError, load_settings
from batchmill.agents.web.access import HEADERS, is_loopback_host
from batchmill.agents.web.logging_in import Failures
from batchmill.agents.web.serving import hosts_of, local_of, run_web, token_file
from batchmill.agents.web.tokens import TokenError, TokenFile
from tests.agents.desk_world import NOW_MS
from tests.agents.web_world import HOST, SAME_SITE, Web, a_web


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with a_web(tmp_path) as made:
        yield made


# -- names and sites ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8780", "", "[", "x@127.0.0.2"]
)
async def test_a_name_that_is_not_ours_is_refused_whatever_it_points_to(web: Web, host: str) -> None:
    async with web.client() as client:
        answer = await client.get("/api/v1/queue", headers={"host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("host", [HOST, "localhost", "LOCALHOST:1", "127.0.0.1"])
async def test_our_own_names_are_answered_on_any_port(web: Web, host: str) -> None:
    async with web.client() as client:
        assert (await client.get("/api/v1/me", headers={"host": host})).status_code == 200


CROSS_SITE: list[dict[str, str]] = [
    {},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:9999"},
    {"origin": f"https://{HOST}"},
    {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
    {"sec-fetch-site": "cross-site", "origin": f"http://{HOST}"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
async def test_another_site_changes_nothing_neither_here_nor_with_a_cookie(web: Web, headers: dict[str, str]) -> None:
    name = web.world.ask()
    path = f"/api/v1/requests/{name}/accept"
    async with web.client(headers=headers) as client:
        assert (await client.post(path, json={})).status_code == 403
    token = web.tokens.create("ada", Role.REVIEWER)
    async with web.client(headers=headers, cookies={"batchmill_token": token}) as client:
        assert (await client.post(path, json={})).status_code == 403
    async with web.client(token, headers=headers, cookies={"batchmill_token": token}) as client:
        assert (
            await client.post(path, json={})
        ).status_code == 403  # a browser's cookie beside a header proves nothing
    assert web.world.decided == []


@pytest.mark.parametrize(
    "headers", [SAME_SITE, {"origin": f"http://{HOST}"}, {**SAME_SITE, "origin": f"http://{HOST}"}]
)
async def test_our_own_pages_may_decide(web: Web, headers: dict[str, str]) -> None:
    name = web.world.ask()
    async with web.client(headers=headers) as client:
        assert (await client.post(f"/api/v1/requests/{name}/accept", json={})).status_code == 200


async def test_behind_tls_our_pages_come_from_https(tmp_path: Path) -> None:
    with a_web(tmp_path, tls_proxy=True) as web:
        name = web.world.ask()
        for scheme, status in (("http", 403), ("https", 200)):
            async with web.client(headers={"origin": f"{scheme}://{HOST}"}) as client:
                answer = await client.post(f"/api/v1/requests/{name}/accept", json={})
            assert answer.status_code == status


# -- persons -----------------------------------------------------------------------------------------------------------


async def test_without_tokens_only_this_machine_comes_in(web: Web) -> None:
    async with web.client() as client:
        assert (await client.get("/api/v1/me")).json() == {"name": "me@here", "role": "operator"}
    async with web.client(address="192.0.2.7") as client:
        assert (await client.get("/api/v1/me")).status_code == 401


@pytest.mark.parametrize("name", ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"])
async def test_whoever_comes_through_a_proxy_does_not_sit_here(web: Web, name: str) -> None:
    async with web.client(headers={name: "192.0.2.7"}) as client:
        assert (await client.get("/api/v1/me")).status_code == 401


BROWSER = {"accept": "text/html,application/xhtml+xml"}


async def test_a_browser_is_refused_with_a_page_and_everybody_else_with_a_problem(tmp_path: Path) -> None:
    with a_web(tmp_path, body_bytes_max=1_024) as web:
        web.tokens.create("ada", Role.VIEWER)
        asked: list[tuple[str, str, dict[str, Any], int]] = [
            ("GET", "/review", {"headers": {"host": "evil.example"}}, 421),
            ("POST", "/review", {}, 403),
            ("POST", "/review", {"headers": SAME_SITE}, 401),
            ("POST", "/login", {"headers": SAME_SITE, "content": b"x" * 2_000}, 413),
            ("POST", "/login", {"headers": SAME_SITE, "data": {"no": "token"}}, 422),
        ]
        async with web.client() as client:
            for method, path, how, status in asked:
                given = how.pop("headers", {})
                page = await client.request(method, path, headers={**given, **BROWSER}, **how)
                kind = (page.status_code, page.headers["content-type"].partition(";")[0])
                assert (kind, "<h1" in page.text) == ((status, "text/html"), True)
                assert page.headers["content-security-policy"] == HEADERS["content-security-policy"]
                for plain in ({}, {**BROWSER, "hx-request": "true"}):
                    told = await client.request(method, path, headers={**given, **plain}, **how)
                    assert (told.status_code, told.json()["status"]) == (status, status)
        async with web.client(web.tokens.create("bob", Role.VIEWER), headers=BROWSER) as client:
            lost = await client.get("/nowhere")
            assert (lost.status_code, lost.headers["content-type"].partition(";")[0]) == (404, "text/html")
            assert (await client.get("/api/v1/nowhere")).json()["status"] == 404


async def test_with_the_first_token_everybody_needs_one_and_a_revoked_one_is_none(web: Web) -> None:
    token = web.tokens.create("ada", Role.REVIEWER)
    async with web.client() as client:
        assert (await client.get("/api/v1/me")).status_code == 401
        assert (await client.get("/api/v1/queue")).headers["www-authenticate"] == "Bearer"
    async with web.client(token) as client:
        assert (await client.get("/api/v1/me")).json() == {"name": "ada", "role": "reviewer"}
        web.tokens.revoke("ada")
        assert (await client.get("/api/v1/me")).status_code == 401
    async with web.client() as client:  # and the last one's end opens nothing
        assert (await client.get("/api/v1/me")).status_code == 401


@pytest.mark.parametrize("given", ["", "Basic YTpi", "Bearer", "Bearer ", "Bearer wrong", "bearer \u00ff"])
async def test_what_is_no_token_lets_nobody_in(web: Web, given: str) -> None:
    web.tokens.create("ada", Role.OPERATOR)
    async with web.client() as client:
        answer = await client.get("/api/v1/me", headers={"authorization": given.encode("latin-1")})
    assert answer.status_code == 401


async def test_a_login_gives_a_cookie_that_scripts_and_other_sites_do_not_get(tmp_path: Path) -> None:
    with a_web(tmp_path, tls_proxy=True) as web:
        token = web.tokens.create("ada", Role.REVIEWER)
        own = {"origin": f"https://{HOST}"}
        async with web.client(headers=own) as client:
            form = {"token": token, "next": "/queue?job=triage"}
            answer = await client.post("/login", data=form)
            assert (answer.status_code, answer.headers["location"]) == (303, "/queue?job=triage")
            cookie = answer.headers["set-cookie"].lower()
            assert {"httponly", "samesite=strict", "secure"} <= {part.strip() for part in cookie.split(";")}
        async with web.client(cookies={"batchmill_token": token}) as client:
            assert (await client.get("/api/v1/me")).json()["name"] == "ada"


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "/\\evil.example", "https://evil.example", "x", "/a\r\nset-cookie: b"]
)
async def test_a_login_leads_nowhere_else(web: Web, wanted: str) -> None:
    token = web.tokens.create("ada", Role.REVIEWER)
    async with web.client(headers=SAME_SITE) as client:
        answer = await client.post("/login", data={"token": token, "next": wanted})
    assert answer.headers["location"] == "/"


async def test_wrong_tokens_have_to_wait_by_address(tmp_path: Path) -> None:
    with a_web(tmp_path, failed_logins_max=2) as web:
        token = web.tokens.create("ada", Role.REVIEWER)
        async with web.client(headers=SAME_SITE) as client:
            wrong = [await client.post("/login", data={"token": "guess"}) for _ in range(3)]
            right = await client.post("/login", data={"token": token})
        async with web.client(headers=SAME_SITE, address="127.0.0.2") as client:
            other = await client.post("/login", data={"token": token})
    assert [answer.status_code for answer in wrong] == [303, 303, 429]
    assert wrong[0].headers["location"] == "/login?failed=1"
    assert (right.status_code, other.status_code) == (429, 303)
    assert "set-cookie" in other.headers


def test_a_wrong_token_is_forgotten_after_its_time() -> None:
    now = [0.0]
    failures = Failures(most=2, seconds=60, now_s=lambda: now[0])
    failures.count("a")
    failures.count("a")
    assert failures.must_wait("a")
    assert not failures.must_wait("b")
    now[0] = 60
    assert not failures.must_wait("a")


async def test_a_browser_without_a_token_is_led_to_the_login(web: Web) -> None:
    web.tokens.create("ada", Role.REVIEWER)
    async with web.client(headers={"accept": "text/html"}) as client:
        answer = await client.get("/queue", params={"job": "triage"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/queue%3Fjob%3Dtriage")
        assert (await client.get("/api/v1/queue")).status_code == 401


# -- bodies and headers ------------------------------------------------------------------------------------------------


async def test_every_answer_carries_the_headers_a_refusal_too(web: Web) -> None:
    async with web.client() as client:
        answers = [
            await client.get("/api/v1/queue"),
            await client.get("/nowhere"),
            await client.post("/api/v1/accept-many", json={}),
            await client.get("/api/v1/queue", headers={"host": "evil.example"}),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 403, 421]
    for answer in answers:
        assert HEADERS.items() <= dict(answer.headers).items()
    assert "unsafe-inline" not in HEADERS["content-security-policy"]


async def test_a_large_body_is_refused_told_or_untold(tmp_path: Path) -> None:
    with a_web(tmp_path, body_bytes_max=1_000) as web:
        name = web.world.ask()

        async def untold() -> Any:
            for _ in range(20):
                yield b" " * 100

        async with web.client(headers={**SAME_SITE, "content-type": "application/json"}) as client:
            path = f"/api/v1/requests/{name}/accept"
            told = await client.post(path, content=b" " * 2_000)
            lied = await client.post(path, content=untold())
    assert (told.status_code, lied.status_code) == (413, 413)


async def test_a_slow_body_is_refused(tmp_path: Path) -> None:
    with a_web(tmp_path, body_seconds=0.05) as web:

        async def never() -> Any:
            yield b"{"
            await asyncio.sleep(30)

        async with web.client(headers=SAME_SITE) as client:
            answer = await client.post("/api/v1/accept-many", content=never())
    assert answer.status_code == 408


async def test_a_bug_says_nothing_of_what_it_met(tmp_path: Path) -> None:
    router = APIRouter()

    @router.get("/boom")
    async def boom() -> None:
        raise RuntimeError("SECRET")

    with a_web(tmp_path, pages=(router,)) as web:
        async with web.client() as client:
            answer = await client.get("/boom")
    assert answer.status_code == 500
    assert "SECRET" not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "data" / "tokens.json", now_ms=lambda: NOW_MS)


def test_only_the_hash_is_kept_and_only_the_owner_may_read_it(file: TokenFile, tmp_path: Path) -> None:
    given = file.create("ada", Role.REVIEWER, days=2)
    path = tmp_path / "data" / "tokens.json"
    assert given not in path.read_text()
    assert len(given) > 43  # 256 bits
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (kept,) = json.loads(path.read_text())["tokens"]
    assert (kept["name"], kept["role"], kept["expires_at_ms"]) == ("ada", "reviewer", NOW_MS + 2 * 86_400_000)


def test_a_token_ends_with_its_time(tmp_path: Path) -> None:
    now = [NOW_MS]
    file = TokenFile(tmp_path / "tokens.json", now_ms=lambda: now[0])
    given = file.create("ada", Role.REVIEWER, days=1)
    assert file.user(given) is not None
    now[0] += 86_400_000
    assert file.user(given) is None


def test_another_process_sees_a_new_and_a_revoked_token_at_once(file: TokenFile, tmp_path: Path) -> None:
    other = TokenFile(tmp_path / "data" / "tokens.json", now_ms=lambda: NOW_MS)
    assert other.tokens() == ()
    given = file.create("ada", Role.REVIEWER)
    assert other.user(given) is not None
    assert file.revoke("ada") == 1
    assert other.user(given) is None
    assert file.revoke("ada") == 0


def test_a_name_in_use_is_refused_and_free_again_when_revoked(file: TokenFile) -> None:
    first = file.create("ada", Role.REVIEWER)
    with pytest.raises(TokenError, match="tokens revoke ada"):
        file.create("ada", Role.OPERATOR)
    file.revoke("ada")
    second = file.create("ada", Role.OPERATOR)
    assert file.user(first) is None
    assert file.user(second) is not None


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 65, "a/b", "ä", "<b>"])
def test_a_name_that_could_be_misread_is_refused(file: TokenFile, name: str) -> None:
    with pytest.raises(TokenError):
        file.create(name, Role.VIEWER)


async def test_a_file_that_is_open_to_others_or_broken_lets_nobody_in(web: Web, tmp_path: Path) -> None:
    token = web.tokens.create("ada", Role.OPERATOR)
    path = tmp_path / "tokens.json"
    path.chmod(0o644)
    path.touch()
    async with web.client(token) as client:
        assert (await client.get("/api/v1/me")).status_code == 503
        path.chmod(0o600)
        path.write_text("{")
        assert (await client.get("/api/v1/me")).status_code == 503
        path.write_text('{"tokens": [{"name": "ada", "role": "king"}]}')
        assert (await client.get("/api/v1/me")).status_code == 503


# -- where it listens --------------------------------------------------------------------------------------------------


def settings(tmp_path: Path, **more: Any) -> Settings:
    return load_settings({"data_dir": str(tmp_path / "data"), "health.enabled": False, **more})


def test_other_machines_are_served_only_once_there_is_a_token_and_a_name(tmp_path: Path) -> None:
    here = settings(tmp_path)
    assert "127.0.0.1" in hosts_of(here, "127.0.0.1")
    named = settings(tmp_path, **{"web.allowed_hosts": ["review.example"]})
    proxied = settings(tmp_path, **{"web.tls_proxy": True})
    for wide, host in ((here, "0.0.0.0"), (here, "192.0.2.1"), (named, "127.0.0.1"), (proxied, "127.0.0.1")):
        with pytest.raises(SettingsError, match="tokens create"):
            hosts_of(wide, host)
        assert local_of(wide, host) is None  # whatever becomes of the token file later
    assert local_of(here, "127.0.0.1") is not None
    token_file(here).create("ada", Role.OPERATOR)
    with pytest.raises(SettingsError, match="allowed_hosts"):
        hosts_of(here, "0.0.0.0")
    assert hosts_of(named, "0.0.0.0") == {"review.example"}
    assert hosts_of(named, "127.0.0.1") >= {"review.example", "localhost"}


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback_is_this_machine_and_nothing_else(host: str, here: bool) -> None:
    assert is_loopback_host(host) is here


async def test_the_server_runs_and_ends_and_tells_of_changes(tmp_path: Path, unused_tcp_port: int) -> None:
    stop = asyncio.Event()
    here = settings(tmp_path)
    with ViewStore(here.view_path, identity={}):
        pass
    running = asyncio.create_task(run_web(here, host="127.0.0.1", port=unused_tcp_port, stop=stop))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_tcp_port}") as client:
        for _ in range(200):
            try:
                me = await client.get("/api/v1/me")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
        else:
            pytest.fail("the server does not answer")
        assert me.json()["role"] == "operator"
        async with client.stream("GET", "/api/v1/events") as heard:
            assert heard.headers["content-type"].startswith("text/event-stream")
            lines = heard.aiter_lines()
            assert [await anext(lines) for _ in range(2)] == ["event: change", "id: 0"]
            assert json.loads((await anext(lines)).removeprefix("data: "))["waiting"] == 0
    stop.set()
    await asyncio.wait_for(running, 20)
