"""Marked secrets through everything that can go wrong: none comes out again, in whatever form."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.captured import Captured, encoded_forms
from tests.support.gateway import Gateway, run_gateway, run_program, wait_for_end
from tests.support.programs import BESIDE_IT, run_sandbox_program
from tests.support.published import AT_ONCE, FOREVER_QUEUED, MODEL
from tests.support.raw_http import RawConnection

PATH = "/seedance/generations"
CREDENTIAL: Final = "crdntl7Hq2ZxV9mT4kLw8RpB3nYc"
PEPPER: Final = "ppr5Jd0QsX6gUe1Wf7Oa2TiKz9Vh4"
PROMPT: Final = "Zwei Otterwale umkreisen Laterne 5831"
QUERY: Final = "qrysig4Nb8Ft6Ml0Gx3Sw5"
CONFIG: Final = """\
upstreams:
  - name: marked
    base_url: {url}/api/v3
    credentials: [{{name: main, env: MARKED_CREDENTIAL}}]
telemetry: {{log_level: debug}}
"""
ECHO: Final = {
    "error": {
        "code": "InvalidParameter",
        "message": f"Bearer {CREDENTIAL} ({CREDENTIAL}) asked: {PROMPT} http://a/b?sign={QUERY}",
        "param": "content",
        "type": "BadRequest",
    }
}
"""What a careless upstream may say."""


def fault(operation: str, at: str, action: str, **more: object) -> dict[str, object]:
    return {"operation": operation, "at": at, "action": action, **more}


CREATE_FAULTS = (
    *(
        fault("create", at, action)
        for at in ("before_read", "after_headers", "mid_body", "before_create", "after_create")
        for action in ("drop", "reset")
    ),
    fault("create", "mid_answer", "drop"),
    fault("create", "after_answer", "reset"),
    *(
        fault("create", "before_create", "error", status=status, body=ECHO)
        for status in (302, 400, 401, 403, 404, 409, 422, 429, 500, 503)
    ),
    fault("create", "after_create", "error", status=500, body=ECHO),
    fault("create", "after_create", "error", status=200, body=ECHO),
    fault("create", "after_create", "error", status=200, body=f"not JSON {CREDENTIAL} {PROMPT}"),
)
READ_FAULTS = tuple(
    fault(operation, at, action, body=ECHO, status=status)
    for operation in ("get", "list", "delete")
    for at, action, status in (
        ("before_read", "reset", 500),
        ("mid_answer", "drop", 500),
        ("before_create", "error", 400),
        ("before_create", "error", 401),
        ("before_create", "error", 500),
    )
)
COMMANDS: Sequence[tuple[str, ...]] = (
    ("config", "show"),
    ("config", "check"),
    ("doctor",),
    ("keys", "list"),
    ("projects", "list"),
    ("tasks", "list"),
)


@dataclass
class Stage:
    """A gateway whose every secret is marked, and everything that it has said."""

    gateway: Gateway
    environ: Mapping[str, str]
    config: Path
    key: str
    said: list[bytes] = field(default_factory=list)
    prompts_said: list[bytes] = field(default_factory=list)

    def listen(self, answer: httpx.Response) -> httpx.Response:
        """Keep an answer; only a task's own is allowed to repeat its prompt."""
        head = b"\n".join(b"%b: %b" % pair for pair in answer.headers.raw)
        self.said.append(head + b"\n\n" + answer.content)
        return answer

    def run(self, *arguments: str) -> str:
        """Run a command in the same environment; keep and return what it prints."""
        done = run_program(
            [*arguments, "--data-dir", str(self.gateway.data_dir), "--config", str(self.config)],
            captured=self.gateway.captured,
            environ=self.environ,
        )
        self.said += [done.stdout.encode(), done.stderr.encode()]
        self.prompts_said += self.said[-2:]
        return done.stdout

    def submit(self, client: httpx.Client, words: str = AT_ONCE) -> httpx.Response:
        image = {"url": f"https://img.example/a.png?sign={QUERY}"}
        text = {"type": "text", "text": f"{PROMPT} {words}"}
        content = [text, {"type": "image_url", "image_url": image}]
        body = {
            "model": MODEL,
            "content": content,
            "callback_url": f"https://client.example/hook?sign={QUERY}",
        }
        answer = self.listen(client.post(PATH, json=body))
        self.prompts_said.append(answer.content)
        return answer


@pytest.fixture
def stage(tmp_path: Path, captured: Captured) -> Iterator[Stage]:
    for secret in (CREDENTIAL, PEPPER):
        captured.add_secret(secret)
    with ExitStack() as stack:
        sandbox_url = stack.enter_context(run_sandbox_program(tmp_path / "sandbox", captured))
        config = tmp_path / "gateway.yaml"
        config.write_text(CONFIG.format(url=sandbox_url))
        environ = {
            "MARKED_CREDENTIAL": CREDENTIAL,
            "GATEWAY_AUTH__PEPPER": PEPPER,
            **BESIDE_IT,
        }
        made = run_program(
            ["keys", "create", "--format", "json", "--data-dir", str(tmp_path / "data")],
            captured=captured,
            environ={"GATEWAY_AUTH__PEPPER": PEPPER},
        )
        assert made.returncode == 0, made.stderr
        key = json.loads(made.stdout)["key"]
        captured.add_key(key)
        gateway = stack.enter_context(
            run_gateway(tmp_path / "data", captured, ("--config", str(config)), environ)
        )
        assert gateway.sandbox_url is None
        controlled = Gateway(
            **{
                name: getattr(gateway, name)
                for name in ("url", "metrics_url", "data_dir", "process", "log_path", "captured")
            },
            sandbox_url=sandbox_url,
            key=key,
        )
        yield Stage(controlled, environ, config, key)


