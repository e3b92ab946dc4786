"""Log events: JSON lines on stderr, readable lines on a terminal, configured once.

An event is `noun.past_verb` out of `EVENTS`; values are fields with units. Prompts, URLs' queries,
bodies, keys and credentials are never given to a logger; `redact` is the second line of defence.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final, Literal, TextIO

import structlog

EVENTS: Final = frozenset(
    {
        "http.request_finished",
        "http.request_failed",
        "task.state_changed",
        "task.race_lost",
        "task.submission_lost",
        "task.vanished",
        "task.note_lost",
        "task.adopted",
        "task.absence_proved",
        "task.disputed",
        "task.unknown_ended",
        "task.orphan_found",
        "reconciler.list_shared",
        "reconciler.restore_compared",
        "journal.replayed",
        "journal.damaged",
        "ledger.settlement_estimated",
        "ledger.hold_exceeded",
        "ledger.loss_booked",
        "ledger.audit_failed",
        "webhook.given_up",
        "callback.received",
        "callback.refuted",
        "limit.set",
        "upstream.call_failed",
        "upstream.account_refused",
        "observer.status_unknown",
        "observer.route_missing",
        "worker.loop_failed",
        "worker.loop_died",
        "key.created",
        "key.revoked",
        "key.bootstrap_ended",
        "server.started",
        "server.draining",
        "server.stopped",
        "server.failed",
    }
)
"""Every event that the gateway logs."""

Logger = structlog.typing.FilteringBoundLogger

_SECRETS: Final = re.compile(
    r"sg_(?:live|test)_[0-9A-Za-z]{8,}|(?i:bearer)\s+\S+|(?<=\?)[^\s\"']*=[^\s\"']*"
)
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_TEXT_CHARS_MAX: Final = 2000


def open_logger(
    level: str = "info",
    form: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
    *,
    may_colour: bool = True,
) -> Logger:
    """Return the gateway's logger, writing to `stream` (stderr if not given).

    Only a terminal gets colours. Third-party loggers are quietened to warnings: httpx prints whole
    URLs at INFO.
    """
    target = stream if stream is not None else sys.stderr
    is_console = form == "console" or (form == "auto" and target.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=may_colour and target.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
        if is_console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    logging.getLogger().setLevel(logging.WARNING)
    for name in ("httpx", "httpcore", "sqlalchemy", "alembic", "asyncio", "_granian"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logger: Logger = structlog.wrap_logger(
        _Printer(target),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="@timestamp"),
            _format_exception,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger


class _Printer(structlog.PrintLogger):
    """Prints lines. One that can't be written (a full disk) is gone: nobody fails for its sake."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def redact(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Mask whatever looks like a key, a bearer token or a URL's query, and cap long texts."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = mask(value)
    return event


def mask(text: str) -> str:
    """Return `text` without anything that looks secret, `_TEXT_CHARS_MAX` at most."""
    clean = _SECRETS.sub("***", text)
    return clean if len(clean) <= _TEXT_CHARS_MAX else clean[:_TEXT_CHARS_MAX] + "..."


def find_driver_code(error: BaseException) -> str | None:
    """Return SQLITE_FULL, a SQLSTATE or the like, if a database's driver is the cause of `error`.

    Of all that a driver says, these words alone hold nothing of any row.
    """
    for each in (error, getattr(error, "orig", None)):
        for attribute in ("sqlite_errorname", "sqlstate"):
            code = getattr(each, attribute, None)
            if isinstance(code, str):
                return code
    causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error.__cause__,)
    codes = (find_driver_code(cause) for cause in causes if cause is not None)
    return next((code for code in codes if code is not None), None)


def _format_exception(
    _logger: object, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Turn `exc_info` into the exception's type and the places it went through.

    Neither messages nor local variables are printed: both may hold what a client sent.
    """
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        places = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
            trace = trace.tb_next
        event["trace"] = " > ".join(places[-20:])
        if error.__cause__ is not None:
            event["cause"] = type(error.__cause__).__name__
        driver_code = find_driver_code(error)
        if driver_code is not None:
            event["driver_code"] = driver_code
    return event
