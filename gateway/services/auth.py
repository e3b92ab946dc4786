"""Who calls. One answer for every kind of wrong key, and one cost for every well-formed one."""

from typing import Final

from gateway.domain import keys as key_rules
from gateway.domain.keys import Principal
from gateway.errors import Unauthenticated
from gateway.ports import Runtime
from gateway.storage import keys

_HEADER_BYTES_MAX: Final = 256
_SCHEME: Final = b"bearer "
_NO_DIGEST: Final = bytes(32)


def find_principal(runtime: Runtime, authorization: bytes) -> Principal | None:
    """Return who is known, from a check made a moment ago, to send this header."""
    return runtime.key_cache.find(authorization, runtime.clock.monotonic_s())


async def authenticate(runtime: Runtime, authorization: bytes | None) -> Principal:
    """Return the principal of an `Authorization` header: `Bearer <key>`, or the key alone.

    Raises: Unauthenticated, in the same words whether the key is missing, malformed, unknown,
    revoked or expired.
    """
    if authorization is None or len(authorization) > _HEADER_BYTES_MAX:
        raise refuse(runtime)
    now_s = runtime.clock.monotonic_s()
    principal = runtime.key_cache.find(authorization, now_s)
    if principal is not None:
        return principal
    if runtime.key_cache.is_refused(authorization, now_s):
        raise refuse(runtime)
    generation = runtime.key_cache.generation
    key = _key_of(authorization)
    public_id = key_rules.parse(key)
    if public_id is None:
        raise refuse(runtime)
    principal = await _check_key(runtime, key, public_id)
    runtime.key_cache.put(authorization, principal, now_s, generation)
    if principal is None:
        raise refuse(runtime)
    return principal


def refuse(runtime: Runtime) -> Unauthenticated:
    """Return the one refusal, counted."""
    runtime.metrics.auth_failures.add()
    return Unauthenticated(
        "The API key is missing or not valid: send the header Authorization: Bearer <key>."
    )


def _key_of(authorization: bytes) -> str:
    text = authorization
    if text[: len(_SCHEME)].lower() == _SCHEME:
        text = text[len(_SCHEME) :]
    return text.strip(b" ").decode("latin-1")


async def _check_key(runtime: Runtime, key: str, public_id: str) -> Principal | None:
    record = await runtime.db.read(keys.find, public_id)
    stored = record.digest if record is not None else _NO_DIGEST
    is_same = key_rules.matches(runtime.pepper, key, stored)
    if record is None or not is_same or not record.is_valid(runtime.clock.now_ms()):
        return None
    return Principal(record.project_id, record.id, record.models)
