"""What can be set on a sandbox. Everything has a default but the data folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

PROFILES: Final = (
    "list_lag",
    "no_echo",
    "partial_echo",
    "no_list",
    "tier_filter",
    "reseller",
    "full_seedance",
)
"""Oddities that resellers and older deployments show; docs/sandbox.md describes each."""

DEFAULT_LIST_LAG_S: Final = 30
TIME_SCALE_MAX: Final = 1_000_000.0
RESELLER_STATUSES: Final = (200, 201, 202)


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one account. None means no limit. Rates are real time, never scaled."""

    rpm: int | None = 600
    rpm_4k: int | None = 15
    concurrency: int | None = 10
    concurrency_4k: int | None = 1
    queued_max: int | None = 120
    get_per_s: int | None = 20
    list_per_s: int | None = 1
    delete_per_s: int | None = 20


def _no_names() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Settings of one sandbox.

    `keys` maps an API key to its account; empty means that any key works, all on one account.
    `endpoints` maps `ep-...` ids to model ids. `time_scale` divides the life of a task (queue, run,
    expiry); dates, rates, retention and the life of a video URL stay in real time.
    `profiles` holds names of `PROFILES`; `list_lag=SECONDS` and `reseller=STATUS` take a value.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 1
    time_scale: float = 1.0
    profiles: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=_no_names, repr=False)
    endpoints: Mapping[str, str] = field(default_factory=_no_names)
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    weak_commands: Literal["ignore", "error"] = "ignore"
    media_fetch_s: float = 0.1
    message: str = "Seedance Video Generation - Submit"
    public_url: str = ""
    callbacks_anywhere: bool = False
    callback_timeout_s: float = 5.0
    callback_retry_wait_s: float = 1.0
    connections_max: int = 4096
    tasks_kept_max: int = 100_000

    def __post_init__(self) -> None:
        """Refuse a time scale or a profile that can't be meant.

        Raises:
            ValueError: naming the setting and what is allowed.
        """
        if not 0 < self.time_scale <= TIME_SCALE_MAX:
            raise ValueError(f"time_scale must be above 0 and at most {TIME_SCALE_MAX:g}")
        for profile in self.profiles:
            name, _, value = profile.partition("=")
            if name not in PROFILES:
                raise ValueError(f"unknown profile {name!r}: known are {', '.join(PROFILES)}")
            if value and (name not in {"list_lag", "reseller"} or not value.isdecimal()):
                raise ValueError(f"profile {profile!r}: only list_lag and reseller take a number")
        if self.reseller_status not in RESELLER_STATUSES:
            raise ValueError(f"profile reseller takes one of {RESELLER_STATUSES}")

    def has_profile(self, name: str) -> bool:
        return any(profile.partition("=")[0] == name for profile in self.profiles)

    @property
    def list_lag_s(self) -> int:
        """Seconds until a new task is listed; 0 without the profile."""
        return self._value("list_lag", DEFAULT_LIST_LAG_S) if self.has_profile("list_lag") else 0

    @property
    def reseller_status(self) -> int:
        """The status with which a create is answered."""
        return self._value("reseller", 200)

    def _value(self, name: str, default: int) -> int:
        for profile in self.profiles:
            key, _, value = profile.partition("=")
            if key == name and value:
                return int(value)
        return default
