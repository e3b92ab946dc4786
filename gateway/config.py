"""The configuration: one YAML file plus `GATEWAY_*` environment, read once and passed as a value.

Precedence: environment, then file, then the defaults below. `GATEWAY_SERVER__PORT` sets
`server.port`; `GATEWAY_AUTH__PEPPER_FILE` reads the value of `auth.pepper` from a file. Unknown
names are refused. `docs/configuration.md` lists every setting; a test compares the two.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Port = Annotated[int, Field(ge=0, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerConfig(Section):
    """Where and how the gateway listens."""

    host: str = "127.0.0.1"
    port: Port = 8080
    metrics_host: str | None = Field(
        default=None, description="Address of the metrics listener; the same as host if not set."
    )
    metrics_port: Port = 9090
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Host names answered to; empty answers to any."
    )
    body_bytes_max: Count = 64 * 1024 * 1024
    body_deadline_s: Seconds = 30.0
    body_rate_bytes_s_min: Count = 128 * 1024
    body_inline_bytes_max: Count = Field(
        default=1024 * 1024, description="Larger bodies are parsed off the event loop."
    )
    body_parse_concurrency_max: Count = 2
    body_concurrency_max: Count = Field(
        default=64, description="Bodies being received at once; more get 503."
    )
    bodies_bytes_max: Count = Field(
        default=256 * 1024 * 1024,
        description="Bytes of all bodies held at once; a body that passes it gets 503.",
    )
    head_timeout_s: Seconds = 50.0
    head_bytes_max: Count = 32 * 1024
    headers_count_max: Count = 100
    path_bytes_max: Count = 1024
    query_bytes_max: Count = Field(
        default=30 * 1024, description="Room for 500 repeated filter.task_ids."
    )
    connections_max: Count = 1024
    drain_delay_s: Annotated[float, Field(ge=0, le=300)] = Field(
        default=0.0,
        description="How long a stop goes on serving reads, not ready, before it closes the port.",
    )
    submit_message: str = "Seedance Video Generation - Submit"
    docs: bool = True


class AuthConfig(Section):
    """Keys: their pepper, and how long a looked-up key is believed."""

    pepper: SecretStr | None = Field(
        default=None, description="Made in the data folder if not set; required on PostgreSQL."
    )
    cache_s: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="A revocation is effective after this time at the latest."
    )
    cache_keys_max: Count = 10_000


class CredentialConfig(Section):
    """A secret that we present to an upstream, by reference."""

    name: Name = "default"
    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "CredentialConfig":
        if (self.env is None) == (self.file is None):
            message = "give exactly one of env and file"
            raise ValueError(message)
        return self


class UpstreamConfig(Section):
    """A provider endpoint that we forward to."""

    name: Name
    dialect: Literal["ark", "seedance"] = "ark"
    base_url: str
    region: str = ""
    credentials: Annotated[tuple[CredentialConfig, ...], Field(min_length=1)]
    models: dict[str, str] = Field(
        default_factory=dict, description="Public model name to the upstream's name of it."
    )
    proxy: str | None = None
    ca_file: Path | None = None
    definite_5xx: bool = Field(
        default=False,
        description="Take a complete 5xx with the vendor's error object for a definite no.",
    )
    supports_list: bool | None = Field(
        default=None, description="Whether tasks can be listed; by dialect if not set."
    )
    supports_cancel: bool | None = Field(
        default=None, description="Whether tasks can be cancelled; by dialect if not set."
    )
    connect_timeout_s: Seconds = 5.0
    write_timeout_s: Seconds = 60.0
    answer_timeout_s: Seconds = 600.0
    read_timeout_s: Seconds = Field(default=20.0, description="For status, list and cancel.")
    answer_bytes_max: Count = 4 * 1024 * 1024
    connections_max: Count = 256
    get_per_s_max: Annotated[float, Field(gt=0)] = 20.0
    list_per_s_max: Annotated[float, Field(gt=0)] = 1.0

    @property
    def submit_s_max(self) -> float:
        """The longest that one submit can take."""
        return self.connect_timeout_s + self.write_timeout_s + self.answer_timeout_s

    @field_validator("base_url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) or "@" in value or "?" in value:
            message = "must be an http or https URL without user info and query"
            raise ValueError(message)
        return value.rstrip("/")


class ModelsConfig(Section):
    """Per-model rules: the packaged file, then the deployment's own."""

    files: tuple[Path, ...] = Field(
        default=(), description="Files that add or override families of config/models.yaml."
    )
    endpoints: dict[str, str] = Field(
        default_factory=dict, description="Endpoint id (ep-...) to the family it serves."
    )


