"""`prices list`, `prices quote`, and what `config check` says of prices."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.money import format_amount
from tests.support.commands import CommandLine
from tests.support.pricing import shipped_books
from tests.support.requests import PRO, V20, V25, a_body, a_text

UPSTREAM = "{name: ark, base_url: 'https://ark.example', credentials: [{env: K}]"
OWN_BOOK = """
book: own
currency: EUR
prices:
  - {family: seedance-1-0-pro, effective_from: 2026-01-01, per_million_tokens: "2.5",
     source: our contract, as_of: 2026-01-01}
"""
OWN_FILE = "prices: {files: [own.yaml]}\n"
TINY = "finance: {currency: JPY, rates: {EUR: '0.0000001'}}\n"


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    monkeypatch.setenv("K", "a credential")
    return CommandLine(tmp_path, capsys, monkeypatch)


def write_body(run: CommandLine, **fields: Any) -> str:
    body = a_body(a_text("a fox --rt 16:9"), **{"model": V20, "duration": 5, **fields})
    return run.write("body.json", json.dumps(body))


def test_every_row_of_every_book_is_listed_as_json(run: CommandLine) -> None:
    rows = run("prices list --format json").json

    stored = [row for _, book in sorted(shipped_books().items()) for row in book.rows]
    assert [row["place"] for row in rows] == [row.place for row in stored]
    for row, known in zip(rows, stored, strict=True):
        assert row["million_tokens_micros"] == known.prices.million_tokens_micros
        assert (row["source"], row["as_of"]) == (known.source, known.as_of)
        assert (row["input_video"], row["audio"], row["tier"]) == (
            known.has_input_video,
            known.has_audio,
            known.tier,
        )
    assert {row["currency"] for row in rows} == {"CNY", "USD"}


def test_one_book_is_listed_as_a_table(run: CommandLine) -> None:
    head, *rows = run("prices list --book volcengine-cny").table

    assert head == ["BOOK", "FAMILY", "CASE", "FROM", "PRICE", "AS_OF", "SOURCE"]
    assert {row[0] for row in rows} == {"volcengine-cny"}
    assert len(rows) == len(shipped_books()["volcengine-cny"].rows)
    (row,) = (each for each in rows if each[2] == "480p, 720p, no input video" and "2-0" in each[1])
    assert row[3:6] == ["2026-01-28", "CNY 46.000000 a million tokens", "2026-01-28"]


def test_a_row_of_a_deployments_own_book_tells_all_its_prices(run: CommandLine) -> None:
    row = '{family: seedance-2-0, draft: true, audio: false, tier: flex, per_video: 1, per_second: "0.1", per_tool_call: 2, source: x, as_of: 2026-01-01, effective_from: 2026-01-01}'  # noqa: E501 - one row
    free = "{family: seedance-2-0, draft: false, per_video: 0, source: x, as_of: 2026-01-01, effective_from: 2026-01-01}"  # noqa: E501 - as above
    run.write("own.yaml", f"book: own\ncurrency: EUR\nprices:\n  - {row}\n  - {free}\n")
    config = run.write("gateway.yaml", "prices: {files: [own.yaml]}\n")

    _, priced, unpriced = run(f"prices list --book own --config {config}").table

    assert priced[2] == "no audio, draft, flex"
    assert priced[4] == ("EUR 1.000000 a video, EUR 0.100000 a second, EUR 2.000000 a tool call")
    assert (unpriced[2], unpriced[4]) == ("no draft", "free")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "list --book nope",
            "--book: there is no book nope; there are byteplus-usd, volcengine-cny",
        ),
        ("list --currency EUR", "No such option: --currency"),
        ("quote", "Missing argument 'BODY.json'"),
        ("quote body.json --upstream x", "--upstream: there is no upstream x; there are ark"),
        ("quote nothing.json", "Error: nothing.json: No such file or directory"),
        ("quote .", "Error: .: Is a directory"),
    ],
)
def test_a_mistake_names_the_option_and_what_there_is(
    run: CommandLine, line: str, complaint: str
) -> None:
    write_body(run)
    config = run.write("gateway.yaml", f"upstreams: [{UPSTREAM}}}]\n")

    outcome = run(f"prices {line} --config {config}")

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert complaint in outcome.complaint


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('{"model": 1', "the request body is not valid: it is not JSON"),
        ("[]", "the request body is not valid"),
        ('{"model": "m", "content": []}', "The model or endpoint m does not exist"),
        (json.dumps(a_body(a_text(), model=V20, resolution="8k")), "allowed are 480p, 720p, 1080p"),
    ],
)
def test_a_body_that_would_be_refused_is_refused_in_the_same_words(
    run: CommandLine, body: str, complaint: str
) -> None:
    outcome = run(f"prices quote {run.write('body.json', body)}")

    assert (outcome.exit_code, outcome.out) == (1, "")
    assert complaint in outcome.complaint


def test_a_request_is_quoted_without_a_data_folder(run: CommandLine) -> None:
    outcome = run(f"prices quote {write_body(run)} --format json")

    told = outcome.json
    version = told.pop("price_version")
    assert version.startswith("volcengine-cny/2026-01-28/")
    assert told == {
        "request": {
            "model": V20,
            "content": [{"type": "text", "text": "a fox"}],
            "ratio": "16:9",
            "duration": 5,
        },
        "upstream": "none",
        "tokens": {"low": 108_900, "high": 108_900, "held": 108_900},
        "seconds": {"low": 5, "high": 5, "held": 5},
        "charge_micros": {"low": 5_009_400, "high": 5_009_400, "held": 5_009_400},
        "currency": "CNY",
    }
    assert "these are the prices of the book volcengine-cny" in outcome.err
    assert [path.name for path in run.folder.iterdir()] == ["body.json"]


def test_a_quote_as_a_table_tells_money_in_decimals(run: CommandLine) -> None:
    lines = run(f"prices quote {write_body(run)}").out.splitlines()

    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown["charge.held"] == format_amount(5_009_400) == "5.009400"
    assert shown["tokens.high"] == "108900"
    assert json.loads(shown["request"])["ratio"] == "16:9"


def test_a_body_may_come_by_stdin(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Path(write_body(run)).read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert run("prices quote - --format json").json["tokens"]["held"] == 108_900


def test_a_body_beyond_the_cap_is_refused(run: CommandLine) -> None:
    config = run.write("gateway.yaml", "server: {body_bytes_max: 10}\n")

    outcome = run(f"prices quote {write_body(run)} --config {config}")

    assert (outcome.exit_code, outcome.out) == (1, "")
    assert "Error: The body has more than 10 bytes." in outcome.complaint


def test_a_quote_follows_the_configuration(run: CommandLine) -> None:
    """Discount, rate, markup, typical holds, an alias, and the second of two upstreams."""
    run.write("own.yaml", OWN_BOOK)
    config = run.write(
        "gateway.yaml",
        f"upstreams: [{UPSTREAM}, price_book: byteplus-usd, discount: 0.15}},"
        " {name: two, base_url: 'https://two.example', credentials: [{env: K}], price_book: own,"
        f" models: {{house: {PRO}}}}}]\n"
        "finance: {currency: CNY, rates: {USD: '7.2', EUR: 8}, markup: '0.1'}\n"
        "holds: {open_ended: typical}\nprices: {files: [own.yaml]}\n",
    )
    open_ended = write_body(run, duration=-1)
    first = run(f"prices quote {open_ended} --config {config} --format json").json
    house = write_body(run, model="house", resolution="480p")
    second = run(f"prices quote {house} --config {config} --format json").json

    # 7 USD a million, 15 % off, at 7.2, and 10 % on top.
    assert first["upstream"] == "ark"
    assert first["tokens"] == {"low": 87_300, "high": 324_900, "held": 108_900}
    assert first["charge_micros"]["held"] == 5_131_804  # 108,900 x 47.124
    assert (second["upstream"], second["tokens"]["held"]) == ("two", 49_005)
    assert second["charge_micros"]["held"] == 1_078_110  # 49,005 x 22
    assert first["currency"] == second["currency"] == "CNY"


def test_a_warning_of_the_rules_is_told(run: CommandLine) -> None:
    config = run.write("gateway.yaml", "validation: {mode: warn}\n")

    outcome = run(f"prices quote {write_body(run, duration=60)} --config {config} --format json")

    assert outcome.json["seconds"] == {"low": 5, "high": 60, "held": 60}
    assert "Warning: the parameter duration specified" in outcome.err


def check(run: CommandLine, text: str) -> tuple[int, dict[str, tuple[str, str]]]:
    outcome = run(f"config check --format json --config {run.write('gateway.yaml', text)}")
    findings = json.loads(outcome.out)["findings"]
    return outcome.exit_code, {each["check"]: (each["level"], each["message"]) for each in findings}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            f"upstreams: [{UPSTREAM}, price_book: nope}}]",
            "upstreams.ark.price_book: there is no price book nope; there are byteplus-usd, ",
        ),
        ("prices: {files: [none.yaml]}", "prices: none.yaml: can't be read: No such file"),
        ("prices: {files: [float.yaml]}", "prices: float.yaml: prices[0].per_million_tokens: put"),
        (
            "prices: {files: [twice.yaml]}",
            "prices: twice.yaml: prices[1]: prices[0] has a price for the same case from ",
        ),
        ("finance: {rates: {CNY: 2}}", "finance.rates: CNY is what is charged, its own rate must"),
        (
            f"upstreams: [{UPSTREAM}, price_book: own}}]\n{OWN_FILE}{TINY}",
            "own.yaml: prices[0]: after discount, rate and markup million_tokens_micros is too",
        ),
    ],
)
def test_the_check_of_the_configuration_finds_what_is_wrong_about_prices(
    run: CommandLine, text: str, problem: str
) -> None:
    run.write("own.yaml", OWN_BOOK)
    run.write("float.yaml", OWN_BOOK.replace('"2.5"', "2.5"))
    run.write("twice.yaml", OWN_BOOK + OWN_BOOK.partition("prices:\n")[2])

    exit_code, findings = check(run, text)

    level, message = findings["prices"]
    assert (exit_code, level) == (2, "fail")
    assert problem in message


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        (
            f"upstreams: [{UPSTREAM}}}]",
            "upstreams.ark.price_book",
            "is not set, and its base_url does not tell: volcengine-cny is assumed",
        ),
        (
            f"upstreams: [{UPSTREAM}, price_book: byteplus-usd}}]\nfinance: {{currency: CNY}}",
            "finance.rates",
            "has no rate for USD: one USD is charged as one CNY",
        ),
        (
            f"upstreams: [{UPSTREAM}, price_book: own, models: {{house: {V20}}}}}]\n{OWN_FILE}",
            "upstreams.ark.prices",
            (
                "the book own has no price for seedance-1-0-pro-fast; seedance-1-0-lite-t2v; "
                "seedance-1-0-lite-i2v; seedance-1-5-pro; seedance-2-0 (house); "
                "seedance-2-0-fast; seedance-2-0-mini; seedance-2-5"
            ),
        ),
        (
            f"upstreams: [{UPSTREAM}, price_book: byteplus-usd, models: {{house: {V25}}}}}]",
            "upstreams.ark.prices",
            "the book byteplus-usd has no price for seedance-2-5 (house) at 1080p",
        ),
        (
            f"upstreams: [{UPSTREAM}, price_book: byteplus-usd}}]",
            "upstreams.ark.prices",
            "the book byteplus-usd has no price for seedance-2-5 at 1080p",
        ),
        (
            "finance: {currency: USD}",
            "finance.rates",
            "has no rate for CNY: one CNY is charged as one USD",
        ),
        (
            "finance: {currency: USD, rates: {USD: 1, EUR: 2}}",
            "finance.rates",
            "has no rate for CNY: one CNY is charged as one USD",
        ),
        (
            "prices: {files: [free.yaml]}",
            "prices.files",
            "free.yaml: prices[0] makes seedance-1-0-pro free: money budgets count nothing of it",
        ),
        (
            "finance: {pricing: false}",
            "prices",
            "finance.pricing is off: tasks are free, and money budgets count nothing",
        ),
    ],
)
def test_the_check_of_the_configuration_warns_of_what_is_doubtful_about_prices(
    run: CommandLine, text: str, where: str, problem: str
) -> None:
    run.write("own.yaml", OWN_BOOK)
    run.write("free.yaml", OWN_BOOK.replace('"2.5"', "0"))

    exit_code, findings = check(run, text)

    assert exit_code == 0
    assert "prices" not in findings or where == "prices"  # not said to be good, too
    assert findings[where] == ("warn", problem)


def test_what_the_check_has_no_price_for_is_refused_and_the_rest_is_not(run: CommandLine) -> None:
    config = run.write("gateway.yaml", f"upstreams: [{UPSTREAM}, price_book: byteplus-usd}}]")
    refused = run(
        f"prices quote {write_body(run, model=V25, resolution='1080p')} --config {config}"
    )
    priced = run(f"prices quote {write_body(run, model=V25, resolution='720p')} --config {config}")

    assert "at 1080p without input video in the tier default has no price" in refused.complaint
    assert (refused.exit_code, priced.exit_code) == (1, 0)


def test_only_the_upstream_that_gets_a_model_needs_its_price(run: CommandLine) -> None:
    """What no other names goes to the first: the second is asked for what it names."""
    run.write("own.yaml", OWN_BOOK)
    first = UPSTREAM + ", price_book: volcengine-cny}"
    second = UPSTREAM.replace("ark", "two", 1) + f", price_book: own, models: {{house: {PRO}}}}}"
    text = f"upstreams: [{first}, {second}]\n{OWN_FILE}finance: {{rates: {{EUR: 8}}}}"

    assert check(run, text)[1]["prices"] == ("ok", "every model has a price, charged in CNY")
    other = text.replace(PRO, V20)
    assert check(run, other)[1]["upstreams.two.prices"] == (
        "warn",
        "the book own has no price for seedance-2-0 (house)",
    )


def test_good_prices_are_told_with_their_currency(run: CommandLine) -> None:
    exit_code, findings = check(
        run, f"upstreams: [{UPSTREAM}, price_book: volcengine-cny, models: {{house: {V25}}}}}]"
    )

    assert exit_code == 0
    assert findings["prices"] == ("ok", "every model has a price, charged in CNY")


@pytest.mark.parametrize(
    ("finance", "problem"),
    [
        ("currency: usd", "finance.currency"),
        ("rates: {CNY: 0}", "finance.rates.CNY: must be greater than 0"),
        ("markup: -1", "finance.markup: must be greater than or equal to 0"),
        ("discount: 1", "finance.discount: there is no such setting"),
    ],
)
def test_terms_that_can_not_be_are_refused(run: CommandLine, finance: str, problem: str) -> None:
    config = run.write("gateway.yaml", f"finance: {{{finance}}}\n")

    outcome = run(f"config check --config {config}")

    assert outcome.exit_code == 2
    assert problem in outcome.complaint + outcome.out
