"""Who may do what: every route of the description, asked by everybody, for everybody's tasks."""

import json
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
import pytest

from tests.e2e.conftest import StartGateway
from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway, run_program, wait_for_end
from tests.support.published import AT_ONCE, FOREVER_RUNNING, MODEL, make_body

PATH = "/seedance/generations"
COLLECTIONS = (PATH, f"/v1{PATH}", "/api/v3/contents/generations/tasks")
ID = "{task_id}"
OPEN_ROUTES = frozenset(
    ("get", path)
    for path in ("/livez", "/readyz", "/healthz", "/openapi.json", "/docs", "/docs/{asset}")
)
COLLECTION_ROUTES = {"post": 400, "get": 200}
"""Method to the status of a good key; the body sent is an empty object."""
LIMIT_PATHS = ("/seedance/limits", "/v1/seedance/limits", "/api/v3/contents/generations/limits")
TASK_ROUTES = {"get": 200, "delete": 409}
"""Method to the status of a good key for its own task, which is running."""
UNKNOWN_ID = "cgt-20261122000000-" + "a" * 20
MALFORMED_IDS = ("cgt", "-", "a" * 300, "%20", "%ff", "'", "cgt-20261122000000-AAAA%0d%0a", "*")
REVOCATION_S_MAX: Final = 1.0
PATIENCE_S: Final = 30.0
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def with_check(stem: str) -> str:
    """Return a key of this beginning, with the check that it needs."""
    value, check = zlib.crc32(stem.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        check = _BASE62[digit] + check
    return stem + check


@dataclass(frozen=True, slots=True)
class Cast:
    """Two projects with a running task each, and values of Authorization, good and bad."""

    gateway: Gateway
    client: httpx.Client
    """Says who it is by no header of its own."""
    own_id: str
    foreign_id: str
    stranger: str
    good: Mapping[str, str]
    """By owner's name of the spelling."""
    bad: Mapping[str, str | None]


def revoked_key(gateway: Gateway) -> str:
    key = gateway.create_key()
    done = gateway.run_cli("keys", "revoke", key[8:20])
    assert done.returncode == 0, done.stderr
    return key


def expired_key(gateway: Gateway) -> str:
    key = gateway.create_key("--ttl", "1s")
    deadline_s = time.monotonic() + PATIENCE_S
    while ask(gateway, key) == 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return key


def ask(gateway: Gateway, key: str) -> int:
    """Return the status of a read with this key."""
    with gateway.open_client(key) as client:
        return client.get(PATH).status_code


def start_task(gateway: Gateway, key: str) -> str:
    """Return the id of a task that runs for ever."""
    with gateway.open_client(key) as client:
        made = client.post(PATH, json=make_body(FOREVER_RUNNING)).raise_for_status()
    return str(made.json()["id"])


def wait_until_running(gateway: Gateway, key: str, task_id: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    with gateway.open_client(key) as client:
        while client.get(f"{PATH}/{task_id}").json()["status"] != "running":
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory, captured: Captured) -> Iterator[Cast]:
    with (
        run_gateway(tmp_path_factory.mktemp("authorization"), captured) as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False) as anonymous,
    ):
        assert gateway.key is not None
        made = gateway.run_cli("projects", "create", "other")
        assert made.returncode == 0, made.stderr
        owner, stranger = gateway.create_key(), gateway.create_key("--project", "other")
        own_id, foreign_id = start_task(gateway, owner), start_task(gateway, stranger)
        secret = owner[20:63]
        other_secret = secret[::-1]
        good = {
            "as documented": f"Bearer {owner}",
            "the key alone": owner,
            "lower case": f"bearer {owner}",
            "more blanks": f"Bearer   {owner}",
        }
        bad = {
            "none": None,
            "empty": "",
            "no key": "Bearer",
            "revoked": f"Bearer {revoked_key(gateway)}",
            "expired": f"Bearer {expired_key(gateway)}",
            "unknown": "Bearer " + with_check("sg_live_" + "Unknown00000" + "Ab1" * 14 + "x"),
            "of another secret": "Bearer " + with_check(owner[:20] + other_secret),
            "of another kind": "Bearer " + with_check(owner[:63].replace("live", "test")),
            "mistyped": f"Bearer {owner[:30]}{'a' if owner[30] != 'a' else 'b'}{owner[31:]}",
            "cut off": f"Bearer {owner[:-1]}",
            "too long": f"Bearer {owner}a",
            "very long": "Bearer " + "a" * 5_000,
            "upper case": f"Bearer {owner.upper()}",
            "twice": f"Bearer {owner}, Bearer {owner}",
            "wrong scheme": f"Basic {owner}",
            "another wrong scheme": f"Token {owner}",
            "scheme glued": f"Bearer{owner}",
            "scheme twice": f"Bearer Bearer {owner}",
            "a public id": f"Bearer {owner[8:20]}",
            "the sandbox's credential": "Bearer "
            + (gateway.data_dir / "sandbox-credential").read_text(),
        }
        wait_until_running(gateway, owner, own_id)
        wait_until_running(gateway, stranger, foreign_id)
        yield Cast(gateway, anonymous, own_id, foreign_id, stranger, good, bad)


