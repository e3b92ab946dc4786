"""One flow of the gateway each, without a server, in a process that can be killed at any call.

`python -m tests.chaos.flows '{"flow": "submit", ...}'` carries out one order and prints what came
of it. Without an order it reads them from standard input, a line each, and carries out each in a
fork: everything is imported once, so that a trial takes a fraction of a second.

A traced order stops itself just before the calls that count, until its tracer lets it go on.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import httpx

from gateway.app import create_app
from gateway.cli import serve
from gateway.cli.main import main
from gateway.clock import SystemClock
from gateway.config import Config, CredentialConfig, FinanceConfig, UpstreamConfig
from gateway.errors import GatewayError
from gateway.observability.logging import open_logger
from gateway.ports import Runtime
from gateway.runtime import open_runtime
from gateway.services import admin
from gateway.storage import tasks
from gateway.worker.loops import build_loops
from tests.support.strace import allow_tracing

MODEL: Final = "doubao-seedance-1-0-pro-250528"
KEY_FILE: Final = "chaos-key"
BACKUP_FOLDER: Final = "backups"
ROUND_S: Final = 120.0
ROUNDS_MAX: Final = 60
_ENDLESS_LOOPS: Final = frozenset({"watch"})
_CREDENTIAL_VARIABLE: Final = "CHAOS_CREDENTIAL"

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Order:
    """What to do, where, and how far the clock has moved since the trial began."""

    flow: str
    data_dir: str
    upstream_url: str
    credential: str
    idempotency_key: str = ""
    ahead_s: float = 0.0
    is_traced: bool = False
    prelude: str = ""
    """The idempotency key of a submit that comes before what is traced."""
    magic: str = ""
    """What the prompt forces at the sandbox."""
    prelude_magic: str = ""
    timezone: str = "UTC"


class LeapingClock(SystemClock):
    """The system's clock, some time ahead. Whoever sleeps moves it on instead of waiting."""

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s

    def now_ms(self) -> int:
        return super().now_ms() + int(self.ahead_s * 1000)

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s

    async def sleep(self, delay_s: float) -> None:
        self.ahead_s += delay_s
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(order: Order, clock: LeapingClock) -> AsyncIterator[Runtime]:
    """Open the runtime on the order's data folder, with the sandbox as its only upstream."""
    upstream = UpstreamConfig(
        name="sandbox",
        base_url=f"{order.upstream_url}/api/v3",
        credentials=(CredentialConfig(env=_CREDENTIAL_VARIABLE),),
    )
    async with open_runtime(
        Config(
            data_dir=Path(order.data_dir),
            upstreams=(upstream,),
            finance=FinanceConfig(timezone=order.timezone),
        ),
        environ={_CREDENTIAL_VARIABLE: order.credential},
        clock=clock,
        log=open_logger("warning", "json", sys.stderr),
    ) as runtime:
        yield runtime


async def prepare(order: Order) -> JsonObject:
    """Make the data folder, its schema, a project and a key: what a first start does."""
    async with opened(order, LeapingClock(order.ahead_s)) as runtime:
        await start(runtime)
    return {}


async def submit(order: Order) -> JsonObject:
    """Submit as a client does; whatever the answer is, it is told."""
    async with opened(order, LeapingClock(order.ahead_s)) as runtime:
        answer = await ask(runtime, order)
    return {"status": answer.status_code, "body": answer.json()}


async def ask(runtime: Runtime, order: Order) -> httpx.Response:
    """Submit what is ordered; return the answer."""
    words = f"A paper boat drifts, {order.idempotency_key} {order.magic}"
    text = f"{words} --resolution 480p --duration 5"
    async with client_of(runtime, order) as client:
        return await client.post(
            "/seedance/generations",
            json={"model": MODEL, "content": [{"type": "text", "text": text}]},
            headers={"Idempotency-Key": order.idempotency_key},
        )


async def observe(order: Order) -> JsonObject:
    """Do what a restarted gateway does in its first two minutes."""
    clock = LeapingClock(order.ahead_s)
    async with opened(order, clock) as runtime:
        await start(runtime)
        clock.ahead_s += ROUND_S
        await run_loops_once(runtime)
    return {}


async def cancel(order: Order) -> JsonObject:
    """Cancel every task as a client does."""
    async with (
        opened(order, LeapingClock(order.ahead_s)) as runtime,
        client_of(runtime, order) as client,
    ):
        listed = await client.get("/seedance/generations")
        for item in listed.json()["items"]:
            await client.delete(f"/seedance/generations/{item['id']}")
    return {}


