"""A second opinion by another job: the question it is asked, and the decision that its answer is.

The question is an ordinary raw event of the scoring job. Its source id says what is asked about, so that the answer
finds its way back whatever the scoring job declares of its own:

    JOB / REQUEST / REDRIVES / SHA256

the job and request whose answer is scored, how often that request had been brought back (its answer is then asked about
anew, be it the same), and the hash of the answer. Its record key is the request id: all questions about one request lie
in one partition of `raw`. A score for an answer that the request no longer has is stale, like any decision.
"""

import re
from typing import Final

import orjson

from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import Decision, RawEvent, Verdict
from batchmill.schemas.state import Life
from batchmill.streams.lineage import PARENT
from batchmill.streams.orders import Emit

__all__ = ["QUESTION_BYTES_MAX", "SCORE", "SINK", "actor_of", "decision_of", "is_job", "question", "trouble"]

#: the action of a decision that is a score
SCORE: Final = "score"
#: the sink that a scoring job places into
SINK: Final = "decisions"
#: input and answer together have to fit one raw event, whatever the limits of either
QUESTION_BYTES_MAX: Final = 768 * 2**10

_JOB: Final = "job:"
_ABOUT: Final = re.compile(r"(?P<job>[^/]+)/(?P<request>[a-z2-7]{32})/[0-9]+/(?P<sha256>[0-9a-f]{64})")


def question(life: Life, *, scorer: str, input_json: str, output_json: str) -> Emit | None:
    """Ask job `scorer` about this answer of `life`; None when it is too large to be asked about."""
    sha256 = content_sha256(output_json.encode())
    payload = orjson.dumps(
        {
            "request_id": life.request_id,
            "output_sha256": sha256,
            "job": life.job,
            "input": orjson.Fragment(input_json),
            "output": orjson.Fragment(output_json),
        }
    )
    if len(payload) > QUESTION_BYTES_MAX:
        return None
    event = RawEvent(
        job=scorer,
        source_id=f"{life.job}/{life.request_id}/{life.redrives}/{sha256}",
        seq=life.redrives,  # a rank of its own: the scoring job need not find one in the payload
        payload_json=payload.decode(),
        metadata={PARENT: life.request_id},  # so that what it costs is found with what it is about
    )
    return Emit(event, key=life.request_id.encode())


def decision_of(life: Life, verdict: Verdict, now_ms: int) -> Decision | None:
    """The decision that the validated answer of a scoring job's `life` is, to be written under the key of its request.

    None: the life answers no question of ours, so nothing can be decided by it.
    """
    assert verdict.request_id == life.request_id, f"the verdict is on {verdict.request_id}, not on {life.request_id}"
    about = _ABOUT.fullmatch(life.source_id)
    if about is None:
        return None
    return Decision(
        id=f"{SCORE}-{life.request_id}-{verdict.output_sha256[:16]}",
        request_id=about["request"],
        job=about["job"],
        action=SCORE,
        output_sha256_seen=about["sha256"],
        output_json=verdict.output_json,
        reason=None,
        actor=actor_of(life.job),
        decided_at_ms=now_ms,
    )


def trouble(scorer: str, applied: JobSpec | None) -> str | None:
    """Why answers that wait for job `scorer` would wait in vain; None when they would not."""
    if applied is None:
        return f"{scorer} is not applied: answers that wait for its scores stay in review"
    if applied.place.sink != SINK:
        return f"{scorer} places into {applied.place.sink}, not into {SINK}: its scores would decide nothing"
    return None


def actor_of(job: str) -> str:
    """How a scoring job signs its decisions; no person's name holds a colon before a job's."""
    return f"{_JOB}{job}"


def is_job(actor: str) -> bool:
    """Whether a scoring job signed so."""
    return actor.startswith(_JOB)
