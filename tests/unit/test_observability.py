import io
import json
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import StorageUnavailable
from gateway.observability.logging import EVENTS, mask, open_logger
from gateway.observability.metrics import Counter, Gauge, Histogram, Metrics

KEY = "sg_live_" + "Ab1" * 20 + "x"


def logged(**fields: object) -> dict[str, object]:
    stream = io.StringIO()
    open_logger("info", "json", stream).info("task.state_changed", **fields)
    line: dict[str, object] = json.loads(stream.getvalue())
    return line


def test_a_line_is_one_json_object_whatever_a_client_sends() -> None:
    assert logged(model='a"\n{"event": "forged"}')["model"] == 'a"\n{"event": "forged"}'


def test_secrets_are_masked_even_if_somebody_logs_them() -> None:
    line = json.dumps(logged(a=KEY, b="Bearer abc.def", c="https://h/v.mp4?sig=SECRET&e=1"))

    assert "Ab1Ab1" not in line
    assert "abc.def" not in line
    assert "SECRET" not in line


def test_whoever_logs_does_not_fail_for_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        log = open_logger("info", "json", full)
        log.info("task.state_changed", task_id="a")
        log.error("http.request_failed", exc_info=ValueError())
        with suppress(OSError):  # what the stream itself still holds
            full.close()


def test_long_texts_are_capped() -> None:
    assert len(mask("a" * 10_000)) < 2100


def test_an_exception_is_logged_without_its_message_and_locals() -> None:
    stream = io.StringIO()
    log = open_logger("info", "json", stream)
    secret = "prompt-of-a-client"
    try:
        int(secret)
    except ValueError as error:
        log.exception("http.request_failed", exc_info=error)

    line = json.loads(stream.getvalue())
    assert secret not in stream.getvalue()
    assert line["error"] == "ValueError"
    assert "test_observability.py" in line["trace"]


def test_a_drivers_code_is_logged_without_its_words() -> None:
    stream = io.StringIO()
    log = open_logger("info", "json", stream)
    unavailable = StorageUnavailable("The store can't answer now.")
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.Error) as caught:
            database.execute("CREATE TABLE prompts (client_text TEXT)")
    unavailable.__cause__ = caught.value
    group = ExceptionGroup("loops", [ValueError(), unavailable])

    log.error("worker.loop_failed", exc_info=group)

    assert json.loads(stream.getvalue())["driver_code"] == "SQLITE_FULL"
    assert "client_text" not in stream.getvalue()


def test_every_metric_has_our_prefix_and_parses() -> None:
    metrics = Metrics()
    metrics.http_requests.add("/seedance/generations", "POST", "200")
    metrics.http_request_duration.observe(0.02, "/seedance/generations")
    metrics.http_request_duration.observe(1000, "/seedance/generations")
    metrics.tasks.set(3, "queued")

    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}

    ours = {name for name in families if not name.startswith(("process_", "python_"))}
    assert ours
    assert all(name.startswith("gateway_") for name in ours)
    samples = {
        (s.name, s.labels.get("le")): s.value
        for s in families["gateway_http_request_duration_seconds"].samples
    }
    assert samples["gateway_http_request_duration_seconds_count", None] == 2
    assert samples["gateway_http_request_duration_seconds_bucket", "0.01"] == 0
    assert samples["gateway_http_request_duration_seconds_bucket", "0.025"] == 1
    assert samples["gateway_http_request_duration_seconds_bucket", "+Inf"] == 2
    assert families["gateway_tasks"].samples[0].value == 3


def test_the_document_lists_every_metric_and_every_event() -> None:
    document = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    families = [
        each for each in vars(Metrics()).values() if isinstance(each, Counter | Gauge | Histogram)
    ]
    rows = set()
    for each in families:
        name = each.name + ("_total" if isinstance(each, Counter) else "")
        labels = ", ".join(f"`{label}`" for label in each.labels) or "–"
        rows.add(f"| `{name}` | {type(each).__name__.lower()} | {labels} | {each.text} |")

    assert rows <= set(document.splitlines())
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", document, re.MULTILINE)) == EVENTS
