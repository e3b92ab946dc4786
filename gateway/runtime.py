"""The composition root: the only place that names what stands behind the ports."""

import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from gateway.background import Background, SharedReads
from gateway.clock import SystemClock
from gateway.config import Config, CredentialConfig, StatusConfig, UpstreamConfig
from gateway.delivery.client import DeliverySettings, WebhookClient
from gateway.delivery.signing import Signer
from gateway.domain import keys as key_rules
from gateway.domain.catalog import CatalogError, load_catalog
from gateway.domain.keys import PEPPER_BYTES_MIN
from gateway.domain.models import Catalog
from gateway.domain.price_books import BOOK_FILES, read_books
from gateway.domain.prices import Book, Finance, PriceError, PriceList, Terms, freeze_prices
from gateway.domain.routing import RouteTable, UpstreamRoutes
from gateway.domain.webhooks import NotificationKind, generate_secret
from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.ids import Entropy, IdMaker
from gateway.journal import open_journal
from gateway.key_cache import KeyCache
from gateway.limit_cache import LimitCache
from gateway.limits.memory import MemoryRateLimiter
from gateway.observability.logging import Logger, find_driver_code, open_logger
from gateway.observability.metrics import Histogram, Metrics
from gateway.packaged import find_data_file
from gateway.places import Places
from gateway.ports import (
    AuditState,
    Clock,
    Database,
    Journal,
    Lifecycle,
    P,
    Query,
    Runtime,
    T,
    Upstream,
    WriteFailure,
)
from gateway.status_cache import StatusCache
from gateway.steadiness import Steadiness
from gateway.upstreams.client import CallRecord
from gateway.upstreams.registry import open_upstream
from gateway.yaml_file import YamlError, read_yaml_mapping

DATABASE_FILE: Final = "gateway.db"
PEPPER_FILE: Final = "pepper"
_PEPPER_BYTES: Final = 32
_PEPPER_CHECK_TEXT: Final = "seedance-gateway pepper check"
_SIGNING_TEXT: Final = "seedance-gateway webhook secret"
_ANYWHERE: Final = ("0.0.0.0/0", "::/0")


@asynccontextmanager
async def open_runtime(
    config: Config,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    entropy: Entropy = secrets.token_bytes,
    spread: random.Random | None = None,
    log: Logger | None = None,
    connects_upstreams: bool = True,
    creates: bool = True,
    checks_keys: bool = True,
) -> AsyncIterator[Runtime]:
    """Open everything `config` asks for; close it in reverse order.

    On leaving, work in the background (submits in progress) is waited for. Commands that use the
    store alone pass `connects_upstreams=False` and need no credentials; those that use what is
    there, `creates=False`; those that neither make nor check keys, `checks_keys=False`.

    Raises: ConfigurationError for a missing credential, extra, pepper, migration or data folder.
    """
    clock, metrics, catalog = clock or SystemClock(), Metrics(), open_catalog(config)
    async with AsyncExitStack() as stack:
        lifecycle, opened = Lifecycle(), await _open_database(config, creates=creates)
        stack.push_async_callback(opened.close)
        database = MeasuredDatabase(opened, clock, metrics.db_duration, lifecycle)
        pepper = await open_pepper(config, database, clock.now_ms()) if checks_keys else b""
        chosen = config.upstreams if connects_upstreams else ()
        upstreams = await stack.enter_async_context(open_upstreams(chosen, environ, clock, metrics))
        journal = await stack.enter_async_context(_opened_journal(config.data_dir))
        background, chores = [await stack.enter_async_context(Background()) for _ in range(2)]
        yield Runtime(
            config=config,
            clock=clock,
            ids=IdMaker(entropy),
            entropy=entropy,
            random=spread or random.Random(),  # noqa: S311 - jitter, not a secret
            db=database,
            upstreams=upstreams,
            routing=make_routes(config),
            catalog=catalog,
            prices=open_prices(config, catalog),
            pepper=pepper,
            metrics=metrics,
            log=log or _open_log(config, environ),
            status_cache=_open_status_cache(config.status),
            key_cache=KeyCache(config.auth.cache_keys_max, config.auth.cache_s),
            background=background,
            chores=chores,
            reads=SharedReads(chores),
            limiter=MemoryRateLimiter(clock, config.limits.rates_count_max),
            limit_cache=LimitCache(config.auth.cache_keys_max),
            journal=journal,
            webhooks=open_webhooks(config),
            places=_open_places(config),
            signer=Signer(webhook_secrets(config, pepper or entropy(_PEPPER_BYTES))),
            audit=AuditState(),
            process_id=entropy(8).hex(),
            lifecycle=lifecycle,
            steadiness=Steadiness(clock),
        )