def send(
    cast: Cast, method: str, path: str, authorization: str | None, **headers: str
) -> httpx.Response:
    if authorization is not None:
        headers["Authorization"] = authorization
    content = b"{}" if method == "post" else None
    return cast.client.request(method.upper(), path, headers=headers, content=content)


def without_ids(answer: httpx.Response, *ids: str) -> tuple[int, dict[str, str], str]:
    """Return what was answered, without request ids, task ids and what is said of the connection.

    The server closes it if the body of a refused request has not come with the head.
    """
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in {"x-request-id", "date", "content-length", "connection"}
    }
    text = answer.text.replace(answer.headers["x-request-id"], "<request>")
    for one in ids:
        text = text.replace(one, "<task>")
    return answer.status_code, headers, text


def test_every_route_has_its_row(cast: Cast) -> None:
    paths = cast.client.get("/openapi.json").json()["paths"]
    described = {(method, path) for path, item in paths.items() for method in item}

    rows = {(method, path) for path in COLLECTIONS for method in COLLECTION_ROUTES}
    rows |= {(method, f"{path}/{ID}") for path in COLLECTIONS for method in TASK_ROUTES}
    rows |= {("get", path) for path in LIMIT_PATHS}
    assert described == rows | OPEN_ROUTES


@pytest.mark.parametrize("path", COLLECTIONS)
@pytest.mark.parametrize("method", COLLECTION_ROUTES)
def test_a_collection_answers_good_keys_only(cast: Cast, method: str, path: str) -> None:
    for authorization in cast.good.values():
        assert send(cast, method, path, authorization).status_code == COLLECTION_ROUTES[method]
    refusals = {name: send(cast, method, path, value) for name, value in cast.bad.items()}
    check_refusals(refusals)


@pytest.mark.parametrize("path", LIMIT_PATHS)
def test_limits_are_told_to_good_keys_only(cast: Cast, path: str) -> None:
    for authorization in cast.good.values():
        assert send(cast, "get", path, authorization).status_code == 200
    check_refusals({name: send(cast, "get", path, value) for name, value in cast.bad.items()})


@pytest.mark.parametrize("path", COLLECTIONS)
@pytest.mark.parametrize("method", TASK_ROUTES)
def test_a_task_answers_its_project_only(cast: Cast, method: str, path: str) -> None:
    for authorization in cast.good.values():
        own = send(cast, method, f"{path}/{cast.own_id}", authorization)
        foreign = send(cast, method, f"{path}/{cast.foreign_id}", authorization)
        unknown = send(cast, method, f"{path}/{UNKNOWN_ID}", authorization)
        malformed = [send(cast, method, f"{path}/{one}", authorization) for one in MALFORMED_IDS]

        assert own.status_code == TASK_ROUTES[method]
        assert foreign.status_code == 404
        assert foreign.json()["error"]["code"] == "NotFound.Task"
        assert without_ids(foreign, cast.foreign_id) == without_ids(unknown, UNKNOWN_ID)
        assert {answer.status_code for answer in malformed} == {404}
    assert send(cast, method, f"{path}/{cast.own_id}", f"Bearer {cast.stranger}").status_code == 404
    ids = (cast.own_id, cast.foreign_id, UNKNOWN_ID, *MALFORMED_IDS)
    check_refusals(
        {
            f"{name}, {one}": send(cast, method, f"{path}/{one}", value)
            for name, value in cast.bad.items()
            for one in (ids if value is None else ids[:1])
        }
    )