def client_of(runtime: Runtime, order: Order) -> httpx.AsyncClient:
    key = (Path(order.data_dir) / KEY_FILE).read_text()
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(runtime)),
        base_url="http://gateway",
        headers={"Authorization": f"Bearer {key}"},
    )


async def recover(order: Order) -> JsonObject:
    """Do what a restarted gateway does, in hours that pass at once, until every task has ended."""
    clock = LeapingClock(order.ahead_s)
    async with opened(order, clock) as runtime:
        await start(runtime)
        for _ in range(ROUNDS_MAX):
            await run_loops_once(runtime)
            unfinished = await runtime.db.read(tasks.count_unfinished)
            if not any(unfinished.values()):
                break
            clock.ahead_s += ROUND_S
    return {"ahead_s": clock.ahead_s}


async def start(runtime: Runtime) -> None:
    """Do what `serve` does before it answers, and make sure of a key that works."""
    await serve._prepare(runtime, is_simulated=False)
    path = runtime.config.data_dir / KEY_FILE
    if not path.exists():
        created = await admin.create_key(runtime, "test", "default")
        scratch = path.with_suffix(".new")
        scratch.write_text(created.key)
        scratch.rename(path)


async def run_loops_once(runtime: Runtime) -> None:
    """Run what a server runs in its loops, each once, also when the one before failed."""
    for loop in build_loops(runtime):
        if loop.name not in _ENDLESS_LOOPS:
            try:
                await loop.run(runtime)
            except* GatewayError as errors:
                for error in errors.exceptions:
                    runtime.log.warning("worker.loop_failed", loop=loop.name, exc_info=error)


async def back_up(order: Order) -> JsonObject:
    """Copy the database by the command."""
    return _run_command(order, "backup", "--to", _backup_of(order), "--force")


async def restore(order: Order) -> JsonObject:
    """Put the copy back by the command."""
    return _run_command(order, "restore", _backup_of(order))


def _backup_of(order: Order) -> str:
    return str(Path(order.data_dir) / BACKUP_FOLDER / "chaos.db")


def _run_command(order: Order, *arguments: str) -> JsonObject:
    (Path(order.data_dir) / BACKUP_FOLDER).mkdir(exist_ok=True)
    exit_code = main([*arguments, "--data-dir", order.data_dir])
    assert exit_code == 0, f"{arguments[0]} ended with {exit_code}"
    return {}


FLOWS: Final[Mapping[str, Callable[[Order], Coroutine[None, None, JsonObject]]]] = {
    "prepare": prepare,
    "submit": submit,
    "observe": observe,
    "cancel": cancel,
    "recover": recover,
    "backup": back_up,
    "restore": restore,
}


def carry_out(order: Order) -> JsonObject:
    """Carry out an order in this process; a traced one waits for its tracer first."""
    if order.prelude:
        asyncio.run(
            submit(replace(order, idempotency_key=order.prelude, magic=order.prelude_magic))
        )
    if order.is_traced:
        allow_tracing()
        os.kill(os.getpid(), signal.SIGSTOP)
    return asyncio.run(FLOWS[order.flow](order))


def run_forked(order: Order, log: Path) -> int:
    """Begin to carry out an order in a fork; return its process id. Its answer is in `log`.out."""
    pid = os.fork()
    if pid:
        return pid
    exit_code = 1
    try:
        with log.open("ab", buffering=0) as errors:
            for stream in (sys.stdout, sys.stderr):  # the server's own lines go to the test
                os.dup2(errors.fileno(), stream.fileno())
        answer = carry_out(order)
        told = log.with_suffix(".told")
        told.write_text(json.dumps(answer))
        told.rename(log.with_suffix(".out"))  # all of it, or nothing
        exit_code = 0
    except BaseException:  # noqa: BLE001 - nothing may get back into the server's loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def rehearse() -> None:
    """Load whatever the flows load on their way, so that their calls are about their work."""
    import alembic.command  # noqa: F401, PLC0415 - which a start loads for an old schema only

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        order = Order("prepare", f"{folder}/data", "http://127.0.0.1:9", "nobody", "rehearsal")
        for flow in FLOWS.values():
            asyncio.run(flow(order))
    assert threading.active_count() == 1, "a fork would lose threads"


def serve_orders() -> None:
    """Carry out the orders that come, one after the other; tell of each its pid and its end."""
    rehearse()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = run_forked(Order(**request["order"]), Path(request["log"]))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def dump_order(order: Order, log: Path) -> str:
    """Return the line that asks a server of orders for one."""
    return json.dumps({"order": asdict(order), "log": str(log)})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(carry_out(Order(**json.loads(sys.argv[1])))))
    else:
        serve_orders()
