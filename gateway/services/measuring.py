"""The gauges of the money that is held, and of what nobody can account for yet."""

from gateway.ports import Runtime
from gateway.storage import measures, meta, orphans


async def measure_money(runtime: Runtime) -> None:
    """Bring the gauges of holds, unknown submissions and orphans up to date."""
    holds = await runtime.db.read(measures.sum_open_holds)
    unknown_at_ms = await runtime.db.read(measures.find_oldest_unknown)
    metrics = runtime.metrics
    metrics.open_holds.set(sum(each.count for each in holds))
    metrics.ended_holds.set(sum(each.ended_count for each in holds))
    metrics.held_micros.values = {(runtime.prices.currency,): 0}
    for each in holds:
        metrics.held_micros.set(each.micros, each.currency)
    oldest_at_ms = min((each.oldest_at_ms for each in holds), default=None)
    metrics.hold_age.set(_age_s(runtime, oldest_at_ms))
    metrics.unknown_age.set(_age_s(runtime, unknown_at_ms))
    ours_count, strangers_count = await runtime.db.read(orphans.count)
    metrics.orphans.set(ours_count, "given_up")
    metrics.orphans.set(strangers_count, "stranger")
    metrics.orphans.set(await runtime.db.read(meta.count_foreign), "foreign")


def _age_s(runtime: Runtime, since_ms: int | None) -> float:
    return 0.0 if since_ms is None else max(0, runtime.clock.now_ms() - since_ms) / 1000
