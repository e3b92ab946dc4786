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
SIGNING: Final = "whsec_pXr3Vt8wQm5Zk2Yc7Ld0Hs4Jb9Ng6Fa1Ue3Wi5Ro7T0="
CONFIG: Final = """\
upstreams:
  - name: marked
    base_url: {url}/api/v3
    credentials: [{{name: main, env: MARKED_CREDENTIAL}}]
submit: {{max_unknown: 1000, max_unknown_key: 1000}}
webhooks:
  secrets: [{signing}]
  usage_url: http://127.0.0.1:9/usage?sign={query}
telemetry: {{log_level: debug}}
"""
WORDS: Final = f"Bearer {CREDENTIAL} ({CREDENTIAL}) asked: {PROMPT} http://a/b?sign={QUERY}"
"""What a careless upstream may say."""
CODES: Final = {401: "AuthenticationError", 403: "AccountOverdueError", 429: "RateLimitExceeded"}


def fault(operation: str, at: str, action: str, **more: object) -> dict[str, object]:
    return {"operation": operation, "at": at, "action": action, "times": 1, **more}


def refusal(operation: str, at: str, status: int) -> dict[str, object]:
    error = {"code": CODES.get(status, "InvalidParameter"), "message": WORDS, "param": "content"}
    return fault(operation, at, "error", status=status, body={"error": {**error, "type": "x"}})


CREATE_FAULTS = (
    *(
        fault("create", at, action)
        for at in ("before_read", "after_headers", "mid_body", "before_create", "after_create")
        for action in ("drop", "reset")
    ),
    fault("create", "mid_answer", "drop"),
    fault("create", "after_answer", "reset"),
    *(
        refusal("create", "before_create", status)
        for status in (302, 400, 401, 403, 404, 409, 422, 429, 500, 503)
    ),
    refusal("create", "after_create", 500),
    refusal("create", "after_create", 200),
    fault("create", "after_create", "error", status=200, body=f"not JSON {CREDENTIAL} {PROMPT}"),
)
CANCEL_FAULTS = tuple(
    rule
    for operation in ("get", "delete")
    for rule in (
        fault(operation, "before_read", "reset"),
        fault(operation, "mid_answer", "drop"),
        *(refusal(operation, "before_create", status) for status in (400, 401, 403, 500)),
    )
)
LIST_FAULTS = (fault("list", "mid_answer", "drop"), refusal("list", "before_create", 401))
COMMANDS: Final = (
    "config show",
    "config show --format json",
    "config check",
    "doctor",
    "doctor --format json",
    "keys list --format json",
    "keys show {public_id}",
    "keys show {key}",
    "tasks list",
    "tasks show {task_id}",
    "tasks show {task_id} --format json",
    "tasks story {task_id}",
    "tasks story {task_id} --format json",
    "webhooks list",
    "webhooks list --format json",
    "webhooks secret",
    "usage report --per-task --format json",
    "usage report --group-by project,key,model,day --format csv",
    "limits show --format json",
    "upstreams list --format json",
    "prices list",
)


@dataclass
class Stage:
    """A gateway whose every secret is marked, and everything that it has said."""

    gateway: Gateway
    environ: Mapping[str, str]
    config: Path
    key: str
    answers: list[bytes] = field(default_factory=list)
    """To requests. They may repeat to a client what it has sent itself."""
    printed: list[bytes] = field(default_factory=list)
    """By commands, in logs, on the metrics page."""

    def listen(self, answer: httpx.Response) -> httpx.Response:
        """Keep an answer, with its head."""
        head = b"\n".join(b"%b: %b" % pair for pair in answer.headers.raw)
        self.answers.append(head + b"\n\n" + answer.content)
        return answer

    def run(self, *arguments: str) -> None:
        """Run a command in the same environment; keep what it prints."""
        done = run_program(
            [*arguments, "--data-dir", str(self.gateway.data_dir), "--config", str(self.config)],
            captured=self.gateway.captured,
            environ=self.environ,
        )
        self.printed += [done.stdout.encode(), done.stderr.encode()]

    def submit(self, client: httpx.Client, words: str = AT_ONCE) -> httpx.Response:
        image = {"url": f"https://img.example/a.png?sign={QUERY}"}
        text = {"type": "text", "text": f"{PROMPT} {words}"}
        content = [text, {"type": "image_url", "image_url": image}]
        body = {
            "model": MODEL,
            "content": content,
            "callback_url": f"https://client.example/hook?sign={QUERY}",
        }
        return self.listen(client.post(PATH, json=body))


