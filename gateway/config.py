"""The configuration: one YAML file plus `GATEWAY_*` environment, read once and passed as a value.

Precedence: environment, then file, then the defaults below. `GATEWAY_SERVER__PORT` sets
`server.port`; `GATEWAY_AUTH__PEPPER_FILE` reads the value of `auth.pepper` from a file. Unknown
names are refused. `docs/configuration.md` lists every setting; a test compares the two.
"""

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator, model_validator

from gateway.config_money import (
    LedgerConfig,
    LimitsConfig,
    MarkersConfig,
    WebhooksConfig,
)
from gateway.config_sections import (
    AuthConfig,
    Count,
    EnvName,
    ModelsConfig,
    Name,
    ObserverConfig,
    PricesConfig,
    ReconcilerConfig,
    RetentionConfig,
    Seconds,
    Section,
    ServerConfig,
    StatusConfig,
    StorageConfig,
    SubmitConfig,
    TelemetryConfig,
    ValidationConfig,
    read_base_url,
)
from gateway.domain.keys import find_flaw
from gateway.domain.prices import BookChoice, choose_book

__all__ = [
    "AuthConfig",
    "Config",
    "CredentialConfig",
    "FinanceConfig",
    "HoldsConfig",
    "ModelsConfig",
    "ObserverConfig",
    "PricesConfig",
    "ReconcilerConfig",
    "RetentionConfig",
    "Section",
    "ServerConfig",
    "StatusConfig",
    "StorageConfig",
    "SubmitConfig",
    "TelemetryConfig",
    "UpstreamConfig",
    "ValidationConfig",
]

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Share = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=9)]
Rate = Annotated[Decimal, Field(gt=0, max_digits=24, decimal_places=12)]


