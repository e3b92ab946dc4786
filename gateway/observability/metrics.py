"""Every metric of the gateway, declared here and nowhere else.

Hot paths add to plain integers; a collector turns them into families when Prometheus asks. Labels
come from closed sets only (route templates, states, configured names), never from a request.
"""

import platform
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gateway import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
_TASK_BUCKETS_S: Final = (5, 10, 30, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600, 14400, 86400)
_LAG_BUCKETS_S: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)


class Counter:
    """A family of integers by label values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def add(self, *labels: str, count: int = 1) -> None:
        self.values[labels] += count

    def collect(self) -> Metric:
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in sorted(self.values.items()):
            family.add_metric(labels, value)
        return family


class Histogram:
    """A family of bucketed durations by label values."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        buckets_s: tuple[float, ...] = _REQUEST_BUCKETS_S,
    ) -> None:
        self.name, self.text, self.labels, self.buckets_s = name, text, labels, buckets_s
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def observe(self, duration_s: float, *labels: str) -> None:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self.buckets_s) + 1)
        counts[bisect_left(self.buckets_s, duration_s)] += 1
        self._sums[labels] += duration_s

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, counts in sorted(self._counts.items()):
            total, buckets = 0, []
            for bound, count in zip((*self.buckets_s, "+Inf"), counts, strict=True):
                total += count
                buckets.append((str(bound), total))
            family.add_metric(labels, buckets, self._sums[labels])
        return family


class Gauge:
    """A family of numbers that are read, or set, at a moment."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: dict[tuple[str, ...], float] = {}
        self.read: Callable[[], Mapping[tuple[str, ...], float]] = lambda: self.values

    def set(self, value: float, *labels: str) -> None:
        self.values[labels] = value

    def collect(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in sorted(self.read().items()):
            family.add_metric(labels, value)
        return family


class RequestMetrics:
    """Of requests, ours and those to upstreams."""

    def __init__(self) -> None:
        super().__init__()
        self.http_requests = Counter(
            "gateway_http_requests", "Requests answered.", ("route", "method", "status")
        )
        self.http_request_duration = Histogram(
            "gateway_http_request_duration_seconds", "From head to last byte.", ("route",)
        )
        self.overhead = Histogram(
            "gateway_overhead_seconds", "Time of a submit less the upstream's part.", ("route",)
        )
        self.rejections = Counter(
            "gateway_rejections", "Requests answered with an error, by code.", ("code",)
        )
        self.auth_failures = Counter("gateway_auth_failures", "Requests without a valid key.")
        self.upstream_requests = Counter(
            "gateway_upstream_requests",
            "Calls of an upstream.",
            ("upstream", "operation", "outcome"),
        )
        self.upstream_request_duration = Histogram(
            "gateway_upstream_request_duration_seconds",
            "Duration of upstream calls.",
            ("upstream", "operation"),
        )


class TaskMetrics:
    """Of tasks and their moves."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = Gauge("gateway_tasks", "Tasks that are not finished, by state.", ("state",))
        self.unknown_tasks = Gauge(
            "gateway_unknown_tasks", "Submissions whose outcome is not known."
        )
        self.task_transitions = Counter(
            "gateway_task_transitions", "Moves of tasks.", ("from", "to")
        )
        self.task_duration = Histogram(
            "gateway_task_duration_seconds",
            "From submit to a terminal state.",
            ("model",),
            _TASK_BUCKETS_S,
        )
        self.poll_lag = Histogram(
            "gateway_poll_lag_seconds",
            "How late the observer came to a due task.",
            buckets_s=_LAG_BUCKETS_S,
        )
        self.lost_races = Counter(
            "gateway_lost_races", "Moves that another worker made first.", ("operation",)
        )
        self.status_cache = Counter(
            "gateway_status_cache", "Status reads by cache result.", ("result",)
        )
        self.validation_warnings = Counter(
            "gateway_validation_warnings", "Rules broken while validation is `warn`.", ("rule",)
        )


