"""Quotas and rates of projects: the file of projects, its reload, metrics, and what counting costs."""

from __future__ import annotations

import signal
import time

from support.api import Api
from support.operated import Operated, value
from support.wait import wait_until
from support.websocket import WebSocket


def test_projects_have_limits_of_their_own_and_sighup_takes_them_over(tmp_path, new_server):
    del new_server  # skips where a running server is tested
    (tmp_path / "quotas.yaml").write_text("small: {max_messages_per_queue: 2}\n")
    server = Operated(
        tmp_path,
        websocket=True,
        options={"quotas": {"max_messages_per_queue": 4, "projects_file": "quotas.yaml"}},
    )
    server.start()
    with Api(server.url, "small") as small, Api(server.url, "other") as other:

        def post(api: Api, count: int = 1):
            messages = {"messages": [{"body": 1}] * count}
            return api.call("POST", "/v2/queues/q/messages", json=messages)

        assert post(small, 2).status_code == 201
        refused = post(small)
        assert refused.status_code == 403
        text = "A queue may have at most 2 messages, and would have 3 ([quotas] max_messages_per_queue)."
        assert refused.json() == {"title": "Quota exceeded", "description": text}
        with WebSocket(server.websocket_url, "small") as socket:
            socket.ask("message_post", 403, queue_name="q", messages=[{"body": 1}])
        assert post(other, 4).status_code == 201
        assert post(other).status_code == 403
        rejections = value(server.metrics(), "zaqar_quota_rejections_total", quota="max_messages_per_queue")
        assert rejections == 3

        # What is wrong changes nothing.
        (tmp_path / "quotas.yaml").write_text("small: {max_mesages: 9}\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "max_mesages is not a quota" in server.log.read_text(), "the mistake is told")
        assert post(small).status_code == 403

        (tmp_path / "quotas.yaml").write_text("small: {max_messages_per_queue: 3}\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: post(small).status_code == 201, "the new limit")
        assert post(small).status_code == 403
    assert server.stop() == 0, server.log_tail()


def test_a_rate_is_told_with_when_to_retry(new_server):
    server = new_server(options={"quotas": {"max_bytes_per_second": 1000}})
    server.start()
    with Api(server.url) as api:
        large = {"messages": [{"body": "x" * 30_000}]}
        assert api.call("POST", "/v2/queues/q/messages", json=large).status_code == 201
        refused = api.call("POST", "/v2/queues/q/messages", json=large)
        assert refused.status_code == 503
        assert 10 <= int(refused.headers["Retry-After"]) <= 30
        assert "1000 bytes a second ([quotas] max_bytes_per_second)" in refused.json()["description"]
        assert api.call("GET", "/v2/queues/q/messages").status_code == 200


def test_a_wrong_file_keeps_the_server_from_starting(tmp_path, new_server):
    path = tmp_path / "quotas.yaml"
    path.write_text("p: 3\n")
    server = new_server(options={"quotas": {"projects_file": path}})
    code, said = server.run_to_exit()
    assert code != 0
    assert f"{path} is no YAML or JSON object of projects" in said


def test_counting_is_not_on_the_path_of_posts(tmp_path, new_server):
    """Posts within the limits wait for no store step but their own."""
    del new_server
    options = {"quotas": {"max_queues": 10, "max_messages_per_queue": 10_000, "max_bytes": 10_000_000}}
    server = Operated(tmp_path, options=options)
    server.start()
    began = time.monotonic()
    with Api(server.url) as api:
        for _ in range(300):
            api.post("q", 1)
    seconds = time.monotonic() - began
    metrics = server.metrics()

    def calls(call: str) -> float:
        name, store = "zaqar_store_calls_total", "message"
        return value(metrics, name, store=store, call=call, outcome="ok")

    assert calls("post") == 300
    # One count a second of the queue and one of its project, and the first ones.
    assert 1 <= calls("stats") <= 2 * (seconds + 2)
    assert calls("list") <= 2, "sizes are looked at once"
    assert server.stop() == 0, server.log_tail()
