"""Projects and keys through the services, on a real store."""

import io
import secrets

import pytest

from gateway.domain import keys as key_rules
from gateway.domain.keys import KeyKind
from gateway.errors import InvalidRequest, NotFound, Unauthenticated
from gateway.ports import Runtime
from gateway.services import admin
from gateway.services.auth import authenticate, find_principal
from gateway.storage import audit
from tests.support.clock import FakeClock

DAY_MS = 86_400_000


def header(key: str) -> bytes:
    return f"Bearer {key}".encode()


async def test_a_new_key_is_let_in_and_only_its_digest_is_kept(runtime: Runtime) -> None:
    created = await admin.create_key(runtime, "test", "default", name="app")

    principal = await authenticate(runtime, header(created.key))

    assert principal.key_id == created.record.id
    assert principal.project_id == created.project.id
    assert created.key[20:] not in repr(await admin.list_keys(runtime))


@pytest.mark.parametrize("shape", ["Bearer {}", "bearer {}", "BEARER  {}", "{}"])
async def test_the_scheme_may_be_missing_and_in_any_case(runtime: Runtime, shape: str) -> None:
    key = (await admin.create_key(runtime, "test", "default")).key

    assert (await authenticate(runtime, shape.format(key).encode())).key_id


async def test_every_wrong_key_gets_the_same_words(runtime: Runtime, clock: FakeClock) -> None:
    revoked = await admin.create_key(runtime, "test", "default")
    await admin.revoke_key(runtime, "test", revoked.record.id)
    expired = await admin.create_key(runtime, "test", "default", ttl_ms=1000)
    clock.advance(2)
    unknown = key_rules.generate(secrets.token_bytes)
    good = (await admin.create_key(runtime, "test", "default")).key
    forged = unknown[:8] + good[8:20] + unknown[20:63]
    wrong = [
        None,
        b"",
        b"Bearer",
        b"Basic abc",
        b"Bearer " + b"x" * 500,
        header(good[:-1]),
        header(unknown),
        header(forged + key_rules._check(forged)),
        header(revoked.key),
        header(expired.key),
    ]

    messages = set()
    for each in wrong * 2:  # the second time from the cache
        with pytest.raises(Unauthenticated) as caught:
            await authenticate(runtime, each)
        messages.add(caught.value.message)

    assert len(messages) == 1
    assert runtime.metrics.auth_failures.values[()] == 2 * len(wrong)


async def test_a_checked_key_is_believed_for_less_than_a_second(
    runtime: Runtime, clock: FakeClock
) -> None:
    key = (await admin.create_key(runtime, "test", "default")).key
    await authenticate(runtime, header(key))
    assert find_principal(runtime, header(key)) is not None

    clock.advance(1)

    assert find_principal(runtime, header(key)) is None


async def test_a_revocation_in_this_process_is_effective_at_once(runtime: Runtime) -> None:
    created = await admin.create_key(runtime, "test", "default")
    await authenticate(runtime, header(created.key))

    await admin.revoke_key(runtime, "test", created.record.id)

    with pytest.raises(Unauthenticated):
        await authenticate(runtime, header(created.key))


async def test_a_rotated_key_works_for_its_grace_and_its_successor_after(
    runtime: Runtime, clock: FakeClock
) -> None:
    old = await admin.create_key(
        runtime, "test", "default", name="app", kind=KeyKind.TEST, ttl_ms=30 * DAY_MS
    )

    new = await admin.rotate_key(runtime, "test", old.record.id, grace_ms=DAY_MS)

    assert new.key.startswith("sg_test_")
    assert (new.record.name, new.record.kind) == ("app", KeyKind.TEST)
    assert new.record.expires_at_ms == runtime.clock.now_ms() + 30 * DAY_MS
    clock.advance(86_300)
    assert (await authenticate(runtime, header(old.key))).key_id
    clock.advance(200)
    assert (await authenticate(runtime, header(new.key))).key_id
    with pytest.raises(Unauthenticated):
        await authenticate(runtime, header(old.key))


async def test_a_rotation_never_lengthens_a_life(runtime: Runtime) -> None:
    old = await admin.create_key(runtime, "test", "default", ttl_ms=1000)

    await admin.rotate_key(runtime, "test", old.record.id, grace_ms=DAY_MS)

    assert (await admin.get_key(runtime, old.record.id)).expires_at_ms == old.record.expires_at_ms


async def test_a_revoked_key_is_not_rotated(runtime: Runtime) -> None:
    old = await admin.create_key(runtime, "test", "default")
    await admin.revoke_key(runtime, "test", old.record.id)

    with pytest.raises(InvalidRequest):
        await admin.rotate_key(runtime, "test", old.record.id, grace_ms=DAY_MS)


async def test_a_bootstrap_key_is_installed_once_and_stays_revoked(
    runtime: Runtime, log_stream: io.StringIO
) -> None:
    key = key_rules.generate(secrets.token_bytes)

    first = await admin.install_bootstrap_key(runtime, key)
    again = await admin.install_bootstrap_key(runtime, key)
    await admin.revoke_key(runtime, "test", first.id)
    assert "key.bootstrap_ended" not in log_stream.getvalue()
    after = await admin.install_bootstrap_key(runtime, key)

    assert first.id == again.id
    assert after.revoked_at_ms is not None
    assert "key.bootstrap_ended" in log_stream.getvalue()
    with pytest.raises(Unauthenticated):
        await authenticate(runtime, header(key))


@pytest.mark.parametrize("key", ["", "secret", "sg_live_example", "sg_live_" + "A" * 61])
async def test_a_bad_bootstrap_key_is_refused_without_being_repeated(
    runtime: Runtime, key: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await admin.install_bootstrap_key(runtime, key)

    assert not key or key not in caught.value.message


async def test_projects_have_names_of_their_own(runtime: Runtime) -> None:
    await admin.create_project(runtime, "test", "films")

    with pytest.raises(InvalidRequest):
        await admin.create_project(runtime, "test", "films")
    for name in ("", "Films", "a b", "-a", "x" * 64, "a\n"):
        with pytest.raises(InvalidRequest):
            await admin.create_project(runtime, "test", name)
    with pytest.raises(NotFound):
        await admin.create_key(runtime, "test", "nowhere")


async def test_every_act_is_audited_without_a_secret(runtime: Runtime) -> None:
    created = await admin.create_key(runtime, "somebody", "default")
    await admin.revoke_key(runtime, "somebody", created.record.id)

    events = await runtime.db.read(audit.list_events, 0, 10)

    acts = [(each.actor, each.action) for each in events if each.subject == created.record.id]
    assert sorted(acts) == [("somebody", "key.created"), ("somebody", "key.revoked")]
    assert created.key[20:] not in repr(events)
