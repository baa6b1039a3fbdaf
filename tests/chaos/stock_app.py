"""The control: a pass-through agent under stock Faust `exactly_once`, as its manual says it is done.

    python -m tests.chaos.stock_app JSON

Everything is in its favour: key, partition count and partitioner are the same on both sides, the output topic is
subscribed (else its sends would leave the transaction), concurrency is one and the body awaits nothing else.
"""

import json
import sys
from pathlib import Path

import faust

__all__ = ["main"]


def main(options: dict[str, str]) -> None:
    datadir = Path(options["data_dir"])
    datadir.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        options["group"],
        broker=f"kafka://{options['bootstrap']}",
        processing_guarantee="exactly_once",
        topic_partitions=int(options["partitions"]),
        topic_disable_leader=True,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        store="memory://",
        web_enabled=False,
        worker_redirect_stdouts=False,
        datadir=datadir,
    )
    taken = app.topic(options["source"], key_type=bytes, value_type=bytes, value_serializer="raw")
    given = app.topic(options["target"], key_type=bytes, value_type=bytes, value_serializer="raw")

    async def pass_on(stream):
        async for event in stream.events():
            await given.send(key=event.key, value=event.value)

    async def subscribe(stream):
        async for _ in stream:
            pass

    app.agent(taken, name="pass_on")(pass_on)
    app.agent(given, name="subscribe")(subscribe)
    faust.Worker(app, loglevel="WARNING", redirect_stdouts=False, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
