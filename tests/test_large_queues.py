"""A queue with a million messages is purged and deleted as fast as an empty one, and its space is freed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import pytest

from support.api import Api
from support.server import Server

MESSAGES = 1_000_000
BIG = "big"

#: As many of the smallest messages as fit into one post of 256 KiB.
BATCH = 20_000
BATCH_BODY = json.dumps({"messages": [{"body": 1}] * BATCH}, separators=(",", ":")).encode()

#: A deletion that touches each message takes seconds; the time of any other is noise.
FACTOR, NOISE = 20, 0.2

PROJECT = "large"

pytestmark = pytest.mark.timeout(600)


def fill(server: Server, messages: int = MESSAGES) -> None:
    """Posts so many messages from two connections."""

    def post(_: int) -> int:
        with Api(server.url, PROJECT) as api:
            return api.call("POST", f"/v2/queues/{BIG}/messages", content=BATCH_BODY).status_code

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(post, range(messages // BATCH))) == {201}


@dataclass
class Before:
    """Ids that a client has of the big queue."""

    root: Path
    ids: list[str]
    next_page: str
    claim: str
    subscription: str


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A stopped server's directory with the big queue in it."""
    server = Server(tmp_path_factory.mktemp("large")).start()
    with Api(server.url, PROJECT) as api:
        api.call("PUT", f"/v2/queues/{BIG}", json={"colour": "red", "_default_message_ttl": 7200})
        fill(server)
        subscriber = {"subscriber": "http://hooks.invalid/", "ttl": 3600}
        subscription = api.call("POST", f"/v2/queues/{BIG}/subscriptions", json=subscriber)
        claim, claimed = api.claim(BIG)
        page = api.call("GET", f"/v2/queues/{BIG}/messages?echo=true").json()
        assert api.call("GET", f"/v2/queues/{BIG}/stats").json()["messages"]["total"] == MESSAGES
    assert server.stop() == 0
    return Before(
        server.root,
        [message["id"] for message in (*claimed, *page["messages"])],
        page["links"][0]["href"],
        claim,
        subscription.json()["subscription_id"],
    )


@pytest.fixture
def server(before: Before, new_server: Callable[..., Server], tmp_path: Path) -> Server:
    """A server of its own on a copy of the directory, that has answered requests for the big queue."""
    shutil.copytree(before.root / "data", tmp_path / "data")
    server = new_server(root=tmp_path).start()
    with Api(server.url, PROJECT) as api:
        # From then on it has the queue in its caches.
        assert len(api.call("GET", f"/v2/queues/{BIG}/messages?echo=true").json()["messages"]) == 10
        assert len(api.claim(BIG)[1]) == 10
    return server


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with Api(server.url, PROJECT) as api:
        yield api


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def purge(api: Api, queue: str) -> None:
    assert api.call("POST", f"/v2/queues/{queue}/purge").status_code == 204


def delete(api: Api, queue: str) -> None:
    assert api.call("DELETE", f"/v2/queues/{queue}").status_code == 204


def of_an_empty_one(api: Api, operation: Callable[[Api, str], None]) -> float:
    """The median time that an operation on an empty queue takes."""
    names = [f"empty-{number}" for number in range(21)]
    for name in names:
        assert api.call("PUT", f"/v2/queues/{name}").status_code == 201
    return median(seconds(lambda name=name: operation(api, name)) for name in names)


def as_fast_as_of_an_empty_one(api: Api, operation: Callable[[Api, str], None]) -> None:
    empty = of_an_empty_one(api, operation)
    big = seconds(lambda: operation(api, BIG))
    print(f"{operation.__name__}: {big * 1000:.1f} ms, of an empty queue {empty * 1000:.1f} ms")
    assert big < FACTOR * empty + NOISE


def holds_nothing(api: Api) -> None:
    stats = api.call("GET", f"/v2/queues/{BIG}/stats").json()["messages"]
    assert (stats["free"], stats["claimed"], stats["total"]) == (0, 0, 0)
    assert api.messages(BIG) == []
    assert api.claim(BIG) == ("", [])


def knows_nothing_of(api: Api, before: Before) -> None:
    """Old ids, claims, markers and subscriptions find nothing."""
    queue = f"/v2/queues/{BIG}"
    for id_ in before.ids:
        assert api.call("GET", f"{queue}/messages/{id_}").status_code == 404
    assert api.call("GET", f"{queue}/messages?ids={','.join(before.ids)}").status_code == 404
    assert api.call("GET", f"{queue}/claims/{before.claim}").status_code == 404
    renewal = api.call("PATCH", f"{queue}/claims/{before.claim}", json={"ttl": 60, "grace": 60})
    assert renewal.status_code == 404
    assert api.call("GET", f"{queue}/subscriptions/{before.subscription}").status_code == 404
    assert api.subscriptions(f"queues/{BIG}") == []