class CredentialConfig(Section):
    """A secret that we present to an upstream, by reference."""

    name: Name = Field(
        default="default", description="Name in logs, metrics and tasks; never the secret."
    )
    env: EnvName | None = Field(
        default=None, description="Environment variable that holds the secret."
    )
    file: Path | None = Field(
        default=None, description="File that holds the secret; better than env."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "CredentialConfig":
        if (self.env is None) == (self.file is None):
            message = "give exactly one of env and file"
            raise ValueError(message)
        return self


class UpstreamConfig(Section):
    """A provider endpoint that we forward to."""

    name: Name = Field(
        description="Name in logs, metrics and tasks. Tasks stay pinned to it: rename never."
    )
    dialect: Literal["ark", "seedance"] = Field(
        default="ark",
        description="ark: the vendor's own API; seedance: resellers with the documented contract.",
    )
    base_url: str = Field(
        description="Where its API begins, such as https://ark.cn-beijing.volces.com/api/v3."
    )
    region: str = Field(default="", description="Free text for reports.")
    credentials: Annotated[tuple[CredentialConfig, ...], Field(min_length=1)] = Field(
        description="Secrets presented to it, the preferred one first."
    )
    models: dict[str, str] = Field(
        default_factory=dict, description="Public model name to the upstream's name of it."
    )
    price_book: Name | None = Field(
        default=None,
        description="Price book that it bills by; that of its base_url's provider if not set.",
    )
    discount: Annotated[Share, Field(lt=1)] = Field(
        default=Decimal(0),
        description="Share of the book's prices that the contract takes off: 0.15 is 15 %.",
    )
    proxy: SecretStr | None = Field(
        default=None,
        description="HTTP proxy to reach it by; the environment's proxies are never used.",
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of the authority to trust, instead of the system's."
    )
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
    connect_timeout_s: Seconds = Field(default=5.0, description="Time to connect, TLS included.")
    write_timeout_s: Seconds = Field(
        default=60.0, description="Longest pause without progress while a request is sent."
    )
    answer_timeout_s: Seconds = Field(
        default=600.0, description="Time to answer a submit; the vendor fetches media first."
    )
    read_timeout_s: Seconds = Field(
        default=20.0, description="Time to answer a status read, a list or a cancel."
    )
    answer_bytes_max: Count = Field(
        default=4 * 1024 * 1024, description="Largest answer that is read."
    )
    connections_max: Count = Field(default=512, description="Connections for submits at once.")
    read_connections_max: Count = Field(
        default=32, description="Connections for status reads, lists and cancels at once."
    )
    get_per_s_max: Annotated[float, Field(gt=0)] = Field(
        default=20.0,
        description="Reads of single tasks per second and credential: the vendor's budget.",
    )
    list_per_s_max: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="List calls per second and credential: the vendor's budget."
    )
    markers: MarkersConfig = Field(
        default=MarkersConfig(), description="What submissions carry to be known again."
    )
    callbacks: bool = Field(
        default=True,
        description="Whether it is asked to call back, where server.public_url is set.",
    )

    @property
    def submit_s_max(self) -> float:
        """The longest that one submit can take."""
        return self.connect_s_max + self.write_timeout_s + self.answer_timeout_s

    @property
    def book(self) -> BookChoice:
        """The price book that it bills by."""
        return choose_book(self.price_book, self.base_url)

    @property
    def connect_s_max(self) -> float:
        """The longest until the first byte leaves: a place, the connection, a proxy's tunnel."""
        return 3 * self.connect_timeout_s

    @field_validator("credentials")
    @classmethod
    def _has_own_names(cls, value: tuple[CredentialConfig, ...]) -> tuple[CredentialConfig, ...]:
        _refuse_twins([credential.name for credential in value])
        return value

    @field_validator("base_url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return read_base_url(value)


class FinanceConfig(Section):
    """What finance counts by. Decimals are read exactly as they are written."""

    timezone: str = Field(
        default="UTC",
        description="Time zone in which days and months of reports and budgets begin.",
    )
    currency: Currency | None = Field(
        default=None,
        description="What tasks are charged in; the currency of the first upstream's price book "
        "if not set.",
    )
    rates: dict[Currency, Rate] = Field(
        default_factory=dict,
        description="Currency of a price book to what one unit of it is in finance.currency; 1 if "
        "not given.",
    )
    markup: Annotated[Share, Field(le=100)] = Field(
        default=Decimal(0), description="Share that is charged on top of the cost: 0.1 is 10 %."
    )
    pricing: bool = Field(
        default=True,
        description="Whether tasks have a price; without, all are free and none is refused for "
        "want of one.",
    )

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            return value if value == "UTC" else ZoneInfo(value).key
        except (ValueError, OSError, KeyError):
            message = "is not a time zone of this system, such as UTC or Asia/Singapore"
            raise ValueError(message) from None


class HoldsConfig(Section):
    """How much is held for a task until it has ended."""

    open_ended: Literal["ceiling", "typical"] = Field(
        default="ceiling",
        description="For a length left to the model: the longest, or the family's typical one.",
    )


class Config(Section):
    """Everything that can be set."""

    data_dir: Path = Field(
        default=Path(".data"),
        description="Folder of the database, the pepper and the sandbox's files.",
    )
    bootstrap_key: SecretStr | None = Field(
        default=None,
        description="A key that a start installs for project `default`; see `keys generate`.",
    )
    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    upstreams: tuple[UpstreamConfig, ...] = Field(
        default=(), description="The providers that requests go to, in order of preference."
    )
    models: ModelsConfig = ModelsConfig()
    prices: PricesConfig = PricesConfig()
    validation: ValidationConfig = ValidationConfig()
    submit: SubmitConfig = SubmitConfig()
    observer: ObserverConfig = ObserverConfig()
    reconciler: ReconcilerConfig = ReconcilerConfig()
    status: StatusConfig = StatusConfig()
    storage: StorageConfig = StorageConfig()
    retention: RetentionConfig = RetentionConfig()
    limits: LimitsConfig = LimitsConfig()
    ledger: LedgerConfig = LedgerConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    finance: FinanceConfig = FinanceConfig()
    holds: HoldsConfig = HoldsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @field_validator("bootstrap_key")
    @classmethod
    def _is_key(cls, value: SecretStr | None) -> SecretStr | None:
        flaw = find_flaw(value.get_secret_value()) if value is not None else None
        if flaw is not None:
            raise ValueError(f"{flaw}; `seedance-gateway keys generate` makes one")
        return value

    @field_validator("upstreams")
    @classmethod
    def _has_own_names(cls, value: tuple[UpstreamConfig, ...]) -> tuple[UpstreamConfig, ...]:
        _refuse_twins([upstream.name for upstream in value])
        return value

    @model_validator(mode="after")
    def _leaves_connections(self) -> "Config":
        if self.status.waiters_max >= self.server.connections_max:
            message = "status.waiters_max must be below server.connections_max"
            raise ValueError(message)
        return self

    def upstream(self, name: str) -> UpstreamConfig:
        """Return the upstream of that name; KeyError if there is none."""
        for upstream in self.upstreams:
            if upstream.name == name:
                return upstream
        raise KeyError(name)


def _refuse_twins(names: list[str]) -> None:
    twins = [name for name, count in Counter(names).items() if count > 1]
    if twins:
        raise ValueError(f"the name {twins[0]!r} is given twice")
