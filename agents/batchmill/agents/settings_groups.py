"""What can be set: one frozen group per concern; a field is a name (its unit last), a type, a default and a sentence.

What lives here: declarations and the rules that fields of one group must keep together. What must not: where values
come from (that is `settings`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from batchmill.streams.capabilities import PROVIDERS
from batchmill.streams.ports import Capabilities

__all__ = [
    "AccountSettings",
    "EffectSettings",
    "HealthSettings",
    "KafkaSettings",
    "LimitSettings",
    "LogSettings",
    "Name",
    "PayloadSettings",
    "Positive",
    "ReviewSettings",
    "RuntimeSettings",
    "SettingsError",
    "SinkSettings",
    "TelemetrySettings",
    "ViewSettings",
    "WebSettings",
]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class SettingsError(Exception):
    """A setting is wrong: which one, why, and what to write instead. Never holds a secret."""


class _Group(BaseModel):
    # `extra=forbid`: a misspelt knob must not be a silently ignored knob. Input is hidden: it may be a secret.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Group):
    """How to reach the brokers; the names are those of the usual `KAFKA_*` variables."""

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092", description="Brokers to ask first, host:port, comma separated."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How the connection is secured."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="How the client proves who it is, when SASL is on."
    )
    sasl_username: str | None = Field(default=None, description="User for SASL.")
    sasl_password: SecretStr | None = Field(default=None, description="Password for SASL.")
    sasl_password_file: Path | None = Field(default=None, description="File that holds the SASL password.")
    ssl_cafile: Path | None = Field(default=None, description="Certificate authorities to trust, PEM.")
    ssl_certfile: Path | None = Field(default=None, description="Our certificate, PEM.")
    ssl_keyfile: Path | None = Field(default=None, description="Our private key, PEM.")
    request_timeout_ms: Positive = Field(
        default=15_000, description="A broker that has not answered by then is given up."
    )

    def password(self) -> str | None:
        """Give the SASL password in clear, from the variable or its file."""
        return _secret(self.sasl_password, self.sasl_password_file, "kafka.sasl_password_file")


class RuntimeSettings(_Group):
    """The Faust driver: slices, transactions, membership, restore."""

    commit_interval_ms: Positive = Field(default=100, description="A task with open work commits at least this often.")
    commit_records: Positive = Field(
        default=5_000, description="Commit at once when the outbox holds this many records."
    )
    commit_bytes: Positive = Field(
        default=4 * 2**20, description="Commit at once when the outbox holds this many bytes."
    )
    commit_pause_ms: int = Field(
        default=5, ge=0, description="Rest between two transactions of one task; 0 costs 24 ms each."
    )
    slice_records: Positive = Field(
        default=500, description="Most records of one partition handed to an agent at once."
    )
    slice_bytes: Positive = Field(default=2**20, description="Most bytes of one partition handed to an agent at once.")
    outbox_records: Positive = Field(
        default=20_000, description="Fetching for a task stops while its outbox is this long."
    )
    outbox_bytes: Positive = Field(
        default=32 * 2**20, description="Fetching for a task stops while its outbox is this big."
    )
    record_bytes_max: Positive = Field(
        default=1_000_000, description="Largest record written to Kafka; checked before."
    )
    fetch_bytes_max: Positive = Field(default=8 * 2**20, description="Most bytes one fetch may return.")
    body_cache_bytes: Positive = Field(
        default=64 * 2**20, description="Bodies kept in memory so the log is not read again."
    )
    session_timeout_seconds: Seconds = Field(default=10, description="A silent member loses its tasks after this long.")
    heartbeat_seconds: Seconds = Field(default=3, description="How often a member says it is alive.")
    rebalance_timeout_seconds: Seconds = Field(default=60, description="Longest a rebalance waits for its members.")
    poll_interval_max_seconds: Seconds = Field(
        default=300, description="A member that stops fetching this long is thrown out."
    )
    revoke_commit_seconds: Seconds = Field(
        default=5, description="Longest a last commit may take when tasks are taken away."
    )
    static_membership: bool = Field(
        default=True, description="A restart of the same instance takes its own tasks back."
    )
    transaction_timeout_ms: Positive = Field(
        default=10_000, description="The broker ends a silent transaction by then."
    )
    heartbeat_record_seconds: Seconds = Field(default=3, description="An idle task proves its ownership this often.")
    restore_timeout_seconds: Seconds = Field(
        default=120, description="Longest a task's state may take to be read back."
    )
    suspicion_deaths: int = Field(
        default=2, ge=1, description="Deaths at one position before slices of one record are tried."
    )
    poison_deaths: int = Field(
        default=3, ge=2, description="Deaths on one record or effect row before it is dead-lettered."
    )
    store_discard_hours: Positive = Field(
        default=12, description="A local state file older than this is rebuilt, not trusted."
    )
    drain_timeout_seconds: Seconds = Field(default=20, description="Longest a SIGTERM waits for slices and commits.")
    allow_untested_versions: bool = Field(
        default=False, description="Start on Faust/aiokafka versions we have not proven."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.heartbeat_seconds * 3 > self.session_timeout_seconds:
            msg = "heartbeat_seconds must be at most a third of session_timeout_seconds: one lost beat may not evict"
            raise ValueError(msg)
        if self.poison_deaths <= self.suspicion_deaths:
            msg = "poison_deaths must exceed suspicion_deaths: a record is condemned only after it was tried alone"
            raise ValueError(msg)
        return self


class LimitSettings(_Group):
    """What a record may be before anyone looks inside it."""

    raw_bytes_max: Positive = Field(default=900_000, description="A larger raw event is dead-lettered undecoded.")
    source_id_chars_max: Positive = Field(default=512, description="A longer source id is dead-lettered.")
    nesting_max: Positive = Field(default=64, description="A deeper JSON document is dead-lettered.")
    output_bytes_max: Positive = Field(
        default=256 * 2**10, description="A longer answer of a provider is cut off as an error."
    )
    result_line_bytes_max: Positive = Field(
        default=8 * 2**20, description="A longer line of a result file is counted, unread."
    )


class AccountSettings(_Group):
    """One account at a provider: where, who pays, how fast, how patient."""

    kind: str = Field(
        default="openai",
        description="Which provider it is, by the table of capabilities; default: the account's name, if it is one.",
    )
    base_url: str | None = Field(default=None, description="Where the API begins; default: the provider's public one.")
    api_key: SecretStr | None = Field(default=None, description="The key. Prefer a file or the standard variable.")
    api_key_file: Path | None = Field(default=None, description="File that holds the key.")
    organization: str | None = Field(default=None, description="Sent as OpenAI-Organization.")
    project: str | None = Field(default=None, description="Sent as OpenAI-Project.")
    requests_per_minute: Positive = Field(default=600, description="Calls to the provider, all workers together.")
    concurrent_requests_max: Positive = Field(default=8, description="Calls of one worker running at once.")
    open_batches_max: Positive = Field(default=50, description="Batches open at the provider, all tasks together.")
    batch_requests_max: Positive | None = Field(
        default=None, description="Most requests of one batch; default: the provider's own limit."
    )
    batch_bytes_max: Positive | None = Field(
        default=None, description="Largest input of one batch; default: the provider's own limit."
    )
    batches_per_hour_max: Positive | None = Field(
        default=None, description="Batches created in any hour, all tasks together; unset: a refusal defers the batch."
    )
    queued_max: Positive | None = Field(
        default=None,
        description="What all unfinished batches of a model may hold together, in what the provider counts.",
    )
    batch_expected_seconds: Seconds | None = Field(
        default=None, description="How long a batch is expected to take; default: typical of the provider."
    )
    online_requests_per_minute: Positive | None = Field(
        default=None, description="Online calls of all workers together; unset: as fast as the provider answers."
    )
    online_tokens_per_minute: Positive | None = Field(
        default=None, description="Tokens of online calls, prompt and answer, all workers together."
    )
    online_concurrent_max: Positive = Field(default=200, description="Online calls of one worker running at once.")
    online_timeout_seconds: Seconds = Field(default=120, description="Longest one online call may take.")
    webhook_secret: SecretStr | None = Field(
        default=None, description="Signing secret of the provider's webhooks; unset: none is believed."
    )
    webhook_secret_file: Path | None = Field(default=None, description="File that holds the webhook secret.")
    connect_timeout_seconds: Seconds = Field(default=5, description="Longest wait for a connection.")
    read_timeout_seconds: Seconds = Field(default=20, description="Longest silence while reading or writing.")
    total_timeout_seconds: Seconds = Field(
        default=30, description="Longest one call may take; transfers have their own."
    )
    transfer_timeout_seconds: Seconds = Field(
        default=600, description="Longest one upload or download of a file may take."
    )
    poll_min_seconds: Seconds = Field(default=2, description="First look at a fresh batch, and the shortest gap.")
    poll_max_seconds: Seconds = Field(default=300, description="Longest gap between two looks at a batch.")
    reconcile_grace_seconds: Seconds = Field(
        default=30, description="Gap between looks for a batch of unknown outcome."
    )
    reconcile_looks: int = Field(default=2, ge=2, description="Looks that must find nothing before it is sent again.")
    cancel_unread_batches: bool = Field(
        default=False,
        description="After an uncertain create, cancel what may be the batch and cannot be told yet (Anthropic only).",
    )
    clock_skew_seconds: Seconds = Field(default=300, description="How far the provider's clock may be from ours.")
    lease_seconds: Seconds = Field(default=10, description="Money is spent only this long after a successful commit.")
    cooldown_max_seconds: Seconds = Field(default=120, description="Longest pause a 429 may impose on the account.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        facts = PROVIDERS.get(self.kind)
        if facts is None or facts.protocol is None:
            known = ", ".join(kind for kind, row in PROVIDERS.items() if row.protocol is not None)
            msg = f"kind {self.kind!r} has no adapter; there is one for: {known}"
            raise ValueError(msg)
        if self.base_url is not None and not _is_web_address(self.base_url):
            msg = "base_url must be an absolute http(s) URL, such as https://api.openai.com/v1"
            raise ValueError(msg)
        if self.base_url is None and facts.base_url is None:
            msg = f"base_url must be set: {facts.title} has no address that all accounts share"
            raise ValueError(msg)
        if self.poll_min_seconds > self.poll_max_seconds:
            msg = "poll_min_seconds must not exceed poll_max_seconds"
            raise ValueError(msg)
        return self

    @property
    def url(self) -> str:
        """Where the API begins."""
        found = self.base_url or PROVIDERS[self.kind].base_url
        assert found is not None, "checked when the account was read"
        return _azure_url(found) if self.kind == "azure" else found

    @property
    def can(self) -> Capabilities:
        """What the provider can do, within what is set for this account."""
        known = PROVIDERS[self.kind].can
        return replace(
            known,
            members_max=self.batch_requests_max or known.members_max,
            bytes_max=self.batch_bytes_max or known.bytes_max,
            typical_seconds=round(self.batch_expected_seconds or known.typical_seconds),
        )

    def webhook_key(self) -> str | None:
        """Give the webhook secret in clear, from the variable or its file; only the receiver asks."""
        return _secret(self.webhook_secret, self.webhook_secret_file, "accounts.*.webhook_secret_file")

    def key(self) -> str | None:
        """Give the API key in clear, from the variable or its file; only the HTTP seam asks."""
        return _secret(self.api_key, self.api_key_file, "accounts.*.api_key_file")


class EffectSettings(_Group):
    """The loops that read task state and act: one number for each wait and each retry."""

    idle_seconds: Seconds = Field(default=1, description="How often an effect looks for due rows when nobody woke it.")
    step_rows: Positive = Field(default=100, description="Rows one effect takes up in one turn.")
    chunks_at_once: Positive = Field(default=4, description="Chunks one task works on at the same time.")
    online_chunks_at_once: Positive = Field(
        default=2,
        description="Online chunks of one task whose calls run at once; their members are in doubt after a crash.",
    )
    unknown_job_seconds: Seconds = Field(
        default=30, description="A raw event of an unknown job is not given up earlier; its `apply` may be on the way."
    )
    index_seconds: Seconds = Field(
        default=300, description="How long a raw event waits for an index that is not there, before it is put down."
    )
    indexes_max: Positive = Field(default=4, description="Indexes of documents one worker holds in memory.")
    commit_rows: Positive = Field(default=500, description="Rows written to a sink in one of its transactions.")


class PayloadSettings(_Group):
    """Where the files lie that were sent and that came back."""

    dir: Path | None = Field(default=None, description="Directory of the payload store; default <data_dir>/payloads.")
    shared: bool = Field(default=False, description="The directory is a network file system that all hosts see.")


class SinkSettings(_Group):
    """Where committed output goes. What is not set here is not there: writes to it wait until it is."""

    sqlite_path: Path | None = Field(
        default=None, description="SQLite file of the sink; default <data_dir>/sink.sqlite."
    )
    busy_timeout_ms: Positive = Field(
        default=15_000, description="How long a write waits for another process's transaction (SQLite, files)."
    )
    postgres_dsn: SecretStr | None = Field(
        default=None, description="Where PostgreSQL is, as postgresql://user:password@host/database; unset: no sink."
    )
    postgres_dsn_file: Path | None = Field(default=None, description="File that holds the address of PostgreSQL.")
    postgres_connections_max: Positive = Field(default=4, description="Connections of one worker to PostgreSQL.")
    postgres_connect_timeout_seconds: Seconds = Field(
        default=5, description="Longest wait for a connection to PostgreSQL."
    )
    postgres_lock_timeout_ms: Positive = Field(
        default=5_000, description="Longest wait for a row or table that somebody else has locked."
    )
    postgres_statement_timeout_ms: Positive = Field(
        default=15_000, description="Longest one statement may take; the server itself ends it."
    )
    files_dir: Path | None = Field(
        default=None,
        description="Folder of the JSONL and Parquet sinks, one folder per table; default <data_dir>/files.",
    )
    webhook_url: str | None = Field(default=None, description="Where committed output is posted; unset: no such sink.")
    webhook_secret: SecretStr | None = Field(
        default=None, description="Secret that every post is signed with, whsec_ and base64."
    )
    webhook_secret_file: Path | None = Field(default=None, description="File that holds the signing secret.")
    webhook_timeout_seconds: Seconds = Field(default=10, description="Longest one post may take, answer included.")
    webhook_concurrent_max: Positive = Field(default=8, description="Posts of one worker running at once.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.webhook_url is None:
            return self
        if not _is_web_address(self.webhook_url) or "@" in urlsplit(self.webhook_url).netloc:
            msg = "webhook_url must be an absolute http(s) URL without a password, such as https://example.org/hook"
            raise ValueError(msg)
        if self.webhook_secret is None and self.webhook_secret_file is None:
            msg = (
                "webhook_url needs webhook_secret or webhook_secret_file: a post that is not signed could be anybody's"
            )
            raise ValueError(msg)
        return self

    def postgres_address(self) -> str | None:
        """Give the address of PostgreSQL in clear, from the variable or its file; only the sink asks."""
        return _secret(self.postgres_dsn, self.postgres_dsn_file, "sink.postgres_dsn_file")

    def webhook_key(self) -> str | None:
        """Give the signing secret in clear, from the variable or its file; only the sink asks."""
        return _secret(self.webhook_secret, self.webhook_secret_file, "sink.webhook_secret_file")


class ViewSettings(_Group):
    """The read model that `status`, `records` and `batches` ask."""

    path: Path | None = Field(default=None, description="SQLite file of the view; default <data_dir>/view.sqlite.")
    fold_records: Positive = Field(default=5_000, description="Records folded into the view in one SQL transaction.")
    fold_interval_ms: Positive = Field(
        default=200, description="Longest the projector waits before it folds what it has."
    )


class ReviewSettings(_Group):
    """The desk at which people decide, whichever door they come through."""

    lock_seconds: Seconds = Field(
        default=120,
        description="How long a reviewer holds the record they look at, counted from the last sign of them.",
    )
    claim_seconds: Seconds = Field(
        default=30, description="How long a decision keeps its record out of the queue while the view does not show it."
    )
    bulk_max: Positive = Field(default=100, description="Most answers accepted by one confirmation.")
    page_rows: Positive = Field(default=50, description="Lines of the queue shown at once when nobody says how many.")
    page_rows_max: Positive = Field(default=500, description="Most lines of the queue anybody may ask for at once.")
    reason_chars_max: Positive = Field(default=500, description="Longest note on a decision.")
    defer_days_max: Positive = Field(default=90, description="Furthest a record may be put off.")
    look_seconds: Seconds = Field(default=1, description="How often the queue is looked at for those who listen.")
    listeners_max: Positive = Field(default=100, description="Open pages that are told of changes at once.")
    stale_seconds: Seconds = Field(
        default=30,
        description="A view that has read nothing for so long is called stale; the projector may have stopped.",
    )


class WebSettings(_Group):
    """The server of the pages and the API."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; any other than loopback needs a token first."
    )
    port: int = Field(default=8780, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Names people reach it by, beside the address it listens on; others are refused."
    )
    tls_proxy: bool = Field(
        default=False, description="A proxy with TLS stands in front: cookies are Secure, pages come from https."
    )
    cookie_name: str = Field(
        default="batchmill_token", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Name of the cookie of a login."
    )
    cookie_hours: Positive = Field(default=720, description="How long a login lasts, if its token does.")
    body_bytes_max: Positive = Field(default=2 * 2**20, description="A larger request is refused unread.")
    body_seconds: Seconds = Field(default=10, description="A request that is still coming in after this is refused.")
    connections_max: Positive = Field(default=200, description="Connections answered at once; more are told to wait.")
    failed_logins_max: Positive = Field(default=5, description="Wrong tokens from one address before it has to wait.")
    failed_logins_seconds: Seconds = Field(
        default=60, description="How long it has to wait, and the time they count in."
    )
    command_wait_seconds: Seconds = Field(
        default=10, description="How long a command given here is watched for its effect before it is called requested."
    )


