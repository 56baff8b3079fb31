"""Wrong clocks: a wall clock is set, servers of one store disagree, a server is suspended."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import EXTERNAL_URL
from support.api import Api
from support.faketime import WallClock, library
from support.mongodb import REAL_URI, MongoDB, new_name, on_mongodb
from support.redis import Redis, on_redis
from support.server import Sections, Server
from support.wait import wait_until
from support.websocket import WebSocket

HOUR = 3600
DAY = 86_400

#: Seconds after which a server adopts a wall clock that was set.
ADOPTED_AFTER = 30

#: Seconds that a server is stopped: longer than the lease of its subscriptions.
STOPPED_FOR = 20

#: Seconds that an acknowledged message of these tests lives: less than the clocks are wrong by.
TTL = 600

pytestmark = pytest.mark.skipif(EXTERNAL_URL is not None, reason="needs servers of its own")

needs_faketime = pytest.mark.skipif(library() is None, reason="libfaketime is not installed")


@dataclass
class Store:
    """Where the servers of a test keep their data."""

    name: str
    #: The configuration of a server on it; None where each server has a directory of its own.
    sections: Sections | None

    @property
    def is_shared(self) -> bool:
        return self.sections is not None


@pytest.fixture(scope="module", params=["embedded", "redis", "mongodb"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        yield Store("embedded", None)
    elif request.param == "redis":
        redis = Redis(root, "--save", "").start()
        yield Store("redis", on_redis(redis.uri))
        redis.kill()
    elif REAL_URI:
        yield Store("mongodb", on_mongodb(REAL_URI, new_name()))
    else:
        mongodb = MongoDB(root).start()
        yield Store("mongodb", on_mongodb(mongodb.uri, new_name()))
        mongodb.kill()


@pytest.fixture
def shared(store: Store) -> Store:
    if not store.is_shared:
        pytest.skip("one server has the embedded store for itself")
    return store


NewServer = Callable[..., Server]


def start(new_server: NewServer, store: Store, clock: WallClock | None = None, **more: object) -> Server:
    environment = clock.environment if clock else {}
    return new_server(options=store.sections, environment=environment, **more).start()


def bodies(api: Api, queue: str = "q") -> list[object]:
    return [message["body"] for message in api.messages(queue)]


def age(api: Api, queue: str, body: object) -> int:
    return next(message["age"] for message in api.messages(queue) if message["body"] == body)


def problems(api: Api) -> str:
    answer = api.call("GET", "/v2/health", headers={"X-Roles": "admin"})
    assert answer.status_code == 200, answer.text
    return " ".join(answer.json().get("problems", []))


@needs_faketime
def test_one_wrong_reading_deletes_nothing(new_server, store: Store, tmp_path: Path) -> None:
    """The clock is an hour ahead for some seconds, in which everything that could delete is asked."""
    clock = WallClock(tmp_path / "clock")
    server = start(new_server, store, clock)
    with Api(server.url) as api:
        api.post("q", *range(5), ttl=TTL)
        claim, claimed = api.claim("q", limit=2, ttl=TTL, grace=TTL)
        clock.set(HOUR)
        wait_until(lambda: "wall clock" in problems(api), "health reports the step")
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert len(api.messages("q")) == 5
            assert api.call("GET", f"/v2/queues/q/claims/{claim}").status_code == 200
            api.post("other", "x", ttl=TTL)
            assert api.call("GET", "/v2/ping").status_code == 204
            time.sleep(0.2)
        clock.set(0)
        wait_until(lambda: "wall clock" not in problems(api), "the clock is right again")
        assert bodies(api) == list(range(5))
        assert len(claimed) == 2
        api.post("q", "later", ttl=TTL)
        wait_until(lambda: age(api, "q", "later") >= 2, "time does not stand still", timeout=30)
        assert "the wall clock was set" in server.log.read_text()


@needs_faketime
def test_a_clock_that_was_set_back_does_not_stop_time(new_server, store: Store, tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    server = start(new_server, store, clock)
    with Api(server.url) as api:
        api.post("q", "before", ttl=TTL)
        clock.set(-HOUR)
        api.post("q", "after", ttl=TTL)
        wait_until(lambda: age(api, "q", "after") >= 2, "time goes on", timeout=30)
        assert bodies(api) == ["before", "after"]


@needs_faketime
def test_a_server_whose_clock_differs_answers_503_until_it_is_right(
    new_server, shared: Store, tmp_path: Path
) -> None:
    """Two servers of one store disagree by a day; the store's own clock decides who is right."""
    clock = WallClock(tmp_path / "clock", DAY)
    right, wrong = start(new_server, shared), start(new_server, shared, clock)
    with Api(right.url) as api, Api(wrong.url, api.project) as skewed:
        api.post("q", *range(5), ttl=TTL)
        for method, path, more in (
            ("GET", "/v2/queues/q/messages?echo=true", {}),
            ("POST", "/v2/queues/q/messages", {"json": {"messages": [{"body": 1}]}}),
            ("POST", "/v2/queues/q/claims", {"json": {"ttl": 60, "grace": 60}}),
            ("DELETE", "/v2/queues/q/messages?pop=1", {}),
        ):
            answer = skewed.call(method, path, **more)
            assert answer.status_code == 503, (method, path, answer.text)
            assert int(answer.headers["retry-after"]) >= 1
        assert "clock" in problems(skewed)
        assert skewed.call("GET", "/v2/ping").status_code == 503
        wait_until(lambda: "clock" in wrong.log.read_text(), "the log names the clock")
        # Sweeps of the wrong server delete nothing, and time advances for the others.
        assert bodies(api) == list(range(5))
        _, claimed = api.claim("q", limit=1, ttl=60, grace=60)
        assert len(claimed) == 1
        api.post("q", "later", ttl=TTL)
        wait_until(lambda: age(api, "q", "later") >= 2, "time goes on for the others", timeout=30)
        clock.set(0)
        wait_until(
            lambda: skewed.call("GET", "/v2/queues/q/messages?echo=true").status_code == 200,
            "the server recovers by itself once its clock is right",
            timeout=ADOPTED_AFTER + 60,
        )
        assert bodies(skewed) == [*range(5), "later"]
        skewed.post("q", "from the other", ttl=TTL)
        assert bodies(api) == [*range(5), "later", "from the other"]


