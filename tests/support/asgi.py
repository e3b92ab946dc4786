"""The server's end of an ASGI call that must not be used."""

from starlette.types import Message


async def no_receive() -> Message:
    raise AssertionError


async def no_send(_message: Message) -> None:
    raise AssertionError
