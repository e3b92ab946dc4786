import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.webhooks import (
    ATTEMPTS_MAX,
    RETRY_AFTER_S_MAX,
    WAIT_MS_MAX,
    DeliveryError,
    DeliveryResult,
    Notification,
    NotificationKind,
    NotificationState,
    SettledUsage,
    apply_result,
    find_secret_flaw,
    generate_secret,
    next_attempt_ms,
    redeliver,
    usage_event,
)

NOW_MS = 1_795_330_862_123
HOUR_MS = 3_600_000
NEW = Notification(
    id="msg_1",
    task_id="cgt-20261124181422-aaaaaaaaaaaaaaaaaaaa",
    kind=NotificationKind.CALLBACK,
    url="https://receiver.example/hook?token=canary",
    body=b'{"canary":1}',
    created_at_ms=NOW_MS,
    next_attempt_at_ms=NOW_MS,
)
DOWN = DeliveryResult(503, DeliveryError.REFUSED)
USAGE = SettledUsage(
    task_id=NEW.task_id,
    project="proj_23ockqwa6hhkfiff3qjolsbdu2",
    project_name="default",
    key="AbCdEfGhIjKl",
    model="doubao-seedance-1-0-pro",
    family="1.0 pro",
    tokens=108_900,
    seconds=5,
    videos=1,
    cost_micros=1_633_500,
    cost_currency="CNY",
    charge_micros=1_796_850,
    currency="CNY",
    price_version="volcengine-2026-01",
    is_estimated=False,
    submitted_at_ms=NOW_MS - 90_000,
    settled_at_ms=NOW_MS,
)


def fail_until_dead(spreads: Iterator[float]) -> list[Notification]:
    """Return the notification after each failed attempt, each made when it was due."""
    states = [NEW]
    while states[-1].next_attempt_at_ms is not None:
        due_ms = states[-1].next_attempt_at_ms
        states.append(apply_result(states[-1], DOWN, due_ms, next(spreads)))
    return states[1:]