@asynccontextmanager
async def open_upstreams(
    configs: Iterable[UpstreamConfig], environ: Mapping[str, str], clock: Clock, metrics: Metrics
) -> AsyncIterator[Mapping[str, Upstream]]:
    """Open the adapters, by name. Nothing is sent. Raises ConfigurationError."""
    async with AsyncExitStack() as stack:
        upstreams: dict[str, Upstream] = {}
        for config in configs:
            upstream = build_upstream(config, read_credentials(config, environ), clock, metrics)
            stack.push_async_callback(upstream.close)
            upstreams[upstream.name] = upstream
        yield upstreams


def build_upstream(
    config: UpstreamConfig, credentials: Mapping[str, SecretStr], clock: Clock, metrics: Metrics
) -> Upstream:
    """Return the adapter, to be closed. Raises ConfigurationError for what is of no use."""
    return open_upstream(config, credentials, clock=clock, on_call=_recorder(metrics))


def has_data(config: Config) -> bool:
    """Whether a database is there to be opened; that of a server is taken to be."""
    return config.storage.url is not None or (config.data_dir / DATABASE_FILE).exists()


def make_private_folder(path: Path) -> None:
    """Make the folder, for its owner alone, if it is not there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private_file(path: Path, content: str) -> bool:
    """Write a file that only its owner can read; False, and untouched, if it is there already."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(scratch, path)  # atomic, and refused if another process was first
    except FileExistsError:
        return False
    finally:
        scratch.unlink()
    return True


async def open_pepper(config: Config, database: Database, now_ms: int) -> bytes:
    """Return the pepper of the key digests: configured, or made once in the data folder.

    A database remembers which pepper its keys were made with, so that a lost or a wrong one is
    found before every key is refused.

    Raises: ConfigurationError if it is too short, not configured although several processes may
    share a PostgreSQL database, or not the one that keys which still work were made with.
    """
    from gateway.storage import keys, meta  # noqa: PLC0415 - not for who opens no database

    pepper = read_pepper(config)
    if pepper is None:
        if await database.read(keys.count_valid, now_ms):
            raise ConfigurationError(describe_wrong_pepper(config))
        write_private_file(config.data_dir / PEPPER_FILE, secrets.token_hex(_PEPPER_BYTES))
        pepper = read_pepper(config) or b""
    if not await database.write(meta.adopt_pepper, check_of_pepper(pepper), now_ms):
        raise ConfigurationError(describe_wrong_pepper(config))
    return pepper


def read_pepper(config: Config) -> bytes | None:
    """Return the pepper, configured or kept in the data folder; None if none was made yet.

    Raises: ConfigurationError if it is of no use, or not configured with PostgreSQL.
    """
    if config.auth.pepper is not None:
        return config.auth.pepper.get_secret_value().encode()
    if config.storage.url is not None:
        raise ConfigurationError(
            "auth.pepper must be set with PostgreSQL (GATEWAY_AUTH__PEPPER or _FILE): every process"
            " must use the same one."
        )
    path = config.data_dir / PEPPER_FILE
    try:
        pepper = path.read_bytes().strip()
    except FileNotFoundError:
        return None
    if len(pepper) < PEPPER_BYTES_MIN:
        raise ConfigurationError(
            f"{path} is too short, {PEPPER_BYTES_MIN} bytes at least: restore it from a backup."
        )
    return pepper


def check_of_pepper(pepper: bytes) -> str:
    """Return what the database keeps to know the pepper again, and nobody can turn back into it."""
    return key_rules.digest(pepper, _PEPPER_CHECK_TEXT).hex()


