"""A client of the sandbox for its own tests, and what they say again and again."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

ARK = "/api/v3/contents/generations/tasks"
SEEDANCE = "/seedance/generations"
PRO = "doubao-seedance-1-0-pro-250528"
SEEDANCE_2 = "dreamina-seedance-2-0-260128"
SEEDANCE_25 = "doubao-seedance-2-5-260628"
LITE_I2V = "seedance-1-0-lite-i2v-250428"

IMAGE = {"type": "image_url", "image_url": {"url": "https://img.example/boat.png"}}
VIDEO = {
    "type": "video_url",
    "video_url": {"url": "https://img.example/sea.mp4?seconds=4"},
    "role": "reference_video",
}
AUDIO = {
    "type": "audio_url",
    "audio_url": {"url": "https://img.example/sea.mp3"},
    "role": "reference_audio",
}


def text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def image(role: str) -> dict[str, object]:
    return {**IMAGE, "role": role}


def body(words: str = "paper boats", **fields: object) -> dict[str, object]:
    """Return a create body; `content` among the fields takes the words' place."""
    return {"model": PRO, "content": [text(words)], **fields}


@dataclass(frozen=True)
class Upstream:
    """One account's view of a running sandbox, and the control paths."""

    url: str
    http: httpx.AsyncClient

    async def post(self, payload: object, path: str = ARK) -> httpx.Response:
        # Written here, for httpx can't encode what a client may send: lone surrogates.
        return await self.http.post(path, content=json.dumps(payload))

    async def create(self, words: str = "paper boats", **fields: object) -> str:
        answer = await self.post(body(words, **fields))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def get(self, task_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"{ARK}/{task_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def status(self, task_id: str) -> str:
        return str((await self.get(task_id))["status"])

    async def until(self, task_id: str, status: str) -> dict[str, Any]:
        """Read a task until it has a status, for at most ten seconds."""
        shown = await self.get(task_id)
        for _ in range(1000):
            if shown["status"] == status:
                break
            await asyncio.sleep(0.01)
            shown = await self.get(task_id)
        assert shown["status"] == status
        return shown

    async def list(self, query: str = "") -> dict[str, Any]:
        answer = await self.http.get(f"{ARK}{query}")
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page

    async def delete(self, task_id: str) -> httpx.Response:
        return await self.http.delete(f"{ARK}/{task_id}")

    async def finish(self, words: str = "paper boats", **fields: object) -> dict[str, Any]:
        """Create a task, move the clock past its end, and return it."""
        task_id = await self.create(words, **fields)
        await self.advance(3000)
        return await self.get(task_id)

    async def advance(self, seconds: float) -> None:
        answer = await self.http.put("/_sandbox/clock", json={"advance_s": seconds})
        assert answer.status_code == 200, answer.text

    async def set_faults(self, *rules: Mapping[str, object]) -> None:
        answer = await self.http.put("/_sandbox/faults", json={"rules": list(rules)})
        assert answer.status_code == 200, answer.text

    async def truth(self) -> dict[str, Any]:
        answer = await self.http.get("/_sandbox/truth")
        assert answer.status_code == 200, answer.text
        truth: dict[str, Any] = answer.json()
        return truth

    async def refuse(self, payload: object, path: str = ARK) -> dict[str, Any]:
        """Post a create that must be refused; return its error object with the HTTP status."""
        answer = await self.post(payload, path)
        assert answer.status_code >= 400, answer.text
        return {"status": answer.status_code, **answer.json()["error"]}


@dataclass(frozen=True)
class RawAnswer:
    """Everything that came back on a connection, and how it ended."""

    received: bytes
    was_reset: bool

    @property
    def payload(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])


async def send_raw(url: str, request: bytes, *, then_wait: bool = True) -> RawAnswer:
    """Send bytes on a fresh connection and read to its end."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    received, was_reset = b"", False
    try:
        writer.write(request)
        await writer.drain()
        while then_wait:
            chunk = await reader.read(65536)
            if not chunk:
                break
            received += chunk
    except ConnectionResetError:
        was_reset = True
    finally:
        writer.transport.abort()
    return RawAnswer(received, was_reset)


def raw_request(method: str, path: str, payload: object = None, *, close: bool = True) -> bytes:
    """Return a request as bytes, on a connection that is to be closed after it."""
    data = b"" if payload is None else json.dumps(payload).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer k\r\n"
    head += f"Content-Length: {len(data)}\r\n" if data else ""
    head += "Connection: close\r\n" if close else ""
    return head.encode() + b"\r\n" + data
