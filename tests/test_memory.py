"""The memory that clients can make a server use: one test for each known way, at ten times its load.

Each server has a budget that the load exceeds many times over. It must stay near the budget, tell the
clients at once that they are over it, serve everybody else, and give the memory back to the system
once the clients are gone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
import uuid
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from conftest import EXTERNAL_URL
from support.api import Api
from support.http2 import END_HEADERS, END_STREAM, HEADERS, Connection, block, frame
from support.memory import MIB, Peak, resident
from support.rawhttp import head
from support.server import Server
from support.unread import open_websocket, send, text_frame
from support.wait import wait_until
from support.websocket import WebSocket

pytestmark = pytest.mark.skipif(EXTERNAL_URL is not None, reason="needs servers of its own")

#: `[limits] memory_budget` of these servers, and the share of a project.
BUDGET = 96 * MIB
OF_PROJECT = BUDGET // 2

#: What a server may occupy beyond its budget: its code, caches, the store, and what the allocator
#: has not returned yet. The loads are several times as large.
BEYOND = 128 * MIB

#: What may be left once the clients are gone, over what there was before they came.
LEFT = OF_PROJECT

#: Servers and what they occupied.
Loaded = list[tuple[Server, Peak]]

#: A list of nearly 5 MB.
PAGE, BODY = 20, "x" * 255_000


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    """The servers of this module. They are left alone after their load until the last test looks at them."""
    servers: Loaded = []
    yield servers
    codes = [server.stop() for server, _ in servers]
    assert codes == [0] * len(servers), [server.log_tail() for server, _ in servers]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, loaded: Loaded) -> Server:
    limits = {"memory_budget": BUDGET, "memory_per_connection": 20, "memory_per_project": 50}
    made = Server(
        tmp_path_factory.mktemp("memory"), sync="never", options={"limits": limits}, websocket=True
    ).start()
    loaded.append((made, Peak(made)))
    return made


@contextlib.contextmanager
def bounded(server: Server, loaded: Loaded) -> Iterator[Peak]:
    """Around a load: the server stays near its budget, and serves another project meanwhile."""
    with Api(server.url) as other:
        other.post("q", "warm")
        peak = Peak(server)
        loaded[-1] = (server, peak)
        with peak:
            yield peak
            assert other.post("q", "still served")
        print(f"before {peak.before >> 20} MiB, at most {peak.bytes >> 20} MiB")
        assert peak.grown < BUDGET + BEYOND, f"{peak.grown >> 20} MiB more than before"


def large_list(server: Server, project: str) -> None:
    with Api(server.url, project) as api:
        for _ in range(PAGE):
            api.post("q", BODY)


def headers(project: str) -> dict[str, str]:
    return {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}


def test_unread_lists_over_http2(server: Server, loaded: Loaded) -> None:
    """Ten connections, each with 256 requests for a list of 5 MB and a window of 0; they answer pings."""
    project = f"p-{uuid.uuid4()}"
    large_list(server, project)
    request = block("GET", f"/v2/queues/q/messages?limit={PAGE}&echo=true", headers(project))
    with bounded(server, loaded):
        connections = [Connection(server.address, window=0) for _ in range(10)]
        for one in connections:
            flags = END_HEADERS | END_STREAM
            one.send(b"".join(frame(HEADERS, flags, 2 * n + 1, request) for n in range(256)))
        wait_until(lambda: answered(connections) == 2560, "every request is answered at once")
        statuses = [status for one in connections for status in one.statuses.values()]
        held = statuses.count(200)
        print(f"{held} are being answered, {statuses.count(503)} were told 503")
        assert held + statuses.count(503) == 2560
        # Each of these occupies 5 MB for as long as the client reads nothing.
        assert 1 <= held <= OF_PROJECT // (PAGE * len(BODY))
        for one in connections:
            one.close()


def answered(connections: list[Connection]) -> int:
    for one in connections:
        one.read(0.02)
    return sum(len({*one.statuses, *one.resets}) for one in connections)


def test_unfinished_bodies_over_http2(server: Server, loaded: Loaded) -> None:
    """120 connections with 200 unfinished request bodies each."""
    project = f"p-{uuid.uuid4()}"
    request = block("POST", "/v2/queues/q/messages", headers(project))
    part = b'{"messages": [{"body": "' + b"x" * 10_000
    streams = range(1, 400, 2)
    with bounded(server, loaded):
        connections = [Connection(server.address) for _ in range(120)]
        for one in connections:
            one.send(b"".join(frame(HEADERS, END_HEADERS, stream, request) for stream in streams))
            for stream in streams:
                wait_until(lambda: has_credit(one, len(part)), "the server takes more")  # noqa: B023
                # A stream that was answered or reset takes no more.
                if stream not in one.statuses and stream not in one.resets:
                    one.send_body(stream, part)
        total = len(connections) * len(streams)
        least = total - OF_PROJECT // len(part)
        wait_until(lambda: answered(connections) >= least, f"{least} of {total} are answered at once")
        statuses = [status for one in connections for status in one.statuses.values()]
        print(f"{len(statuses)} of {total} streams were told 503")
        assert set(statuses) == {503}
        assert len(statuses) < total
        assert not any(one.closed for one in connections)
        for one in connections:
            one.close()


def has_credit(connection: Connection, length: int) -> bool:
    """Whether the server lets all streams of a connection together send so much, after a look."""
    if connection.credit < length:
        connection.read(1)
    return connection.closed or connection.credit >= length


def test_unfinished_bodies_over_http1(server: Server, loaded: Loaded) -> None:
    """A thousand connections, each with all but the last byte of a post."""
    project, content = f"p-{uuid.uuid4()}", b'{"messages": [{"body": "' + b"x" * 250_000
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content) + 1)}
    request = head("POST", "/v2/queues/q/messages", fields, project=project) + content
    with bounded(server, loaded):
        clients = [send(server.address, request) for _ in range(1000)]
        statuses = first_statuses(clients, least=len(clients) - OF_PROJECT // len(content))
        print(f"{statuses.count(503)} of {len(clients)} were told 503")
        # The others are waited for.
        assert statuses.count(503) + statuses.count(0) == len(clients)
        assert statuses.count(0) >= 1
        close(clients)


def test_unread_lists_over_http1(server: Server, loaded: Loaded) -> None:
    """A thousand connections that ask for a list of 5 MB and read nothing of it."""
    project = f"p-{uuid.uuid4()}"
    large_list(server, project)
    request = head("GET", f"/v2/queues/q/messages?limit={PAGE}&echo=true", project=project)
    with bounded(server, loaded):
        clients = [send(server.address, request) for _ in range(1000)]
        statuses = first_statuses(clients, least=len(clients))
        held = statuses.count(200)
        print(f"{held} are being answered, {statuses.count(503)} were told 503")
        assert held + statuses.count(503) == len(clients)
        assert 1 <= held <= OF_PROJECT // (PAGE * len(BODY))
        close(clients)


def test_unread_errors_over_http2(server: Server, loaded: Loaded) -> None:
    """50 connections with 256 requests each whose errors repeat 16 kB of them, and a window of 0."""
    request = block("POST", "/v2/queues/q/claims", headers(f"p-{uuid.uuid4()}"))
    body = b'{"ttl": "' + b"x" * 16_000 + b'"}'
    with bounded(server, loaded):
        connections = [Connection(server.address, window=0) for _ in range(50)]
        for one in connections:
            for stream in range(1, 512, 2):
                wait_until(lambda: has_credit(one, len(body)), "the server takes more")  # noqa: B023
                one.send(frame(HEADERS, END_HEADERS, stream, request))
                if not one.closed:
                    one.send_body(stream, body, END_STREAM)
        total = 50 * 256
        wait_until(
            lambda: any(one.closed for one in connections) or answered(connections) == total,
            "every request is answered at once, or its connection closed",
        )
        statuses = [status for one in connections for status in one.statuses.values()]
        print(f"{statuses.count(400)} are being answered, {statuses.count(503)} were told 503")
        assert set(statuses) <= {400, 503}
        # Each of these occupies 16 kB for as long as the client reads nothing.
        assert 1 <= statuses.count(400) <= OF_PROJECT // len(body)
        for one in connections:
            one.close()


def test_idle_connections_after_large_posts(server: Server, loaded: Loaded) -> None:
    """1 200 connections that have posted 200 kB each: what they keep is charged, and they all fit."""
    project, content = f"p-{uuid.uuid4()}", json.dumps({"messages": [{"body": "x" * 200_000, "ttl": 60}]})
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content))}
    request = head("POST", "/v2/queues/q/messages", fields, project=project) + content.encode()
    with bounded(server, loaded) as peak:
        clients = []
        for _ in range(1200):
            client = send(server.address, request)
            client.setblocking(True)
            client.settimeout(30)
            assert client.recv(12).split()[1] == b"201"
            clients.append(client)
        print(f"grown by {peak.grown >> 20} MiB")
        close(clients)


def first_statuses(clients: list[socket.socket], least: int) -> list[int]:
    """The statuses of answers, once so many have begun; 0 where none has, -1 for a close without one."""
    statuses = [0] * len(clients)

    def read() -> int:
        for number, client in enumerate(clients):
            if statuses[number] == 0:
                statuses[number] = status(client)
        return len(clients) - statuses.count(0)

    wait_until(lambda: read() >= least, f"{least} of {len(clients)} are answered at once")
    return statuses


def status(client: socket.socket) -> int:
    """The status of the answer that began to come; 0 while there is none, -1 after a close without one."""
    client.setblocking(False)
    try:
        line = client.recv(12, socket.MSG_PEEK)
    except BlockingIOError:
        return 0
    except OSError:
        return -1
    return int(line.split()[1]) if line else -1


def close(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()


def test_unfinished_messages_over_websocket(server: Server, loaded: Loaded) -> None:
    """200 connections, each with a message of 1 MiB that lacks its last byte."""
    with bounded(server, loaded):
        clients = [open_websocket(server.websocket_port) for _ in range(200)]
        content = b"x" * (MIB - 1)
        # A text of 1 MiB, masked with zeros.
        frame_head = struct.pack(">BBQI", 0x81, 0x80 | 127, MIB, 0)
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(frame_head + content)
        codes = [close_code(client) for client in clients]
        print(f"{codes.count(1013)} of {len(codes)} were closed with 1013")
        assert codes.count(1013) > len(codes) // 2
        close(clients)


def test_unread_lists_over_websocket(server: Server, loaded: Loaded) -> None:
    """200 connections that ask for two lists of 5 MB and read nothing."""
    project = f"p-{uuid.uuid4()}"
    large_list(server, project)
    body = {"queue_name": "q", "limit": PAGE, "echo": True}
    request = {"action": "message_list", "headers": headers(project), "body": body}
    with bounded(server, loaded):
        clients = [open_websocket(server.websocket_port) for _ in range(200)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(2 * text_frame(json.dumps(request).encode()))
        # Nothing is read until the server has had time to answer everybody.
        wait_until(lambda: settled(server), "the server has answered or closed")
        close(clients)


def settled(server: Server) -> bool:
    """Whether the server occupies as much as two seconds ago, to within a few MiB."""
    before = resident(server)
    time.sleep(2)
    return abs(resident(server) - before) < 8 * MIB


def test_unread_pushes(server: Server, loaded: Loaded) -> None:
    """100 subscribers that read nothing, of ten queues that 13 MB are posted to each, ten times over."""
    project = f"p-{uuid.uuid4()}"
    with bounded(server, loaded), Api(server.url, project) as api:
        sockets = []
        for number in range(100):
            socket_ = WebSocket(server.websocket_url, project)
            socket_.ask("subscription_create", 201, queue_name=f"q{number % 10}")
            sockets.append(socket_)
        document = {"messages": [{"body": BODY, "ttl": 300}]}
        answers = [
            api.call("POST", f"/v2/queues/q{number}/messages", json=document).status_code
            for _ in range(50)
            for number in range(10)
        ]
        wait_until(lambda: settled(server), "the server has pushed or closed")
        for socket_ in sockets:
            socket_.connection.socket.close()
        print(f"{answers.count(503)} of {len(answers)} posts were told 503")
        # The share of the project is used up: its own posts may be rejected, for a moment.
        assert set(answers) <= {201, 503}


def test_delayed_messages_with_a_subscriber(server: Server, loaded: Loaded) -> None:
    """Tiny delayed messages, three times as many as fit; the subscriber is told, and comes again."""
    project = f"p-{uuid.uuid4()}"
    messages = [{"body": 0, "delay": 900, "ttl": 1000}] * 5_000
    closed = 0
    # Waiting pushes have half of the project's share.
    with bounded(server, loaded) as peak, Api(server.url, project) as api:
        socket_ = None
        for _ in range(50):
            if socket_ is None:
                socket_ = WebSocket(server.websocket_url, project)
                socket_.ask("subscription_create", 201, queue_name="q")
            answer = api.call("POST", "/v2/queues/q/messages", json={"messages": messages})
            assert answer.status_code == 201, answer.text
            if (code := closing(socket_)) is not None:
                assert code == 1013
                closed, socket_ = closed + 1, None
        print(f"closed {closed} times")
        assert closed >= 2
        if socket_ is not None:
            socket_.close()
    # 250 000 of these occupy 350 bytes each, 83 MiB.
    assert peak.grown < 72 * MIB, f"{peak.grown >> 20} MiB more than before"


def closing(socket_: WebSocket) -> int | None:
    """The code that a connection was closed with; None while it is open."""
    with contextlib.suppress(TimeoutError, ConnectionClosed):
        socket_.connection.recv(timeout=0.05)
    return socket_.connection.close_code


def test_repeated_subscribing_and_unsubscribing(server: Server, loaded: Loaded) -> None:
    """5 000 subscriptions of one connection, one after the other."""
    with WebSocket(server.websocket_url) as socket_:
        for _ in range(500):
            subscribe_and_unsubscribe(socket_)
        before = resident(server)
        for _ in range(5_000):
            subscribe_and_unsubscribe(socket_)
        grown = resident(server) - before
        print(f"grown by {grown >> 10} KiB")
        # A leak of 550 bytes for each was found.
        assert grown < 5_000 * 400


def subscribe_and_unsubscribe(socket_: WebSocket) -> None:
    created = socket_.ask("subscription_create", 201, queue_name="q")
    socket_.ask("subscription_delete", 204, queue_name="q", subscription_id=created["subscription_id"])


def test_the_memory_is_returned_to_the_system(loaded: Loaded) -> None:
    """After the tests above: their clients are gone, and nobody asks their servers for anything."""
    if not loaded:
        pytest.skip("runs after the tests of this module that load servers")
    for server, peak in loaded:
        wait_until(
            lambda: resident(server) < peak.before + LEFT,  # noqa: B023 # waited for at once
            f"the memory comes back: {peak.before >> 20} MiB before, {peak.bytes >> 20} at most",
        )
        print(f"{peak.before >> 20} MiB before, {peak.bytes >> 20} at most, {resident(server) >> 20} after")


def close_code(client: socket.socket) -> int:
    """The code that the server closed a connection with; 0 when it waits for more."""
    client.settimeout(0.2)
    try:
        frame_ = client.recv(4)
    except OSError:
        return 0
    return int.from_bytes(frame_[2:4], "big") if frame_[:1] == b"\x88" else 0
