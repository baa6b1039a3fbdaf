"""The Faust application around the runtime: every setting it needs, in one place.

What lives here: `create_app` and `run_worker`. What must not: stages, and anything about records.
"""

from typing import Any

import faust
from faust.types import AgentT

from batchmill.agents.runtime.assignor import TaskAssignor
from batchmill.agents.runtime.config import RuntimeConfig
from batchmill.agents.runtime.runtime import OnSlice, Runtime
from batchmill.agents.runtime.versions import check_versions, installed_versions

__all__ = ["App", "create_app", "run_worker"]

STREAM_BUFFER_SLICES = 4096  #: never reached: the shelf hands out two slices of an input at a time
BROKER_REQUEST_SECONDS = 90.0


class App(faust.App):  # type: ignore[misc]  # Faust publishes no types
    """A faust.App that has tasks."""

    runtime: Runtime

    def flow_topic(self, name: str) -> Any:
        """A topic whose events are slices: never decoded, never acknowledged, never created by Faust."""
        return self.topic(name, key_type=bytes, value_type=bytes, value_serializer="raw", acks=False)

    def add_stage(self, topic: str, *, name: str, on_slice: OnSlice, says: str = "") -> AgentT:
        """Register a Faust agent that hands every slice of `topic` to `on_slice`; `says` is shown in lists."""

        async def agent(stream: Any) -> None:
            await self.runtime.run_slices(stream, on_slice)

        agent.__doc__ = says
        return self.agent(self.flow_topic(topic), name=name)(agent)


def create_app(config: RuntimeConfig) -> App:
    """The application of one worker; agents are added by the caller."""
    tuning = config.tuning
    check_versions(installed_versions(), allow_untested=tuning.allow_untested_versions)
    app = App(
        config.app_id,
        broker=[f"batchmill://{server.strip()}" for server in config.bootstrap_servers.split(",")],
        broker_credentials=config.credentials,
        PartitionAssignor=TaskAssignor,
        processing_guarantee="exactly_once",
        broker_client_id=f"{config.app_id}-{config.instance}",
        consumer_group_instance_id=config.instance if tuning.static_membership else None,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=2**20,
        broker_session_timeout=tuning.session_timeout_seconds,
        broker_heartbeat_interval=tuning.heartbeat_seconds,
        broker_rebalance_timeout=tuning.rebalance_timeout_seconds,
        broker_max_poll_interval=tuning.poll_interval_max_seconds,
        broker_request_timeout=BROKER_REQUEST_SECONDS,
        stream_buffer_maxsize=STREAM_BUFFER_SLICES,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=1,  # with none and no tables Faust ignores the assignor and uses round robin
        store="memory://",
        web_enabled=False,
        worker_redirect_stdouts=False,
        datadir=config.state_dir / "faust",
    )
    app.runtime = Runtime(config)
    return app


def run_worker(app: App, *, loglevel: str = "WARNING") -> int:
    """Run until a signal ends it; the exit code. A fail-stop never gets here."""
    app.conf.datadir.mkdir(parents=True, exist_ok=True)
    # Our own logging stands (set up by the caller); Faust's spinner and handlers would write over it.
    worker = faust.Worker(app, loglevel=loglevel, redirect_stdouts=False, override_logging=False, quiet=True)
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        if ended.code:
            return ended.code if isinstance(ended.code, int) else 1
    return 1 if app.crashed or worker.crashed else 0
