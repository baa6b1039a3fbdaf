"""Every knob of every process: one typed object, and the only module that reads the environment.

What lives here: the whole of it (its groups are declared in `settings_groups`), and where a value comes from:
flag > environment > file (`batchmill.toml`) > default. The environment speaks in two voices: our own
(`BATCHMILL_`, nesting `__`) and the standard names people already have (`KAFKA_*`, `OPENAI_*`, `OTEL_*`); our own wins.
What must not: building anything from these values (that is `app.py`), and printing a secret.
"""

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from typing_extensions import override

from batchmill.agents.settings_groups import (
    AccountSettings,
    EffectSettings,
    HealthSettings,
    KafkaSettings,
    LimitSettings,
    LogSettings,
    Name,
    PayloadSettings,
    Positive,
    ReviewSettings,
    RuntimeSettings,
    SettingsError,
    SinkSettings,
    TelemetrySettings,
    ViewSettings,
    WebSettings,
)
from batchmill.agents.settings_tools import ApiSettings, DatabaseSettings, ToolSettings
from batchmill.streams.capabilities import PROVIDERS

__all__ = [
    "AccountSettings",
    "ApiSettings",
    "DatabaseSettings",
    "EffectSettings",
    "HealthSettings",
    "KafkaSettings",
    "LimitSettings",
    "LogSettings",
    "PayloadSettings",
    "ReviewSettings",
    "RuntimeSettings",
    "Settings",
    "SettingsError",
    "SinkSettings",
    "TelemetrySettings",
    "ToolSettings",
    "ViewSettings",
    "WebSettings",
    "cache_dir",
    "child_environment",
    "env_name",
    "flatten",
    "is_loopback",
    "load_settings",
    "nest",
    "origins",
]

PREFIX = "BATCHMILL_"
NESTING = "__"
CONFIG_VARIABLE = "BATCHMILL_CONFIG"
CONFIG_FILE = "batchmill.toml"
#: Not settings: the test suite's own switches live under this prefix.
TEST_PREFIX = "BATCHMILL_TEST_"

#: Standard variable -> dotted setting. First match wins where two name the same setting.
STANDARD_VARIABLES: dict[str, str] = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka.bootstrap_servers",
    "KAFKA_SECURITY_PROTOCOL": "kafka.security_protocol",
    "KAFKA_SASL_MECHANISM": "kafka.sasl_mechanism",
    "KAFKA_SASL_USERNAME": "kafka.sasl_username",
    "KAFKA_SASL_PASSWORD": "kafka.sasl_password",
    "KAFKA_SASL_PASSWORD_FILE": "kafka.sasl_password_file",
    "KAFKA_SSL_CAFILE": "kafka.ssl_cafile",
    "KAFKA_SSL_CERTFILE": "kafka.ssl_certfile",
    "KAFKA_SSL_KEYFILE": "kafka.ssl_keyfile",
    "OPENAI_BASE_URL": "accounts.openai.base_url",
    "OPENAI_API_KEY": "accounts.openai.api_key",
    "OPENAI_API_KEY_FILE": "accounts.openai.api_key_file",
    "OPENAI_ORG_ID": "accounts.openai.organization",
    "OPENAI_PROJECT_ID": "accounts.openai.project",
    "OPENAI_WEBHOOK_SECRET": "accounts.openai.webhook_secret",
    "AZURE_OPENAI_ENDPOINT": "accounts.azure.base_url",
    "AZURE_OPENAI_API_KEY": "accounts.azure.api_key",
    "ANTHROPIC_BASE_URL": "accounts.anthropic.base_url",
    "ANTHROPIC_API_KEY": "accounts.anthropic.api_key",
    "ANTHROPIC_API_KEY_FILE": "accounts.anthropic.api_key_file",
    "GEMINI_API_KEY": "accounts.gemini.api_key",
    "GEMINI_API_KEY_FILE": "accounts.gemini.api_key_file",
    "MISTRAL_API_KEY": "accounts.mistral.api_key",
    "MISTRAL_API_KEY_FILE": "accounts.mistral.api_key_file",
    "NO_COLOR": "log.no_color",
    "OTEL_SDK_DISABLED": "telemetry.disabled",
    "OTEL_SERVICE_NAME": "telemetry.service_name",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "telemetry.semconv_opt_in",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "telemetry.otlp_endpoint",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "telemetry.otlp_traces_endpoint",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "telemetry.otlp_metrics_endpoint",
    "OTEL_TRACES_EXPORTER": "telemetry.traces_exporter",
    "OTEL_METRICS_EXPORTER": "telemetry.metrics_exporter",
}


