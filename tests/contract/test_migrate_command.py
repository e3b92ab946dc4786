"""`migrate` on PostgreSQL, and what comes before and after it."""

import json
from pathlib import Path

import pytest

from gateway.cli.main import main


def test_makes_a_postgresql_database_usable(
    postgres_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("GATEWAY_AUTH__PEPPER", "q7Zk2mXv9TbLw4Rn8YcD")
    common = ["--data-dir", str(tmp_path), "--format", "json"]

    assert main(["projects", "create", "films", *common]) == 2
    assert "seedance-gateway migrate" in capsys.readouterr().err

    assert main(["doctor", *common]) == 1
    assert "seedance-gateway migrate" in capsys.readouterr().out

    assert main(["migrate", *common]) == 0
    migrated = json.loads(capsys.readouterr().out)
    assert migrated["from"] is None

    assert main(["projects", "create", "films", *common]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["migrate", *common]) == 0
    assert json.loads(capsys.readouterr().out) == {"from": migrated["to"], "to": migrated["to"]}
    assert main(["projects", "list", *common]) == 0
    assert json.loads(capsys.readouterr().out) == [made]
    capsys.readouterr()
    assert main(["doctor", *common]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [each["check"] for each in findings if each["level"] == "fail"] == ["upstreams"]
    assert not list(tmp_path.glob("gateway.db*"))

    assert main(["keys", "create", *common]) == 0
    monkeypatch.setenv("GATEWAY_AUTH__PEPPER", "another-7Zk2mXv9TbLw4Rn8YcD")
    capsys.readouterr()
    assert main(["keys", "create", *common]) == 2
    assert "auth.pepper" in capsys.readouterr().err
    assert main(["doctor", *common]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert "pepper" in [each["check"] for each in findings if each["level"] == "fail"]
