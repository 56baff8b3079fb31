"""Connections on several servers of one deployment: what is posted on one reaches subscribers on all.

Nothing here waits as long as the slow poll of the Redis store, which is once a minute: the news brings it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pymongo
import pytest

from support.api import Api
from support.mongodb import REAL_URI, MongoDB, drop, new_name, on_mongodb
from support.redis import Redis, on_redis
from support.server import Sections, Server
from support.wait import wait_until
from support.websocket import ENCODINGS, LEASE_AND_SWEEP, WebSocket

SERVERS = 2


@pytest.fixture(params=["redis", "mongodb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sections]:
    """The sections that put servers on one store."""
    if request.param == "redis":
        redis = Redis(tmp_path / "redis", "--save", "").start()
        yield on_redis(redis.uri)
        redis.kill()
    elif REAL_URI:
        database = new_name()
        yield on_mongodb(REAL_URI, database)
        drop(REAL_URI, database)
    else:
        mongodb = MongoDB(tmp_path / "mongodb").start()
        yield on_mongodb(mongodb.uri, new_name())
        mongodb.kill()


@pytest.fixture
def servers(store: Sections, new_server: Callable[..., Server]) -> list[Server]:
    return [new_server(options=store, websocket=True).start() for _ in range(SERVERS)]


def subscribe(server: Server, project: str, encoding: str = "json") -> WebSocket:
    socket = WebSocket(server.websocket_url, project, encoding)
    socket.ask("subscription_create", 201, queue_name="q")
    return socket


def test_what_is_posted_on_one_reaches_subscribers_on_all(servers: list[Server], project: str) -> None:
    sockets = [subscribe(server, project, encoding) for server in servers for encoding in ENCODINGS]
    posted = []
    for number, server in enumerate(servers):
        with Api(server.url, project) as http:
            assert len(http.subscriptions("queues/q")) == len(sockets)
            posted.append(f"over HTTP on {number}")
            http.post("q", posted[-1])
        with WebSocket(server.websocket_url, project) as other:
            posted.append({"over": "WebSocket", "on": number})
            other.ask("message_post", 201, queue_name="q", messages=[{"body": posted[-1], "ttl": 300}])
    assert [socket.pushed(len(posted)) for socket in sockets] == [posted] * len(sockets)
    for socket in sockets:
        socket.close()
    for server in servers:
        with Api(server.url, project) as http:
            wait_until(lambda http=http: not http.subscriptions("queues/q"), "no subscription is left")


def test_each_message_is_pushed_once_and_in_order(servers: list[Server], project: str) -> None:
    """Posts are made one after the other, through both servers in turn; every subscriber gets this order."""
    sockets = [subscribe(server, project) for server in servers]
    posted = list(range(200))
    with Api(servers[0].url, project) as one, Api(servers[1].url, project) as other:
        for start in range(0, 200, 5):
            (other if start % 2 else one).post("q", *posted[start : start + 5])
    assert [socket.pushed(200) for socket in sockets] == [posted, posted]
    for socket in sockets:
        socket.close()


def test_subscriptions_of_a_stopped_server_are_deleted(servers: list[Server], project: str) -> None:
    stopped, other = servers
    leaving, staying = subscribe(stopped, project), subscribe(other, project)
    assert stopped.stop() == 0, stopped.log_tail()
    assert leaving.closed()[0] == 1001
    with Api(other.url, project) as http:
        wait_until(lambda: len(http.subscriptions("queues/q")) == 1, "one subscription is left")
        http.post("q", "to who is left")
    assert staying.push().body == "to who is left"


def test_subscriptions_of_a_killed_server_are_deleted(servers: list[Server], project: str) -> None:
    killed, other = servers
    subscribe(killed, project)
    staying = subscribe(other, project)
    with Api(other.url, project) as http:
        webhook = {"subscriber": "http://example.org/", "ttl": 600}
        assert http.call("POST", "/v2/queues/q/subscriptions", json=webhook).status_code == 201
        assert len(http.subscriptions("queues/q")) == 3
        killed.kill()
        wait_until(
            lambda: len(http.subscriptions("queues/q")) == 2,
            "the subscription of the killed server is gone",
            LEASE_AND_SWEEP,
        )
        assert "http://example.org/" in {one["subscriber"] for one in http.subscriptions("queues/q")}
        http.post("q", "to who is left")
    assert staying.push().body == "to who is left"
    # What comes back is another server: it has no connection yet.
    killed.start()
    with Api(killed.url, project) as http:
        assert len(http.subscriptions("queues/q")) == 2


def empty(store: Sections) -> None:
    """Deletes everything, as an operator or a restart without a snapshot does."""
    message_store = store["drivers"]["message_store"]
    uri = str(store[f"drivers:message_store:{message_store}"]["uri"])
    if message_store == "redis":
        port = uri.partition("?")[0].rpartition(":")[2].rstrip("/")
        subprocess.run(["redis-cli", "-p", port, "FLUSHALL"], check=True, capture_output=True)
        return
    with pymongo.MongoClient(uri) as client:
        database = client[f"{store['drivers:message_store:mongodb']['database']}_server"]
        # Its indexes stay, as after a deletion by hand.
        for collection in database.list_collection_names():
            database[collection].delete_many({})


def test_subscribers_are_closed_when_the_store_was_emptied(
    store: Sections, servers: list[Server], project: str
) -> None:
    """Their lease is gone: a renewal that created it again would leave them open without pushes."""
    sockets = [subscribe(server, project) for server in servers]
    with Api(servers[0].url, project) as http:
        http.post("q", "before")
        assert [socket.push().body for socket in sockets] == ["before", "before"]
        empty(store)
        for socket in sockets:
            code, reason = socket.closed()
            assert (code, "subscribe again" in reason) == (1012, True), reason
        sockets = [subscribe(server, project) for server in servers]
        http.post("q", "after")
    assert [socket.push().body for socket in sockets] == ["after", "after"]
