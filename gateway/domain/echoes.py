"""Which markers an upstream gives back: what one probe of it has seen.

Where an upstream lists a marker as it was sent, a task that shows another one is ruled out. That is
believed of an upstream only after a probe has seen it, and has never seen anything else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from gateway.domain.attempts import ListedTask, Markers
from gateway.domain.likeness import Policy
from gateway.domain.markers import find_safety_marker
from gateway.domain.tasks import JsonObject


class Marker(StrEnum):
    SEED = "seed"
    EXPIRES_AFTER = "expires_after"
    SAFETY_IDENTIFIER = "safety_identifier"


@dataclass(frozen=True, slots=True)
class Sighting:
    """When something was seen first, and what the task's status was then."""

    after_ms: int
    status: str


@dataclass(frozen=True, slots=True)
class Echo:
    """What became of one marker that was sent."""

    listed: Sighting | None = None
    read: Sighting | None = None
    """By a read of the task alone."""
    is_contradicted: bool = False
    """Another value than the one sent was shown at some time."""


@dataclass(frozen=True, slots=True)
class EchoReport:
    """What a probe has seen so far."""

    at_ms: int
    model: str
    echoes: Mapping[Marker, Echo]
    """By the markers that were sent."""
    listed: Sighting | None = None
    """When the list first showed the task at all."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def begin_report(at_ms: int, model: str, markers: Markers) -> EchoReport:
    """Return the report of a probe that has seen nothing yet."""
    sent = {
        Marker.SEED: markers.seed,
        Marker.EXPIRES_AFTER: markers.expires_after_s,
        Marker.SAFETY_IDENTIFIER: markers.safety_identifier,
    }
    return EchoReport(
        at_ms, model, {marker: Echo() for marker, value in sent.items() if value is not None}
    )


def note(
    report: EchoReport, markers: Markers, task: ListedTask, after_ms: int, *, is_listed: bool
) -> EchoReport:
    """Return the report with what the list, or a read of the task alone, showed."""
    safety_identifier = task.safety_identifier
    if safety_identifier is not None:
        safety_identifier = find_safety_marker(safety_identifier) or ""
    pairs: Mapping[Marker, tuple[object, object]] = {
        Marker.SEED: (markers.seed, task.seed),
        Marker.EXPIRES_AFTER: (markers.expires_after_s, task.expires_after_s),
        Marker.SAFETY_IDENTIFIER: (markers.safety_identifier, safety_identifier),
    }
    sighting = Sighting(after_ms, task.status)
    echoes = {
        marker: _note(echo, *pairs[marker], sighting, is_listed=is_listed)
        for marker, echo in report.echoes.items()
    }
    listed = report.listed or (sighting if is_listed else None)
    return replace(report, echoes=echoes, listed=listed)


def _note(echo: Echo, sent: object, shown: object, sighting: Sighting, *, is_listed: bool) -> Echo:
    if shown is None:
        return echo
    if shown != sent:
        return replace(echo, is_contradicted=True)
    if is_listed:
        return replace(echo, listed=echo.listed or sighting)
    return replace(echo, read=echo.read or sighting)


def apply_report(policy: Policy, report: EchoReport) -> Policy:
    """Return the policy with what the report says of the account."""

    def is_echoed(marker: Marker) -> bool:
        echo = report.echoes.get(marker)
        return echo is not None and echo.listed is not None and not echo.is_contradicted

    lag_ms = 0 if report.listed is None else 2 * report.listed.after_ms
    return replace(
        policy,
        echoes_seed=is_echoed(Marker.SEED),
        echoes_expires_after=is_echoed(Marker.EXPIRES_AFTER),
        echoes_safety_identifier=is_echoed(Marker.SAFETY_IDENTIFIER),
        list_lag_ms=max(policy.list_lag_ms, min(lag_ms, policy.quiet_ms)),
    )


def report_from_json(stored: JsonObject) -> EchoReport:
    """Return the report that `EchoReport.as_json` wrote."""
    echoes = stored["echoes"]
    assert isinstance(echoes, Mapping)  # noqa: S101 - as_json wrote it
    at_ms, model = stored["at_ms"], stored["model"]
    assert isinstance(at_ms, int)  # noqa: S101 - as above
    assert isinstance(model, str)  # noqa: S101 - as above
    return EchoReport(
        at_ms,
        model,
        {
            Marker(name): Echo(
                _sighting(echo["listed"]), _sighting(echo["read"]), echo["is_contradicted"]
            )
            for name, echo in echoes.items()
        },
        _sighting(stored["listed"]),
    )


def _sighting(stored: object) -> Sighting | None:
    return Sighting(**stored) if isinstance(stored, dict) else None
