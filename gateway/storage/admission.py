"""Admission: the one transaction that lets a task in, or says why not.

In this order: is it a repeat of a request that we have? do too many submissions have no known
outcome? is there room in every budget? Then the task, its request, its attempt and its hold are
written together. Refusals and repeats are return values, and leave nothing behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from gateway.domain.attempts import Attempt
from gateway.domain.balances import (
    Balance,
    Exceeded,
    amounts_of,
    by_window,
    find_exceeded,
)
from gateway.domain.billing import Reservation
from gateway.domain.limits import Account, Limit, LimitSetting, Metric, accounts_of
from gateway.domain.tasks import Task
from gateway.storage import attempts, balances, idempotency, ledger, limits, tasks
from gateway.storage.idempotency import Claim

ChooseLimits = Callable[[Sequence[Account], Sequence[LimitSetting]], Sequence[Limit]]
"""(accounts, limits set by command) -> those that hold, in the accounts' order."""

ReadBalances = Callable[[sa.Connection, Sequence[Account], balances.Starts], Sequence[Balance]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one admission is measured by, besides limits. Times are UTC epoch milliseconds."""

    unknown_credential_max: int
    unknown_key_max: int
    keys_since_ms: int
    """Older idempotency keys are forgotten."""
    joins_since_ms: int
    """Older attempts are not joined."""
    now_ms: int
    alive_for_ms: int
    """A process that was not seen for so long is dead."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that asks to be let in, with all that would be written for it."""

    task: Task
    stored_request: str
    request_expires_at_ms: int | None
    reservation: Reservation
    attempt: Attempt
    claim: Claim | None
    is_repeat: bool
    """Whether its client says that it repeats an earlier request."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """The request is one that we have: by its idempotency key, or in the place of a lost client."""

    task_id: str
    is_by_key: bool


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The idempotency key stands for another request."""


@dataclass(frozen=True, slots=True)
class TooManyUnknown:
    """Earlier submissions must come to an end first: of this key, or of the whole credential."""

    is_of_key: bool


Verdict = Repeated | KeyReused | TooManyUnknown | Exceeded | None
"""None: admitted."""


def admit(
    conn: sa.Connection, admission: Admission, choose_limits: ChooseLimits, bounds: Bounds
) -> Verdict:
    """Write the task with its hold, unless something speaks against it."""
    return (
        find_repeated(conn, admission, bounds)
        or _find_refusal(conn, admission, choose_limits, bounds)
        or _write(conn, admission, bounds)
    )


def check(
    conn: sa.Connection,
    task: Task,
    reservation: Reservation,
    choose_limits: ChooseLimits,
    bounds: Bounds,
    *,
    claim: Claim | None = None,
) -> KeyReused | TooManyUnknown | Exceeded | None:
    """Return what would speak against a task now; nothing is written or locked.

    Nothing does if `claim` stands for the same request already: that one's task would be answered.
    """
    claimed = _find_claimed(conn, claim, bounds) if claim is not None else None
    if claimed is not None:
        return claimed if isinstance(claimed, KeyReused) else None
    return _find_too_many_unknown(conn, task, bounds) or _find_exceeded(
        conn, reservation, choose_limits, balances.find
    )


def find_repeated(
    conn: sa.Connection, admission: Admission, bounds: Bounds
) -> Repeated | KeyReused | None:
    """Return the task that the request asks for once more."""
    attempt = admission.attempt
    if admission.claim is not None:
        return _find_claimed(conn, admission.claim, bounds)
    task_id = attempts.join(
        conn,
        key_id=attempt.key_id,
        fingerprint=attempt.fingerprint,
        since_ms=bounds.joins_since_ms,
        owner=attempt.owner,
        now_ms=bounds.now_ms,
        alive_for_ms=bounds.alive_for_ms,
        is_repeat=admission.is_repeat,
    )
    return None if task_id is None else Repeated(task_id, is_by_key=False)


def _find_refusal(
    conn: sa.Connection, admission: Admission, choose_limits: ChooseLimits, bounds: Bounds
) -> Verdict:
    """Return what speaks against the task, unless that is the same request's own first task.

    Another process may have admitted that one since it was looked for: what counts against the
    request is committed, and so is its key.
    """
    refusal = _find_too_many_unknown(conn, admission.task, bounds) or _find_exceeded(
        conn, admission.reservation, choose_limits, balances.lock
    )
    if refusal is None or admission.claim is None:
        return refusal
    return _find_claimed(conn, admission.claim, bounds) or refusal


def _find_claimed(conn: sa.Connection, claim: Claim, bounds: Bounds) -> Repeated | KeyReused | None:
    claimed = idempotency.find(conn, claim, bounds.keys_since_ms)
    if claimed is None:
        return None
    if claimed.fingerprint != claim.fingerprint:
        return KeyReused()
    return Repeated(claimed.task_id, is_by_key=True)


def _find_too_many_unknown(
    conn: sa.Connection, task: Task, bounds: Bounds
) -> TooManyUnknown | None:
    counts = attempts.count_unknown(conn, task.route.upstream, task.route.credential)
    if counts.get(task.key_id, 0) >= bounds.unknown_key_max:
        return TooManyUnknown(is_of_key=True)
    if sum(counts.values()) >= bounds.unknown_credential_max:
        return TooManyUnknown(is_of_key=False)
    return None


def _find_exceeded(
    conn: sa.Connection,
    reservation: Reservation,
    choose_limits: ChooseLimits,
    read_balances: ReadBalances,
) -> Exceeded | None:
    """Return the first limit without room. Locked balances stay so until all is written."""
    accounts = accounts_of(reservation.project_id, reservation.key_id)
    chosen = choose_limits(accounts, limits.find(conn, accounts))
    counted = [limit for limit in chosen if limit.metric is not Metric.RPM]
    if not counted:
        return None
    known = read_balances(conn, accounts, balances.starts_of(reservation))
    asked = amounts_of(reservation.hold_micros, reservation.held)
    return find_exceeded(counted, by_window(known), asked)


def _write(
    conn: sa.Connection, admission: Admission, bounds: Bounds
) -> Repeated | KeyReused | None:
    task, claim = admission.task, admission.claim
    while claim is not None and not idempotency.take(
        conn, claim, task.id, task.created_at_ms, bounds.keys_since_ms
    ):
        # Another process was first. If its request is refused this moment, the key is free again.
        claimed = _find_claimed(conn, claim, bounds)
        if claimed is not None:
            return claimed
    tasks.admit(conn, task, admission.stored_request, admission.request_expires_at_ms)
    attempts.insert(conn, admission.attempt)
    ledger.hold(conn, admission.reservation)
    return None
