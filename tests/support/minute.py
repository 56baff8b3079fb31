"""What takes a minute begins before the first test and is looked at after the last: one wait serves all.

The shortest life of a message and of a claim is 60 s; the server gives a request head 60 s and, while it
stops, a request under way 30 s.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from support.api import Api
from support.rawhttp import RawConnection
from support.server import Server

MINUTE = 60

#: The fixtures below; the tests that use one come last.
FIXTURES = ("past", "half_requests", "held_up_stop", "expiring")


def begin(request: pytest.FixtureRequest) -> None:
    """Sets up those that a test of this run wants."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    for name in FIXTURES:
        # One that cannot be had is skipped where it is used, not here.
        if name in wanted:
            with contextlib.suppress(pytest.skip.Exception):
                request.getfixturevalue(name)


def put_last(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not {*FIXTURES}.isdisjoint(getattr(item, "fixturenames", ())))


@dataclass
class Past:
    """What was prepared a minute ago, or longer."""

    api: Api
    began: float = field(default_factory=time.monotonic)
    first_page: list[object] = field(default_factory=list)
    next_page: str = ""
    short_ids: list[str] = field(default_factory=list)
    claim: str = ""

    def wait(self) -> Past:
        time.sleep(max(0.0, self.began + MINUTE + 1.5 - time.monotonic()))
        return self


@pytest.fixture(scope="session")
def past(shared_server) -> Iterator[Past]:
    """Prepares the queues; `wait` lets the rest of the minute pass."""
    with Api(shared_server.url) as api:
        past = Past(api)
        for number in range(20):
            past.short_ids += api.post("mixed", f"short {number}", ttl=MINUTE)
            api.post("mixed", f"long {number}", ttl=3600)
        page = api.call("GET", "/v2/queues/mixed/messages?limit=10&echo=true&include_claimed=true").json()
        past.first_page = [message["body"] for message in page["messages"]]
        past.next_page = page["links"][0]["href"]

        api.post("claimed", *range(4), ttl=3600)
        past.claim, _ = api.claim("claimed", limit=2, ttl=MINUTE)

        api.post("extended", "kept alive", ttl=MINUTE)
        api.claim("extended", ttl=3600, grace=60)

        api.post("renewed", "held", ttl=3600)
        claim, _ = api.claim("renewed", ttl=MINUTE)
        renewal = api.call("PATCH", f"/v2/queues/renewed/claims/{claim}", json={"ttl": 3600, "grace": 60})
        assert renewal.status_code == 204

        api.post("emptied", *range(3), ttl=MINUTE)

        for name, ttl in (("ends", MINUTE), ("lasts", 3600)):
            subscription = {"subscriber": f"http://hooks.invalid/{name}", "ttl": ttl}
            assert (
                api.call("POST", "/v2/queues/subscribed/subscriptions", json=subscription).status_code == 201
            )

        past.began = time.monotonic()
        yield past


@pytest.fixture(scope="session")
def half_requests(shared_server) -> Iterator[list[RawConnection]]:
    """Connections that have sent the first half of a request and nothing since."""
    halves = [RawConnection(shared_server.address, timeout=70) for _ in range(100)]
    for connection in halves:
        connection.send(b"GET /v2/queues HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    yield halves
    for connection in halves:
        connection.__exit__()


class HeldUpStop:
    """A server that was told to stop while half a request was under way."""

    def __init__(self, server: Server) -> None:
        self.server = server.start()
        self.half = RawConnection(server.address)
        self.half.send(b"GET / HTTP/1.1\r\nHost: ")
        time.sleep(0.1)
        self.code: int | None = None
        self.seconds = 0.0
        self.thread = threading.Thread(target=self._stop)
        self.thread.start()

    def wait(self) -> HeldUpStop:
        self.thread.join()
        self.half.__exit__()
        return self

    def _stop(self) -> None:
        start = time.monotonic()
        self.code = self.server.stop(timeout=75)
        self.seconds = time.monotonic() - start


@pytest.fixture(scope="session")
def held_up_stop(shared_server, tmp_path_factory: pytest.TempPathFactory) -> HeldUpStop:
    if not isinstance(shared_server, Server):
        pytest.skip("needs a server process of its own, and ZAQAR_TEST_URL names a running one")
    return HeldUpStop(Server(tmp_path_factory.mktemp("held-up")))
