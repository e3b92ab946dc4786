"""The sections of the configuration about the gateway itself; gateway/config.py has the rest."""

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from gateway.domain.keys import PEPPER_BYTES_MIN
from gateway.domain.policy import NormalizePolicy, UnknownFields, Validation

Port = Annotated[int, Field(ge=0, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Count = Annotated[int, Field(gt=0)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_EXAMPLE_WORDS: Final = ("change", "example", "secret", "password", "pepper", "0123456789")
_DISTINCT_CHARS_MIN: Final = 6


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )


class ServerConfig(Section):
    """Where and how the gateway listens."""

    host: str = Field(
        default="127.0.0.1", description="Address of the public listener; 0.0.0.0 in a container."
    )
    port: Port = Field(default=8080, description="Port of the public listener; 0 takes a free one.")
    metrics_host: str | None = Field(
        default=None, description="Address of the metrics listener; the same as host if not set."
    )
    metrics_port: Port = Field(
        default=9090, description="Port of the metrics listener; 0 takes a free one."
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Host names answered to; empty answers to any."
    )
    body_bytes_max: Count = Field(
        default=64 * 1024 * 1024, description="Largest request body; a larger one gets 413."
    )
    body_deadline_s: Seconds = Field(
        default=30.0,
        description="Time that a body has to arrive, beside its size at body_rate_bytes_s_min.",
    )
    body_rate_bytes_s_min: Count = Field(
        default=128 * 1024,
        description="Slowest rate at which a body may arrive, in bytes per second.",
    )
    body_inline_bytes_max: Count = Field(
        default=1024 * 1024, description="Bodies larger than this are parsed off the event loop."
    )
    body_parse_concurrency_max: Count = Field(
        default=2, description="Large bodies being parsed at once."
    )
    body_concurrency_max: Count = Field(
        default=1024,
        description="Bodies being received at once, half of them of one project; more get 503.",
    )
    bodies_bytes_max: Count = Field(
        default=256 * 1024 * 1024,
        description="Bytes of all bodies held at once, half of them of one project; a body that "
        "passes it gets 503.",
    )
    head_timeout_s: Seconds = Field(
        default=75.0, description="Time that a request's head has to arrive."
    )
    head_bytes_max: Count = Field(default=32 * 1024, description="Largest head of a request.")
    headers_count_max: Count = Field(default=100, description="Most header lines of a request.")
    path_bytes_max: Count = Field(default=1024, description="Longest path of a request.")
    query_bytes_max: Count = Field(
        default=30 * 1024, description="Longest query of a request; room for 500 filter.task_ids."
    )
    connections_max: Count = Field(
        default=4096,
        description="Connections served at once; more wait to be accepted. The limit of open files "
        "is raised for them as far as the system allows.",
    )
    public_url: str | None = Field(
        default=None,
        description="Where upstreams reach this gateway, such as https://video.example.com: they "
        "call back there. Without it, tasks are polled.",
    )
    drain_delay_s: Annotated[float, Field(ge=0, le=300)] = Field(
        default=0.0,
        description="How long a stop goes on serving reads, not ready, before it closes the port.",
    )
    submit_message: str = Field(
        default="Seedance Video Generation - Submit",
        description="Text of `message` in the answers of the seedance surface.",
    )
    docs: bool = Field(default=True, description="Whether /docs and /openapi.json are served.")

    @field_validator("public_url")
    @classmethod
    def _is_public(cls, value: str | None) -> str | None:
        return None if value is None else read_base_url(value)

    @model_validator(mode="after")
    def _holds_a_body(self) -> "ServerConfig":
        if self.bodies_bytes_max < self.body_bytes_max:
            message = "bodies_bytes_max must not be below body_bytes_max"
            raise ValueError(message)
        return self


class AuthConfig(Section):
    """Keys: their pepper, and how long a looked-up key is believed."""

    pepper: SecretStr | None = Field(
        default=None,
        description="Secret of the digests; made in the data folder, but required on PostgreSQL.",
    )
    cache_s: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="Time for which a key is believed without a look at the database."
    )
    cache_keys_max: Count = Field(default=10_000, description="Looked-up keys kept in memory.")

    @field_validator("pepper")
    @classmethod
    def _is_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _refuse_weak(value.get_secret_value())
        return value


class ModelsConfig(Section):
    """Per-model rules: the packaged file, then the deployment's own."""

    files: tuple[Path, ...] = Field(
        default=(), description="Files that add or override families of config/models.yaml."
    )
    endpoints: dict[str, str] = Field(
        default_factory=dict, description="Endpoint id (ep-...) to the family it serves."
    )


class PricesConfig(Section):
    """Price books: the packaged ones, then the deployment's own."""

    files: tuple[Path, ...] = Field(
        default=(),
        description="Files that add price books, or rows before those of config/prices/.",
    )


class ValidationConfig(Section):
    """What of a request is checked, and how large its parts may be."""

    mode: Literal["enforce", "warn"] = Field(
        default="enforce",
        description="warn forwards what breaks per-model rules, with X-Gateway-Warning.",
    )
    unknown_fields: Literal["forward", "reject"] = Field(
        default="forward", description="What becomes of top-level body fields that we do not know."
    )
    unknown_fields_count_max: Count = Field(
        default=32, description="Most unknown fields of a body."
    )
    unknown_fields_bytes_max: Count = Field(
        default=16 * 1024, description="Largest size of all unknown fields, as JSON."
    )
    content_items_max: Count = Field(default=64, description="Most items of content.")
    text_chars_max: Count = Field(default=20_000, description="All texts of a request together.")
    url_chars_max: Count = Field(default=8192, description="Longest media URL.")
    image_bytes_max: Count = Field(
        default=30 * 1024 * 1024, description="Largest image given as a data URI, decoded."
    )
    audio_bytes_max: Count = Field(
        default=15 * 1024 * 1024, description="Largest sound given as a data URI, decoded."
    )

    def make_policy(self) -> NormalizePolicy:
        """Return the same, as the rules of requests take it."""
        return NormalizePolicy(
            validation=Validation(self.mode),
            unknown_fields=UnknownFields(self.unknown_fields),
            unknown_fields_count_max=self.unknown_fields_count_max,
            unknown_fields_bytes_max=self.unknown_fields_bytes_max,
            content_items_max=self.content_items_max,
            text_chars_max=self.text_chars_max,
            url_chars_max=self.url_chars_max,
            image_bytes_max=self.image_bytes_max,
            audio_bytes_max=self.audio_bytes_max,
        )


class SubmitConfig(Section):
    """How the paid POST is sent."""

    client_wait_s: Seconds = Field(
        default=50.0,
        description="Time after which a waiting client gets its id without the upstream's answer.",
    )
    not_sent_retries_max: Annotated[int, Field(ge=0, le=5)] = Field(
        default=2, description="Repeats of a submit of which provably no byte left."
    )
    in_flight_max: Count = Field(
        default=512, description="Submits in progress at once; more get 503."
    )
    outcome_s_max: Seconds = Field(
        default=120.0, description="How long an outcome waits for a store that does not take it."
    )
    max_unknown: Annotated[int, Field(ge=1)] = Field(
        default=5,
        description="Submissions of a credential whose outcome is unknown; at that, more get 503.",
    )
    max_unknown_key: Annotated[int, Field(ge=1)] = Field(
        default=2, description="Those of one key; at that, more of this key get 503."
    )
    unknown_age_max_s: Seconds = Field(
        default=7 * 86_400.0,
        description="Age at which a submission that nothing explains ends by unknown_policy.",
    )
    unknown_policy: Literal["hold", "release", "charge"] = Field(
        default="hold",
        description="What becomes of its hold: kept for an operator, released or charged.",
    )
    absence_quiet_s: Seconds = Field(
        default=900.0,
        description="Time after a lost submission's deadline before lists may prove its absence.",
    )
    absence_passes_min: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="Complete lists without it that prove its absence."
    )
    idempotency_days: Annotated[int, Field(ge=1, le=365)] = Field(
        default=7, description="Days for which an Idempotency-Key stands for its request."
    )
    replay_wait_s: Seconds = Field(
        default=10.0,
        description="Longest wait of a repeated request for the outcome of the one in progress.",
    )
    join_s: Seconds = Field(
        default=600.0,
        description="Age up to which a request whose client left may be joined by an equal one.",
    )
    default_expiry_s: Annotated[int, Field(ge=3600, le=259_200)] = Field(
        default=172_800,
        description="The upstream's expiry of a task that does not set execution_expires_after.",
    )


