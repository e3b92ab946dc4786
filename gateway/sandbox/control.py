"""The control paths under `/_sandbox/`: the truth, faults, and the clock."""

from collections.abc import Mapping
from typing import Final

from gateway.sandbox.errors import VendorError
from gateway.sandbox.exchange import Exchange, dump
from gateway.sandbox.faults import FaultRuleError, read_rules
from gateway.sandbox.requests import parse_body
from gateway.sandbox.settings import TIME_SCALE_MAX
from gateway.sandbox.world import World

ADVANCE_S_MAX: Final = 10 * 365 * 86_400
_HEADERS: Final[Mapping[str, str]] = {"content-type": "application/json; charset=utf-8"}


class _BadControlError(Exception):
    """A control request can't be meant; the text says why."""


async def answer_control(world: World, exchange: Exchange) -> None:
    """Answer a control request; mistakes are told as 400 with a plain sentence."""
    status, value = 200, {}
    try:
        raw = await exchange.read_body()
        match exchange.method, exchange.path.removeprefix("/_sandbox/"):
            case "GET", "health":
                value = _describe_health(world)
            case "GET", "truth":
                value = await world.read_truth()
            case "PUT", "faults":
                world.faults.replace(read_rules(parse_body(raw)))
                value = {"rules": len(world.faults.describe())}
            case "PUT", "clock":
                await _set_clock(world, parse_body(raw))
                value = _describe_health(world)
            case _:
                status, value = 404, {"error": "no such control path"}
    except (FaultRuleError, _BadControlError) as exc:
        status, value = 400, {"error": str(exc)}
    except VendorError as exc:
        status, value = exc.status, {"error": exc.message}
    await exchange.answer(status, dump(value), _HEADERS)


def _describe_health(world: World) -> dict[str, object]:
    return {
        "status": "ok",
        "now_ms": world.clock.now_ms(),
        "scale": world.clock.scale,
        "seed": world.settings.seed,
        "profiles": list(world.settings.profiles),
    }


async def _set_clock(world: World, body: Mapping[str, object]) -> None:
    if not body or set(body) - {"advance_s", "scale"}:
        raise _BadControlError('expected {"advance_s": N} or {"scale": N}')
    advance_s = _number(body, "advance_s", ADVANCE_S_MAX)
    scale = _number(body, "scale", TIME_SCALE_MAX)
    if scale == 0:
        raise _BadControlError("scale must be above 0")
    await world.set_clock(advance_s=advance_s, scale=scale)


def _number(body: Mapping[str, object], name: str, highest: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= highest:
        raise _BadControlError(f"{name} must be a number from 0 to {highest:g}")
    return float(value)
