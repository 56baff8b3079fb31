"""Quotas and rates of projects: the file of projects, its reload, metrics, and what counting costs."""

from __future__ import annotations

import signal
import time

from support.api import Api
from support.operated import Operated, value
from support.redis import Redis, on_redis
from support.wait import wait_until
from support.websocket import WebSocket


def test_projects_have_limits_of_their_own_that_sighup_reloads(tmp_path, new_server):
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


def test_quotas_set_by_administrators_apply_on_every_server(tmp_path, new_server):
    store = Redis(tmp_path / "redis", "--save", "").start()
    options = on_redis(store.uri) | {"quotas": {"managed": True}}
    admin = new_server(options=options, websocket=True).start()
    other = new_server(options=options | {"DEFAULT": {"admin_mode": False}}).start()
    path, roles = "/v2/quotas/small", {"X-Roles": "admin"}
    with Api(admin.url, "admin") as api, Api(other.url, "small") as small:

        def ask(method: str, document: object = None):
            return api.call(method, path, json=document, headers=roles)

        def create(name: str) -> int:
            return small.call("PUT", f"/v2/queues/{name}").status_code

        assert api.call("GET", path).status_code == 403
        assert small.call("GET", path, headers=roles).status_code == 404, "it is not in admin mode"
        assert create("first") == 201
        held = ask("PUT", {"max_queues": 1, "max_bytes": 0})
        assert (held.status_code, held.json()["max_queues"], len(held.json())) == (200, 1, 8)
        names = (f"more-{n}" for n in range(1000))
        wait_until(lambda: create(next(names)) == 403, "the other server knows")
        for wrong in ({"max_quees": 1}, {"max_queues": -1}, {"max_queues": "1"}, {"max_queues": 2**60}, [1]):
            assert ask("PUT", wrong).status_code == 400, wrong
        assert ask("GET").json() == held.json()
        with WebSocket(admin.websocket_url, "admin") as socket:
            socket.headers |= roles
            assert socket.ask("quota_get", 200, project="small") == held.json()
            own = {"project": "small", "quotas": {"max_queues": 1, "max_bytes": 0}}
            listed = api.call("GET", "/v2/quotas", headers=roles)
            assert listed.json()["quotas"] == [own | {"href": "/v2/quotas/small"}]
            assert socket.ask("quota_list", 200) == {"quotas": [own]}
            assert socket.ask("quota_list", 200, marker="small") == {"quotas": []}
            assert socket.ask("quota_list", 400, limit=21)
            assert api.call("GET", "/v2/quotas").status_code == 403
            raised = socket.ask("quota_update", 200, project="small", quotas={"max_queues": 5000})
            assert raised["max_queues"] == 5000
            wait_until(lambda: create(next(names)) == 201, "the other server knows")
            socket.ask("quota_update", 200, project="small", quotas={"max_queues": 1})
            wait_until(lambda: create(next(names)) == 403, "the other server knows")
            socket.ask("quota_delete", 204, project="small")
        wait_until(lambda: create(next(names)) == 201, "the other server knows")
        assert ask("DELETE").status_code == 204
        assert set(ask("GET").json().values()) == {0}
    assert admin.stop() == 0
    assert other.stop() == 0
    store.kill()


def test_past_a_rate_requests_are_rejected_with_retry_after(new_server):
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
    assert f"{path}: project p: must be an object of quotas" in said


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