class ObserverConfig(Section):
    """How the observer follows tasks. Intervals are divided by `time_scale`."""

    tick_s: Seconds = Field(default=0.25, description="Pause between two looks for due tasks.")
    interval_s_min: Seconds = Field(
        default=3.0, description="Shortest time between two looks at a task."
    )
    interval_s_max: Seconds = Field(
        default=60.0, description="Longest time between two looks at a task."
    )
    jitter: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.1, description="Share of an interval that is random."
    )
    callback_runs: Annotated[float, Field(gt=0, le=100)] = Field(
        default=2.0,
        description="For a task whose callbacks come: age at the first look without one, in "
        "typical run times of its model.",
    )
    callback_interval_s_min: Seconds = Field(
        default=60.0, description="Shortest time between two such looks."
    )
    callback_interval_s_max: Seconds = Field(
        default=600.0, description="Longest time between two such looks."
    )
    batch_from: Count = Field(
        default=20, description="From this many due tasks of one credential on, list is used."
    )
    batch_size_max: Annotated[int, Field(ge=1, le=500)] = Field(
        default=100, description="Most tasks asked for by one list call."
    )
    looks_concurrency_max: Count = Field(
        default=8, description="Single reads in progress at once, of one credential."
    )
    claim_count_max: Count = Field(default=500, description="Most due tasks taken at once.")
    lease_s: Seconds = Field(
        default=60.0, description="Time that a claimed task is left to its process."
    )
    missing_s_min: Seconds = Field(
        default=600.0,
        description="Time for which an upstream must deny a task it accepted before that fails.",
    )
    missing_count_min: Count = Field(
        default=3, description="Reads that must deny it, too, before it fails."
    )
    time_scale: Annotated[float, Field(gt=0, le=10_000)] = Field(
        default=1.0, description="Speed of a simulated upstream; 1 for a real one."
    )


