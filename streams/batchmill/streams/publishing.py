"""What a sink inside is given: orders for the very transaction that says that it was written.

What lives here: the record that a foreign topic gets for one output. What must not: partitions and topics as they are
(the stage asks the broker), or whether a life may be written (`committing`).
"""

from typing import Final

from batchmill.streams.orders import Publish
from batchmill.streams.ports import SinkWrite

__all__ = ["CONTENT_TYPE", "EVENT_TYPE", "publication"]

EVENT_TYPE: Final = "batchmill.output"
CONTENT_TYPE: Final = "application/json"


def publication(write: SinkWrite) -> Publish:
    """The output as a CloudEvent in binary mode. Its id is the commit's, so a reader knows a write it has seen."""
    told = {
        "content-type": CONTENT_TYPE,
        "ce_specversion": "1.0",
        "ce_id": write.commit_id,
        "ce_type": EVENT_TYPE,
        "ce_subject": write.target_key,
        "batchmill-job": write.job,
        "batchmill-version": write.version,
        "batchmill-request": write.request_id,
        "batchmill-source": write.source_id,
        "batchmill-run": write.run_id,
        "batchmill-commit": write.commit_id,
        "batchmill-seq": str(write.seq),
        "batchmill-promotion": str(write.promotion),
    }
    headers = tuple((name, value.encode()) for name, value in told.items())
    return Publish(topic=write.table, key=write.target_key.encode(), value=write.output_json.encode(), headers=headers)
