"""The switch to the gateway and the way back, with a provider in a process of its own."""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.captured import Captured
from tests.support.gateway import ENDED, Gateway, run_gateway, run_program, wait_for_end
from tests.support.programs import BESIDE_IT, run_sandbox_program
from tests.support.published import AT_ONCE, FOREVER_QUEUED, FOREVER_RUNNING, make_body

ARK = "/api/v3/contents/generations/tasks"
SURFACES = ("/seedance/generations", "/v1/seedance/generations", ARK)
PROVIDER_KEY = "provider-key-0123456789"


@dataclass
class Provider:
    """The provider as its customers use it directly."""

    url: str
    client: httpx.Client

    def submit(self, words: str = AT_ONCE, **fields: object) -> str:
        answer = self.client.post(ARK, json=make_body(words, **fields)).raise_for_status()
        task_id: str = answer.json()["id"]
        return task_id

    def read(self, task_id: str) -> dict[str, object]:
        task: dict[str, object] = self.client.get(f"{ARK}/{task_id}").raise_for_status().json()
        return task

    def wait(self, task_id: str) -> dict[str, object]:
        deadline_s = time.monotonic() + 30
        while (task := self.read(task_id))["status"] not in ENDED:
            assert time.monotonic() < deadline_s, task
            time.sleep(0.1)
        return task

    def count_creates(self) -> int:
        truth = self.client.get("/_sandbox/truth").raise_for_status().json()
        creates: int = truth["creates"]
        return creates