def describe_wrong_pepper(config: Config) -> str:
    """Say which pepper is gone or another one, and what to do."""
    if config.auth.pepper is not None:
        source = "auth.pepper (GATEWAY_AUTH__PEPPER or _FILE) is not the pepper"
    else:
        path = config.data_dir / PEPPER_FILE
        source = f"{path} is {'not the pepper' if path.exists() else 'gone, the pepper'}"
    return (
        f"{source} that the keys in the database were made with. Restore it; if it is lost, revoke "
        "every key (`keys list`, `keys revoke`), start again and make new ones."
    )


def open_catalog(config: Config) -> Catalog:
    """Return the model table: the packaged one, the deployment's files, endpoints and aliases."""
    try:
        document = read_yaml_mapping(find_data_file("models.yaml"))
        overrides = [read_yaml_mapping(path) for path in config.models.files]
        catalog = load_catalog(document, overrides, config.models.endpoints)
        return load_catalog(document, overrides, _find_aliases(config, catalog))
    except (CatalogError, YamlError) as error:
        raise ConfigurationError(f"models: {error}") from error


def open_books(config: Config, catalog: Catalog) -> Mapping[str, Book]:
    """Return the price books, the packaged ones and the deployment's, by name."""
    packaged = [(f"config/{name}", find_data_file(name)) for name in BOOK_FILES]
    own = [(str(path), path) for path in config.prices.files]
    try:
        documents = [(file, read_yaml_mapping(path)) for file, path in (*packaged, *own)]
        return read_books(documents, catalog)
    except (PriceError, YamlError) as error:
        raise ConfigurationError(f"prices: {error}") from error


def open_prices(config: Config, catalog: Catalog) -> PriceList:
    """Return what every upstream's tasks cost. Raises ConfigurationError."""
    finance = config.finance
    books = open_books(config, catalog)
    terms = [Terms(each.name, each.book.name, each.discount) for each in config.upstreams]
    try:
        prices = freeze_prices(
            books, terms, Finance(finance.currency, finance.rates, finance.markup)
        )
    except PriceError as error:
        raise ConfigurationError(str(error)) from error
    return replace(prices, is_on=finance.pricing)


def _find_aliases(config: Config, catalog: Catalog) -> Mapping[str, str]:
    """Return every further name of a model, an endpoint id or an alias, with its family's name."""
    aliases = dict(config.models.endpoints)
    for upstream in config.upstreams:
        for public, deployment in upstream.models.items():
            family = catalog.find(public) or catalog.find(deployment)
            if family is None:
                raise ConfigurationError(
                    f"upstreams.{upstream.name}.models: the family of {deployment!r} is not known; "
                    "map it in models.endpoints or add it in models.files."
                )
            aliases.setdefault(public, family.name)
    return aliases


def read_credentials(config: UpstreamConfig, environ: Mapping[str, str]) -> Mapping[str, SecretStr]:
    """Return the upstream's credentials by name. Raises ConfigurationError naming what is unset."""
    return {
        credential.name: _read_credential(config.name, credential, environ)
        for credential in config.credentials
    }


def _read_credential(
    upstream_name: str, credential: CredentialConfig, environ: Mapping[str, str]
) -> SecretStr:
    where = f"upstreams.{upstream_name}.credentials.{credential.name}"
    if credential.env is not None:
        value = environ.get(credential.env, "")
        source = f"the environment variable {credential.env}"
    else:
        assert credential.file is not None  # noqa: S101 - the model says: exactly one
        source = f"the file {credential.file}"
        try:
            value = credential.file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{where}: {source} can't be read.") from error
    if not value.strip():
        raise ConfigurationError(f"{where}: {source} is not set or empty.")
    return SecretStr(value.strip())


def _open_log(config: Config, environ: Mapping[str, str]) -> Logger:
    return open_logger(
        config.telemetry.log_level,
        config.telemetry.log_format,
        may_colour=not environ.get("NO_COLOR"),
    )


@asynccontextmanager
async def _opened_journal(folder: Path) -> AsyncIterator[Journal]:
    journal = await open_journal(folder)
    try:
        yield journal
    finally:
        await journal.close()


def _open_status_cache(status: StatusConfig) -> StatusCache:
    return StatusCache(
        status.cache_entries_max,
        status.cache_bytes_max,
        status.cache_age_s_max,
        status.waiters_max,
        status.waiters_project_max,
    )