class ValidationConfig(Section):
    mode: Literal["enforce", "warn"] = "enforce"
    unknown_fields: Literal["forward", "reject"] = "forward"
    unknown_fields_count_max: Count = 32
    unknown_fields_bytes_max: Count = 16 * 1024
    content_items_max: Count = 64
    text_chars_max: Count = 20_000
    url_chars_max: Count = 4096
    data_uri_bytes_max: Count = 48 * 1024 * 1024


class SubmitConfig(Section):
    client_wait_s: Seconds = Field(
        default=50.0, description="After this time the client gets its id without an answer."
    )
    not_sent_retries_max: Annotated[int, Field(ge=0, le=5)] = 2
    in_flight_max: Count = 512
    default_expiry_s: Annotated[int, Field(ge=3600, le=259_200)] = 172_800


class ObserverConfig(Section):
    """How the observer follows tasks. Intervals are divided by `time_scale`."""

    tick_s: Seconds = 0.25
    interval_s_min: Seconds = 3.0
    interval_s_max: Seconds = 60.0
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    batch_from: Count = Field(
        default=20, description="From this many due tasks of one credential on, list is used."
    )
    batch_size_max: Annotated[int, Field(ge=1, le=500)] = 100
    claim_count_max: Count = 500
    lease_s: Seconds = 60.0
    missing_s_min: Seconds = 600.0
    missing_count_min: Count = 3
    time_scale: Annotated[float, Field(gt=0, le=10_000)] = 1.0


class StatusConfig(Section):
    cache_entries_max: Count = 100_000
    cache_age_s_max: Seconds = 60.0
    wait_s_max: Annotated[float, Field(gt=0, le=60)] = 60.0
    waiters_max: Count = 10_000
    page_size_max: Annotated[int, Field(ge=1, le=500)] = 500


class StorageConfig(Section):
    url: SecretStr | None = Field(
        default=None,
        description="postgresql://user:password@host/name; SQLite in the data folder if not set.",
    )
    readers_count: Annotated[int, Field(ge=1, le=64)] = 4
    queue_count_max: Count = 4096
    statement_timeout_s: Seconds = 10.0
    lock_timeout_s: Seconds = 5.0


class RetentionConfig(Section):
    request_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        default=7, description="0 keeps no request on disk: the echo shows hashes."
    )


class FinanceConfig(Section):
    timezone: str = Field(default="UTC", description="Days and months of reports and budgets.")


class TelemetryConfig(Section):
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"


class Config(Section):
    """Everything that can be set."""

    data_dir: Path = Path(".data")
    bootstrap_key: SecretStr | None = Field(
        default=None, description="A key installed for project `default` at first start."
    )
    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    upstreams: tuple[UpstreamConfig, ...] = ()
    models: ModelsConfig = ModelsConfig()
    validation: ValidationConfig = ValidationConfig()
    submit: SubmitConfig = SubmitConfig()
    observer: ObserverConfig = ObserverConfig()
    status: StatusConfig = StatusConfig()
    storage: StorageConfig = StorageConfig()
    retention: RetentionConfig = RetentionConfig()
    finance: FinanceConfig = FinanceConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    def upstream(self, name: str) -> UpstreamConfig:
        """Return the upstream of that name; KeyError if there is none."""
        for upstream in self.upstreams:
            if upstream.name == name:
                return upstream
        raise KeyError(name)
