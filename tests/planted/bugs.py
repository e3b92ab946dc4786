"""The bugs: small mistakes in the code that handles money, each of which the suite must notice."""

from typing import Final

from tests.planted.bug import Bug, Edit

_AUDITING: Final = "tests/contract/test_auditing.py"
_BALANCES: Final = "tests/unit/domain/test_balances.py"
_BILLING: Final = "tests/unit/domain/test_billing.py"
_CALLBACKS: Final = "tests/integration/test_callbacks.py"
_FAILURES: Final = "tests/integration/http/test_rivals_failures.py"
_FAULTS: Final = "tests/unit/upstreams/test_faults.py"
_HTTP_REPEATS: Final = "tests/integration/http/test_repeats.py"
_JOURNAL: Final = "tests/unit/test_journal.py"
_JUDGING: Final = "tests/unit/domain/test_reconciling.py"
_MONEY: Final = "tests/integration/http/test_money.py"
_POWER_LOSS: Final = "tests/contract/test_power_loss.py"
_RACES: Final = "tests/contract/test_races.py"
_RECONCILING: Final = "tests/integration/test_reconciling.py"
_REPEATS: Final = "tests/contract/test_repeats.py"
_SETTLEMENT_RACES: Final = "tests/contract/test_settlement_races.py"
_SUBMITS: Final = "tests/integration/http/test_rivals_submits.py"
_SUBMITTING: Final = "tests/integration/test_submit.py"
_TASKS_STORAGE: Final = "tests/contract/test_tasks_storage.py"
_USAGE: Final = "tests/integration/test_usage.py"
_WEBHOOKS: Final = "tests/integration/webhooks/test_deliveries.py"