class ReconcilerConfig(Section):
    """How submissions whose answer was lost are looked for in upstreams' lists."""

    tick_s: Seconds = Field(
        default=1.0, description="Pause between two looks for lost submissions whose turn it is."
    )
    audit_interval_s: Seconds = Field(
        default=3600.0,
        description="Pause between two comparisons of a credential's whole list, which goes back 7 "
        "days, with the tasks here.",
    )
    page_size: Annotated[int, Field(ge=1, le=500)] = Field(
        default=200, description="Tasks asked for by one list call."
    )
    pages_max: Annotated[int, Field(ge=2, le=500)] = Field(
        default=500,
        description="Most pages of a list that are read; of a longer one nothing is taken for "
        "absent.",
    )


class StatusConfig(Section):
    """How status reads and lists are answered."""

    cache_entries_max: Count = Field(
        default=100_000, description="Tasks whose answers are kept ready in memory."
    )
    cache_bytes_max: Count = Field(default=256 * 1024 * 1024, description="Memory for them, about.")
    cache_age_s_max: Seconds = Field(default=60.0, description="Oldest answer given from memory.")
    wait_s_max: Annotated[float, Field(gt=0, le=60)] = Field(
        default=60.0, description="Longest wait that a status read may ask for."
    )
    waiters_max: Count = Field(
        default=2048,
        description="Status reads waiting at once; more are answered at once. Below "
        "server.connections_max, since each holds a connection.",
    )
    waiters_project_max: Count = Field(
        default=1024, description="Those of one project; more are answered at once."
    )
    page_size_max: Annotated[int, Field(ge=1, le=500)] = Field(
        default=500, description="Largest page of a list."
    )


class StorageConfig(Section):
    """The database: SQLite in the data folder, or PostgreSQL."""

    url: SecretStr | None = Field(
        default=None,
        description="postgresql://user:password@host/name; SQLite in the data folder if not set.",
    )
    readers_count: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="Reader threads (SQLite) or connections (PostgreSQL)."
    )
    queue_count_max: Count = Field(
        default=4096, description="Transactions waiting at once; more get 503."
    )
    statement_timeout_s: Seconds = Field(
        default=10.0, description="Longest run of a statement (PostgreSQL)."
    )
    lock_timeout_s: Seconds = Field(
        default=5.0, description="Longest wait for a lock of another process."
    )

    @field_validator("url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith("postgresql://"):
            message = "must begin with postgresql://; leave it out for SQLite in the data folder"
            raise ValueError(message)
        return value


class RetentionConfig(Section):
    """How long what clients sent is kept."""

    request_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        default=7,
        description="Days that requests are kept; 0 keeps none on disk: the echo shows hashes.",
    )


class TelemetryConfig(Section):
    """Logs."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe event that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: readable on a terminal, else JSON lines. On stderr."
    )


def read_base_url(value: str) -> str:
    """Return where paths are appended. Raises ValueError, which tells nothing of it."""
    is_plain = value.startswith(("http://", "https://")) and not set("@?#") & set(value)
    try:
        parts = urlsplit(value)
        is_plain = is_plain and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a bracket too few, or a port that is none
        is_plain = False
    if not is_plain:
        message = "must be an http or https URL with a host, without user info and query"
        raise ValueError(message)
    return value.rstrip("/")


def _refuse_weak(secret: str) -> None:
    """Refuse what nobody drew at random, without telling any of it."""
    if len(secret.encode()) < PEPPER_BYTES_MIN:
        raise ValueError(f"is too short: {PEPPER_BYTES_MIN} bytes at least")
    if len(set(secret)) < _DISTINCT_CHARS_MIN or any(
        word in secret.lower() for word in _EXAMPLE_WORDS
    ):
        message = "is an example or has next to no entropy; `openssl rand -hex 32` makes one"
        raise ValueError(message)
