"""What an account's list proves: read until it can be believed, and judged by what the store knows.

The store is asked after the list: then the attempt of every listed task is known, unless the task
is not the gateway's.
"""

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.echoes import apply_report, report_from_json
from gateway.domain.likeness import DEFAULT_TIER, Policy, Standing
from gateway.domain.reconciling import (
    Control,
    Pass,
    Proof,
    Verdict,
    agree,
    counts_for_absence,
    match,
    reading_start_ms,
)
from gateway.ports import Runtime, Upstream
from gateway.services.listing_passes import Reading, read_list
from gateway.storage import accounts
from gateway.storage.accounts import Claimant
from gateway.storage.meta import AccountFact
from gateway.storage.orphans import StoredOrphan

LISTED_MS: Final = 7 * 86_400_000
"""How far back upstreams list."""

_READINGS_MAX: Final = 4
_INLINE_ITEMS_MAX: Final = 5000


@dataclass(frozen=True, slots=True)
class Judged:
    """A reading of an account's list, what the store said to it, and what follows."""

    claimants: Mapping[str, Claimant]
    orphans: Mapping[str, StoredOrphan]
    """The recorded ones that were listed again."""
    seen: Pass
    policy: Policy
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be read: which tiers, and how far back."""

    tiers: Collection[str]
    start_ms: int


def policy_of(runtime: Runtime, upstream: str, facts: Mapping[str, str], now_ms: int) -> Policy:
    """Return how the account is judged: by configuration, and by what is noted of it.

    An account that showed tasks of others is no longer taken for the gateway's alone until its list
    can't hold them any more.
    """
    submit = runtime.config.submit
    markers = runtime.config.upstream(upstream).markers
    shared_at_ms = facts.get(AccountFact.SHARED_AT_MS)
    is_shared = shared_at_ms is not None and now_ms - int(shared_at_ms) < LISTED_MS
    quiet_ms = int(submit.absence_quiet_s * 1000)
    policy = Policy(
        exclusion=markers.exclusion and not is_shared,
        dedicated_since_ms=int(facts.get(AccountFact.DEDICATED_SINCE_MS, now_ms)),
        late_ms=min(Policy().late_ms, quiet_ms),
        quiet_ms=quiet_ms,
        pass_count_min=submit.absence_passes_min,
        doubted_ms=read_span(facts.get(AccountFact.DOUBTED_MS)),
    )
    lost_ms = read_span(facts.get(AccountFact.LOST_MS))
    if lost_ms is not None and now_ms - lost_ms[1] < LISTED_MS:
        policy = replace(policy, lost_ms=lost_ms)
    probed = facts.get(AccountFact.PROBE)
    return policy if probed is None else apply_report(policy, report_from_json(json.loads(probed)))


def read_span(stored: str | None) -> tuple[int, int] | None:
    """Return the first and last of two dates, as a fact of an account keeps them."""
    if stored is None:
        return None
    first, last = stored.split(":")
    return int(first), int(last)


async def judge(
    runtime: Runtime,
    upstream: Upstream,
    credential: str,
    policy: Policy,
    due: Collection[str],
    *,
    is_audit: bool,
) -> Judged:
    """Read the list of a credential's account and judge it.

    What follows from the absence of a task is concluded only if two readings agree; where none do,
    markers alone count. `due` are the lost tasks for which readings are counted. Raises:
    UpstreamFault.
    """
    plan = await _plan(runtime, upstream, credential, policy, is_audit=is_audit)
    reading = await read_list(runtime, upstream, credential, plan.tiers, plan.start_ms)
    judged = await _weigh(runtime, upstream, credential, policy, plan, reading)
    for _ in range(_READINGS_MAX - 1):
        if not _concludes(judged, due):
            return judged
        again = await read_list(runtime, upstream, credential, plan.tiers, plan.start_ms)
        is_confirmed = agree(reading.as_pass(), again.as_pass(), plan.start_ms, policy)
        reading = again
        judged = await _weigh(runtime, upstream, credential, policy, plan, reading)
        if is_confirmed:
            return judged
    reading.is_whole = False
    return await _weigh(runtime, upstream, credential, policy, plan, reading)


async def _plan(
    runtime: Runtime, upstream: Upstream, credential: str, policy: Policy, *, is_audit: bool
) -> _Plan:
    now_ms = runtime.clock.now_ms()
    claimants = await runtime.db.read(
        accounts.list_claimants, upstream.name, credential, now_ms - policy.list_span_ms
    )
    if is_audit:
        families = runtime.catalog.families.values()
        tiers = {tier for family in families for tier in family.service_tiers}
        controls = await _find_controls(runtime, upstream, credential, policy, tiers)
        claimed = {each.task.service_tier for each in claimants}
        return _Plan({DEFAULT_TIER} | claimed | controls.keys(), now_ms - LISTED_MS)
    lost = [each for each in claimants if each.sent.standing is Standing.LOST]
    tiers = {each.task.service_tier for each in lost} or {DEFAULT_TIER}
    starts = [reading_start_ms((each.sent for each in lost), policy) or now_ms]
    # For its absence to count, a list must show what it has to show, however far back that is.
    if policy.exclusion or any(
        each.sent.deadline_at_ms + policy.quiet_ms <= now_ms for each in lost
    ):
        controls = await _find_controls(runtime, upstream, credential, policy, tiers)
        starts += [control.sent_at_ms - policy.skew_ms for control in controls.values()]
    return _Plan(tiers, min(starts))


async def _find_controls(
    runtime: Runtime,
    upstream: Upstream,
    credential: str,
    policy: Policy,
    tiers: Collection[str],
) -> Mapping[str, Control]:
    now_ms = runtime.clock.now_ms()
    found = await runtime.db.read(
        accounts.look_up,
        upstream.name,
        credential,
        (),
        tiers,
        since_ms=now_ms - policy.list_span_ms,
        accepted_before_ms=now_ms - policy.list_lag_ms,
    )
    return found.controls


async def _weigh(
    runtime: Runtime,
    upstream: Upstream,
    credential: str,
    policy: Policy,
    plan: _Plan,
    reading: Reading,
) -> Judged:
    """Judge one reading by what the store knows after it."""
    seen = reading.as_pass()
    found = await runtime.db.read(
        accounts.look_up,
        upstream.name,
        credential,
        reading.items.keys() - reading.known_ids,
        plan.tiers,
        since_ms=seen.ended_at_ms - policy.list_span_ms,
        accepted_before_ms=seen.began_at_ms - policy.list_lag_ms,
    )
    seen = replace(seen, controls=found.controls)
    known_ids = reading.known_ids | found.known_ids | found.orphans.keys()
    sent = [each.sent for each in found.claimants]
    if len(seen.items) > _INLINE_ITEMS_MAX:
        verdict = await asyncio.to_thread(match, sent, seen, known_ids, policy)
    else:
        verdict = match(sent, seen, known_ids, policy)
    claimants: dict[str, Claimant] = {each.task.id: each for each in found.claimants}
    return Judged(claimants, found.orphans, seen, policy, verdict)


def _concludes(judged: Judged, due: Collection[str]) -> bool:
    """Whether anything follows from what the list does not show."""
    verdict = judged.verdict
    return (
        bool(verdict.disputes)
        or any(each.proof is Proof.EXCLUSION for each in verdict.adoptions)
        or any(
            counts_for_absence(judged.claimants[task_id].sent, judged.seen, judged.policy)
            for task_id in verdict.unseen
            if task_id in due
        )
    )
