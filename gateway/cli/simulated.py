"""The sandbox as the only upstream: of a server, and of a command that runs beside one."""

import secrets
from pathlib import Path
from typing import Final

from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.runtime import write_private_file

SANDBOX_TIME_SCALE: Final = 20.0
_CREDENTIAL_FILE: Final = "sandbox-credential"
_URL_FILE: Final = "sandbox-url"


def with_sandbox(config: Config, url: str, *, is_ours: bool) -> Config:
    """Return the configuration with the sandbox at `url` as the only upstream.

    Where it answers is left in the data folder, for commands that run beside the server. A sandbox
    that is ours runs at `SANDBOX_TIME_SCALE`, and so does the observer.
    """
    write_private_file(config.data_dir / _CREDENTIAL_FILE, f"sandbox-{secrets.token_hex(16)}")
    (config.data_dir / _URL_FILE).write_text(url)
    observer = config.observer
    if is_ours:
        observer = observer.model_copy(update={"time_scale": SANDBOX_TIME_SCALE})
    upstream = _upstream_at(url, config.data_dir / _CREDENTIAL_FILE)
    return config.model_copy(update={"upstreams": (upstream,), "observer": observer})


def find_sandbox(config: Config) -> Config:
    """Return the configuration as a running `serve --sandbox` has it, if no upstream is in it."""
    try:
        url = (config.data_dir / _URL_FILE).read_text()
    except OSError:
        return config
    upstream = _upstream_at(url, config.data_dir / _CREDENTIAL_FILE)
    return config if config.upstreams else config.model_copy(update={"upstreams": (upstream,)})


def _upstream_at(url: str, credential_file: Path) -> UpstreamConfig:
    return UpstreamConfig(
        name="sandbox",
        dialect="ark",
        base_url=f"{url}/api/v3",
        credentials=(CredentialConfig(file=credential_file),),
    )