class SettlementMetrics:
    """Of what tasks used and cost."""

    def __init__(self) -> None:
        super().__init__()
        self.resolutions = Counter(
            "gateway_resolutions", "Holds settled and released.", ("outcome", "evidence")
        )
        self.usage_tokens = Counter("gateway_usage_tokens", "Tokens of settled tasks.", ("model",))
        self.usage_seconds = Counter(
            "gateway_usage_video_seconds", "Seconds of video of settled tasks.", ("model",)
        )
        self.usage_videos = Counter("gateway_usage_videos", "Videos of settled tasks.", ("model",))
        self.cost_micros = Counter(
            "gateway_cost_micros", "What upstreams bill for settled tasks.", ("model", "currency")
        )
        self.charge_micros = Counter(
            "gateway_charge_micros", "What settled tasks are charged.", ("model", "currency")
        )
        self.estimated_settlements = Counter(
            "gateway_estimated_settlements", "Successes without reported tokens.", ("model",)
        )
        self.overages = Counter(
            "gateway_overages", "Tasks that cost more than was held.", ("model",)
        )
        self.limit_refusals = Counter(
            "gateway_limit_refusals", "Submits that a limit refused.", ("scope", "metric")
        )


class BookMetrics:
    """Of what is held, unknown or undelivered, and of the audit."""

    def __init__(self) -> None:
        super().__init__()
        self.open_holds = Gauge("gateway_open_holds", "Holds that are not resolved.")
        self.held_micros = Gauge("gateway_held_micros", "Charge that is held.", ("currency",))
        self.hold_age = Gauge(
            "gateway_hold_age_seconds_max", "Age of the oldest hold that is not resolved."
        )
        self.ended_holds = Gauge(
            "gateway_ended_holds", "Holds of tasks that ended without evidence."
        )
        self.unknown_age = Gauge(
            "gateway_unknown_age_seconds_max", "Age of the oldest unknown submission."
        )
        self.orphans = Gauge(
            "gateway_orphans", "Upstream tasks that belong to no task here.", ("kind",)
        )
        self.audit_differences = Gauge(
            "gateway_audit_differences", "Differences that the last audit of the ledger found."
        )
        self.audit_last = Gauge(
            "gateway_audit_timestamp_seconds", "When the ledger was last audited."
        )
        self.restore_waiting = Gauge(
            "gateway_restore_waiting", "1 while submits wait for the comparison after a restore."
        )
        self.restore_waiting.set(0)
        self.journal_entries = Gauge("gateway_journal_entries", "Outcomes that wait for the store.")
        self.webhook_deliveries = Counter(
            "gateway_webhook_deliveries", "Attempts to deliver.", ("kind", "outcome")
        )
        self.notifications = Gauge(
            "gateway_notifications", "Notifications not delivered, by state.", ("state",)
        )
        self.callbacks = Counter(
            "gateway_callbacks", "Callbacks of upstreams, by what came of them.", ("result",)
        )
        self.reconciliations = Counter(
            "gateway_reconciliations", "Lost submissions explained.", ("verdict",)
        )


class Metrics(RequestMetrics, TaskMetrics, SettlementMetrics, BookMetrics, Collector):
    """All of them. One object a process, passed in `Runtime`."""

    def __init__(self) -> None:
        super().__init__()
        self.db_duration = Histogram(
            "gateway_db_duration_seconds", "Duration of transactions, by function.", ("query",)
        )
        self.loop_last_success = Gauge(
            "gateway_loop_last_success_timestamp_seconds", "When a loop last ran well.", ("loop",)
        )
        self.build_info = Gauge("gateway_build_info", "Version of the program.", ("version",))
        self.build_info.set(1, __version__)
        self._registry = self._open_registry()

    def _open_registry(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry, platform=platform)
        return registry

    def collect(self) -> Iterator[Metric]:
        for family in vars(self).values():
            if isinstance(family, Counter | Histogram | Gauge):
                yield family.collect()

    def render(self) -> bytes:
        """Return the classic text format."""
        return generate_latest(self._registry)
