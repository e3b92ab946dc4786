"""Faults on order: rules that drop, reset, delay, refuse or repeat at a point of a request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.sandbox.draws import Draws

RULES_MAX: Final = 100
DELAY_MS_MAX: Final = 3_600_000


class Operation(StrEnum):
    CREATE = "create"
    GET = "get"
    LIST = "list"
    DELETE = "delete"
    CALLBACK = "callback"
    VIDEO = "video"


class Point(StrEnum):
    """Where a rule acts, in the order of a request's life."""

    BEFORE_READ = "before_read"
    AFTER_HEADERS = "after_headers"
    MID_BODY = "mid_body"
    BEFORE_CREATE = "before_create"
    AFTER_CREATE = "after_create"
    MID_ANSWER = "mid_answer"
    AFTER_ANSWER = "after_answer"


class Action(StrEnum):
    DROP = "drop"
    RESET = "reset"
    DELAY = "delay"
    ERROR = "error"
    DUPLICATE = "duplicate"


_DUPLICATE_POINTS: Final = (Point.BEFORE_CREATE, Point.AFTER_CREATE, Point.AFTER_ANSWER)
_ANSWER_POINTS: Final = (Point.MID_ANSWER, Point.AFTER_ANSWER)
_FIELDS: Final = frozenset({"operation", "at", "action", "share", "times", "ms", "status", "body"})


class FaultRuleError(Exception):
    """A rule can't be meant: the text says which and why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `share` of the matching requests are hit, `times` of them at most."""

    operation: Operation
    at: Point
    action: Action
    share: float = 1.0
    times: int | None = None
    ms: int = 0
    status: int = 500
    body: object = None


class Faults:
    """The rules in force, and how often each has hit."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rules: tuple[Rule, ...] = ()
        self._seen: list[int] = []
        self._hits: list[int] = []

    def replace(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._seen = [0] * len(rules)
        self._hits = [0] * len(rules)

    def pick(self, operation: Operation, at: Point | None) -> Rule | None:
        """Return the first rule that hits now, and count it. `at` None matches every point."""
        for index, rule in enumerate(self._rules):
            if rule.operation is not operation or at not in {rule.at, None}:
                continue
            if rule.times is not None and self._hits[index] >= rule.times:
                continue
            self._seen[index] += 1
            draw = Draws(self._seed, self._seen[index]).integer(f"fault {index}", 0, 999_999)
            if draw < rule.share * 1_000_000:
                self._hits[index] += 1
                return rule
        return None

    def describe(self) -> list[dict[str, object]]:
        """Return each rule's place and its count of hits."""
        return [
            {"operation": rule.operation, "at": rule.at, "action": rule.action, "hits": hits}
            for rule, hits in zip(self._rules, self._hits, strict=True)
        ]


def read_rules(body: Mapping[str, object]) -> list[Rule]:
    """Return the rules of a `PUT faults` body.

    Raises:
        FaultRuleError: naming the rule and what is wrong with it.
    """
    rules = body.get("rules")
    if not isinstance(rules, list) or len(rules) > RULES_MAX or set(body) != {"rules"}:
        raise FaultRuleError(f'expected {{"rules": [...]}} with at most {RULES_MAX} rules')
    return [_read_rule(index, rule) for index, rule in enumerate(rules)]


def _read_rule(index: int, value: object) -> Rule:
    where = f"rules[{index}]"
    if not isinstance(value, dict):
        raise FaultRuleError(f"{where} must be an object")
    unknown = sorted(set(value) - _FIELDS)
    if unknown:
        raise FaultRuleError(f"{where} has unknown fields: {', '.join(unknown)}")
    try:
        rule = Rule(
            operation=Operation(str(value.get("operation"))),
            at=Point(str(value.get("at"))),
            action=Action(str(value.get("action"))),
            share=_number(value, "share", 1.0, 1.0),
            times=None if value.get("times") is None else int(_number(value, "times", 1, 10**9)),
            ms=int(_number(value, "ms", 0, DELAY_MS_MAX)),
            status=int(_number(value, "status", 500, 599)),
            body=value.get("body"),
        )
    except ValueError as exc:
        raise FaultRuleError(f"{where}: {exc}") from None
    _check_rule(rule, where)
    return rule


def _number(value: Mapping[str, object], name: str, default: float, highest: float) -> float:
    number = value.get(name)
    if number is None:
        return default
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise ValueError(f"{name} must be a number")  # noqa: TRY004  # told with the others
    if not 0 <= number <= highest:
        raise ValueError(f"{name} must be from 0 to {highest:g}")
    return number


def _check_rule(rule: Rule, where: str) -> None:
    if rule.operation is Operation.CALLBACK:
        return
    if rule.action is Action.ERROR and (rule.at in _ANSWER_POINTS or rule.status < 200):
        raise FaultRuleError(
            f"{where}: error needs a status from 200 and a point before the answer"
        )
    if rule.action is not Action.DUPLICATE:
        return
    if rule.at not in _DUPLICATE_POINTS:
        raise FaultRuleError(f"{where}: duplicate works at {', '.join(_DUPLICATE_POINTS)}")
    if rule.operation is not Operation.CREATE and rule.at is not Point.AFTER_ANSWER:
        raise FaultRuleError(f"{where}: only a create can be made twice; use after_answer")