def check_refusals(refusals: Mapping[str, httpx.Response]) -> None:
    told = {name: without_ids(answer) for name, answer in refusals.items()}
    (status, headers, text), *others = told.values()
    assert all(one == (status, headers, text) for one in others), told
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert json.loads(text)["error"]["code"] == "AuthenticationError"


@pytest.mark.parametrize(("method", "path"), sorted(OPEN_ROUTES))
def test_an_open_route_asks_nobody(cast: Cast, method: str, path: str) -> None:
    where = path.replace("{asset}", "docs.css")
    told = {
        send(cast, method, where, value).content
        for value in (*cast.good.values(), *cast.bad.values())
    }
    assert len(told) == 1
    assert send(cast, method, where, None).status_code == 200


def test_a_key_counts_in_its_header_only(cast: Cast) -> None:
    key = cast.good["the key alone"]
    for answer in (
        send(cast, "get", f"{PATH}?key={key}&api_key={key}&access_token={key}", None),
        send(cast, "get", PATH, None, **{"X-Api-Key": key, "Api-Key": key}),
        send(cast, "get", PATH, None, Cookie=f"authorization={key}; key={key}"),
        send(cast, "get", PATH, None, **{"Proxy-Authorization": f"Bearer {key}"}),
    ):
        assert answer.status_code == 401


def test_a_list_holds_the_projects_own_tasks_whatever_is_asked_for(cast: Cast) -> None:
    for collection in COLLECTIONS:
        for query in ("", f"?filter.task_ids={cast.foreign_id}", "?filter.status=running"):
            answer = send(cast, "get", collection + query, cast.good["as documented"])
            assert cast.foreign_id not in answer.text
            assert answer.json()["total"] == ("task_ids" not in query)


def test_an_upstreams_id_is_nobodys_id(cast: Cast) -> None:
    tasks = cast.gateway.read_truth()["tasks"]
    assert isinstance(tasks, list)
    assert len(tasks) == 2
    for task in tasks:
        answer = send(cast, "get", f"{PATH}/{task['id']}", cast.good["as documented"])
        assert answer.status_code == 404


def test_a_draft_of_another_project_is_no_draft(cast: Cast) -> None:
    told = []
    for draft_id in (cast.foreign_id, UNKNOWN_ID):
        item = {"type": "draft_task", "draft_task": {"id": draft_id}}
        body = {"model": "doubao-seedance-1-5-pro-251215", "content": [item]}
        with cast.gateway.open_client(cast.good["the key alone"]) as client:
            told.append(without_ids(client.post(PATH, json=body), draft_id))
    assert told[0] == told[1]
    assert told[0][0] == 404


TRICKS = (
    "..%2f..%2fadmin",
    "..",
    "%2e%2e",
    "%2e%2e%2f%2e%2e",
    "..%5c..",
    "%252e%252e%252f",
    "a%2fb",
    "a%00",
    "http:%2f%2f127.0.0.1",
    "%3Fa=b",
    "a;b",
    "a%3Fb",
    "a%23b",
    "%0d%0aHost:%20a",
    "%E2%80%AE",
    "%C0%AE%C0%AE",
    "//127.0.0.1",
)


def test_no_trick_with_an_id_reaches_the_upstream(start_gateway: StartGateway) -> None:
    gateway = start_gateway(name="tricks")
    with gateway.open_client() as client:
        task_id = client.post(PATH, json=make_body(AT_ONCE)).json()["id"]
        wait_for_end(client, f"{PATH}/{task_id}")
        before = gateway.read_truth()["reads"]
        for collection in COLLECTIONS:
            for trick in (*TRICKS, f"{task_id}%2f..", f"{task_id}/", f"{task_id}%20"):
                for method in ("GET", "DELETE"):
                    path = httpx.URL(gateway.url).copy_with(
                        raw_path=f"{collection}/{trick}".encode()
                    )
                    assert client.request(method, path).status_code in {400, 404}

        assert gateway.read_truth()["reads"] == before
        assert client.get(f"{PATH}/{task_id}").json()["status"] == "succeeded"


def last_accepted_s(gateway: Gateway, key: str, since_s: float) -> float:
    """Ask until refused; return when the last request that was accepted began, after `since_s`."""
    accepted_s = 0.0
    with gateway.open_client(key) as client:
        while True:
            began_s = time.monotonic()
            assert began_s < since_s + PATIENCE_S
            if client.get(PATH).status_code == 401:
                return accepted_s
            accepted_s = began_s - since_s
            time.sleep(0.01)