def _of(path: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{path}::{name}" for name in names)


_EVIDENCE: Final = (
    Bug(
        "a hold is released without evidence",
        "gateway/services/moves.py",
        (
            Edit(
                "    if reservation is None or evidence is None:\n        return None\n",
                "    if reservation is None:\n        return None\n"
                "    from gateway.domain.billing import EvidenceKind\n"
                "    evidence = evidence or Evidence(EvidenceKind.ENDED)\n",
            ),
        ),
        _of(_FAILURES, "test_a_task_that_the_upstream_denies_is_not_refunded_without_evidence"),
    ),
    Bug(
        "a lost answer is taken for a refusal",
        "gateway/services/sending.py",
        (
            Edit(
                '_log_lost(runtime, flight, task, "; ".join([error.message, *_notes_of(error)]))\n'
                "        return Outcome(Event.LOST)\n",
                "return refused(error)\n",
            ),
        ),
        (
            _of(
                _SUBMITTING,
                "test_a_lost_answer_is_an_id_and_an_unknown_task_that_is_never_sent_again",
            )
            + _of(_SUBMITS, "test_no_words_about_a_lost_answer_invite_to_pay_again")
        ),
    ),
    Bug(
        "a 5xx is taken for a definite no",
        "gateway/upstreams/faults.py",
        (Edit("(definite_5xx and status >= 500 and", "(status >= 500 and"),),
        _of(_FAULTS, "test_a_5xx_is_definite_only_where_that_is_configured_and_its_error_complete"),
    ),
    Bug(
        "absence is proved by lists without a control",
        "gateway/domain/reconciling.py",
        (
            Edit(
                "    if control is None or not seen.is_complete:\n        return False\n",
                "    if control is None or not seen.is_complete:\n"
                "        return seen.is_complete\n",
            ),
        ),
        _of(_RECONCILING, "test_without_a_control_a_list_proves_no_absence"),
    ),
    Bug(
        "a lost submission is given another project's task",
        "gateway/domain/reconciling.py",
        (
            Edit(
                "kinds = {(each.attempt.project_id, each.attempt.fingerprint) for each in sent}",
                "kinds = {each.attempt.fingerprint for each in sent}",
            ),
        ),
        _of(_JUDGING, "TestByExclusion::test_of_two_projects_nobody_gets_one_of_two_tasks"),
    ),
    Bug(
        "a callback is believed without a read",
        "gateway/services/calling_back.py",
        (
            Edit(
                "listed = await upstream_of(runtime, task).find_task("
                "task.route.credential, claimed_id)",
                "from gateway.domain.tasks import Observation\n"
                "        listed = ListedTask(claimed_id, None, status='succeeded', "
                "observation=Observation('succeeded', {}))",
            ),
        ),
        _of(_CALLBACKS, "test_a_claimed_task_that_can_not_have_come_of_the_attempt_is_refuted"),
    ),
    Bug(
        "a cancel does not look at the task first",
        "gateway/services/cancelling.py",
        (Edit("    if task.state is TaskState.QUEUED:\n", "    if task is None:\n"),),
        _of(_SUBMITTING, "test_a_task_that_ended_meanwhile_is_not_deleted_upstream_with_its_usage"),
    ),
)

_SENDING: Final = (
    Bug(
        "the hold is taken after the request is sent",
        "gateway/services/submission.py",
        (
            Edit(
                "    try:\n        repeated = await _admit(runtime, flight, request, admission)\n",
                "    outcome = await send(runtime, flight, task, request, parcel)\n"
                "    try:\n        repeated = await _admit(runtime, flight, request, admission)\n",
            ),
            Edit(
                "        outcome = await send(runtime, flight, task, request, parcel)\n    del",
                "    del",
            ),
        ),
        (
            _of(_SUBMITTING, "test_the_row_is_committed_before_the_first_byte")
            + _of(_SUBMITS, "test_a_balance_above_nothing_is_not_enough")
        ),
    ),
    Bug(
        "a submit is sent again after a lost answer",
        "gateway/services/sending.py",
        (
            Edit(
                "        except UpstreamUnavailable:\n            if retries_left == 0:",
                "        except (UpstreamUnavailable, UpstreamAmbiguous):\n"
                "            if retries_left == 0:",
            ),
        ),
        (
            _of(
                _SUBMITTING,
                "test_a_lost_answer_is_an_id_and_an_unknown_task_that_is_never_sent_again",
            )
            + _of(_SUBMITS, "test_no_words_about_a_lost_answer_invite_to_pay_again")
        ),
    ),
    Bug(
        "a client that hangs up stops its submission",
        "gateway/services/submission.py",
        (
            Edit(
                "    runtime.background.start(_carry_out(runtime, flight, request, repeat))\n",
                "    work = asyncio.ensure_future(_carry_out(runtime, flight, request, repeat))\n",
            ),
            Edit(
                "        flight.has_client_left = True\n",
                "        flight.has_client_left = True\n        work.cancel()\n",
            ),
        ),
        _of(_SUBMITTING, "test_a_client_that_hangs_up_changes_nothing")
        + _of(_SUBMITS, "test_a_client_that_hangs_up_leaks_no_hold"),
    ),
    Bug(
        "an idempotency key is not noted",
        "gateway/storage/admission.py",
        (
            Edit(
                "    while claim is not None and not idempotency.take(",
                "    while claim is None and claim is not None and not idempotency.take(",
            ),
        ),
        (
            _of(_HTTP_REPEATS, "test_a_key_with_the_same_body_gives_the_same_task_on_every_surface")
            + _of(_REPEATS, "test_one_idempotency_key_admits_one_task_whoever_asks_at_once")
        ),
    ),
    Bug(
        "a key that is freed as it is found taken admits nothing, and the request is sent",
        "gateway/storage/admission.py",
        (
            Edit(
                "        if claimed is not None:\n            return claimed\n    tasks.admit",
                "        return claimed\n    tasks.admit",
            ),
        ),
        _of(_REPEATS, "test_a_key_that_is_freed_as_it_is_found_taken_is_taken_after_all"),
    ),
    Bug(
        "an attempt whose answer was delivered is joined",
        "gateway/storage/attempts.py",
        (
            Edit(
                "            attempts.c.is_answered == 0,\n"
                "            attempts.c.created_at_ms >= ",
                "            attempts.c.created_at_ms >= ",
            ),
        ),
        (
            _of(_REPEATS, "test_an_attempt_whose_answer_was_delivered_is_never_joined")
            + _of(_HTTP_REPEATS, "test_an_sdks_retry_never_joins_a_task_whose_id_was_delivered")
        ),
    ),
    Bug(
        "two repeats join one attempt while another waits",
        "gateway/storage/attempts.py",
        (
            Edit(
                ".order_by(attempts.c.has_client_left.desc(), attempts.c.created_at_ms)",
                ".order_by(attempts.c.created_at_ms)",
            ),
            Edit('{**given, "may_share": 0}', '{**given, "may_share": 1}'),
        ),
        _of(_REPEATS, "test_two_wanted_variants_whose_clients_left_are_given_to_two_repeats"),
    ),
    Bug(
        "a task is rejected while its id is given to a client",
        "gateway/services/moves.py",
        (Edit("        tasks.lock(conn, after.id)", "        pass"),),
        _of(_REPEATS, "test_an_id_that_is_given_while_its_refusal_is_written_is_of_a_failed_task"),
    ),
    Bug(
        "the outcome journal is not synced",
        "gateway/journal.py",
        (
            Edit(
                "twice does no harm.\n    os.fsync(file)\n",
                "twice does no harm.\n",
            ),
        ),
        (
            _of(_POWER_LOSS, "test_what_the_journal_tells_is_on_the_disk")
            + _of(_JOURNAL, "test_a_disk_that_fails_is_told_and_the_next_entry_is_whole")
        ),
    ),
    Bug(
        "the store does not wait for the disk",
        "gateway/storage/sqlite.py",
        (Edit("PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"),),
        _of(_POWER_LOSS, "test_what_the_store_tells_is_on_the_disk"),
    ),
)

_BUDGETS: Final = (
    Bug(
        "a budget is read without a lock",
        "gateway/storage/admission.py",
        (Edit("choose_limits, balances.lock\n", "choose_limits, balances.find\n"),),
        _of(_RACES, "test_sixteen_processes_are_granted_exactly_the_cap[postgres-money]"),
    ),
    Bug(
        "balances are not locked in one order",
        "gateway/storage/ledger.py",
        (
            Edit(
                "    balances.add(\n        conn,\n"
                "        accounts_of(reservation.project_id, reservation.key_id),\n"
                "        balances.starts_of(reservation),\n        held=held,\n",
                "    balances.add(\n        conn,\n"
                "        accounts_of(reservation.project_id, reservation.key_id)[::-1],\n"
                "        balances.starts_of(reservation),\n        held=held,\n",
            ),
        ),
        _of(_RACES, "test_no_two_transactions_ever_wait_for_each_other"),
    ),
    Bug(
        "nothing is held from one of the three accounts",
        "gateway/storage/ledger.py",
        (
            Edit(
                "        accounts_of(reservation.project_id, reservation.key_id),\n"
                "        balances.starts_of(reservation),\n        held=amounts,\n",
                "        accounts_of(reservation.project_id, reservation.key_id)[:2],\n"
                "        balances.starts_of(reservation),\n        held=amounts,\n",
            ),
        ),
        _of(_FAILURES, "test_a_refund_gives_back_every_amount_that_was_taken"),
    ),
    Bug(
        "a task that has ended still counts as one in progress",
        "gateway/services/moves.py",
        (Edit("resolution, outbox, tasks_count=-1)", "resolution, outbox)"),),
        (
            _of(_MONEY, "test_too_many_tasks_in_progress_is_429_until_one_ends")
            + _of(_RACES, "test_tasks_that_begin_and_end_at_once_leave_books_that_agree")
        ),
    ),
    Bug(
        "a budget bears what settles in its window, not what was admitted in it",
        "gateway/storage/ledger.py",
        (
            Edit(
                "        balances.starts_of(reservation),\n        held=held,\n",
                "        {**balances.starts_of(reservation), "
                "balances.Window.DAY: at_ms - at_ms % 86_400_000},\n        held=held,\n",
            ),
        ),
        _of(_USAGE, "test_a_task_of_the_months_last_minute_that_settles_two_days_later"),
    ),
    Bug(
        "days and months begin in UTC, whatever is configured",
        "gateway/services/admitting.py",
        (Edit("return ZoneInfo(config.finance.timezone)", 'return ZoneInfo("UTC")'),),
        _of(_USAGE, "test_a_task_of_the_months_last_minute_that_settles_two_days_later"),
    ),
    Bug(
        "a limit lets through one more than its cap",
        "gateway/domain/balances.py",
        (
            Edit(
                "exceeded.asked + exceeded.held + exceeded.spent > limit.cap",
                "exceeded.held + exceeded.spent > limit.cap",
            ),
        ),
        (
            _of(_BALANCES, "test_a_budget_has_room_up_to_its_cap_and_not_one_more")
            + _of(_RACES, "test_sixteen_processes_are_granted_exactly_the_cap[sqlite-money]")
        ),
    ),
)

_SETTLING: Final = (
    Bug(
        "a move does not ask whether the task has moved on",
        "gateway/storage/tasks.py",
        (
            Edit(
                '.where(tasks.c.id == sa.bindparam("known_id"), '
                'tasks.c.version == sa.bindparam("known_version"))',
                '.where(tasks.c.id == sa.bindparam("known_id"), '
                'sa.bindparam("known_version") == sa.bindparam("known_version"))',
            ),
        ),
        _of(_TASKS_STORAGE, "test_one_of_sixteen_movers_wins"),
    ),
    Bug(
        "a hold is resolved again",
        "gateway/storage/ledger.py",
        (
            Edit(
                ".where(reservations.c.task_id == reservation.task_id, "
                "reservations.c.outcome.is_(None))\n        .values(",
                ".where(reservations.c.task_id == reservation.task_id)\n        .values(",
            ),
        ),
        _of(_SETTLEMENT_RACES, "test_two_resolutions_of_one_hold_that_meet_are_one"),
    ),
    Bug(
        "the ledger takes a second resolution",
        "gateway/storage/schema.py",
        (
            Edit(
                '    Column("step", _Int64, primary_key=True, autoincrement=False),\n'
                '    Column("kind", Text, nullable=False),\n',
                '    Column("step", _Int64, primary_key=True, autoincrement=False),\n'
                '    Column("kind", Text, primary_key=True),\n',
            ),
        ),
        _of(_SETTLEMENT_RACES, "test_a_settled_hold_is_not_released_as_well"),
    ),
    Bug(
        "the ledger may be changed",
        "gateway/storage/schema.py",
        (
            Edit(
                "_APPEND_ONLY: Final = (task_transitions, audit_events, ledger_entries)",
                "_APPEND_ONLY: Final = (task_transitions, audit_events)",
            ),
        ),
        _of(_AUDITING, "test_no_entry_is_changed_or_taken_away"),
    ),
    Bug(
        "a price is a float",
        "gateway/domain/billing.py",
        (
            Edit(
                "ceil_div(usage.tokens * self.million_tokens_micros, _MILLION)",
                "int(usage.tokens * (self.million_tokens_micros / _MILLION))",
            ),
        ),
        _of(_BILLING, "test_an_amount_is_the_exact_sum_rounded_up_once"),
    ),
    Bug(
        "a success without tokens is free",
        "gateway/domain/billing.py",
        (
            Edit(
                "usage = held if reported is None else reported",
                "usage = NO_USAGE if reported is None else reported",
            ),
        ),
        (
            _of(_BILLING, "test_a_success_without_tokens_is_never_free")
            + _of(_FAILURES, "test_a_success_without_usable_tokens_is_not_free")
        ),
    ),
    Bug(
        "what was quoted is charged, whatever was used",
        "gateway/services/moves.py",
        (
            Edit(
                "return settle(reservation.price, reservation.held, reported, evidence)",
                "return settle(reservation.price, reservation.held, "
                "reported and reservation.held, evidence)",
            ),
        ),
        _of(
            _FAILURES,
            "test_what_is_billed_is_what_was_made_and_not_what_was_asked_for",
            "test_more_tokens_than_were_held_are_charged_all_the_same",
        ),
    ),
    Bug(
        "a task is charged at the price of the day it ends",
        "gateway/services/moves.py",
        (
            Edit(
                "    move = Move(before, after, event, evidence, is_charged)\n",
                "    _PRESENT.append(runtime.prices)\n"
                "    move = Move(before, after, event, evidence, is_charged)\n",
            ),
            Edit(
                "def _resolve(\n",
                "_PRESENT: list = []\n\n\n"
                "def _present(reservation, task):\n"
                "    from gateway.domain.prices import Case\n"
                "    case = Case(model=task.model, family=task.family, resolution=None, "
                "has_input_video=None,\n"
                "        has_audio=None, is_draft=False, tier=None)\n"
                "    return replace(reservation, price=_PRESENT[-1].find(case, "
                "task.route.upstream,\n"
                "        task.updated_at_ms, reservation.held))\n\n\n"
                "def _resolve(\n",
            ),
            Edit(
                "        reported = settled_usage(after.fields or {}, reservation.held)\n",
                "        reservation = _present(reservation, after)\n"
                "        reported = settled_usage(after.fields or {}, reservation.held)\n",
            ),
        ),
        _of(_FAILURES, "test_a_price_that_changes_meanwhile_touches_no_task_in_progress"),
    ),
    Bug(
        "a settlement is told to nobody",
        "gateway/services/moves.py",
        (
            Edit(
                "    if resolution.outcome is Outcome.SETTLED:\n        notifying.add_usage(",
                "    if resolution.is_estimated:\n        notifying.add_usage(",
            ),
        ),
        (
            _of(_WEBHOOKS, "test_each_settled_task_is_told_to_the_sink_once_as_a_cloud_event")
            + _of(
                _SETTLEMENT_RACES, "test_eight_observers_a_callback_a_sweeper_a_cancel_settle_once"
            )
        ),
    ),
    Bug(
        "a release charges what was held",
        "gateway/domain/billing.py",
        (
            Edit(
                "return Resolution(Outcome.RELEASED, NO_USAGE, 0, 0, evidence)",
                "return Resolution(Outcome.RELEASED, NO_USAGE, 1, 0, evidence)",
            ),
        ),
        (
            _of(_BILLING, "test_a_release_charges_nothing_and_keeps_its_evidence")
            + _of(_FAILURES, "test_a_task_that_made_no_video_costs_nothing")
        ),
    ),
    Bug(
        "another project's task is shown",
        "gateway/storage/tasks.py",
        (
            Edit(
                '    tasks.c.project_id == sa.bindparam("owner_id"),\n',
                '    sa.bindparam("owner_id") != "",\n',
            ),
        ),
        _of(_TASKS_STORAGE, "test_tells_a_foreign_task_and_an_unknown_one_alike"),
    ),
)

BUGS: Final = (*_EVIDENCE, *_SENDING, *_BUDGETS, *_SETTLING)
