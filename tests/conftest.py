"""Fixtures: a server for all tests that only talk to it, servers of their own for the others."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId

from support import minute
from support.api import Api
from support.clients import connect
from support.cloud import cloud, other_token, token  # noqa: F401 # fixtures of tests with Keystone
from support.expiring import expiring  # noqa: F401 # a fixture of all tests
from support.minute import half_requests, held_up_stop, past  # noqa: F401 # fixtures of all tests
from support.powercut import build_library
from support.server import RunningServer, Server, server_binary

#: An already running server to test instead of our own process.
EXTERNAL_URL = os.environ.get("ZAQAR_TEST_URL")
#: Where that server speaks WebSocket.
EXTERNAL_WEBSOCKET = os.environ.get("ZAQAR_TEST_WEBSOCKET_URL")
#: Set when that server is the original: tests marked `differs` must then fail.
ORIGINAL = os.environ.get("ZAQAR_TEST_ORIGINAL") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    minute.put_last(items)
    name_each(items)
    if not ORIGINAL:
        return
    for item in items:
        for mark in item.iter_markers("differs"):
            item.add_marker(pytest.mark.xfail(reason=mark.args[0], strict=not mark.kwargs.get("sometimes")))


def name_each(items: list[pytest.Item]) -> None:
    """Gives each test an id of its own: of several with one id, xdist runs one and says nothing."""
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.nodeid] += 1
        if (number := seen[item.nodeid]) > 1:
            item._id = NodeId.parse(f"{item.nodeid}[{number}]")
    assert len({item.nodeid for item in items}) == len(items), "tests with one id, of which one would run"


def pytest_report_header() -> str:
    return f"server under test: {EXTERNAL_URL or server_binary()}"


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | RunningServer]:
    """The server that tests share: each uses projects of its own."""
    if EXTERNAL_URL:
        yield RunningServer(EXTERNAL_URL)
        return
    own = Server(tmp_path_factory.mktemp("shared"), options={"signed_url": {"secret_key": "a key"}})
    own.start()
    yield own
    assert own.stop() == 0, own.log_tail()


@pytest.fixture(scope="session")
def server(shared_server: Server | RunningServer) -> Server | RunningServer:
    """The shared server; files whose tests need another have a fixture of this name."""
    return shared_server


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | RunningServer]:
    """A server that speaks HTTP and WebSocket; tests that use it share it, each with projects of its own."""
    if EXTERNAL_URL:
        if not EXTERNAL_WEBSOCKET:
            pytest.skip("ZAQAR_TEST_URL names a running server, and ZAQAR_TEST_WEBSOCKET_URL none")
        yield RunningServer(EXTERNAL_URL, EXTERNAL_WEBSOCKET)
        return
    own = Server(
        tmp_path_factory.mktemp("both"), options={"signed_url": {"secret_key": "a key"}}, websocket=True
    )
    own.start()
    yield own
    assert own.stop() == 0, own.log_tail()


@pytest.fixture(scope="session", autouse=True)
def minute_begins(request: pytest.FixtureRequest) -> None:
    """Starts what takes a minute, so that it is over when it is looked at."""
    minute.begin(request)


@pytest.fixture
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Makes servers of the test's own; those still running at its end must stop cleanly."""
    if EXTERNAL_URL:
        pytest.skip("needs a server process of its own, and ZAQAR_TEST_URL names a running one")
    made: list[Server] = []

    def make(**arguments) -> Server:
        made.append(Server(arguments.pop("root", None) or tmp_path_factory.mktemp("own"), **arguments))
        return made[-1]

    yield make
    running = [one for one in made if one.running()]
    codes = [one.stop() for one in running]
    assert codes == [0] * len(running), [one.log_tail() for one in running]


@pytest.fixture
def api(server: Server | RunningServer) -> Iterator[Api]:
    """A client of a new project on the shared server."""
    with Api(server.url) as client:
        yield client


@pytest.fixture
def project() -> str:
    """A project that no other test uses."""
    return f"project-{uuid.uuid4()}"


@pytest.fixture
def client(server: Server | RunningServer, project: str):
    """A python-zaqarclient of the project."""
    return connect(server.url, project)


@pytest.fixture
def other_client(server: Server | RunningServer, project: str):
    """Another one of the same project: it sees what `client` posts without asking for an echo."""
    return connect(server.url, project)


@pytest.fixture
def seed() -> int:
    """What decides the random choices of a test; it is printed with a failure, ZAQAR_TEST_SEED sets it."""
    value = int(os.environ.get("ZAQAR_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"ZAQAR_TEST_SEED={value}")
    return value


@pytest.fixture
def queue() -> str:
    """A queue name that no other test uses."""
    return f"q-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def powercut_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that logs what a server writes and syncs."""
    return build_library(tmp_path_factory.mktemp("powercut"))


@pytest.fixture(scope="session")
def iofault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets writes and syncs fail."""
    return build_library(tmp_path_factory.mktemp("iofault"), "iofault")
