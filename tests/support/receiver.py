"""A real server that receives webhooks: it keeps what came, and answers what a test says."""

import json
import ssl
from collections.abc import Sequence

from standardwebhooks import Webhook

from tests.support.raw_upstream import RawConnection, RawRequest, RawUpstream, answer_bytes

ACCEPTED = answer_bytes(b"", status=204)


def answer(status: int, *headers: str) -> bytes:
    return answer_bytes(b"{}", status=status, headers=headers)


class Receiver(RawUpstream):
    """Answers each delivery with the next of `answers`; the last one stays. Listens on loopback.

    `deliveries` are in order of arrival. Every one of them was a whole request; whether it was
    signed is what `messages` checks.
    """

    def __init__(
        self, answers: Sequence[bytes] = (ACCEPTED,), tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(self._receive, tls=tls)
        self.answers = list(answers)

    @property
    def url(self) -> str:
        """Where to deliver; it has a query, as many a client's address has a secret there."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/hooks?token=canary-query"

    @property
    def deliveries(self) -> list[RawRequest]:
        return self.requests

    def messages(self, secret: str) -> list[object]:
        """Return the bodies, each verified by the reference library, which asks for a fresh one."""
        return [verify(delivery, secret) for delivery in self.deliveries]

    async def _receive(self, connection: RawConnection) -> None:
        await connection.read_request()
        next_answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await connection.send(next_answer)


def verify(delivery: RawRequest, secret: str) -> object:
    """Return the body of a delivery. Raises WebhookVerificationError for another secret's."""
    headers = dict(delivery.headers)
    assert len(headers) == len(delivery.headers), "a header was sent twice"
    Webhook(secret).verify(delivery.body, headers, json_parse=False)
    value: object = json.loads(delivery.body)
    return value