class HealthSettings(_Group):
    """The small HTTP server of each process: /livez, /readyz, /metrics."""

    enabled: bool = Field(default=True, description="Serve health and metrics at all.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; widen it only inside a container.")
    port: int = Field(default=0, ge=0, le=65_535, description="Port to listen on; 0 takes a free one and logs it.")


class LogSettings(_Group):
    """What a process says on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important line shown."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, else JSON."
    )
    no_color: str = Field(default="", description="NO_COLOR; any value takes the colours out of the console.")


class TelemetrySettings(_Group):
    """What leaves for a collector. Set by the standard OTEL_* variables; the SDK reads the rest of them itself."""

    disabled: bool = Field(default=False, description="Record nothing; OTEL_SDK_DISABLED.")
    service_name: str | None = Field(default=None, description="OTEL_SERVICE_NAME; default batchmill-<process>.")
    semconv_opt_in: str = Field(default="", description="OTEL_SEMCONV_STABILITY_OPT_IN; messaging: those metrics too.")
    otlp_endpoint: str | None = Field(default=None, description="Collector for traces and metrics, OTLP over HTTP.")
    otlp_traces_endpoint: str | None = Field(default=None, description="Collector for traces only.")
    otlp_metrics_endpoint: str | None = Field(default=None, description="Collector for metrics only.")
    traces_exporter: Literal["otlp", "none"] = Field(default="otlp", description="none: no traces, endpoint or not.")
    metrics_exporter: Literal["otlp", "prometheus", "none"] = Field(
        default="otlp", description="otlp: also push when an endpoint is set; /metrics is always served."
    )


def _is_web_address(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _azure_url(url: str) -> str:
    """A resource's address, or the one copied from the portal, as the v1 API has it."""
    return f"{url.rstrip('/').removesuffix('/v1').removesuffix('/openai')}/openai/v1"


def _secret(value: SecretStr | None, file: Path | None, name: str) -> str | None:
    if value is not None:
        return value.get_secret_value()
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name}: cannot read {file}: {error.strerror}; check path and permissions") from None