def upset_creates(stage: Stage, client: httpx.Client) -> None:
    for rule in CREATE_FAULTS:
        stage.gateway.set_faults({**rule, "times": 1})
        stage.submit(client)
    stage.gateway.set_faults()


def upset_reads(stage: Stage, client: httpx.Client) -> None:
    """Let each read of the observer, and each cancel, fail in turn."""
    task_id = stage.submit(client, FOREVER_QUEUED).json()["id"]
    for rule in READ_FAULTS:
        stage.gateway.set_faults({**rule, "times": 2})
        stage.listen(client.delete(f"{PATH}/{task_id}"))
    stage.gateway.set_faults()


def ask_wrongly(stage: Stage, client: httpx.Client) -> None:
    """Put secrets where they do not belong."""
    key = stage.key
    for answer in (
        client.get(f"/{key}"),
        client.get(f"{PATH}/{key}"),
        client.get(f"{PATH}?key={key}&sign={QUERY}&page_num={QUERY}"),
        client.get(f"{PATH}/{QUERY}?wait={key}"),
        client.get(PATH, headers={"X-Request-Id": key}),
        client.get(PATH, headers={"User-Agent": key, "Referer": f"http://a/?{QUERY}", key: key}),
        client.get(PATH, headers={"Authorization": f"Bearer {CREDENTIAL}"}),
        client.get(PATH, headers={"Authorization": f"Basic {key}"}),
        client.get(PATH, headers={"Prefer": f"wait={key}"}),
        client.post(PATH, json={"model": key, "content": []}),
        client.post(PATH, json={"model": MODEL, "content": [{"type": PROMPT, key: key}]}),
        client.post(PATH, json={"model": MODEL, "content": PROMPT, "seed": key}),
        client.post(PATH, content=f'{{"model": "{PROMPT}", "content": [{{"text": "{key}'),
        client.post(PATH, content=PROMPT, headers={"Content-Type": f"text/{QUERY}"}),
        client.request(QUERY.upper(), PATH),
    ):
        stage.listen(answer)
    with RawConnection(stage.gateway.url) as connection:
        connection.send(f"GET /{key} HTTP/9.9\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        connection.wait_for_close()
        stage.said.append(bytes(connection.received))


def crash(stage: Stage, client: httpx.Client) -> None:
    """Kill the process while a submit is with the upstream."""

    def submit() -> None:
        try:
            stage.submit(client, "sandbox:slow=30")
        except httpx.TransportError:
            return

    thread = threading.Thread(target=submit)
    thread.start()
    with stage.gateway.open_client() as other:
        deadline_s = time.monotonic() + 30
        total = other.get(PATH).json()["total"]
        while other.get(PATH).json()["total"] == total:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    stage.said.append(stage.gateway.read_metrics().encode())
    stage.prompts_said.append(stage.said[-1])
    stage.gateway.process.kill()
    stage.gateway.process.wait()
    thread.join()


def look_around(stage: Stage, task_id: str) -> None:
    """Run the commands that show something, for people and for programs."""
    for form in ("table", "json"):
        for command in COMMANDS:
            stage.run(*command, "--format", form)
        stage.run("keys", "show", stage.key[8:20], "--format", form)
        stage.run("tasks", "show", task_id, "--format", form)
        stage.run("keys", "show", stage.key, "--format", form)


def holds(content: bytes, secrets: Sequence[str]) -> list[str]:
    return [s for s in secrets if any(form in content for form in encoded_forms(s))]


def test_no_secret_comes_out_again(stage: Stage, tmp_path: Path, captured: Captured) -> None:
    with stage.gateway.open_client() as client:
        done_id = stage.submit(client).json()["id"]
        assert wait_for_end(client, f"{PATH}/{done_id}")["status"] == "succeeded"
        upset_creates(stage, client)
        upset_reads(stage, client)
        ask_wrongly(stage, client)
        stage.said.append(Path(f"/proc/{stage.gateway.process.pid}/cmdline").read_bytes())
        look_around(stage, done_id)
        crash(stage, client)
    look_around(stage, done_id)
    with run_gateway(
        stage.gateway.data_dir, captured, ("--config", str(stage.config)), stage.environ
    ) as again:
        lines = again.read_metrics()
        stage.said.append(lines.encode())
    log = stage.gateway.log_path.read_bytes() + again.log_path.read_bytes()

    secrets = [CREDENTIAL, PEPPER, stage.key[20:63]]
    for content in (*stage.said, log):
        assert not holds(content, secrets), content[:2000]
    for content in (*stage.prompts_said, log):
        assert not holds(content, [PROMPT, QUERY]), content[:2000]
    assert log.count(b"upstream.call_failed") + log.count(b"task.submission_lost") > 5
    for line in log.splitlines():
        json.loads(line)
    kept = b"".join(path.read_bytes() for path in stage.gateway.data_dir.glob("gateway.db*"))
    assert holds(kept, [PROMPT]) == [PROMPT]
    assert not holds(kept, secrets)
    for path in tmp_path.rglob("*"):
        if path.is_file() and "sandbox" not in path.parts:
            assert not holds(path.read_bytes(), [CREDENTIAL, stage.key[20:63]]), path
