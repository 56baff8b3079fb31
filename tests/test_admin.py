"""The listener for operators: probes, metrics in the format of Prometheus, reports."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from support.api import Api
from support.operated import Operated, value
from support.receiver import Receiver
from support.websocket import WebSocket


def until(what: Callable[[], object], timeout: float = 60.0) -> object:
    """What the function returns once it is true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout} s")


@pytest.fixture
def operated(tmp_path, new_server) -> Operated:
    del new_server  # skips where a running server is tested
    server = Operated(
        tmp_path,
        websocket=True,
        options={"notification": {"allow_networks": "127.0.0.0/8"}},
    )
    server.start()
    yield server
    if server.running():
        assert server.stop() == 0, server.log_tail()


def test_every_operation_is_counted_with_its_wire_and_outcome(operated):
    before = operated.metrics()
    assert value(before, "zaqar_operations_total", operation="post_messages", wire="http", outcome="ok") == 0
    with Api(operated.url) as api:
        api.post("q", 1, 2, 3)
        assert len(api.claim("q", limit=2)[1]) == 2
        assert api.call("DELETE", "/v2/queues/q/messages", params={"pop": 1}).status_code == 200
        assert api.call("GET", "/v2/queues/none/claims/none").status_code == 404
    with WebSocket(operated.websocket_url, "p") as opened:
        opened.ask("queue_list", 200)
        assert value(operated.metrics(), "zaqar_connections", transport="websocket") == 1
    after = operated.metrics()

    def operations(operation: str, wire: str, outcome: str) -> float:
        labels = {"operation": operation, "wire": wire, "outcome": outcome}
        return value(after, "zaqar_operations_total", **labels)

    assert operations("post_messages", "http", "ok") == 1
    assert operations("create_claim", "http", "ok") == 1
    assert operations("pop_messages", "http", "ok") == 1
    assert operations("read_claim", "http", "not_found") == 1
    assert operations("list_queues", "websocket", "ok") == 1
    took = {"operation": "post_messages", "wire": "http"}
    assert value(after, "zaqar_operation_duration_seconds_count", **took) == 1
    assert value(after, "zaqar_operation_duration_seconds_bucket", **took, le="+Inf") == 1
    assert value(after, "zaqar_operation_duration_seconds_sum", **took) > 0
    assert value(after, "zaqar_store_calls_total", store="message", call="post", outcome="ok") == 1
    assert value(after, "zaqar_messages_posted_total") == 3
    assert value(after, "zaqar_messages_claimed_total") == 2
    assert value(after, "zaqar_messages_popped_total") == 1
    assert value(after, "zaqar_messages_released_total") == 0
    assert value(after, "zaqar_messages_expired_total") == 0
    assert value(after, "zaqar_messages_dead_lettered_total") == 0
    assert value(after, "zaqar_connections_accepted_total", transport="wsgi") >= 1
    assert value(after, "zaqar_operations_in_progress") == 0
    assert value(after, "zaqar_store_up", store="message") == 1
    assert value(after, "zaqar_ready") == 1
    assert value(after, "zaqar_memory_budget_bytes") > 0
    assert value(after, "zaqar_clock_steady") == 1
    assert value(after, "zaqar_store_file_bytes", store="message") > 0
    assert value(after, "zaqar_store_log_bytes", store="message") > 0
    assert value(after, "zaqar_store_checkpoints_failed_total", store="message") == 0
    assert value(after, "process_cpu_seconds_total") > 0
    assert value(after, "process_resident_memory_bytes") > 1_000_000
    assert abs(value(after, "process_start_time_seconds") - time.time()) < 3600
    assert value(after, "process_max_fds") >= value(after, "process_open_fds") > 3


def test_values_of_clients_create_no_series(operated):
    with Api(operated.url) as api:
        api.post("first", 1)
        before = set(operated.metrics())
        for number in range(20):
            api.post(f"another-{number}", 1)
    with Api(operated.url) as other:
        other.post("first", 1)
        more = set(operated.metrics()) - before
    assert {key for key in more if key[0].startswith("zaqar_operation")} == set()


