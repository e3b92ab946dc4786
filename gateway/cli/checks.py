"""Checks of the configuration and of this machine that need no database."""

import asyncio
import importlib.util
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.cli.price_checks import check_prices
from gateway.clock import SystemClock
from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.errors import ConfigurationError
from gateway.observability.metrics import Metrics
from gateway.runtime import (
    DATABASE_FILE,
    PEPPER_FILE,
    build_upstream,
    open_catalog,
    open_webhooks,
    read_credentials,
)
from gateway.services.diagnosing import Finding, Level

_DISK_BYTES_FAIL: Final = 64 * 1024 * 1024
_DISK_BYTES_WARN: Final = 1024 * 1024 * 1024
_STAND_IN: Final = SecretStr("stand-in")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def check_config(
    config: Config, environ: Mapping[str, str], *, no_upstream: Level = Level.WARN
) -> Sequence[Finding]:
    """Return what can be told of a well-formed configuration without opening anything.

    `no_upstream` is how bad it is that none is configured.
    """
    return [
        _check_models(config),
        *check_prices(config),
        *_check_storage(config),
        *_check_finance(config),
        *_check_webhooks(config),
        *_check_upstreams(config, environ, no_upstream),
    ]


def check_host(config: Config) -> Sequence[Finding]:
    """Return what can be told of the data folder and its disk, as far as they are there."""
    folder = config.data_dir
    if not folder.is_dir():
        return []
    files = {"pepper file": folder / PEPPER_FILE, "database file": folder / DATABASE_FILE}
    return [
        _check_mode("data folder", folder, 0o700),
        _check_disk(folder),
        *(_check_mode(name, path, 0o600) for name, path in files.items() if path.exists()),
    ]


def _check_models(config: Config) -> Finding:
    try:
        open_catalog(config)
    except ConfigurationError as error:
        return Finding("models", Level.FAIL, str(error), "Correct the file or the mapping.")
    return Finding("models", Level.OK, "every model has its rules")


def _check_storage(config: Config) -> Sequence[Finding]:
    if config.storage.url is None:
        return [Finding("storage", Level.OK, f"SQLite in {config.data_dir}")]
    findings = [Finding("storage", Level.OK, "PostgreSQL")]
    if importlib.util.find_spec("asyncpg") is None:
        findings = [
            Finding(
                "storage",
                Level.FAIL,
                "PostgreSQL needs the extra `postgres`, which is not installed",
                "pip install 'seedance-gateway[postgres]'",
            )
        ]
    if config.auth.pepper is None:
        findings.append(
            Finding(
                "auth.pepper",
                Level.FAIL,
                "is required with PostgreSQL: every process must use the same one",
                "Set GATEWAY_AUTH__PEPPER_FILE; `openssl rand -hex 32` makes one.",
            )
        )
    return findings


def _check_finance(config: Config) -> Sequence[Finding]:
    if "timezone" in config.finance.model_fields_set:
        return [Finding("finance.timezone", Level.OK, config.finance.timezone)]
    return [
        Finding(
            "finance.timezone",
            Level.WARN,
            "is not set: days of reports and budgets are UTC's",
            "Set it to the zone that your finance team closes its days in.",
        )
    ]


def _check_webhooks(config: Config) -> Sequence[Finding]:
    try:
        open_webhooks(config)
    except ConfigurationError as error:
        return [_read_flaw(str(error))]
    return []


def _check_upstreams(
    config: Config, environ: Mapping[str, str], no_upstream: Level
) -> Sequence[Finding]:
    if not config.upstreams:
        return [
            Finding(
                "upstreams",
                no_upstream,
                "none is configured: only `serve --sandbox` would start",
                "Set ARK_API_KEY and ARK_BASE_URL, or list upstreams.",
            )
        ]
    return [
        finding
        for upstream in config.upstreams
        for finding in (*_check_address(upstream), *_check_credentials(upstream, environ))
    ]


def _check_address(upstream: UpstreamConfig) -> Sequence[Finding]:
    findings = []
    name = f"upstreams.{upstream.name}"
    address = urlsplit(upstream.base_url)
    if address.scheme == "http" and address.hostname not in _LOOPBACK:
        remedy = "Use https."
        message = "base_url is http: the credential crosses the network in clear"
        findings.append(Finding(f"{name}.base_url", Level.WARN, message, remedy))
    stand_ins = {credential.name: _STAND_IN for credential in upstream.credentials}
    flaw = _find_flaw(upstream, stand_ins)
    if flaw is not None:
        findings.append(_read_flaw(flaw))
    return findings


def _check_credentials(upstream: UpstreamConfig, environ: Mapping[str, str]) -> Sequence[Finding]:
    return [_check_credential(upstream, each, environ) for each in upstream.credentials]


def _check_credential(
    upstream: UpstreamConfig, credential: CredentialConfig, environ: Mapping[str, str]
) -> Finding:
    name = f"upstreams.{upstream.name}.credentials.{credential.name}"
    remedy = "Set the variable, or correct the path."
    alone = upstream.model_copy(update={"credentials": (credential,)})
    try:
        flaw = _find_flaw(alone, read_credentials(alone, environ)) or ""
    except ConfigurationError as error:
        flaw = str(error)
    if flaw.startswith(f"{name}: "):
        return Finding(name, Level.FAIL, flaw.removeprefix(f"{name}: "), remedy)
    if credential.file is not None and credential.file.stat().st_mode & stat.S_IROTH:
        message = f"everybody on this machine can read {credential.file}"
        return Finding(name, Level.WARN, message, f"chmod o-r {credential.file}")
    return Finding(name, Level.OK, "can be read")


def _find_flaw(upstream: UpstreamConfig, credentials: Mapping[str, SecretStr]) -> str | None:
    """Return why the adapter can't be built, as `setting: problem`."""

    async def build() -> None:
        await build_upstream(upstream, credentials, SystemClock(), Metrics()).close()

    try:
        asyncio.run(build())
    except ConfigurationError as error:
        return str(error)
    return None


def _read_flaw(flaw: str) -> Finding:
    """Return what is told as `setting: problem`."""
    check, _, message = flaw.partition(": ")
    return Finding(check, Level.FAIL, message, "Correct the setting.")


def _check_mode(check: str, path: Path, mode: int) -> Finding:
    found = stat.S_IMODE(path.stat().st_mode)
    if found & ~mode:
        message = f"{path} has mode {found:o}, so others can get at it"
        return Finding(check, Level.WARN, message, f"chmod {mode:o} {path}")
    return Finding(check, Level.OK, f"{path}, mode {found:o}")


def _check_disk(folder: Path) -> Finding:
    free_bytes = shutil.disk_usage(folder).free
    message = f"{free_bytes // (1024 * 1024)} MiB free in {folder}"
    if free_bytes < _DISK_BYTES_WARN:
        level = Level.FAIL if free_bytes < _DISK_BYTES_FAIL else Level.WARN
        return Finding("disk", level, message, "Make room: a full disk stops every submit.")
    return Finding("disk", Level.OK, message)