def open_webhooks(config: Config) -> Mapping[NotificationKind, WebhookClient]:
    """Return who posts what: callbacks go where clients say, usage events where we are told to.

    Raises: ConfigurationError.
    """
    settings = config.webhooks
    callbacks = DeliverySettings(
        settings.timeout_s,
        settings.concurrency_max,
        settings.allow_private,
        settings.allow_http,
        settings.ca_file,
    )
    sink = replace(
        callbacks,
        connections_max=settings.receiver_concurrency_max,
        allow_private=_ANYWHERE,
        allow_http=True,
    )
    return {
        NotificationKind.CALLBACK: WebhookClient(callbacks),
        NotificationKind.USAGE: WebhookClient(sink),
    }


def _open_places(config: Config) -> Mapping[NotificationKind, Places]:
    settings = config.webhooks
    each_max = settings.receiver_concurrency_max
    return {
        NotificationKind.CALLBACK: Places(settings.concurrency_max, each_max),
        NotificationKind.USAGE: Places(each_max, each_max),
    }


def webhook_secrets(config: Config, pepper: bytes) -> Sequence[SecretStr]:
    """Return what deliveries are signed with: configured, or derived from the pepper.

    So all processes of a deployment, and a restored one, sign alike.
    """
    if config.webhooks.secrets:
        return config.webhooks.secrets
    derived = key_rules.digest(pepper, _SIGNING_TEXT)
    return (SecretStr(generate_secret(lambda count: derived[:count])),)


async def _open_database(config: Config, *, creates: bool) -> Database:
    if not creates and not has_data(config):
        raise ConfigurationError(f"There is no gateway data in {config.data_dir}.")
    make_private_folder(config.data_dir)
    if config.storage.url is None:
        from gateway.storage.sqlite import open_sqlite  # noqa: PLC0415 - one of two, chosen here

        return await open_sqlite(config.data_dir / DATABASE_FILE, config.storage)
    from gateway.storage.postgres import open_postgres  # noqa: PLC0415 - needs an extra

    return await open_postgres(config.storage)


def make_routes(config: Config) -> RouteTable:
    """Return where requests may go."""
    return RouteTable(
        [
            UpstreamRoutes(
                upstream.name,
                tuple(credential.name for credential in upstream.credentials),
                upstream.models,
            )
            for upstream in config.upstreams
        ]
    )


def _recorder(metrics: Metrics) -> Callable[[CallRecord], None]:
    def record(call: CallRecord) -> None:
        metrics.upstream_requests.add(call.upstream, call.operation, call.outcome)
        metrics.upstream_request_duration.observe(call.duration_s, call.upstream, call.operation)

    return record


class MeasuredDatabase:
    """A Database that notes the duration of every transaction, by its function's name.

    It also notes whether the store takes what is written: a full disk can be read from for long.
    """

    def __init__(
        self, database: Database, clock: Clock, durations: Histogram, lifecycle: Lifecycle
    ) -> None:
        self._database, self._clock, self._durations = database, clock, durations
        self._lifecycle = lifecycle
        self.name = database.name
        self.watch = database.watch
        self.close = database.close

    async def write(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        started_s = self._clock.monotonic_s()
        try:
            written = await self._database.write(fn, *args, **kwargs)
        except StorageUnavailable as error:
            self._note_failure(error)
            raise
        else:
            self._lifecycle.write_failure = None
            return written
        finally:
            self._durations.observe(self._clock.monotonic_s() - started_s, _name_of(fn))

    def _note_failure(self, error: StorageUnavailable) -> None:
        known = self._lifecycle.write_failure
        since_ms = self._clock.now_ms() if known is None else known.since_ms
        code = find_driver_code(error)
        self._lifecycle.write_failure = WriteFailure(since_ms, error.message, code)

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        started_s = self._clock.monotonic_s()
        try:
            return await self._database.read(fn, *args, **kwargs)
        finally:
            self._durations.observe(self._clock.monotonic_s() - started_s, _name_of(fn))


def _name_of(fn: Callable[..., object]) -> str:
    """Return `keys.insert` and the like: a closed set, since query functions are."""
    return f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}"
