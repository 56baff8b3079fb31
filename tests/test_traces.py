"""Traces: what a collector receives by OTLP, and what OSprofiler's own command shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from osprofiler import _utils as signing

from support.api import Api
from support.collector import Collector
from support.operated import Operated, value
from support.receiver import Receiver
from support.redis import Redis
from support.wait import wait_until
from support.websocket import WebSocket

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = (f"00-{TRACE}-{SPAN}-0{flag}" for flag in (1, 0))


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


def attributes(span: dict) -> dict[str, str]:
    return {one["key"]: one["value"]["stringValue"] for one in span["attributes"]}


@pytest.fixture(autouse=True)
def no_server_is_left(monkeypatch: pytest.MonkeyPatch):
    """Ends the servers of a test that failed."""
    started: list[Operated] = []
    spawn = Operated.spawn

    def noted(server: Operated):
        started.append(server)
        return spawn(server)

    monkeypatch.setattr(Operated, "spawn", noted)
    yield
    for server in started:
        server.kill()


def traced(root: Path, collector: Collector, **more: object) -> Operated:
    """A server with one worker thread, which exporters of others do not survive."""
    traces = {"otlp_endpoint": collector.url, "otlp_headers": "x-key=s3cret", **more}
    options = {"traces": traces, "notification": {"allow_networks": "127.0.0.0/8"}}
    return Operated(root, websocket=True, options=options, environment={"TOKIO_WORKER_THREADS": "1"})


def test_spans_of_operations_and_store_calls_reach_a_collector(tmp_path, new_server, collector):
    del new_server  # skips where a running server is tested
    server = traced(tmp_path, collector)
    server.start()
    with Api(server.url) as api:
        body = {"messages": [{"body": "not for collectors"}]}
        headers = {"traceparent": SAMPLED}
        posted = api.call("POST", "/v2/queues/q/messages", json=body, headers=headers)
        assert posted.status_code == 201
        api.call("GET", "/v2/queues/q/claims/none", headers=headers)
        api.call("GET", "/v2/queues/other/stats", headers={"traceparent": NOT_SAMPLED})
        with WebSocket(server.websocket_url, api.project) as socket:
            socket.ask("queue_list", 200)
        wait_until(lambda: collector.named("list_queues"), "the last span")

        [post] = collector.named("post_messages")
        assert (post["traceId"], post["parentSpanId"], post["kind"]) == (TRACE, SPAN, 2)
        assert int(post["startTimeUnixNano"]) < int(post["endTimeUnixNano"]) <= time.time_ns()
        assert "status" not in post
        said = attributes(post)
        assert said["messaging.destination.name"] == "q"
        assert said["zaqar.project"] == api.project
        assert said["zaqar.request_id"] == posted.headers["X-OpenStack-Request-ID"]
        children = [s for s in collector.spans() if s.get("parentSpanId") == post["spanId"]]
        names = {span["name"] for span in children}
        assert {"message store: open", "management store: create", "message store: post"} <= names
        assert all(span["traceId"] == TRACE and span["kind"] == 3 for span in children)

        [failed] = collector.named("read_claim")
        assert failed["status"] == {"code": 2, "message": "not_found"}
        assert not collector.named("get_queue_stats"), "its caller does not record the trace"
        [listed] = collector.named("list_queues")
        assert attributes(listed)["zaqar.wire"] == "websocket"
        assert listed["traceId"] != TRACE
        assert "parentSpanId" not in listed

        assert "not for collectors" not in json.dumps(collector.documents)
        assert all(headers["x-key"] == "s3cret" for headers in collector.headers)
        assert value(server.metrics(), "zaqar_trace_spans_total", outcome="dropped") == 0

        # At a stop nothing is waited for but the collector.
        before = len(collector.named("create_queue"))
        assert api.call("PUT", "/v2/queues/last").status_code == 201
    assert server.stop() == 0, server.log_tail()
    assert len(collector.named("create_queue")) == before + 1
    assert "s3cret" not in server.log.read_text()


def test_spans_that_a_collector_rejects_are_dropped_and_counted(tmp_path, new_server, collector):
    del new_server
    collector.status = 400
    server = traced(tmp_path, collector)
    server.start()
    with Api(server.url) as api:
        for _ in range(3):
            api.post("q", 1)
        dropped = lambda: value(server.metrics(), "zaqar_trace_spans_total", outcome="dropped")  # noqa: E731
        wait_until(lambda: dropped() >= 3, "the spans are given up")
        collector.status = 200
        api.post("q", 2)
        wait_until(lambda: collector.named("post_messages"), "spans are sent again")
    assert server.stop() == 0, server.log_tail()


def test_webhooks_get_no_trace_headers(tmp_path, new_server, collector):
    del new_server
    server = traced(tmp_path, collector)
    server.start()
    with Receiver() as receiver, Api(server.url) as api:
        subscriber = {"subscriber": receiver.url("/ok")}
        headers = {"traceparent": SAMPLED}
        assert api.call("POST", "/v2/queues/q/subscriptions", json=subscriber).status_code == 201
        api.call("POST", "/v2/queues/q/messages", json={"messages": [{"body": 1}]}, headers=headers)
        wait_until(lambda: receiver.of("/ok"), "the webhook")
        names = {name.lower() for request in receiver.requests for name in request.headers}
        assert not names & {"traceparent", "tracestate", "x-trace-info", "x-trace-hmac"}
    assert server.stop() == 0, server.log_tail()


class Keystone:
    """Answers every token with one user, and keeps the headers of the requests."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        keystone = self
        token = {"user": {"id": "u", "name": "u", "domain": {"id": "d", "name": "d"}}, "roles": []}
        token["project"] = {"id": "p", "name": "p", "domain": {"id": "d", "name": "d"}}
        body = json.dumps({"token": {**token, "expires_at": "2999-01-01T00:00:00.000000Z"}}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(201)

            def do_GET(self) -> None:
                keystone.headers.append({name.lower(): text for name, text in self.headers.items()})
                self.answer(200)

            def answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("X-Subject-Token", "ours")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v3"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_requests_to_keystone_name_the_trace_of_the_caller(new_server):
    keystone = Keystone()
    authtoken = {
        "auth_url": keystone.url,
        "auth_type": "password",
        "username": "zaqar",
        "password": "pw",
        "user_domain_name": "Default",
        "project_name": "service",
        "project_domain_name": "Default",
    }
    server = new_server(options={"DEFAULT": {"auth_strategy": "keystone"}, "keystone_authtoken": authtoken})
    server.start()
    with Api(server.url, "p") as api:
        for token, more in (
            ("one", {}),
            ("two", {"traceparent": SAMPLED}),
            ("three", {"traceparent": "00-x"}),
        ):
            answer = api.call("GET", "/v2/queues/q/stats", headers={"X-Auth-Token": token, **more})
            assert answer.status_code == 200
    assert [headers.get("traceparent") for headers in keystone.headers] == [None, SAMPLED, None]
    keystone.close()


def profiled(key: str) -> tuple[str, dict[str, str]]:
    """The id of a new trace of OSprofiler, and the headers that its clients send."""
    base = str(uuid.uuid4())
    info, signature = signing.signed_pack({"base_id": base, "parent_id": base}, key)
    return base, {"X-Trace-Info": info.decode(), "X-Trace-HMAC": signature}


def shown(base: str, uri: str) -> dict:
    """What `osprofiler trace show` prints."""
    program = Path(sys.executable).with_name("osprofiler")
    command = [program, "trace", "show", base, "--json", "--connection-string", uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_osprofiler_shows_what_is_written_to_its_redis(tmp_path, new_server):
    del new_server
    redis = Redis(tmp_path / "redis").start()
    profiler = {
        "enabled": True,
        "hmac_keys": "SECRET_KEY, ours",
        "connection_string": redis.uri,
        "trace_wsgi_transport": True,
        "trace_message_store": True,
    }
    server = Operated(tmp_path, options={"profiler": profiler})
    server.start()
    try:
        with Api(server.url) as api:

            def post(headers: dict[str, str]) -> None:
                document = {"messages": [{"body": 1}]}
                answer = api.call("POST", "/v2/queues/q/messages", json=document, headers=headers)
                assert answer.status_code == 201

            base, headers = profiled("ours")
            public, forged = profiled("SECRET_KEY")
            post(forged)
            post({})
            post(headers)
            wait_until(lambda: base in redis.cli("KEYS", "osprofiler_opt:*"), "the trace")
        [root] = shown(base, redis.uri)["children"]
        assert root["info"]["name"] == "wsgi"
        assert (root["info"]["project"], root["info"]["service"]) == ("Zaqar", "Zaqar-server")
        start = root["info"]["meta.raw_payload.wsgi-start"]["info"]["request"]
        assert (start["method"], start["path"]) == ("POST", "/v2/queues/q/messages")
        assert {child["info"]["name"] for child in root["children"]} == {"message_store"}
        assert redis.cli("KEYS", "osprofiler*").split() == [f"osprofiler_opt:{base}"], public
        assert "SECRET_KEY is the well-known default" in server.log.read_text()
    finally:
        assert server.stop() == 0, server.log_tail()
        redis.kill()


def test_trace_headers_are_ignored_without_osprofiler(tmp_path, new_server, collector):
    del new_server
    profiler = {
        "hmac_keys": "ours",
        "connection_string": f"otlp://127.0.0.1:{collector.port}",
        "trace_wsgi_transport": True,
    }
    server = Operated(tmp_path, options={"profiler": profiler})
    server.start()
    base, headers = profiled("ours")
    with Api(server.url) as api:
        assert api.call("GET", "/v2/queues", headers=headers).status_code == 200
    assert server.stop() == 0, server.log_tail()
    assert collector.spans() == []
    server.sections["profiler"]["enabled"] = True
    server.start()
    with Api(server.url) as api:
        assert api.call("GET", "/v2/queues").status_code == 200
        assert api.call("GET", "/v2/queues", headers=headers).status_code == 200
    assert server.stop() == 0, server.log_tail()
    [span] = collector.spans()
    assert span["traceId"] == base.replace("-", "")
    assert collector.documents[0]["resourceSpans"][0]["resource"]["attributes"][0]["value"] == {
        "stringValue": "Zaqar-Zaqar-server"
    }