@pytest.fixture
def stage(tmp_path: Path, captured: Captured) -> Iterator[Stage]:
    for secret in (CREDENTIAL, PEPPER, SIGNING[6:-1]):
        captured.add_secret(secret)
    with ExitStack() as stack:
        sandbox_url = stack.enter_context(run_sandbox_program(tmp_path / "sandbox", captured))
        config = tmp_path / "gateway.yaml"
        config.write_text(CONFIG.format(url=sandbox_url, signing=SIGNING, query=QUERY))
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
        stage.gateway.set_faults(rule)
        stage.submit(client)
    stage.gateway.set_faults()


def upset_reads(stage: Stage, client: httpx.Client) -> None:
    """Let the calls that a cancel makes fail in turn, and those of `doctor`."""
    task_id = stage.submit(client, FOREVER_QUEUED).json()["id"]
    for rule in CANCEL_FAULTS:
        stage.gateway.set_faults(rule)
        stage.listen(client.delete(f"{PATH}/{task_id}"))
    for rule in LIST_FAULTS:
        stage.gateway.set_faults(rule)
        stage.run("doctor")
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
        stage.answers.append(bytes(connection.received))


def crash(stage: Stage, client: httpx.Client) -> None:
    """Kill the process while a submit is with the upstream."""

    def submit() -> None:
        try:
            stage.submit(client, "sandbox:slow=30")
        except httpx.TransportError:
            return

    thread = threading.Thread(target=submit)
    with stage.gateway.open_client() as other:
        total = other.get(PATH).json()["total"]
        thread.start()
        deadline_s = time.monotonic() + 30
        while other.get(PATH).json()["total"] == total:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    stage.printed.append(stage.gateway.read_metrics().encode())
    stage.gateway.process.kill()
    stage.gateway.process.wait()
    thread.join()


def look_around(stage: Stage, task_id: str) -> None:
    """Run the commands that show something; one is given a key where it asks for a public id."""
    for command in COMMANDS:
        filled = command.format(task_id=task_id, key=stage.key, public_id=stage.key[8:20])
        stage.run(*filled.split())


def holds(content: bytes, secrets: Sequence[str]) -> list[str]:
    return [s for s in secrets if any(form in content for form in encoded_forms(s))]


def test_no_secret_comes_out_again(stage: Stage, tmp_path: Path, captured: Captured) -> None:
    with stage.gateway.open_client() as client:
        done_id = stage.submit(client).json()["id"]
        assert wait_for_end(client, f"{PATH}/{done_id}")["status"] == "succeeded"
        upset_creates(stage, client)
        upset_reads(stage, client)
        ask_wrongly(stage, client)
        stage.printed.append(Path(f"/proc/{stage.gateway.process.pid}/cmdline").read_bytes())
        look_around(stage, done_id)
        crash(stage, client)
    stage.run("tasks", "list", "--format", "json")
    with run_gateway(
        stage.gateway.data_dir, captured, ("--config", str(stage.config)), stage.environ
    ) as again:
        stage.printed.append(again.read_metrics().encode())
    log = stage.gateway.log_path.read_bytes() + again.log_path.read_bytes()

    for content in stage.answers:
        assert not holds(content, [CREDENTIAL, PEPPER, SIGNING[6:-1]]), content[:2000]
    secret_part = stage.key[20:63]
    for content in (*stage.printed, log):
        secrets = [CREDENTIAL, PEPPER, SIGNING[6:-1], secret_part, PROMPT, QUERY]
        assert not holds(content, secrets), content[:2000]
    assert log.count(b"upstream.call_failed") + log.count(b"task.submission_lost") > 5
    for line in log.splitlines():
        json.loads(line)
    kept = b"".join(path.read_bytes() for path in stage.gateway.data_dir.glob("gateway.db*"))
    assert holds(kept, [PROMPT]) == [PROMPT]
    assert not holds(kept, [CREDENTIAL, PEPPER, SIGNING[6:-1], secret_part])
    for path in tmp_path.rglob("*"):
        if path.is_file() and "sandbox" not in path.parts:
            assert not holds(path.read_bytes(), [CREDENTIAL, secret_part]), path