class Space:
    """The pages of the store's file: all, and those that are free."""

    def __init__(self, server: Server) -> None:
        (file,) = (path for path in server.data.iterdir() if is_sqlite(path))
        self.connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        self.used = self.pages() - self.free()

    def __enter__(self) -> Space:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def pages(self) -> int:
        return self.connection.execute("PRAGMA page_count").fetchone()[0]

    def free(self) -> int:
        return self.connection.execute("PRAGMA freelist_count").fetchone()[0]

    def comes_back(self) -> None:
        """Waits until nearly all that was used is free."""
        deadline = time.monotonic() + 240
        while self.free() < self.used * 0.98:
            assert time.monotonic() < deadline, f"{self.free()} of {self.used} pages are free"
            time.sleep(0.2)


class Others:
    """A client at work on another queue, before the clean-up and during it."""

    QUEUE = "/v2/queues/other"

    def __init__(self, api: Api, space: Space) -> None:
        self.api = api
        self.space = space
        self.calm = quantiles(self._work(200), n=100)[-1]

    def do_not_wait(self) -> None:
        # Only requests during the clean-up count: on a slow machine there is time for fewer.
        times = self._work(500, lambda: self.space.free() > self.space.used * 0.9)
        assert len(times) > 100, "the clean-up was over too soon to tell"
        busy = quantiles(times, n=100)[-1]
        print(f"p99 of others: {self.calm * 1000:.1f} ms, during the clean-up {busy * 1000:.1f} ms")
        assert busy < 10 * self.calm + NOISE / 2

    def _work(self, rounds: int, is_over: Callable[[], bool] = lambda: False) -> list[float]:
        """How many seconds each request took."""
        times: list[float] = []
        for _ in range(rounds):
            if is_over():
                break
            self._call(times, "POST", "/messages", 201, {"messages": [{"body": "x", "ttl": 300}]})
            self._call(times, "GET", "/messages?echo=true", 200)
            claimed = self._call(times, "POST", "/claims", 201, {"ttl": 60, "grace": 60})
            for message in claimed["messages"]:
                self._call(times, "DELETE", message["href"].removeprefix(self.QUEUE), 204)
        return times

    def _call(
        self, times: list[float], method: str, path: str, expected: int, document: object = None
    ) -> dict:
        start = time.perf_counter()
        answer = self.api.call(method, self.QUEUE + path, json=document)
        times.append(time.perf_counter() - start)
        assert answer.status_code == expected, answer.text
        return answer.json() if answer.content else {}


def is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"SQLite"


def test_a_purge_is_as_fast_as_of_an_empty_queue(server: Server, api: Api, before: Before):
    with Space(server) as space:
        others = Others(api, space)
        as_fast_as_of_an_empty_one(api, purge)
        holds_nothing(api)
        knows_nothing_of(api, before)
        assert api.call("GET", f"/v2/queues/{BIG}").json()["colour"] == "red"
        api.post(BIG, "new")
        # A marker of before the purge is still a position, and new messages come after it.
        page = api.call("GET", before.next_page).json()
        assert [message["body"] for message in page["messages"]] == ["new"]
        others.do_not_wait()
        space.comes_back()
        assert api.bodies(BIG) == ["new"]


def test_a_deletion_is_as_fast_as_of_an_empty_queue(server: Server, api: Api, before: Before):
    with Space(server) as space:
        others = Others(api, space)
        as_fast_as_of_an_empty_one(api, delete)
        assert BIG not in [queue["name"] for queue in api.call("GET", "/v2/queues").json()["queues"]]
        holds_nothing(api)
        knows_nothing_of(api, before)
        is_new_when_made_again(api, before)
        others.do_not_wait()
        space.comes_back()
        knows_nothing_of(api, before)
        assert api.bodies(BIG) == ["new"]

        # Waiting for a part of it also shows that new messages reuse the space of the old ones.
        again = 15 * BATCH
        fill(server, again)
        assert api.call("GET", f"/v2/queues/{BIG}/stats").json()["messages"]["total"] == again + 1
        print(f"pages: {space.used} before, {space.pages()} filled again")
        assert space.pages() < space.used * 1.1


def is_new_when_made_again(api: Api, before: Before) -> None:
    """The new queue of the same name has no contents of the old one, which is still being cleaned up."""
    assert api.call("PUT", f"/v2/queues/{BIG}").status_code == 201
    holds_nothing(api)
    knows_nothing_of(api, before)
    metadata = api.call("GET", f"/v2/queues/{BIG}").json()
    assert "colour" not in metadata
    assert metadata["_default_message_ttl"] == 3600
    (new,) = api.post(BIG, "new")
    assert new not in before.ids
    # A marker of the old queue stands before the first message of the new one.
    page = api.call("GET", before.next_page).json()
    assert [message["body"] for message in page["messages"]] == ["new"]
    for id_ in before.ids:
        assert api.call("DELETE", f"/v2/queues/{BIG}/messages/{id_}").status_code == 204
    assert api.bodies(BIG) == ["new"]
