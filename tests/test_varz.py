"""`/varz` and the copies of the embedded store that the server makes by itself."""

from __future__ import annotations

import shutil

import pytest

from support.api import Api
from support.operated import Operated, value
from support.wait import wait_until


@pytest.fixture
def operated(tmp_path, new_server) -> Operated:
    del new_server  # skips where a running server is tested
    server = Operated(tmp_path, options={"quotas": {"max_queues": 1}})
    server.start()
    yield server
    server.kill()


def test_varz_tells_what_the_server_does_in_one_object(operated):
    server = operated
    with Api(server.url) as api:
        api.post("q", 1, 2, 3)
        claim, messages = api.claim("q", limit=2)
        assert len(messages) == 2
        assert api.call("DELETE", f"/v2/queues/q/claims/{claim}").status_code == 204
        assert len(api.claim("q", limit=3)[1]) == 3
        assert api.call("PUT", "/v2/queues/r").status_code == 403
    answer = server.ask("/varz")
    assert answer.headers["content-type"] == "application/json"
    shown = answer.json()
    assert (shown["product"], shown["phase"], shown["not_ready"]) == ("zaqar-server", "serving", [])
    counts = {"posted": 3, "claimed": 5, "redelivered": 2, "popped": 0, "deleted": 0}
    assert shown["messages"] == {**counts, "released": 2, "expired": 0, "dead_lettered": 0}
    assert shown["operations"]["ok"] >= 4
    assert shown["operations"]["denied"] == 1
    assert shown["quota_rejections"]["max_queues"] == 1
    assert shown["process"]["pid"] == server.process.pid
    assert [store["fault"] for store in shown["stores"]] == [None]
    assert shown["transports"][0]["name"] == "wsgi"
    assert shown["transports"][0]["accepted"] >= 1
    assert value(server.metrics(), "zaqar_messages_redelivered_total") == 2
    assert server.stop() == 0, server.log_tail()


def test_snapshots_are_made_while_the_server_runs_and_can_be_started_with(tmp_path, new_server):
    copies = tmp_path / "copies"
    store = {"snapshot_interval": 1, "snapshot_keep": 2, "snapshot_dir": copies}
    server = new_server(options={"drivers:message_store:embedded": store})
    server.start()

    def snapshots() -> list[str]:
        return sorted(path.name for path in copies.glob("snapshot-*.db")) if copies.exists() else []

    with Api(server.url, "p") as api:
        api.post("q", 1, 2, 3)
        seen = set(snapshots())
        wait_until(lambda: len(set(snapshots()) - seen) == 2, "two snapshots with the messages")
        assert len(snapshots()) <= 3, "the oldest go"
    assert server.stop() == 0, server.log_tail()
    # Started with the newest one.
    shutil.rmtree(server.data)
    server.data.mkdir(mode=0o700)
    shutil.copy(copies / snapshots()[-1], server.data / "zaqar.db")
    server.start()
    with Api(server.url, "p") as api:
        stats = api.call("GET", "/v2/queues/q/stats").json()
        assert stats["messages"]["total"] == 3
    assert server.stop() == 0, server.log_tail()