def test_a_projects_queues_are_counted_on_request(operated):
    with Api(operated.url) as api:
        api.post("a", 1, 2, 3)
        assert len(api.claim("a")[1]) == 3
        api.post("a", 4)
        assert api.call("PUT", "/v2/queues/b").status_code == 201
        page = f"/metrics/queues?project={api.project}"
        samples = operated.metrics(page)
        queue = {"project": api.project, "queue": "a"}
        assert value(samples, "zaqar_queue_messages", **queue, state="claimed") == 3
        assert value(samples, "zaqar_queue_messages", **queue, state="free") == 1
        [age] = [number for (name, _), number in samples.items() if name.endswith("_age_seconds")]
        assert 0 <= age < 600
        assert len(samples) == 7, "three states of two queues, and an age"
        assert len(operated.metrics(f"{page}&after=a")) == 3
    assert operated.ask("/metrics/queues").status_code == 400
    assert operated.ask("/metrics/queues?project=p&after=/").status_code == 400


def test_deliveries_are_counted(operated):
    with Api(operated.url) as api, Receiver() as receiver:
        body = {"subscriber": receiver.url("/hook"), "ttl": 300, "options": {}}
        assert api.call("POST", "/v2/queues/q/subscriptions", json=body).status_code == 201
        api.post("q", 1)
        until(lambda: value(operated.metrics(), "zaqar_deliveries_total", outcome="delivered") == 1)
        # Rows of deliveries are messages of internal queues: nobody posted them.
        assert value(operated.metrics(), "zaqar_messages_posted_total") == 1
        report = operated.ask("/report?format=json").json()
        assert report["deliveries"]["delivered"] == 1


def test_the_report_is_served_as_text_and_as_json(operated):
    text = operated.ask("/report")
    assert text.headers["content-type"].startswith("text/plain")
    titles = re.findall(r"^====\s+(\S.*?)\s+====$", text.text, re.M)
    assert titles[0] == "Guru Meditation"
    document = operated.ask("/report?format=json")
    assert document.headers["content-type"] == "application/json"
    report = json.loads(document.text)
    assert list(report) == [title.lower().replace(" ", "_") for title in titles[1:]]
    assert report["package"]["product"] == "zaqar-server"
    assert report["configuration"]["admin"]["port"] == str(operated.admin_port)
    assert report["configuration"]["signed_url"]["secret_key"] == "***"
    assert report["stores"][0]["state"] == "reachable"
    assert report["stores"][0]["file_bytes"] > 0
    names = [transport["name"] for transport in report["transports"]]
    assert names == ["wsgi", "websocket"]
    running = [task["name"] for task in report["tasks"]["running"]]
    assert {"listener for operators", "deliveries"} <= set(running)
    assert report["recent_errors"] == []


def test_a_server_that_drains_is_alive_and_not_ready(operated):
    assert operated.ask("/live").text == "live\n"
    assert operated.ask("/ready").text == "ready\n"
    # A request that is not whole keeps the server draining.
    with socket.create_connection(operated.address, timeout=30) as held:
        held.sendall(
            b"POST /v2/queues/q/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            b"Client-ID: 3381af92-2b9e-11e3-b191-71861300734c\r\nX-Project-ID: p\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        # The server reads it.
        assert held.recv(100).startswith(b"HTTP/1.1 100 ")
        operated.process.terminate()
        answer = until(lambda: (found := operated.ask("/ready")).status_code == 503 and found)
        assert answer.text == "the server is stopping\n"
        assert operated.ask("/live").status_code == 200
        assert value(operated.metrics(), "zaqar_serving") == 0
    assert operated.process.wait(60) == 0


def test_only_reading_is_allowed_and_other_paths_list_the_pages(operated):
    url = f"http://127.0.0.1:{operated.admin_port}"
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = httpx.request(method, f"{url}/metrics", timeout=30)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/v2/queues", "/metrics/", "/report/x", "/nothing"):
        answer = operated.ask(path)
        assert answer.status_code == 404
        assert "/metrics" in answer.text
    assert operated.ask("/").status_code == 200
    assert httpx.head(f"{url}/metrics", timeout=30).status_code == 200


def test_without_a_port_there_is_no_listener_and_an_address_in_use_is_named(tmp_path, new_server):
    server = new_server()
    server.start()
    assert "listener for operators" not in server.log_tail()
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        other = new_server(options={"admin": {"port": port}})
        code, said = other.run_to_exit()
    assert code == 1
    assert f"[admin] cannot listen on 127.0.0.1 port {port}" in said
