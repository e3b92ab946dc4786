"""Signatures in the Standard Webhooks way, which receivers in every language can verify.

What is signed is `<id>.<seconds>.<body>`, so none of the three can be changed or exchanged. Each
active secret gives one signature: while a secret is being replaced, receivers that know the old one
and receivers that know the new one are both content.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from pydantic import SecretStr
from standardwebhooks import Webhook

from gateway.domain.webhooks import find_secret_flaw
from gateway.errors import ConfigurationError

SECRETS_MAX: Final = 4
_MESSAGE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


class Signer:
    """Signs with every active secret, the newest one first."""

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        """Raises ConfigurationError, which holds no secret, for one that protects nothing."""
        if not 0 < len(secrets) <= SECRETS_MAX:
            raise ConfigurationError(f"webhooks.secrets: 1 to {SECRETS_MAX} secrets are needed")
        for number, secret in enumerate(secrets):
            flaw = find_secret_flaw(secret.get_secret_value())
            if flaw is not None:
                raise ConfigurationError(f"webhooks.secrets[{number}]: {flaw}")
        self._secrets = [Webhook(secret.get_secret_value()) for secret in secrets]

    def headers(self, message_id: str, body: bytes, now_ms: int) -> dict[str, str]:
        """Return the three headers of an attempt that begins now. `body` is text in UTF-8.

        Raises ValueError for an id that could be read as something else once it is signed.
        """
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(now_ms // 1000),
            "webhook-signature": sign(self._secrets, message_id, body, now_ms // 1000),
        }


def sign(secrets: Sequence[Webhook], message_id: str, body: bytes, at_s: int) -> str:
    """Return one signature for each secret, separated by spaces."""
    if not _MESSAGE_ID.match(message_id):
        raise ValueError("a message's id is 1 to 128 letters, digits, dashes and underscores")
    moment = datetime.fromtimestamp(at_s, UTC)
    text = body.decode("utf-8")
    return " ".join(secret.sign(message_id, moment, text) for secret in secrets)
