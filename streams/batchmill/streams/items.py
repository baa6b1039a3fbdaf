"""An event, as one version of its job takes it -> the work item that is asked: input, identity, target, estimates.

Each step refuses what the next may rely on: source and rank, text normalisation, input schema, required members,
filter, retrieval, look-ups, rendering. What must not live here: where the event stands (`normalizing`: live, shadow,
benchmark, replay).
"""

from dataclasses import dataclass
from typing import Any, Final

from batchmill.schemas.ids import ask_key, content_sha256, request_id
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import WorkItem
from batchmill.streams.compiling import CompiledJob
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.events import Event, RawLimits, seq_of, source_of, traceparent_of
from batchmill.streams.expressions import ConditionError
from batchmill.streams.jsontext import JsonObject, canonical
from batchmill.streams.likeness import likeness_of
from batchmill.streams.lineage import JOINED, PART, parent_of, parts_of, written
from batchmill.streams.looking_up import Lookups
from batchmill.streams.paths import ABSENT, Path
from batchmill.streams.retrieving import attach, groups_of
from batchmill.streams.routing import route_of, sizes_of
from batchmill.streams.unusable import Unusable

__all__ = ["Standing", "item_of"]

#: what the provider's line adds around a body: custom id, method, url, punctuation
LINE_FRAMING_BYTES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """As what a version is asked about the event."""

    promotion: int  #: second half of the rank
    run_id: str
    aside: bool = False  #: another version answers for the event
    replayed: bool = False  #: the event was read again
    epoch: int = 0  #: counts wishes for a fresh answer


# -- what the job asks of its input ------------------------------------------------------------------------------------


def _accepted(job: CompiledJob, payload: JsonObject) -> JsonObject:
    job.cleaner.apply(payload)
    if job.input_shape is not None and not job.input_shape.fits(payload):
        faults = job.input_shape.mismatches(payload)
        raise Unusable(Reason.INVALID_INPUT, "; ".join(f"{fault.path}: {fault.note}" for fault in faults))
    for path in job.required:
        if _blank(path.find(payload)):
            raise Unusable(Reason.INVALID_INPUT, f"{path.text}: expected to be there and not blank")
    _filter(job, payload)
    return payload


def _blank(value: Any) -> bool:
    return value is ABSENT or value is None or (isinstance(value, str) and not value.strip())


def _filter(job: CompiledJob, payload: JsonObject) -> None:
    if job.filter is None:
        return
    try:
        wanted = job.filter.holds({"input": payload})
    except ConditionError as error:
        raise Unusable(Reason.FILTER_ERROR, f"input.filter: {error}") from None
    if not wanted:
        raise Unusable(Reason.FILTERED, "the job's filter does not take it")


# -- the work item -----------------------------------------------------------------------------------------------------


def item_of(
    job: CompiledJob, event: Event, raw: RawRecord, standing: Standing, limits: RawLimits, lookups: Lookups
) -> WorkItem:
    """What one version makes of the event; raises Unusable, IndexAwaitedError while its index is not loaded, or
    WaitsError where something is to be looked up first.

    The event's payload is cleaned on the way, and gets its context and what was looked up: neither is sought for what
    is not wanted.
    """
    if job.spec.join is not None and JOINED not in event.metadata:
        raise Unusable(Reason.INVALID_INPUT, "the event is a part, and the job is asked about wholes")
    source_id, seq = source_of(job, event, raw, limits), seq_of(job, event, raw.origin)
    groups = frozenset[str]() if job.retrieval is None else groups_of(job.retrieval, event.payload)
    item_input = _accepted(job, event.payload)
    if job.retrieval is not None:
        attach(job.retrieval, item_input, groups=groups, at_ms=raw.origin.at_ms)
    if job.tools is not None:
        lookups.equip(job.tools, item_input, aside=standing.aside)
    spec, input_json = job.spec, canonical(item_input)
    if len(input_json) > limits.value_bytes_max:
        # Numbers written out and compatibility characters can take many times the bytes they came in.
        raise Unusable(
            Reason.OVERSIZED, f"{len(input_json)} bytes once normalized, at most {limits.value_bytes_max} are taken"
        )
    sha256 = content_sha256(input_json)
    alike = None if spec.near is None else likeness_of(item_input, spec.near.shingle, spec.near.threshold)
    placing = sha256 if alike is None else alike.placing
    named = request_id(spec.job, source_id, sha256, job.version, standing.epoch, spec.dedupe, placing)
    route = route_of(job.routes, item_input)
    body_bytes, bytes_max = sizes_of(job.routes, route, input_json)
    chunk = spec.mode.chunk
    if body_bytes + LINE_FRAMING_BYTES > chunk.max_bytes or estimate_tokens(body_bytes) > chunk.max_tokens:
        raise Unusable(Reason.TOO_LARGE_FOR_PROVIDER, f"{body_bytes} bytes rendered: above mode.chunk's limits")
    return WorkItem(
        request_id=named,
        job=spec.job,
        version=job.version,
        ask_key=ask_key(spec.job, source_id, sha256, job.ask_fingerprint, standing.epoch, spec.dedupe),
        source_id=source_id,
        seq=seq,
        promotion=standing.promotion,
        seq_from_log=job.seq_path is None,
        run_id=standing.run_id,
        epoch=standing.epoch,
        lane=route.lane,
        route=route.name,
        input_json=input_json.decode(),
        input_sha256=sha256,
        target_key=_target_key(job.target_path, item_input, source_id, limits),
        tokens_estimate=estimate_tokens(bytes_max),
        bytes_estimate=bytes_max + LINE_FRAMING_BYTES,
        traceparent=traceparent_of(raw),
        near_key=None if alike is None else alike.key,
        aside=standing.aside,
        replayed=standing.replayed,
        parent=parent_of(event.metadata),
        part=written(parts_of(event.metadata.get(PART))),
        origin=raw.origin,
    )


def _target_key(path: Path | None, item_input: JsonObject, source_id: str, limits: RawLimits) -> str:
    if path is None:
        return source_id
    found = path.find(item_input)
    found = str(found) if type(found) is int else found
    if not isinstance(found, str) or not found:
        raise Unusable(Reason.INVALID_INPUT, f"{path.text}: expected a text or whole number, it is the target's key")
    if len(found) > limits.source_id_chars_max:
        raise Unusable(Reason.INVALID_INPUT, f"{path.text}: a key has at most {limits.source_id_chars_max} characters")
    return found
