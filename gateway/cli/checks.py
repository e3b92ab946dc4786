"""Checks of the configuration and of this machine that need no database."""

import importlib.util
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.errors import ConfigurationError
from gateway.runtime import DATABASE_FILE, PEPPER_FILE, open_catalog, read_credentials
from gateway.services.diagnosing import Finding, Level

_DISK_BYTES_FAIL: Final = 64 * 1024 * 1024
_DISK_BYTES_WARN: Final = 1024 * 1024 * 1024
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def check_config(config: Config, environ: Mapping[str, str]) -> Sequence[Finding]:
    """Return what can be told of a well-formed configuration without opening anything."""
    return [
        _check_models(config),
        *_check_storage(config),
        *_check_finance(config),
        *_check_upstreams(config, environ),
    ]


def check_host(config: Config) -> Sequence[Finding]:
    """Return what can be told of the data folder, made already, and its disk."""
    folder = config.data_dir
    findings = [_check_mode("data folder", folder, 0o700), _check_disk(folder)]
    if config.auth.pepper is None:
        findings.append(_check_mode("pepper", folder / PEPPER_FILE, 0o600))
    if config.storage.url is None:
        findings.append(_check_mode("database file", folder / DATABASE_FILE, 0o600))
    return findings


def is_usable(upstream: UpstreamConfig, environ: Mapping[str, str]) -> bool:
    """Whether each credential of the upstream can be read."""
    try:
        read_credentials(upstream, environ)
    except ConfigurationError:
        return False
    return True


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


def _check_upstreams(config: Config, environ: Mapping[str, str]) -> Sequence[Finding]:
    if not config.upstreams:
        return [
            Finding(
                "upstreams",
                Level.WARN,
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
    if upstream.ca_file is not None and not upstream.ca_file.is_file():
        message = f"{upstream.ca_file} is not a file"
        findings.append(Finding(f"{name}.ca_file", Level.FAIL, message, "Correct the path."))
    return findings


def _check_credentials(upstream: UpstreamConfig, environ: Mapping[str, str]) -> Sequence[Finding]:
    return [_check_credential(upstream, each, environ) for each in upstream.credentials]


def _check_credential(
    upstream: UpstreamConfig, credential: CredentialConfig, environ: Mapping[str, str]
) -> Finding:
    name = f"upstreams.{upstream.name}.credentials.{credential.name}"
    try:
        read_credentials(upstream.model_copy(update={"credentials": (credential,)}), environ)
    except ConfigurationError as error:
        message = str(error).removeprefix(f"{name}: ")
        return Finding(name, Level.FAIL, message, "Set the variable, or correct the path.")
    if credential.file is not None and credential.file.stat().st_mode & stat.S_IROTH:
        message = f"everybody on this machine can read {credential.file}"
        return Finding(name, Level.WARN, message, f"chmod o-r {credential.file}")
    return Finding(name, Level.OK, "can be read")


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