def test_a_key_revoked_beside_the_server_is_refused_within_a_second(
    cast: Cast, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = cast.gateway
    key = gateway.create_key()
    assert ask(gateway, key) == 200

    done = gateway.run_cli("keys", "revoke", key[8:20])
    accepted_s = last_accepted_s(gateway, key, time.monotonic())

    assert done.returncode == 0, done.stderr
    assert accepted_s <= REVOCATION_S_MAX
    with capsys.disabled():
        print(f"\na revoked key was last accepted {accepted_s:.3f} s after its revocation")


def test_a_rotated_key_works_beside_its_successor_until_the_grace_is_over(cast: Cast) -> None:
    gateway = cast.gateway
    old = gateway.create_key("--name", "rotated")

    done = gateway.run_cli("keys", "rotate", old[8:20], "--grace", "1s", "--format", "json")
    ends_s = time.monotonic() + 1
    assert done.returncode == 0, done.stderr
    new = json.loads(done.stdout)["key"]
    gateway.captured.add_key(new)
    assert ask(gateway, old) == 200
    assert ask(gateway, new) == 200

    assert last_accepted_s(gateway, old, ends_s) <= REVOCATION_S_MAX
    assert ask(gateway, new) == 200
    with gateway.open_client(new) as client:
        assert client.get(f"{PATH}/{cast.own_id}").status_code == 200


def test_a_key_may_ask_for_its_models_only(cast: Cast) -> None:
    key = cast.gateway.create_key("--model", MODEL)
    with cast.gateway.open_client(key) as client:
        own = client.post(PATH, json=make_body("--duration never"))
        other = client.post(
            PATH, json={**make_body(), "model": "doubao-seedance-1-0-lite-t2v-250428"}
        )
        status = client.get(f"{PATH}/{cast.own_id}")

    assert own.json()["error"]["code"] == "InvalidParameter"
    assert (other.status_code, other.json()["error"]["code"]) == (403, "AccessDenied")
    assert status.status_code == 200


def generate_key(captured: Captured) -> str:
    made = run_program(["keys", "generate"], captured=captured)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    captured.add_key(key)
    return key


def test_a_bootstrap_key_is_installed_once_and_stays_revoked(
    start_gateway: StartGateway, captured: Captured
) -> None:
    key = generate_key(captured)
    environ = {"GATEWAY_BOOTSTRAP_KEY": key}
    first = start_gateway(environ=environ, name="bootstrap")
    assert ask(first, key) == 200
    assert first.run_cli("keys", "revoke", key[8:20]).returncode == 0
    assert last_accepted_s(first, key, time.monotonic()) <= REVOCATION_S_MAX
    assert first.stop() == 0

    again = start_gateway(environ=environ, name="bootstrap")

    assert ask(again, key) == 401
    assert again.key is not None
    assert ask(again, again.key) == 200


SECRET = "Zq7Xv3" + "Kd9Wb5Rt2" * 4 + "c"
BAD_BOOTSTRAP_KEYS = {
    "empty": "",
    "short": "sg_live_Zq7Xv3",
    "wrong check": "sg_live_" + "Public000000" + SECRET + "000000",
    "zeros": with_check("sg_live_" + "Public000000" + "0" * 43),
    "few characters": with_check("sg_live_" + "Public000000" + "aB1" * 14 + "a"),
}


@pytest.mark.parametrize("name", BAD_BOOTSTRAP_KEYS)
def test_a_bad_bootstrap_key_stops_the_start_and_is_not_told(
    tmp_path_factory: pytest.TempPathFactory, captured: Captured, name: str
) -> None:
    bad = BAD_BOOTSTRAP_KEYS[name]
    folder = tmp_path_factory.mktemp("refused")

    refused = run_program(
        ["serve", "--sandbox", "--port", "0", "--data-dir", str(folder)],
        captured=captured,
        environ={"GATEWAY_BOOTSTRAP_KEY": bad},
    )

    assert refused.returncode == 2
    assert "BOOTSTRAP_KEY" in refused.stderr.upper()
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""
    for part in (bad[20:63], bad[-10:]):
        assert not part or part not in refused.stderr
    assert not re.search(r"sg_(live|test)_[0-9A-Za-z]{8}", refused.stderr)
