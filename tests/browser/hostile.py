"""What a stranger would write into inputs, answers, names, reasons and errors to get out of their place on a page."""

from dataclasses import replace

from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check, DeadLetter, Decision
from tests.agents.desk_world import World
from tests.browser.reviewing import Record, ReviewingSite
from tests.streams.rows import origin

__all__ = ["hostile_records", "plant"]

ATTACKS = (
    "<script class=pwned>alert(1)</script>",
    "<img class=pwned src=x onerror=alert(2)>",
    '"><svg class=pwned onload=alert(3)>',
    "'><iframe class=pwned src='javascript:alert(4)'></iframe>",
    "</textarea><script class=pwned src=https://evil.example/x.js></script>",
    "</title><title>pwned</title><base class=pwned href=https://evil.example/>",
    '<div class=pwned hx-get="https://evil.example/" hx-trigger="load">x</div>',
    '<hx-partial hx-target="body" class=pwned><b class=pwned>x</b></hx-partial>',
    '<b class=pwned data-key="a" hx-on:load="alert(5)">x</b>',
    "<style class=pwned>*{display:none}</style>",
    "<meta class=pwned http-equiv=refresh content='0;url=https://evil.example'>",
    "<form class=pwned action=https://evil.example><button data-key=a>x</button></form>",
    "{{ 'pwned-' ~ 7 * 7 }}{% raw %}",
    "javascript:alert(6)//https://evil.example/?<a class=pwned href=javascript:alert(7)>x</a>",
    "\u202egnp.exe\u2066\x00\x1b[31m\ufeff\U000e0041]]>--><!--",
    "data: pwned\n\nevent: pwned\ndata: <b class=pwned>",
)
_ALL = "\n".join(ATTACKS)


def hostile_records() -> list[Record]:
    """Each attack as a value, as a name, as a source id, in the checks."""
    pairs = [f"{one}{other}" for one, other in zip(ATTACKS[::2], ATTACKS[1::2], strict=True)]
    return [_record(number, attack) for number, attack in enumerate(pairs)] + [
        Record(given={"text": _ALL}, output=_ALL, reason=Reason.NOT_JSON, source_id=f"all {_ALL}"),
        Record(given=_ALL * 20, output={"road": _ALL, "town": _ALL, "kind": _ALL, "notes": [_ALL, 1]}),
    ]


def _record(number: int, attack: str) -> Record:
    return Record(
        given={"text": attack, attack: [attack, {attack: attack}]},
        output={"road": attack, "town": 1, "kind": attack, "notes": [attack], attack: attack},
        reason=Reason.SCHEMA_MISMATCH,
        checks=(
            Check(id=attack, severity=attack, passed=False, path=attack, note=attack),
            Check(id=attack, severity="reject", passed=True, path=None, note=None),
        ),
        source_id=f"{number} {attack}",
    )


async def plant(site: ReviewingSite) -> str:
    """The rest: who decided and why, who holds a lock, runs, dead letters; the record most of it is about."""
    assert site.pages is not None, "only a site without a broker can be written to behind its back"
    world = site.pages.world
    name = site.waiting[1]
    for number, attack in enumerate(ATTACKS):
        world.record(_decision(world, name, number, attack), name)
        world.record(_letter(world, name, number, attack), name)
    life = world.life(site.waiting[2])
    world.row(replace(life, run_id=_ALL))
    world.fold()
    world.holding.lock(site.waiting[3], _ALL, now_ms=world.now_ms, until_ms=world.now_ms + 60_000)
    return name


def _decision(world: World, name: str, number: int, attack: str) -> Decision:
    return Decision(
        id=f"planted-{number}",
        request_id=name,
        job=world.spec.job,
        action="correct" if number % 2 else "defer",
        output_sha256_seen="0" * 64,
        output_json=f'"{number}"',
        reason=attack,
        until_ms=world.now_ms,
        actor=attack,
        decided_at_ms=world.now_ms,
    )


def _letter(world: World, name: str, number: int, attack: str) -> DeadLetter:
    return DeadLetter(
        id=f"letter-{number}",
        request_id=None,
        job=world.spec.job,
        version=None,
        source_id=attack,
        stage="normalizer",
        reason=Reason.UNDECODABLE,
        error=attack,
        retryable=False,
        fault="upstream",
        attempt=0,
        cost_nanos=None,
        original=b"x",
        original_sha256="0" * 64,
        original_bytes=1,
        original_uri=None,
        redrives=0,
        failed_at_ms=world.now_ms,
        origin=replace(origin(), offset=1_000 + number),
    )
