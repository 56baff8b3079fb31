"""A full disk: posts are 503, nothing acknowledged is lost, and posts are accepted once there is space."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from support.api import Api
from support.server import Server

BODY = "x" * 50_000
#: Bytes that a file of the server may grow to, until the limit is lifted.
FULL = 3 * 1024 * 1024


@pytest.fixture
def full(new_server: Callable[..., Server]) -> Server:
    """A server whose files cannot grow past a limit, as on a full disk."""
    server = new_server().start()
    limit(server, FULL)
    return server


def limit(server: Server, size: int) -> None:
    assert server.process is not None
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def post(api: Api) -> int:
    messages = {"messages": [{"ttl": 3600, "body": BODY}]}
    return api.call("POST", "/v2/queues/q/messages", json=messages).status_code


def listed(api: Api) -> list[str]:
    ids: list[str] = []
    path: str | None = "/v2/queues/q/messages?echo=true&limit=20"
    while path:
        page = api.call("GET", path).json()
        ids += [message["id"] for message in page["messages"]]
        assert all(message["body"] == BODY for message in page["messages"])
        path = page["links"][0]["href"] if page["messages"] else None
    return ids


def test_a_full_disk_loses_nothing(full: Server):
    with Api(full.url) as api:
        acknowledged = 0
        statuses = {post(api)}
        while statuses == {201}:
            acknowledged += 1
            assert acknowledged < 500, "the limit is never reached"
            statuses = {post(api)}
        assert statuses == {503}
        refused = api.call("POST", "/v2/queues/q/messages", json={"messages": [{"ttl": 3600, "body": BODY}]})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert full.running(), full.log_tail()
        assert len(listed(api)) == acknowledged, "what is there can be read"

        limit(full, resource.RLIM_INFINITY)
        assert post(api) == 201, full.log_tail()
        there = listed(api)
        assert len(there) == acknowledged + 1

        full.kill()
        full.start()
        assert listed(api) == there, "and after a restart"
        assert post(api) == 201
