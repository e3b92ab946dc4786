"""`prices`: what the books say, and what a request would cost. Both need no data folder."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import Common, with_common
from gateway.cli.output import print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.domain.models import Catalog
    from gateway.domain.prices import Book, Row
    from gateway.domain.requests import NormalizedRequest


def build() -> typer.Typer:
    app = typer.Typer(name="prices", help="List prices, and quote a request.", no_args_is_help=True)
    app.command("list")(list_)
    app.command("quote")(quote)
    return app


@with_common
def list_(
    common: Common,
    book: Annotated[str | None, typer.Option(help="Only this book's rows.")] = None,
) -> None:
    """List the rows of the price books: list prices, before discount, rate and markup."""
    from gateway.runtime import open_books, open_catalog

    config = common.load()
    books = open_books(config, open_catalog(config))
    if book is not None and book not in books:
        known = ", ".join(sorted(books))
        raise typer.BadParameter(f"there is no book {book}; there are {known}", param_hint="--book")
    chosen = [books[name] for name in sorted(books) if book in {None, name}]
    rows = [(each, row) for each in chosen for row in each.rows]
    if common.is_json:
        print_json([_row_as_json(each, row) for each, row in rows])
        return
    print_table(
        ["book", "family", "case", "from", "price", "as_of", "source"],
        [_row_as_cells(each, row) for each, row in rows],
    )


@with_common
def quote(
    common: Common,
    body: Annotated[Path, typer.Argument(metavar="BODY.json", help="A submit's body; - is stdin.")],
    upstream: Annotated[
        str | None, typer.Option(help="At this upstream's prices; else at that of the route.")
    ] = None,
) -> None:
    """Tell what a request may cost: as it would be sent, priced and held now. Nothing is sent."""
    from gateway.clock import SystemClock
    from gateway.domain.quotes import OpenEnded, quote_as_json, quote_request
    from gateway.domain.stored import stored_form
    from gateway.runtime import open_catalog, open_prices

    config = _with_upstream(common.load())
    catalog = open_catalog(config)
    request = _read_request(config, catalog, body)
    chosen = _choose_upstream(config, request.model, upstream)
    quoted = quote_request(
        request,
        chosen,
        SystemClock().now_ms(),
        prices=open_prices(config, catalog),
        catalog=catalog,
        open_ended=OpenEnded(config.holds.open_ended),
    )
    for warning in request.warnings:
        say(f"Warning: {warning.message}")
    told = {"request": stored_form(request), "upstream": chosen, **quote_as_json(quoted)}
    if common.is_json:
        print_json(told)
    else:
        print_fields(_flatten(told))


def _with_upstream(config: "Config") -> "Config":
    """Return the configuration; with a stand-in, priced by the default book, if it has none."""
    from gateway.config import CredentialConfig, UpstreamConfig
    from gateway.domain.prices import DEFAULT_BOOK

    if config.upstreams:
        return config
    say(f"No upstream is configured: these are the prices of the book {DEFAULT_BOOK}.")
    stand_in = UpstreamConfig(
        name="none",
        base_url="https://none.invalid",
        credentials=(CredentialConfig(env="NONE"),),
        price_book=DEFAULT_BOOK,
    )
    return config.model_copy(update={"upstreams": (stand_in,)})


def _read_request(config: "Config", catalog: "Catalog", path: Path) -> "NormalizedRequest":
    from gateway.domain.requests import normalize
    from gateway.errors import RequestTooLarge
    from gateway.http.body import JsonLimits, parse_json_object

    bytes_max = config.server.body_bytes_max
    if path == Path("-"):
        content = sys.stdin.buffer.read(bytes_max + 1)
    else:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise RequestTooLarge(f"The body has more than {bytes_max} bytes.")
    body = parse_json_object(content, JsonLimits())
    return normalize(body, catalog, config.validation.make_policy())


def _choose_upstream(config: "Config", model: str, wanted: str | None) -> str:
    from gateway.runtime import make_routes

    names = [upstream.name for upstream in config.upstreams]
    if wanted is None:
        route = make_routes(config).choose_route(model)
        return route.upstream if route is not None else names[0]
    if wanted not in names:
        raise typer.BadParameter(
            f"there is no upstream {wanted}; there are {', '.join(names)}", param_hint="--upstream"
        )
    return wanted


def _row_as_json(book: "Book", row: "Row") -> dict[str, object]:
    return {
        "book": book.name,
        "currency": book.currency,
        "family": row.family,
        "resolutions": row.resolutions,
        "input_video": row.has_input_video,
        "audio": row.has_audio,
        "draft": row.is_draft,
        "tier": row.tier,
        "effective_from": row.effective_from,
        **asdict(row.prices),
        "source": row.source,
        "as_of": row.as_of,
        "place": row.place,
    }


def _row_as_cells(book: "Book", row: "Row") -> list[object]:
    from gateway.domain.money import format_amount

    flags = (
        (row.has_input_video, "input video"),
        (row.has_audio, "audio"),
        (row.is_draft, "draft"),
    )
    case = [
        *row.resolutions,
        *(word if flag else f"no {word}" for flag, word in flags if flag is not None),
        *([row.tier] if row.tier else []),
    ]
    nouns = {
        "million_tokens_micros": "a million tokens",
        "video_micros": "a video",
        "second_micros": "a second",
        "tool_call_micros": "a tool call",
    }
    prices = [
        f"{book.currency} {format_amount(micros)} {nouns[name]}"
        for name, micros in asdict(row.prices).items()
        if micros
    ]
    return [
        book.name,
        row.family,
        ", ".join(case) or "any",
        row.effective_from,
        ", ".join(prices) or "free",
        row.as_of,
        row.source,
    ]


def _flatten(told: Mapping[str, object]) -> dict[str, object]:
    """Return the fields with `tokens.low` and the like, money as decimals, the request as JSON."""
    import json

    from gateway.domain.money import format_amount

    flat: dict[str, object] = {}
    for name, value in told.items():
        if name == "request":
            flat[name] = json.dumps(value, ensure_ascii=False)
        elif isinstance(value, Mapping):
            for bound, number in value.items():
                is_money = name.endswith("_micros")
                key = f"{name.removesuffix('_micros')}.{bound}"
                flat[key] = format_amount(number) if is_money else number
        else:
            flat[name] = value
    return flat
