"""Facts about the database itself, on both stores."""

import asyncio

from gateway.ports import Database
from gateway.storage import keys, meta
from gateway.storage.meta import AccountFact
from tests.support.stored import NOW_MS, a_key, an_event


async def test_a_restore_is_noted_until_what_it_lost_was_looked_for(database: Database) -> None:
    assert await database.read(meta.find_restored) is None

    await database.write(meta.set_restored, NOW_MS)
    await database.write(meta.set_restored, NOW_MS + 1)

    assert await database.read(meta.find_restored) == NOW_MS + 1
    # Looked for was what the first one lost: there was another meanwhile.
    assert not await database.write(meta.clear_restored, NOW_MS)
    assert await database.read(meta.find_restored) == NOW_MS + 1
    cleared = await asyncio.gather(
        *(database.write(meta.clear_restored, NOW_MS + 1) for _ in range(4))
    )
    assert sum(cleared) == 1
    assert await database.read(meta.find_restored) is None


async def test_a_copy_of_the_pepper_is_of_one_pepper(database: Database) -> None:
    assert not await database.read(meta.has_pepper_copy, "check-a")

    await database.write(meta.note_pepper_copy, "check-a")
    assert await database.read(meta.has_pepper_copy, "check-a")
    assert not await database.read(meta.has_pepper_copy, "check-b")

    await database.write(meta.note_pepper_copy, "check-b")
    assert not await database.read(meta.has_pepper_copy, "check-a")


async def test_a_pepper_may_be_used_while_no_key_was_made_with_another(database: Database) -> None:
    assert await database.read(meta.is_pepper, "check-a", NOW_MS)
    assert await database.write(meta.adopt_pepper, "check-a", NOW_MS)
    assert await database.write(meta.adopt_pepper, "check-a", NOW_MS)
    await database.write(keys.insert, a_key(expires_at_ms=NOW_MS + 10), an_event("key"))

    assert await database.read(meta.is_pepper, "check-a", NOW_MS)
    assert not await database.read(meta.is_pepper, "check-b", NOW_MS)
    assert not await database.write(meta.adopt_pepper, "check-b", NOW_MS)
    # Once no key works any more, nobody is locked out by a new one.
    assert await database.write(meta.adopt_pepper, "check-b", NOW_MS + 10)


async def test_facts_of_accounts_are_kept_apart(database: Database) -> None:
    note, find = meta.note_of_account, meta.find_of_account
    await database.write(note, "ark", "main", AccountFact.PROBE, '{"a":1}')
    await database.write(note, "ark", "main", AccountFact.PROBE, '{"a":2}')
    await database.write(note, "ark", "main", AccountFact.SHARED_AT_MS, "5")
    await database.write(note, "ark", "main-2", AccountFact.PROBE, "{}")
    await database.write(note, "ark2", "main", AccountFact.PROBE, "{}")

    assert await database.read(find, "ark", "main") == {"probe": '{"a":2}', "shared_at_ms": "5"}

    await database.write(meta.forget_of_account, "ark", "main", AccountFact.SHARED_AT_MS)
    await database.write(meta.forget_of_account, "ark", "main", AccountFact.SHARED_AT_MS)

    assert await database.read(find, "ark", "main") == {"probe": '{"a":2}'}
    assert await database.read(find, "ark2", "main") == {"probe": "{}"}