@needs_faketime
def test_a_store_that_was_used_with_a_clock_ahead_is_repaired(
    new_server, store: Store, tmp_path: Path
) -> None:
    """Embedded: the only server was a day ahead, and is started again with the right time."""
    if store.is_shared:
        pytest.skip("a shared store rejects such a server from the beginning")
    clock = WallClock(tmp_path / "clock", DAY)
    server = start(new_server, store, clock)
    with Api(server.url) as api:
        api.post("q", "ahead", ttl=TTL)
        assert server.stop() == 0
        clock.set(0)
        server.start()
        assert bodies(api) == ["ahead"]
        api.post("q", "right", ttl=TTL)
        wait_until(lambda: age(api, "q", "right") >= 2, "ages are not 0 for a day", timeout=30)


def test_a_suspended_server_closes_its_subscribers_afterwards(new_server, store: Store) -> None:
    """Its lease has expired, so that another server's sweep may have removed their subscriptions."""
    server = start(new_server, store, websocket=True)
    with Api(server.url) as api, WebSocket(server.websocket_url, api.project) as socket:
        socket.ask("subscription_create", 201, queue_name="q")
        api.post("q", "before", ttl=TTL)
        assert socket.push().body == "before"
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(STOPPED_FOR)
        server.process.send_signal(signal.SIGCONT)
        code, reason = socket.closed()
        assert code == 1012
        assert "subscribe again" in reason
        assert bodies(api) == ["before"]
    with WebSocket(server.websocket_url, api.project) as socket, Api(server.url, api.project) as api:
        socket.ask("subscription_create", 201, queue_name="q")
        api.post("q", "after", ttl=TTL)
        assert socket.push().body == "after"
