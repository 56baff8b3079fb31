"""HTTP as no HTTP library speaks it: half-closed, half-sent, misframed; HTTP/1.0 and HTTP/2."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import uuid

import h2.connection
import h2.events
import httpx
import pytest

from support.http2 import END_HEADERS, END_STREAM, FRAME_SIZE, HEADERS, Connection, block, frame
from support.rawhttp import RawConnection, exchange, head
from support.wait import wait_until

#: The original's HTTP is uwsgi's.
pytestmark = pytest.mark.skipif(
    os.environ.get("ZAQAR_TEST_ORIGINAL") == "1", reason="the original leaves HTTP to its front end"
)


def has_credit(connection: Connection) -> bool:
    connection.read(0.01)
    assert not connection.closed
    return connection.credit >= FRAME_SIZE


def has_answered(connection: Connection, stream: int) -> bool:
    connection.read(0.05)
    assert not connection.closed or stream in connection.statuses
    return stream in connection.statuses


POST = b'{"messages": [{"ttl": 300, "body": 1}]}'


def post(queue: str, project: str, **headers: str) -> bytes:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return head(
        "POST", f"/v2/queues/{queue}/messages", {"Content-Length": str(len(POST)), **fields}, project=project
    )


class TestHalfClosed:
    """A client that has said all may close its side; it reads on."""

    def test_the_answer_comes(self, server, queue, project):
        with RawConnection(server.address) as connection:
            connection.send(post(queue, project), POST)
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.answer().status == 201
            assert connection.closed_by_server()

    def test_all_answers_come(self, server, queue, project):
        with RawConnection(server.address) as connection:
            connection.send((post(queue, project) + POST) * 3, head("GET", "/"))
            connection.socket.shutdown(socket.SHUT_WR)
            assert [connection.answer().status for _ in range(4)] == [201, 201, 201, 300]

    def test_half_a_body_is_refused(self, server, queue, project):
        with RawConnection(server.address) as connection:
            connection.send(post(queue, project), POST[:-1])
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.answer().status == 400


MISFRAMED = {
    "target of no UTF-8": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "control in the target": b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown version": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "no request at all": b"hello\r\n\r\n",
    "space in a header's name": b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a tunnel's target": b"GET example.com:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "two lengths in one": head("POST", "/v2/queues/q/messages", {"Content-Length": "25, 25"}),
    "length with a sign": head("POST", "/v2/queues/q/messages", {"Content-Length": "+25"}),
    "chunks in HTTP/1.0": b"POST /v2/ping HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks ended by line feeds": head("POST", "/v2/queues/q/messages", {"Transfer-Encoding": "chunked"})
    + b"2\n{}\n0\n\n",
    "a chunk beyond 64 bits": head("POST", "/v2/queues/q/messages", {"Transfer-Encoding": "chunked"})
    + b"1ffffffffffffffff\r\n",
    "too many trailers": head("POST", "/v2/queues/q/messages", {"Transfer-Encoding": "chunked"})
    + b"2\r\n{}\r\n0\r\n"
    + b"X: y\r\n" * 100_000
    + b"\r\n",
}


@pytest.mark.parametrize("request_bytes", MISFRAMED.values(), ids=MISFRAMED.keys())
def test_misframed_requests_are_answered_with_an_error(server, request_bytes):
    """The peer gets an answer, not only a closed connection."""
    assert exchange(server.address, request_bytes).status == 400


@pytest.mark.parametrize("status", [414, 431])
def test_requests_that_are_too_long_are_answered_with_an_error(server, status):
    long = {
        414: head("GET", "/v2/queues?x=" + "y" * 70_000),
        431: head("GET", "/v2/queues", {"X": "y" * 200_000}),
    }
    assert exchange(server.address, long[status]).status == status


@pytest.mark.parametrize("rest", [b"GET / HT", post("q", "p"), post("q", "p") + POST[:5]])
def test_an_answer_does_not_wait_for_the_next_request(server, project, rest):
    with RawConnection(server.address) as connection:
        connection.send(head("GET", "/v2/queues", project=project), rest)
        assert connection.answer().status == 200


def test_an_absolute_target_names_the_same_resource(server, project):
    answer = exchange(server.address, head("GET", "http://example.com/v2/queues", project=project))
    assert answer.json()["queues"] == []


def test_http_1_0_is_kept_alive_where_it_is_asked_to(server):
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    with RawConnection(server.address) as connection:
        for _ in range(2):
            connection.send(request)
            answer = connection.answer()
            assert (answer.status, answer.headers["connection"].lower()) == (300, "keep-alive")


def test_trailers_are_ignored(server, queue, project):
    chunked = b"%x;extension=1\r\n%s\r\n0\r\nContent-Length: 5\r\nX: y\r\n\r\n" % (len(POST), POST)
    request = post(queue, project, Transfer_Encoding="chunked", Content_Length=None)
    with RawConnection(server.address) as connection:
        connection.send(request, chunked, head("GET", "/"))
        assert [connection.answer().status for _ in range(2)] == [201, 300]


def test_a_stop_closes_idle_connections_and_answers_open_requests(new_server, queue, project):
    server = new_server().start()
    with (
        RawConnection(server.address) as idle,
        RawConnection(server.address) as silent,
        RawConnection(server.address) as busy,
    ):
        idle.send(head("GET", "/"))
        assert idle.answer().status == 300
        busy.send(post(queue, project, Expect="100-continue"))
        # It has begun with the request.
        assert busy.answer().status == 100
        server.process.send_signal(signal.SIGTERM)
        assert idle.closed_by_server()
        assert silent.closed_by_server()
        busy.send(POST)
        answer = busy.answer()
        assert (answer.status, answer.headers["connection"]) == (201, "close")
        assert server.process.wait(30) == 0, server.log_tail()


class Http2:
    """A connection of HTTP/2 by hand."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, 30)
        self.connection = h2.connection.H2Connection()
        self.connection.initiate_connection()
        self.statuses: dict[int, int] = {}
        self.over = False

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def begin(self, method: str, path: str, project: str, body: bytes = b"", *, ends: bool = True) -> int:
        stream = self.connection.get_next_available_stream_id()
        headers = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        headers += [("client-id", str(uuid.uuid4())), ("x-project-id", project)]
        self.connection.send_headers(stream, headers, end_stream=ends and not body)
        if body:
            self.connection.send_data(stream, body, end_stream=ends)
        return stream

    def flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def read_until(self, count: int) -> None:
        """Reads until so many answers have come, or the server has ended the connection."""
        self.flush()
        while len(self.statuses) < count and not self.over:
            received = self.socket.recv(65536)
            for event in self.connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.ConnectionTerminated):
                    self.over = True
            self.over |= not received
            if not self.over:
                self.flush()


