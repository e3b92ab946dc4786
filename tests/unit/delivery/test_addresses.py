"""Where a webhook may go. The resolver here is as obliging to an attacker as can be."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.addresses import (
    LOOKUPS_MAX,
    AddressRules,
    ThreadedResolver,
    find_addresses,
)
from gateway.domain.webhooks import DeliveryError
from gateway.endpoints import Endpoint, UndeliverableError, parse_endpoint
from tests.support.waiting import eventually

PUBLIC = "8.8.4.4"
INSIDE = (
    "127.0.0.1",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
)


async def obliging(host: str, _port: int) -> Sequence[str]:
    """Read every number as C does, and find every other name on the loopback."""
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except (OSError, ValueError):
        return ["127.0.0.1"]


async def find(url: str, rules: AddressRules | None = None) -> tuple[str, ...]:
    return await find_addresses(parse_endpoint(url), rules or AddressRules(), obliging)


async def refusal(url: str) -> DeliveryError:
    with pytest.raises(UndeliverableError) as caught:
        await find(url)
    assert str(caught.value) == caught.value.word, "only the word is told"
    return caught.value.word


def spellings(address: str) -> list[str]:
    """Return hosts by which somebody somewhere means this IPv4 address."""
    number = int(IPv4Address(address))
    return [*_numbers(address, number), *_texts(address), *_ipv6(address, number)]


def _numbers(address: str, number: int) -> Iterator[str]:
    a, b, c, d = number.to_bytes(4, "big")
    yield from (address, f"{address}.", f"{address}..")
    yield from (str(number), f"{number}.", f"0{number:o}", f"{number:#x}", f"{number:#X}")
    yield f"{number + 2**32}"
    yield f"{a}.{number & 0xFFFFFF}"
    yield f"{a}.{b}.{number & 0xFFFF}"
    yield f"{a:#x}.{b:#x}.{c:#x}.{d:#x}"
    yield f"0{a:o}.0{b:o}.0{c:o}.0{d:o}"
    yield f"{a:04o}.{b}.{c}.{d}"
    yield f"{a:#x}.{b}.0{c:o}.{d}"
    yield f"{a:03}.{b:03}.{c:03}.{d:03}"
    yield f"{a}.{b}.{c}.{d}.0"
    yield f"inside-{a}-{b}-{c}-{d}.example"


def _texts(address: str) -> Iterator[str]:
    yield address.translate(str.maketrans("0123456789", "０１２３４５６７８９"))
    yield address.translate(str.maketrans("123456789", "①②③④⑤⑥⑦⑧⑨"))
    yield from (address.replace(".", dot) for dot in ("。", "．", "%2e", "․"))
    yield f"%{ord(address[0]):02x}{address[1:]}"
    yield f"{address}%00.example"
    yield f"{address}\t"
    yield f"public.example@{address}"
    yield f"{address}@public.example"
    yield f"public.example\\@{address}"


def _ipv6(address: str, number: int) -> Iterator[str]:
    high, low = number >> 16, number & 0xFFFF
    inverted = number ^ 0xFFFF_FFFF
    yield f"[{address}]"
    yield f"[::ffff:{address}]"
    yield f"[::ffff:{high:x}:{low:x}]"
    yield f"[0:0:0:0:0:FFFF:{high:X}:{low:X}]"
    yield f"[::ffff:{address}%25eth0]"
    yield f"[::{address}]"
    yield f"[64:ff9b::{high:x}:{low:x}]"
    yield f"[64:ff9b:1::{high:x}:{low:x}]"
    yield f"[2002:{high:x}:{low:x}::1]"
    yield f"[2001:0:808:404:0:0:{inverted >> 16:x}:{inverted & 0xFFFF:x}]"
    yield f"[fe80::5efe:{high:x}:{low:x}]"


SPELLINGS = [host for address in INSIDE for host in spellings(address)]


def test_the_spellings_are_many() -> None:
    assert len(set(SPELLINGS)) > 300


async def test_it_is_the_rules_that_keep_readable_spellings_outside() -> None:
    """The control: where every network is allowed, plain spellings lead inside."""
    nothing_is_private = AddressRules(["0.0.0.0/0", "::/0"])
    found: set[str] = set()
    for host in SPELLINGS:
        with suppress(UndeliverableError):
            found.update(await find(f"https://{host}/", nothing_is_private))

    assert found >= set(INSIDE)
    assert len(found) > 50


@pytest.mark.parametrize("host", SPELLINGS, ids=ascii)
async def test_no_spelling_of_an_address_inside_is_delivered_to(host: str) -> None:
    for url in (f"https://{host}/hook", f"http://{host}:8080/hook"):
        await refusal(url)


@pytest.mark.parametrize(
    "host",
    [
        *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]"),
        *("[fe80::1%eth0]", "[fe80::1%251]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]"),
        *("[3fff::1]", "[5f00::1]", "[2001:20::1]", "[2001:2::1]", "[2606:4700::1111%eth0]"),
        *("[2606:4700::1111%25eth0]", "[v1.fe80::a]", "[]", "[::1", "::1", "[::1]x", "[::1]]"),
        *("localhost", "LOCALHOST", "localhost.", "loc%61lhost", "ⓛocalhost", "metadata"),
        *("metadata.google.internal", "instance-data", "kubernetes.default.svc", "a.b.local"),
        *("", ".", "..", "a..b", ".a", "-a.example", "a-.example", "a" * 64, "a." * 127 + "ab"),
        *("a b", "a/b@c", "a?b@c", "a#@b", "*", "a,b", "a'b", 'a"b', "a;b", "a|b", "a^b", "a`b"),
        *("user@", "user:pass@a.example", "a.example@", "@a.example", "a@b@c"),
        *("0", "0.", "0x", "0x.0x", "1.1", "08.8.4.4", "8.8.4.04", "0x8.8.4.4", "134743044"),
        *("8.8.1028", "8.525316", "256.1.1.1", "1.2.3", "1.2.3.4.5", "a.1", "example.0x1"),
        *("xn--\xff", "\u2024", "a\u200bb.example", "a\ud800b", "a\x85b", "a\u2028b", "℀.example"),
    ],
    ids=ascii,
)
async def test_no_other_odd_host_is_delivered_to(host: str) -> None:
    await refusal(f"https://{host}/hook")


@pytest.mark.parametrize(
    "url",
    [
        *("", "hook", "/hook", "//a.example/", "https:a.example", "https:/a.example", "https://"),
        *("https:///hook", "ftp://a.example/", "file:///etc/passwd", "gopher://a.example/"),
        *("unix:/run/docker.sock", "javascript:alert(1)", "data:,x", "asset://a", "ws://a.example"),
        *("https://a.example:0/", "https://a.example:00/", "https://a.example:65536/"),
        *("https://a.example:99999/", "https://a.example:/", "https://a.example:-1/"),
        *("https://a.example:+80/", "https://a.example:8_0/", "https://a.example: 80/"),
        *("https://a.example:８０/", "https://a.example:80:80/", "https://a.example:0x50/"),
        *(" https://a.example/", "https://a.example/ ", "https://a.example/\n", "\thttps://a.ex/"),
        *("https://a.example/\r\nHost: b", "https://a.example/\x00", "https://a.ex\nample/"),
        *("https://a.example\\b", "https:\\\\a.example/", "ht\ntps://a.example/", "https://a\\@b/"),
        "https://a.example/" + "a" * 8200,
    ],
    ids=lambda url: ascii(url[:40]),
)
async def test_what_is_no_plain_url_is_no_endpoint(url: str) -> None:
    assert await refusal(url) is DeliveryError.URL_INVALID


@pytest.mark.parametrize(
    ("url", "endpoint", "authority"),
    [
        ("https://a.example", Endpoint("https", "a.example", 443, "/"), "a.example"),
        ("HTTPS://A.Ex:443/H?a=B#c", Endpoint("https", "a.ex", 443, "/H?a=B"), "a.ex"),
        ("http://a.example:8443?x", Endpoint("http", "a.example", 8443, "/?x"), "a.example:8443"),
        ("http://a.example./", Endpoint("http", "a.example", 80, "/"), "a.example"),
        ("https://a_b.c-d/%2F/../x", Endpoint("https", "a_b.c-d", 443, "/%2F/../x"), "a_b.c-d"),
        (
            "https://例え.jp/船 1?é=%zz",
            Endpoint("https", "xn--r8jz45g.jp", 443, "/%E8%88%B9%201?%C3%A9=%zz"),
            "xn--r8jz45g.jp",
        ),
        ("https://straße.ex", Endpoint("https", "xn--strae-oqa.ex", 443, "/"), "xn--strae-oqa.ex"),
        ("https://8.8.4.4:1/", Endpoint("https", "8.8.4.4", 1, "/"), "8.8.4.4:1"),
        ("https://8.8.4.4./", Endpoint("https", "8.8.4.4", 443, "/"), "8.8.4.4"),
        ("https://[2606:4700:0::1]", Endpoint("https", "2606:4700::1", 443, "/"), "[2606:4700::1]"),
        ("http://[2606::1]:8/", Endpoint("http", "2606::1", 8, "/"), "[2606::1]:8"),
    ],
)
def test_a_plain_url_is_read_in_one_way(url: str, endpoint: Endpoint, authority: str) -> None:
    assert parse_endpoint(url) == endpoint
    assert parse_endpoint(url).authority == authority


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"https://{text}"))
def test_whatever_is_read_can_be_put_on_the_wire(url: str) -> None:
    try:
        endpoint = parse_endpoint(url)
    except UndeliverableError:
        return
    for text in (endpoint.authority, endpoint.target):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
    assert endpoint.target.startswith("/")


@pytest.mark.parametrize(
    ("address", "is_admitted"),
    [
        *((address, False) for address in INSIDE),
        *((address, True) for address in ("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0")),
        *((address, True) for address in ("100.63.255.255", "100.128.0.0", "126.255.255.255")),
        *((address, True) for address in ("128.0.0.0", "169.253.255.255", "169.255.0.0")),
        *((address, True) for address in ("172.15.255.255", "172.32.0.0", "192.167.255.255")),
        *((address, True) for address in ("192.169.0.0", "198.17.255.255", "198.20.0.0")),
        *((address, False) for address in ("198.18.0.0", "198.19.255.255", "192.0.0.192")),
        *((address, False) for address in ("239.255.255.255", "240.0.0.0", "0.255.255.255")),
        *((address, True) for address in ("223.255.255.255", "1.0.0.0", "2606:4700:4700::1111")),
        *((address, True) for address in ("2400:3200::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")),
        *((address, False) for address in ("::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "::8.8.8.8")),
        *((address, False) for address in ("2002:808:808::1", "2001::1", "fe80::1%1", "::1")),
        *((address, False) for address in ("1fff::1", "4000::1", "", "a", "1.1.1", "1.1.1.1/32")),
    ],
)
def test_public_addresses_are_admitted_and_no_others(address: str, *, is_admitted: bool) -> None:
    assert AddressRules().admits(address) is is_admitted


@given(st.ip_addresses(v=4))
def test_no_admitted_ipv4_address_is_special(address: IPv4Address) -> None:
    if AddressRules().admits(str(address)):
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=6) | st.ip_addresses(v=6, network="2000::/3"))
def test_no_admitted_ipv6_address_is_special(address: IPv6Address) -> None:
    if AddressRules().admits(str(address)):
        assert address.is_global
        assert not address.is_multicast
        assert address.sixtofour is None
        assert address.teredo is None


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_an_allowed_network_lifts_the_rule_for_itself_alone(
    address: IPv4Address, length: int
) -> None:
    network = IPv4Network((address, length), strict=False)
    rules = AddressRules([str(network)])

    assert rules.admits(str(address))
    assert rules.admits(f"::ffff:{address}")
    assert rules.admits("127.0.0.1") is (IPv4Address("127.0.0.1") in network)


@pytest.mark.parametrize("network", ["", "private", "10.0.0.1/8", "10.0.0.0/33", "localhost"])
def test_what_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"is no network; allowed are|has bits set beyond"):
        AddressRules([network])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([PUBLIC], (PUBLIC,)),
        ([PUBLIC, "8.8.8.8", "1.1.1.1"], (PUBLIC,)),
        (["2606:4700::1", "2606:4700::2", PUBLIC, "8.8.8.8"], ("2606:4700::1", PUBLIC)),
        ([PUBLIC, "127.0.0.1"], DeliveryError.ADDRESS_REFUSED),
        (["127.0.0.1", PUBLIC], DeliveryError.ADDRESS_REFUSED),
        ([PUBLIC, "fe80::1%2"], DeliveryError.ADDRESS_REFUSED),
        ([PUBLIC, "nonsense"], DeliveryError.ADDRESS_REFUSED),
        ([PUBLIC] * 65, DeliveryError.ADDRESS_REFUSED),
        ([], DeliveryError.NAME_UNKNOWN),
    ],
)
async def test_one_bad_address_of_a_name_spoils_all(
    found: list[str], expected: tuple[str, ...] | DeliveryError
) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return found

    endpoint = parse_endpoint("https://a.example/")
    if isinstance(expected, tuple):
        assert await find_addresses(endpoint, AddressRules(), resolve) == expected
    else:
        with pytest.raises(UndeliverableError) as caught:
            await find_addresses(endpoint, AddressRules(), resolve)
        assert caught.value.word is expected


async def test_an_address_is_not_looked_up() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise AssertionError

    for host in (PUBLIC, "[2606:4700::1]"):
        endpoint = parse_endpoint(f"https://{host}/")
        assert await find_addresses(endpoint, AddressRules(), resolve) == (host.strip("[]"),)


async def test_the_system_resolver_finds_names_and_tells_of_unknown_ones() -> None:
    resolve = ThreadedResolver()

    assert set(await resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r"not known|resolution"):
        await resolve("no-such-host.invalid", 80)
    with pytest.raises(ValueError, match="label"):
        await resolve("a" * 64 + "\xff", 80)


async def test_hanging_look_ups_are_few_and_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places are taken until they really end, not until nobody waits any longer."""
    may_end = threading.Event()
    hosts = []

    def hang(host: str, *_: object, **__: object) -> list[object]:
        hosts.append(host)
        may_end.wait()
        return [(0, 0, 0, "", (PUBLIC, 80))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    resolve = ThreadedResolver()
    try:
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(resolve(f"{n}.example", 80)) for n in range(LOOKUPS_MAX + 4)
            ]
            await eventually(lambda: len(hosts) == LOOKUPS_MAX)
            for task in waiting[:LOOKUPS_MAX]:
                task.cancel()
            await asyncio.wait(waiting[:LOOKUPS_MAX])
            assert len(hosts) == LOOKUPS_MAX
            may_end.set()
        assert len(hosts) == LOOKUPS_MAX + 4
        assert [task.result() for task in waiting[LOOKUPS_MAX:]] == [[PUBLIC]] * 4
    finally:
        may_end.set()
