import hashlib
import json
import re

import pytest

from gateway.errors import NotFound
from gateway.http.docs import ASSETS, PAGE, POLICY, STATIC, Docs
from gateway.http.exchange import Exchange
from tests.support.asgi import no_receive, no_send


def an_exchange(asset: str = "") -> Exchange:
    scope = {"method": "GET", "query_string": b"", "path_params": {"asset": asset}}
    return Exchange(scope, no_receive, no_send, {}, "req", 0.0)


def test_the_packaged_files_are_those_of_the_release() -> None:
    manifest = json.loads((STATIC / "manifest.json").read_bytes())

    assert manifest["licence"] == "Apache-2.0"
    for name, checksum in manifest["sha256"].items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == checksum, name
    own = {"manifest.json", PAGE, "docs.css", "docs.js"}
    assert {path.name for path in STATIC.iterdir()} == own | set(manifest["sha256"])


async def test_the_page_asks_for_its_own_files_only() -> None:
    answer = await Docs().get_docs_page(an_exchange())
    page = answer.body.decode()
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert sorted(wanted) == [
        "docs/docs.css",
        "docs/docs.js",
        "docs/favicon-32x32.png",
        "docs/swagger-ui-bundle.js",
        "docs/swagger-ui.css",
        "openapi.json",
    ]
    assert {name.removeprefix("docs/") for name in wanted} - {"openapi.json"} == set(ASSETS)
    assert (b"content-security-policy", POLICY) in answer.headers
    assert b"unsafe" not in POLICY
    assert not re.search(r"<script>|\son\w+=|style=", page)


async def test_only_listed_files_are_given() -> None:
    docs = Docs()
    for name in ASSETS:
        assert (await docs.get_docs_asset(an_exchange(name))).status == 200
    for name in ("manifest.json", "index.html", "../docs.py", "..", "", "/etc/passwd"):
        with pytest.raises(NotFound):
            await docs.get_docs_asset(an_exchange(name))


async def test_the_description_is_built_once() -> None:
    docs = Docs()
    first = await docs.get_description(an_exchange())

    assert (await docs.get_description(an_exchange())).body is first.body
    assert json.loads(first.body)["openapi"] == "3.1.0"