def test_a_receiver_that_is_down_is_tried_eleven_times_over_three_days() -> None:
    states = fail_until_dead(cycle([0.0]))

    assert [state.attempt_count for state in states] == list(range(1, ATTEMPTS_MAX + 1))
    assert ATTEMPTS_MAX == 11
    at_ms = [NOW_MS, *(state.next_attempt_at_ms or 0 for state in states[:-1])]
    waits_s = [(after - before) // 1000 for before, after in pairwise(at_ms)]
    assert waits_s == [5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert [state.state for state in states[:-1]] == [NotificationState.PENDING] * 10
    assert states[-1].state is NotificationState.DEAD


def waits_of(spreads: Iterator[float]) -> list[int]:
    states = fail_until_dead(spreads)
    at_ms = [NOW_MS, *(state.next_attempt_at_ms or 0 for state in states[:-1])]
    return [after - before for before, after in pairwise(at_ms)]


@given(spreads=st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_whatever_the_spread_waits_are_near_growing_ones_and_end_within_two_and_four_days(
    spreads: list[float],
) -> None:
    waits_ms, plain_ms = waits_of(cycle(spreads)), waits_of(cycle([0.0]))

    assert plain_ms == sorted(plain_ms)
    assert all(
        abs(wait_ms - plan_ms) <= plan_ms / 10
        for wait_ms, plan_ms in zip(waits_ms, plain_ms, strict=True)
    )
    assert 2.5 * 24 * HOUR_MS < sum(waits_ms) < 4 * 24 * HOUR_MS


@pytest.mark.parametrize("attempt_count", [ATTEMPTS_MAX, ATTEMPTS_MAX + 1, 10**6])
def test_after_the_last_attempt_nothing_is_due(attempt_count: int) -> None:
    assert next_attempt_ms(attempt_count, NOW_MS, 0.0) is None


def test_a_delivered_notification_is_done() -> None:
    tried = apply_result(NEW, DOWN, NOW_MS, 0.0)
    done = apply_result(tried, DeliveryResult(204), NOW_MS, 0.0)

    assert done.state is NotificationState.DELIVERED
    assert done.next_attempt_at_ms is None
    assert (done.last_status, done.last_error, done.attempt_count) == (204, None, 2)
    assert (done.id, done.body) == (NEW.id, NEW.body)


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (DeliveryResult(410, DeliveryError.GONE), NotificationState.DEAD),
        (DeliveryResult(None, DeliveryError.URL_INVALID), NotificationState.DEAD),
        (DeliveryResult(None, DeliveryError.URL_REFUSED), NotificationState.DEAD),
        (DeliveryResult(None, DeliveryError.SCHEME_REFUSED), NotificationState.DEAD),
        (DeliveryResult(404, DeliveryError.REFUSED), NotificationState.PENDING),
        (DeliveryResult(302, DeliveryError.REDIRECTED), NotificationState.PENDING),
        (DeliveryResult(None, DeliveryError.ADDRESS_REFUSED), NotificationState.PENDING),
        (DeliveryResult(None, DeliveryError.TIMED_OUT), NotificationState.PENDING),
    ],
)
def test_only_what_can_never_succeed_is_dead_at_once(
    result: DeliveryResult, state: NotificationState
) -> None:
    event = replace(NEW, kind=NotificationKind.USAGE)
    of_sink = apply_result(event, result, NOW_MS, 0.0)
    tried = apply_result(NEW, result, NOW_MS, 0.0)

    assert of_sink.state is NotificationState.PENDING, "nobody but the operator ends the sink"
    assert tried.state is state
    assert (tried.next_attempt_at_ms is None) == (state is NotificationState.DEAD)
    assert (tried.last_status, tried.last_error) == (result.status, result.error)


@pytest.mark.parametrize(
    ("asked_s", "wait_s"),
    [(None, 5), (-7, 5), (0, 5), (2, 5), (60, 60), (10**9, RETRY_AFTER_S_MAX)],
)
def test_retry_after_lengthens_a_wait_within_bounds(asked_s: int | None, wait_s: int) -> None:
    result = DeliveryResult(429, DeliveryError.REFUSED, asked_s)

    assert apply_result(NEW, result, NOW_MS, 0.0).next_attempt_at_ms == NOW_MS + wait_s * 1000


def test_a_redelivery_has_the_same_id_and_all_attempts_before_it() -> None:
    dead = fail_until_dead(cycle([0.0]))[-1]
    again = redeliver(dead, NOW_MS)

    assert again == replace(
        NEW, last_status=503, last_error=DeliveryError.REFUSED, next_attempt_at_ms=NOW_MS
    )
    assert apply_result(again, DOWN, NOW_MS, 0.0).state is NotificationState.PENDING


def test_neither_url_nor_body_are_printed() -> None:
    assert "canary" not in repr(NEW)


def test_a_usage_event_is_a_cloud_event() -> None:
    event = usage_event(USAGE, "/seedance-gateway")

    assert json.loads(json.dumps(event)) == {
        "specversion": "1.0",
        "id": "cgt-20261124181422-aaaaaaaaaaaaaaaaaaaa/settled",
        "source": "/seedance-gateway",
        "type": "seedance.task.settled",
        "time": "2026-11-22T07:01:02.123Z",
        "subject": "cgt-20261124181422-aaaaaaaaaaaaaaaaaaaa",
        "datacontenttype": "application/json",
        "data": {
            "project": "proj_23ockqwa6hhkfiff3qjolsbdu2",
            "project_name": "default",
            "key": "AbCdEfGhIjKl",
            "model": "doubao-seedance-1-0-pro",
            "family": "1.0 pro",
            "tokens": 108_900,
            "seconds": 5,
            "videos": 1,
            "cost_micros": 1_633_500,
            "cost_currency": "CNY",
            "charge_micros": 1_796_850,
            "currency": "CNY",
            "price_version": "volcengine-2026-01",
            "estimated": False,
            "submitted_at": "2026-11-22T06:59:32.123Z",
            "settled_at": "2026-11-22T07:01:02.123Z",
        },
    }


def test_the_id_of_a_usage_event_depends_on_the_task_alone() -> None:
    later = replace(USAGE, settled_at_ms=NOW_MS + 1, tokens=1)

    assert usage_event(later, "/a")["id"] == usage_event(USAGE, "/a")["id"]
    assert usage_event(replace(USAGE, task_id="x"), "/a")["id"] != usage_event(USAGE, "/a")["id"]


@given(st.binary(min_size=32, max_size=32).filter(lambda drawn: len(set(drawn)) >= 16))
def test_a_generated_secret_has_no_flaw(drawn: bytes) -> None:
    secret = generate_secret(lambda count: drawn[:count])

    assert find_secret_flaw(secret) is None
    assert base64.b64decode(secret.removeprefix("whsec_")) == drawn


def encoded(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


RANDOM = hashlib.sha512(b"any").digest() + b"one more"


@pytest.mark.parametrize(
    ("secret", "flaw"),
    [
        ("", "is not a signing secret"),
        ("whsec_", "is not a signing secret"),
        (base64.b64encode(RANDOM[:32]).decode(), "is not a signing secret"),
        ("whsec_" + "!" * 44, "is not a signing secret"),
        (encoded(RANDOM[:32]) + "\n", "is not a signing secret"),
        ("whsec_" + "A" * 41, "is not base64"),
        (encoded(RANDOM[:23]), "has 23 bytes"),
        (encoded(RANDOM[:65]), "has 65 bytes"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "is an example"),
        (encoded(b"\0" * 32), "is an example"),
        (encoded(b"abcdefghi" * 4), "is an example"),
        (encoded(b"please-CHANGE-this-text-now-qwzx"), "is an example"),
    ],
)
def test_an_empty_short_or_example_secret_is_refused_without_telling_it(
    secret: str, flaw: str
) -> None:
    found = find_secret_flaw(secret)

    assert found is not None
    assert flaw in found
    rest = secret.removeprefix("whsec_").strip()
    assert not rest or rest[:8] not in found


@pytest.mark.parametrize("size", [24, 25, 32, 63, 64])
def test_secrets_of_24_to_64_bytes_are_taken_with_and_without_padding(size: int) -> None:
    assert find_secret_flaw(encoded(RANDOM[:size])) is None
    assert find_secret_flaw(encoded(RANDOM[:size]).rstrip("=")) is None


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://Receiver.Example/a?token=canary", "receiver.example"),
        ("https://receiver.example:8443/b#c", "receiver.example:8443"),
        ("http://user:canary@receiver.example/", "receiver.example"),
        ("http://[::1]:80/", "[::1]:80"),
        ("http://[::1/", "?"),
        ("no address", "?"),
        (f"http://{'a' * 400}/", "a" * 255),
    ],
)
def test_turns_are_taken_by_host_and_port(url: str, receiver: str) -> None:
    assert replace(NEW, url=url).receiver == receiver


def test_there_is_one_sink_wherever_it_is() -> None:
    events = [
        replace(NEW, kind=NotificationKind.USAGE, url=f"https://{host}.example/") for host in "ab"
    ]

    assert {event.receiver for event in events} == {"sink"}


def test_the_end_is_dated_and_a_redelivery_takes_the_date_away() -> None:
    delivered = apply_result(NEW, DeliveryResult(204), NOW_MS + 5, 0)
    gone = apply_result(NEW, DeliveryResult(410, DeliveryError.GONE), NOW_MS + 6, 0)
    waiting = apply_result(NEW, DOWN, NOW_MS + 7, 0)

    assert (delivered.ended_at_ms, gone.ended_at_ms) == (NOW_MS + 5, NOW_MS + 6)
    assert waiting.ended_at_ms is None
    assert redeliver(gone, NOW_MS).ended_at_ms is None


def test_no_wait_is_longer_than_the_longest_that_is_believed() -> None:
    for attempt_count in range(1, ATTEMPTS_MAX):
        at_ms = next_attempt_ms(attempt_count, NOW_MS, 1)
        assert at_ms is not None
        assert at_ms <= NOW_MS + WAIT_MS_MAX