@dataclass
class Site:
    provider: Provider
    gateway: Gateway
    client: httpx.Client
    environ: Mapping[str, str]
    captured: Captured

    def run_json(self, *arguments: str) -> tuple[int, object]:
        done = run_program(
            [*arguments, "--format", "json", "--data-dir", str(self.gateway.data_dir)],
            captured=self.captured,
            environ=self.environ,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def import_week(self) -> dict[str, object]:
        exit_code, report = self.run_json(
            "tasks", "import", "--upstream", "ark", "--project", "default", "--since", "7d"
        )
        assert exit_code == 0
        assert isinstance(report, dict)
        return report


@pytest.fixture
def provider(tmp_path: Path, captured: Captured) -> Iterator[Provider]:
    captured.add_secret(PROVIDER_KEY)
    headers = {"Authorization": f"Bearer {PROVIDER_KEY}"}
    with (
        run_sandbox_program(tmp_path / "provider", captured) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client,
    ):
        yield Provider(url, client)


@pytest.fixture
def start_site(provider: Provider, tmp_path: Path, captured: Captured) -> Iterator[Site]:
    environ = {
        **BESIDE_IT,
        "ARK_API_KEY": PROVIDER_KEY,
        "ARK_BASE_URL": f"{provider.url}/api/v3",
        "GATEWAY_VALIDATION__MODE": "warn",
    }
    arguments = ("--host", "127.0.0.1")
    with (
        run_gateway(tmp_path / "data", captured, arguments, environ) as gateway,
        gateway.open_client(gateway.create_key()) as client,
    ):
        yield Site(provider, gateway, client, environ, captured)


def test_tasks_from_before_the_switch_are_read_by_their_old_ids_and_nobody_pays_again(
    start_site: Site,
) -> None:
    site, provider = start_site, start_site.provider
    done = [provider.submit(), provider.submit(service_tier="flex"), provider.submit(seed=7)]
    shown = {task_id: provider.wait(task_id) for task_id in done}
    running, queued = provider.submit(FOREVER_RUNNING), provider.submit(FOREVER_QUEUED)
    soon = provider.submit("sandbox:queued=0 sandbox:run=40")
    creates = provider.count_creates()

    assert site.client.get(f"{ARK}/{done[0]}").status_code == 404
    report = site.import_week()
    assert report["imported"] == 6
    assert report["is_complete"] is True
    for surface in SURFACES:
        for task_id, theirs in shown.items():
            ours = site.client.get(f"{surface}/{task_id}").raise_for_status().json()
            for name in ("id", "model", "status", "usage", "seed", "created_at", "service_tier"):
                assert ours[name] == theirs[name], name
            assert httpx.get(ours["content"]["video_url"], trust_env=False).status_code == 200
        listed = site.client.get(surface, params={"page_size": 100}).raise_for_status().json()
        assert {item["id"] for item in listed["items"]} == {*done, running, queued, soon}
        assert site.client.get(f"{surface}/{running}").json()["status"] == "running"
        assert site.client.get(f"{surface}/{queued}").json()["status"] == "queued"

    assert wait_for_end(site.client, f"{ARK}/{soon}")["status"] == "succeeded"
    assert site.client.delete(f"{ARK}/{queued}").status_code == 409
    assert provider.read(queued)["status"] == "queued"
    again = site.import_week()
    assert (again["imported"], again["known"]) == (0, 6)
    assert provider.count_creates() == creates
    with closing(sqlite3.connect(site.gateway.data_dir / "gateway.db")) as store:
        assert store.execute("SELECT count(*) FROM reservations").fetchone() == (0,)
        assert store.execute("SELECT count(*) FROM ledger_entries").fetchone() == (0,)


def test_a_task_made_by_the_gateway_is_not_taken_for_one_from_before(start_site: Site) -> None:
    site = start_site
    old = site.provider.submit()
    new = site.client.post(ARK, json=make_body()).raise_for_status().json()["id"]
    report = site.import_week()

    assert (report["imported"], report["known"]) == (1, 1)
    items = site.client.get(ARK).json()["items"]
    assert {item["id"] for item in items} == {old, new}


def test_an_import_of_tasks_of_another_project_says_whose_they_are_and_ends_with_1(
    start_site: Site,
) -> None:
    site = start_site
    old, unknown = site.provider.submit(), site.provider.submit()
    for_p2 = ("tasks", "import", "--upstream=ark", "--project=p2")
    site.run_json("projects", "create", "p2")
    site.run_json("tasks", "import", "--upstream=ark", "--project=default", f"--id={old}")

    exit_code, report = site.run_json(*for_p2, "--since=168h")
    as_table = run_program(
        [*for_p2, "--since=7d", f"--data-dir={site.gateway.data_dir}"],
        captured=site.captured,
        environ=site.environ,
    )

    assert isinstance(report, dict)
    assert exit_code == as_table.returncode == 1
    assert (report["imported"], report["known"], report["foreign"]) == (1, 0, 1)
    whose = {task["id"]: (task["result"], task["project"]) for task in report["tasks"]}
    assert whose == {old: ("foreign", "default"), unknown: ("imported", "p2")}
    (row,) = (line.split() for line in as_table.stdout.splitlines() if line.startswith(old))
    assert row[-2:] == ["foreign", "default"]
    assert "0 imported into the project p2, 1 known already." in as_table.stderr
    assert "1 are known already in other projects (default)" in as_table.stderr


def test_an_import_from_further_back_than_upstreams_list_is_refused(start_site: Site) -> None:
    site = start_site
    for since in ("8d", "169h", "3650d"):
        done = run_program(
            [
                "tasks",
                "import",
                "--upstream=ark",
                "--project=default",
                f"--since={since}",
                f"--data-dir={site.gateway.data_dir}",
            ],
            captured=site.captured,
            environ=site.environ,
        )

        assert (done.returncode, done.stdout) == (2, "")
        assert "--since must be 7d or less" in done.stderr


def test_on_the_way_back_every_id_is_found_at_the_provider(start_site: Site) -> None:
    site, provider = start_site, start_site.provider
    old = provider.submit()
    site.import_week()
    made = [
        site.client.post(surface, json=make_body(words)).raise_for_status().json()["id"]
        for surface in SURFACES
        for words in (AT_ONCE, FOREVER_RUNNING)
    ]
    for task_id in made[::2]:
        wait_for_end(site.client, f"{ARK}/{task_id}")
    refused = site.client.post(ARK, json=make_body("sandbox:refuse=InvalidParameter"))
    _, rows = site.run_json("tasks", "list", "--limit", "1000")
    site.gateway.stop()
    assert isinstance(rows, list)
    upstream_ids = {row["id"]: row["upstream_task_id"] for row in rows}

    assert refused.status_code >= 400
    assert upstream_ids[old] == old
    assert {row["id"] for row in rows if row["imported"]} == {old}
    assert {*made, old} <= set(upstream_ids)
    for row in rows:
        if row["state"] == "rejected":
            assert row["upstream_task_id"] is None
            continue
        theirs = provider.read(row["upstream_task_id"])
        assert theirs["id"] == row["upstream_task_id"]
        assert theirs["status"] in {row["state"], "running"}
    assert provider.count_creates() == len(made) + 1


def test_after_the_way_back_any_credential_lets_the_gateway_answer_what_it_knows(
    start_site: Site,
) -> None:
    site, provider = start_site, start_site.provider
    old = provider.submit()
    provider.wait(old)
    site.import_week()
    new = site.client.post(ARK, json=make_body()).raise_for_status().json()["id"]
    known = {task_id: wait_for_end(site.client, f"{ARK}/{task_id}") for task_id in (old, new)}
    key = site.gateway.create_key()
    site.gateway.stop()
    data_dir, arguments = site.gateway.data_dir, ("--host", "127.0.0.1")
    provider_is_gone = {**site.environ, "ARK_BASE_URL": "http://127.0.0.1:9/api/v3"}
    without = {name: site.environ[name] for name in site.environ if name != "ARK_API_KEY"}

    refused = run_program(
        ["serve", "--port=0", f"--data-dir={data_dir}"], captured=site.captured, environ=without
    )
    assert refused.returncode == 2
    assert "No upstream is configured" in refused.stderr
    environ = {**provider_is_gone, "ARK_API_KEY": "withdrawn"}
    with (
        run_gateway(data_dir, site.captured, arguments, environ) as gateway,
        gateway.open_client(key) as client,
    ):
        for task_id, task in known.items():
            assert client.get(f"{ARK}/{task_id}").raise_for_status().json() == task
        assert client.get(ARK).raise_for_status().json()["total"] == 2


def test_an_id_that_nobody_knows_is_told_and_imports_nothing(start_site: Site) -> None:
    site = start_site
    done = run_program(
        [
            "tasks",
            "import",
            "--upstream=ark",
            "--project=default",
            "--id=cgt-20260101000000-aaaaa",
            f"--data-dir={site.gateway.data_dir}",
        ],
        captured=site.captured,
        environ=site.environ,
    )

    assert done.returncode == 1
    assert "cgt-20260101000000-aaaaa is not found" in done.stderr
    assert site.client.get(ARK).json()["total"] == 0