class TestHttp2:
    def test_many_requests_at_once(self, server, queue, project):
        with Http2(server.address) as http:
            for _ in range(200):
                http.begin("POST", f"/v2/queues/{queue}/messages", project, POST)
            http.read_until(200)
            assert set(http.statuses.values()) == {201}

    def test_cancelled_requests_delay_no_others(self, server, queue, project):
        with Http2(server.address) as http:
            http.read_until(0)
            for _ in range(10):
                stream = http.begin("POST", f"/v2/queues/{queue}/messages", project, POST[:5], ends=False)
                http.connection.reset_stream(stream)
            last = http.begin("GET", f"/v2/queues/{queue}/stats", project)
            http.read_until(1)
            assert http.statuses == {last: 200}

    def test_many_cancelled_requests_close_the_connection(self, server, project):
        with Http2(server.address) as http, contextlib.suppress(ConnectionError):
            for _ in range(20_000):
                http.connection.reset_stream(http.begin("GET", "/v2/queues", project))
                http.flush()
            http.read_until(1)
            assert http.over
        assert exchange(server.address, head("GET", "/")).status == 300

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("POST", "/v2/nothing", 404), ("PATCH", "/v2/queues/q/messages", 405), ("GET", "/v2/queues/q", 200)],
    )
    def test_an_answer_before_the_end_of_a_body_leaves_the_connection_usable(
        self, server, project, method, path, status
    ):
        """More bytes than the window of the connection are never read; it must be given back."""
        headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        early, whole = block(method, path, headers), block("POST", "/v2/queues/r/messages", headers)
        connection = Connection(server.address)
        for number in range(12):
            stream = 2 * number + 1
            connection.send(frame(HEADERS, END_HEADERS, stream, early))
            for _ in range(3):
                wait_until(lambda: has_credit(connection), "the window is given back")
                connection.send_body(stream, b"x" * FRAME_SIZE)
            wait_until(lambda stream=stream: has_answered(connection, stream), "an early answer")
            assert connection.statuses[stream] == status
        connection.send(frame(HEADERS, END_HEADERS, 101, whole))
        connection.send_body(101, POST, END_STREAM)
        wait_until(lambda: has_answered(connection, 101), "the next request is answered")
        assert connection.statuses[101] == 201
        assert not connection.closed
        connection.close()

    def test_an_answer_to_head_has_no_body(self, server, project):
        headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        with httpx.Client(http1=False, http2=True, headers=headers, timeout=30, trust_env=False) as http:
            got = http.get(f"{server.url}/v2/queues/q")
            answer = http.head(f"{server.url}/v2/queues/q")
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-length"] == got.headers["content-length"]
            # The connection is still in step.
            assert http.head(f"{server.url}/v2/ping").status_code == 204
