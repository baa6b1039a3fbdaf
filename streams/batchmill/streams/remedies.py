"""What usually mends each reason a record is put down for: one sentence to whoever has to do it.

A redrive keeps the version a request was made under. So what is mended outside the version (limits, budgets, the sink,
the provider) helps a redrive; a better prompt, schema or rule is a new version, and the events are published again
under it. Reasons that are never a dead letter say what the record waits for, or why there is nothing to mend.
"""

from typing import Final

from batchmill.schemas.reasons import Reason

__all__ = ["REMEDIES"]

_ANEW: Final = "apply it and publish the events again (`dlq export`)"

REMEDIES: Final[dict[Reason, str]] = {
    Reason.UNDECODABLE: "Publish the event again as JSON or Avro: what the log holds cannot become readable.",
    Reason.NOT_UTF8: "Publish the event again in UTF-8.",
    Reason.OVERSIZED: "Publish less, or raise limits.raw_bytes_max (of answers: limits.output_bytes_max) and redrive.",
    Reason.TOO_DEEP: "Publish it less nested, or raise limits.nesting_max and redrive.",
    Reason.TOMBSTONE: "Nothing to mend: the source was deleted upstream.",
    Reason.NO_JOB: "Name the job in the header batchmill-job or in the event; or set default_job and redrive.",
    Reason.UNKNOWN_JOB: "Apply the job that the event names, then redrive.",
    Reason.NO_SOURCE: "Give the events a key; or correct the job's `id` path, apply it and redrive.",
    Reason.BAD_SEQ: "Correct the event's rank; or correct the job's `seq` path, apply it and redrive.",
    Reason.SOURCE_MOVED: "Publish all events of a source with one key, or give the job a `seq` of its own.",
    Reason.INVALID_INPUT: "Correct the publisher; or correct the job's input schema, apply it and redrive.",
    Reason.FILTER_ERROR: "Guard what may be absent with has(...) in the job's filter, apply it and redrive.",
    Reason.FILTERED: "Nothing to mend: the job's filter leaves it out.",
    Reason.DUPLICATE: "Nothing to mend: the same content was asked before.",
    Reason.SUPERSEDED: "Nothing to mend: a newer event of the source has taken its place.",
    Reason.BODY_GONE: "Publish the event again: retention has removed it; lengthen it if that comes often.",
    Reason.RENDER_ERROR: "Correct the prompt's templates, apply the job and redrive.",
    Reason.OVER_BUDGET: "Raise budget.record_usd, apply the job and redrive.",
    Reason.TOO_LARGE_FOR_PROVIDER: f"Shorten the input (input.text.max_chars), {_ANEW}.",
    Reason.REFUSED_BY_PROVIDER: "Read the batch's note: account, model or parameters are wrong for all of them.",
    Reason.REQUEST_INVALID: "Read the error: the provider refuses this request, and will again as it stands.",
    Reason.PROVIDER_ERROR: "Redrive once the provider works again: the attempts were used up.",
    Reason.THROTTLED: "Lower the account's limits to those of the provider, then redrive.",
    Reason.EXPIRED: "Redrive; if batches often expire, make them smaller or give them another account.",
    Reason.PROVIDER_CANCELLED: "Find out who cancelled the batch at the provider, then redrive.",
    Reason.MISSING: "Redrive: the provider never told what became of the row.",
    Reason.OUTCOME_UNKNOWN: "Redrive to ask again: it may have been paid for once already.",
    Reason.TRUNCATED: "Raise retry.truncated.times, apply the job and redrive; or ask for shorter answers.",
    Reason.MODEL_REFUSAL: f"Reword the prompt or choose another model, {_ANEW}.",
    Reason.NOT_JSON: f"Have the output schema sent with the request or allow a repair, {_ANEW}.",
    Reason.SCHEMA_MISMATCH: f"Show the model the schema, or correct it, {_ANEW}.",
    Reason.RULE_FAILED: f"Read which rule failed (`dlq show`); correct it or the prompt, {_ANEW}.",
    Reason.UNCITED: f"Ask for quotes word for word, or loosen the citation check, {_ANEW}.",
    Reason.LOW_CONFIDENCE: "A person decides: `batchmill review list`.",
    Reason.AWAITING_SCORE: "It waits for its second score: nothing to do.",
    Reason.DISAGREEMENT: "A person decides: `batchmill review list`.",
    Reason.DECLINED: "A reviewer declined it; a redrive has the stored answer judged again, at no cost.",
    Reason.SINK_REFUSED: "Mend the sink's table or permissions, then redrive: it is written again, at no cost.",
    Reason.CANCELLED: "Nothing to mend: an operator cancelled the job.",
    Reason.NOT_PROMOTED: "Nothing to mend: its version was not promoted.",
    Reason.POISON: "It stopped a worker three times: report it with `batchmill explain`, redrive after the mend.",
    Reason.BENCHMARK: "Nothing to mend: a benchmark record is measured, never committed.",
    Reason.JOINED: "Nothing to mend: it is a part, and the whole answers for it.",
    Reason.PARTS_MISSING: "Find the missing parts with `batchmill explain`; once they are mended, redrive.",
    Reason.NO_CONTEXT: "Widen the index or the record's groups, or set retrieval.on_empty: ask; apply it and redrive.",
    Reason.INDEX_GONE: "Put the snapshot back into the payload store (`index build` makes it again), then redrive.",
    Reason.TOOL_FAILED: "Mend the database or API that the error names, then redrive.",
}
