"""The sections of the configuration about limits, webhooks and usage events."""

import re
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from gateway.config_sections import Count, Seconds, Section
from gateway.domain.limit_defaults import DefaultLimit, LimitDefaults, find_repeated
from gateway.domain.limits import Metric, Window, check_window, parse_cap
from gateway.domain.webhooks import find_secret_flaw, parse_network
from gateway.endpoints import UndeliverableError, parse_endpoint

Cap = Annotated[int | str | Decimal, Field(union_mode="left_to_right")]


class LimitConfig(Section):
    """A limit of everybody in a scope, unless `limits set` gives another one."""

    metric: Literal["money", "videos", "seconds", "tokens", "tasks", "rpm"] = Field(
        description="What is counted."
    )
    window: Literal["day", "month", "ever"] | None = Field(
        default=None, description="In which window; tasks and rpm have none."
    )
    cap: Cap = Field(description="How much; money as a decimal of the currency, in quotes.")

    @field_validator("cap", mode="before")
    @classmethod
    def _is_number(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
            message = "must be a number"
            raise ValueError(message)  # noqa: TRY004 - what pydantic reports
        return str(value) if isinstance(value, float) and not isfinite(value) else value

    @field_validator("cap")
    @classmethod
    def _is_in_range(cls, value: Cap, info: ValidationInfo) -> Cap:
        if "metric" in info.data:  # or that is refused already
            parse_cap(Metric(info.data["metric"]), str(value))
        return value

    @model_validator(mode="after")
    def _is_sound(self) -> "LimitConfig":
        self.as_default()
        return self

    def as_default(self) -> DefaultLimit:
        """Return the limit as the domain has it. Raises ValueError."""
        metric = Metric(self.metric)
        window = Window(self.window) if self.window is not None else None
        check_window(metric, window)
        return DefaultLimit(metric, window, parse_cap(metric, str(self.cap)))


class LimitsConfig(Section):
    """Limits that hold without a command. There is none unless it is given here."""

    organization: tuple[LimitConfig, ...] = Field(
        default=(), description="Limits of the whole deployment."
    )
    project: tuple[LimitConfig, ...] = Field(
        default=(), description="Limits of each project that has none of its own."
    )
    key: tuple[LimitConfig, ...] = Field(
        default=(), description="Limits of each key that has none of its own."
    )
    rates_count_max: Count = Field(
        default=100_000, description="Accounts whose rate is kept in memory."
    )

    @field_validator("organization", "project", "key")
    @classmethod
    def _is_given_once(cls, value: tuple[LimitConfig, ...]) -> tuple[LimitConfig, ...]:
        twin = find_repeated([one.as_default() for one in value])
        if twin is not None:
            raise ValueError(f"the limit of {twin.metric.value} is given twice")
        return value

    def defaults(self) -> LimitDefaults:
        """Return them as the domain has them."""
        return LimitDefaults(
            tuple(one.as_default() for one in self.organization),
            tuple(one.as_default() for one in self.project),
            tuple(one.as_default() for one in self.key),
        )


class WebhooksConfig(Section):
    """Deliveries to the callback addresses of clients, and to the sink of usage events."""

    secrets: tuple[SecretStr, ...] = Field(
        default=(),
        max_length=4,
        description="Secrets that sign deliveries (whsec_...), the newest first; derived from the "
        "pepper if not set.",
    )
    allow_private: tuple[str, ...] = Field(
        default=(),
        description="Networks that are not public and yet called back, such as 10.0.0.0/8; the "
        "sink of usage events may be anywhere.",
    )
    allow_http: bool = Field(
        default=True, description="Whether callback addresses may be http; https alone if not."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of the authority to trust, instead of the public ones."
    )
    timeout_s: Seconds = Field(default=15.0, description="Time that one delivery may take.")
    concurrency_max: Count = Field(
        default=32,
        description="Callbacks being delivered at once; receivers that don't answer have half of "
        "these places together, and one each.",
    )
    receiver_concurrency_max: Count = Field(
        default=4,
        description="Callbacks being delivered to one receiver at once; usage events have as many "
        "places of their own.",
    )
    incoming_per_s_max: Annotated[float, Field(gt=0)] = Field(
        default=50.0, description="Callbacks of upstreams per second that are looked into."
    )
    retention_days: Annotated[int, Field(ge=1, le=365)] = Field(
        default=7, description="Days that deliveries are kept once they were made or given up."
    )
    usage_url: str | None = Field(
        default=None,
        description="Where a CloudEvent about each settled task is posted; none if not set.",
    )
    usage_source: str = Field(
        default="/seedance-gateway", description="The `source` of these events."
    )

    @field_validator("secrets")
    @classmethod
    def _is_secret(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, secret in enumerate(value):
            flaw = find_secret_flaw(secret.get_secret_value())
            if flaw is not None:
                raise ValueError(f"secret {number} {flaw}")
        return value

    @field_validator("allow_private")
    @classmethod
    def _is_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            parse_network(network)
        return value

    @field_serializer("usage_url")
    def _hide_query(self, value: str | None) -> str | None:
        """Show where it is, but not what may be a token."""
        if value is None:
            return None
        address = re.split("[?#]", value, maxsplit=1)[0]
        return address + ("?***" if address != value else "")

    @field_validator("usage_url")
    @classmethod
    def _is_deliverable(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                parse_endpoint(value)
        except UndeliverableError:
            message = (
                "must be an http or https URL with a host, and without user info: a token of the "
                "sink's goes into its path or query"
            )
            raise ValueError(message) from None
        return value


class LedgerConfig(Section):
    """How the books are watched."""

    audit_interval_s: Seconds = Field(
        default=60.0, description="Pause between two audits of the whole ledger."
    )
    refuse_on_difference: bool = Field(
        default=False, description="Whether a difference closes the gateway for submits."
    )


class MarkersConfig(Section):
    """What submissions carry, so that one whose answer was lost is found in the upstream's list."""

    seed: bool = Field(
        default=True, description="Draw the seed here where the client leaves it to the upstream."
    )
    expires_after: bool = Field(
        default=False,
        description="Shorten the default expiry by up to 17 minutes, differently for each.",
    )
    safety_identifier: bool = Field(
        default=False, description="Append a suffix to safety_identifier."
    )
    exclusion: bool = Field(
        default=False,
        description="The credential is this gateway's alone: what is listed and not known must be "
        "a lost submission.",
    )