class Settings(BaseSettings):
    """All of it. Build one with `load_settings`; pass it on, never look it up."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTING,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    app_id: Name = Field(default="batchmill", description="Names the consumer group and the transactional ids.")
    topic_prefix: Name = Field(default="batchmill", description="First part of every topic name.")
    partitions: int = Field(
        default=8, ge=1, le=1_000, description="Tasks; the partition count of every topic, for life."
    )
    replication_factor: Positive = Field(
        default=1, description="Copies of every topic; 3 where there are three brokers."
    )
    raw_generation: int = Field(
        default=1, ge=1, description="Counts re-creations of the raw topic; part of rank `log`."
    )
    instance: Name = Field(
        default="worker-1", description="Names this process for ever: static member, local state, txn ids."
    )
    data_dir: Path = Field(default=Path(".batchmill"), description="Local files of this installation.")
    jobs_dir: Path = Field(
        default=Path("jobs"), description="Folder of job folders, for the commands that take no path."
    )
    default_job: Name | None = Field(default=None, description="Job of raw events that name none.")
    prices_file: Path | None = Field(
        default=None, description="Price list to cost calls by; default: that of genai-prices."
    )
    failpoint: str | None = Field(default=None, description="Tests only: name:nth:action, what to do at a named place.")
    loopback_only: bool = Field(
        default=False, description="Refuse any provider that is not on this machine; tests set it."
    )
    kafka: KafkaSettings = KafkaSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    limits: LimitSettings = LimitSettings()
    accounts: dict[Name, AccountSettings] = Field(
        default={"openai": AccountSettings()}, description="Provider accounts."
    )
    effects: EffectSettings = EffectSettings()
    databases: dict[Name, DatabaseSettings] = Field(default={}, description="Databases that jobs may look up in.")
    apis: dict[Name, ApiSettings] = Field(default={}, description="APIs that jobs may fetch from.")
    tools: ToolSettings = ToolSettings()
    payloads: PayloadSettings = PayloadSettings()
    sink: SinkSettings = SinkSettings()
    view: ViewSettings = ViewSettings()
    desk: ReviewSettings = ReviewSettings()
    web: WebSettings = WebSettings()
    health: HealthSettings = HealthSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @field_validator("accounts", mode="before")
    @classmethod
    def _named_after_its_kind(cls, given: Any) -> Any:
        """An account that is called as a provider is one of it, unless it says otherwise."""
        if not isinstance(given, Mapping):
            return given
        return {name: _with_kind(str(name), account) for name, account in given.items()}

    @model_validator(mode="after")
    def _spend_only_here(self) -> Self:
        for name, account in self.accounts.items():
            # The untouched default stays loadable (tests need settings without accounts); building it is refused.
            if self.loopback_only and account.base_url is not None and not is_loopback(account.base_url):
                msg = (
                    f"account {name} points at {urlsplit(account.base_url).hostname}, but loopback_only is set so that"
                    f" nothing can be spent; set {env_name(f'accounts.{name}.base_url')} to a simulator on 127.0.0.1"
                )
                raise ValueError(msg)
        return self

    @property
    def payload_dir(self) -> Path:
        return self.payloads.dir or self.data_dir / "payloads"

    @property
    def sink_path(self) -> Path:
        return self.sink.sqlite_path or self.data_dir / "sink.sqlite"

    @property
    def files_dir(self) -> Path:
        return self.sink.files_dir or self.data_dir / "files"

    @property
    def view_path(self) -> Path:
        return self.view.path or self.data_dir / "view.sqlite"

    @property
    def state_dir(self) -> Path:
        """Local state files: of one application and one instance, never shared."""
        return self.data_dir / "state" / self.app_id / self.instance

    @override
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _StandardEnv(settings_cls), _file_source(settings_cls))


def _with_kind(name: str, account: Any) -> Any:
    told = isinstance(account, Mapping) and "kind" not in account and name in PROVIDERS
    return {**account, "kind": name} if told else account


class _StandardEnv(PydanticBaseSettingsSource):
    """The variables other tools share, mapped onto our names."""

    @override
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    @override
    def __call__(self) -> dict[str, Any]:
        return nest({path: os.environ[name] for name, path in STANDARD_VARIABLES.items() if os.environ.get(name)})


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of this process; `flags` are dotted names (`runtime.commit_interval_ms`) and win."""
    _refuse_unknown_variables(os.environ)
    try:
        return Settings(**nest({k: v for k, v in (flags or {}).items() if v is not None}))
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Undo `nest`: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def origins(flags: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Say for every dotted setting that is not a default who set it: a flag, a variable by name, or the file."""
    standard = {path: name for name, path in STANDARD_VARIABLES.items() if os.environ.get(name)}
    found = {path: f"file {config_file()}" for path in flatten(_file_source(Settings)())}
    found |= {path: f"env {name}" for path, name in standard.items()}
    found |= {path: f"env {env_name(path)}" for path in flatten(EnvSettingsSource(Settings)())}
    return found | {path: "flag" for path, value in (flags or {}).items() if value is not None}


def child_environment(overrides: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Our environment plus dotted settings, for a process we start: children see exactly what we decided."""
    return dict(os.environ) | {env_name(path): str(value) for path, value in (overrides or {}).items()}


def env_name(path: str) -> str:
    """Name the variable of a dotted setting: `runtime.commit_bytes` -> `BATCHMILL_RUNTIME__COMMIT_BYTES`."""
    return PREFIX + path.replace(".", NESTING).upper()


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to nested dictionaries: {"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, leaf = path.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return tree


def is_loopback(url: str) -> bool:
    """Is the host of `url` this very machine? A name other than localhost is not: it may resolve anywhere."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cache_dir() -> Path:
    """Name the user's folder for downloads that every installation may share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchmill"


def config_file() -> Path:
    """Name the file that is read when it exists; a file named by the variable must exist."""
    return Path(os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE)


def _file_source(settings_cls: type[BaseSettings]) -> TomlConfigSettingsSource:
    path = config_file()
    if os.environ.get(CONFIG_VARIABLE) and not path.is_file():
        raise SettingsError(f"{CONFIG_VARIABLE} names {path}, which is not a file; unset it or create the file")
    return TomlConfigSettingsSource(settings_cls, toml_file=path)


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    for name in environ:
        if not name.startswith(PREFIX) or name.startswith(TEST_PREFIX) or name == CONFIG_VARIABLE:
            continue
        first = name.removeprefix(PREFIX).split(NESTING)[0].lower()
        if first not in Settings.model_fields:
            near = difflib.get_close_matches(first, Settings.model_fields, n=1)
            hint = f"did you mean {env_name(near[0])}?" if near else "see `batchmill config show` for the names"
            raise SettingsError(f"{name} is not a setting; {hint}")


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        path = ".".join(str(part) for part in problem["loc"])
        where = f"{path}: " if path else ""
        hint = f" (set by a flag, {env_name(path)} or {config_file()})" if path else ""
        lines.append(f"{where}{problem['msg'].removeprefix('Value error, ')}{hint}")
    return "\n".join(lines)
