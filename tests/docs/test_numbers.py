"""Numbers that pages quote are those of the code."""

import pytest

from batchmill.agents.settings import load_settings
from batchmill.agents.stages import traces
from batchmill.agents.supervise import _GIVE_UP_CODES, Restarts
from batchmill.schemas.ids import request_id
from batchmill.streams.refusing import ATTEMPTS_MAX
from batchmill.streams.retrying import SENDS_MAX
from tests.docs.pages import text_of

RUNTIME = load_settings().runtime
POISON = "docs/decisions/0008-poison.md"
SAID = [
    ("docs/jobs.md", f"is sent {SENDS_MAX} times at most"),
    ("docs/operations.md", f"or {ATTEMPTS_MAX} attempts that the provider put off"),
    ("docs/operations.md", f"before each restart, up to {Restarts().longest_pause_seconds:.0f} s"),
    ("docs/operations.md", f"any exit code but 0, {', '.join(map(str, sorted(_GIVE_UP_CODES)[:-1]))} and"),
    ("docs/events.md", f"links to at most {traces._LINKS_MAX} of its records"),
    ("docs/events.md", f"is {len(request_id('j', 's', 'c', 'v', 0))} lower-case base32 characters"),
    (POISON, f"`suspicion_deaths` ({RUNTIME.suspicion_deaths})"),
    (POISON, f"`poison_deaths` ({RUNTIME.poison_deaths})"),
]


@pytest.mark.parametrize(("page", "words"), SAID, ids=[words for _, words in SAID])
def test_a_number_is_quoted_as_it_is(page: str, words: str):
    assert words in " ".join(text_of(page).split())
