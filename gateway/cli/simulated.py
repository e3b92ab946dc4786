"""The sandbox as the only upstream: of a server, and of a command that runs beside one."""

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydantic import ValidationError

from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.domain.prices import DEFAULT_BOOK
from gateway.errors import ConfigurationError
from gateway.runtime import write_private_file

SANDBOX_TIME_SCALE: Final = 20.0
_CREDENTIAL_FILE: Final = "sandbox-credential"
_URL_FILE: Final = "sandbox-url"


@contextmanager
def with_sandbox(config: Config, url: str, *, is_ours: bool) -> Iterator[Config]:
    """Give the configuration with the sandbox at `url` as the only upstream.

    Where it answers is left in the data folder, in a file that is locked until the block ends, for
    commands that run beside the server. A sandbox that is ours runs at `SANDBOX_TIME_SCALE`, and so
    does the observer.
    """
    upstream = sandbox_at(url, config)
    write_private_file(config.data_dir / _CREDENTIAL_FILE, f"sandbox-{secrets.token_hex(16)}")
    observer = config.observer
    if is_ours:
        observer = observer.model_copy(update={"time_scale": SANDBOX_TIME_SCALE})
    with (config.data_dir / _URL_FILE).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # servers share it; a command looks in for an instant
        file.truncate(0)
        file.write(url)
        file.flush()
        yield config.model_copy(update={"upstreams": (upstream,), "observer": observer})


def find_sandbox(config: Config) -> Config:
    """Return the configuration as a running server with a sandbox has it, if there is one."""
    try:
        with (config.data_dir / _URL_FILE).open() as file:
            if _is_locked(file.fileno()):
                return config.model_copy(update={"upstreams": (sandbox_at(file.read(), config),)})
    except FileNotFoundError:
        pass
    return config


def sandbox_at(url: str, config: Config) -> UpstreamConfig:
    """Return the sandbox as an upstream. Raises ConfigurationError if it can't be at `url`."""
    try:
        return UpstreamConfig(
            name="sandbox",
            dialect="ark",
            base_url=f"{url.rstrip('/')}/api/v3",
            price_book=DEFAULT_BOOK,
            credentials=(CredentialConfig(file=config.data_dir / _CREDENTIAL_FILE),),
        )
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"--sandbox-url: {problem}.") from None


def _is_locked(descriptor: int) -> bool:
    """Whether a server holds the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
