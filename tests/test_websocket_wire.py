"""The connection itself: wrong frames, sizes, handshakes, stop, and both transports in one process."""

from __future__ import annotations

import contextlib
import json
import socket as sockets
from collections.abc import Iterator

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed

from support.api import Api
from support.server import Server, free_port
from support.wait import wait_until
from support.websocket import ENCODINGS, LEASE_AND_SWEEP, WebSocket


@pytest.fixture
def socket(both, project: str) -> Iterator[WebSocket]:
    with WebSocket(both.websocket_url, project) as connection:
        yield connection


def lives(both) -> bool:
    """Whether the server still answers, on a new connection."""
    with WebSocket(both.websocket_url) as connection:
        return connection.call("queue_list").status == 200


class TestWrongRequests:
    """The connection answers and goes on."""

    @pytest.mark.parametrize(
        "frame",
        [
            "{",
            "",
            "nonsense",
            '{"action": "queue_list"} more',
            "\x00",
            "[" * 20_000,
            b"",
            b"\xc1",
            b"\x93\x01",
            b"\x80\x80",
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\x91" * 20_000,
            b"\x81" * 20_000,
        ],
    )
    def test_a_frame_that_cannot_be_decoded_is_400(self, socket: WebSocket, frame: str | bytes) -> None:
        reply = socket.exchange(frame)
        kind, encoding = (
            ("binary (MessagePack)", "messagepack") if isinstance(frame, bytes) else ("text (JSON)", "json")
        )
        assert (reply.status, reply.encoding) == (400, encoding)
        assert reply.body["error"].startswith(f"Can't decode {kind} request.")
        assert reply.request == {"action": None, "body": {}, "headers": {}, "api": "v2"}
        assert socket.call("queue_list").status == 200

    @pytest.mark.parametrize("encoding", ENCODINGS)
    @pytest.mark.parametrize("document", [[], "x", 3, None, True, [{"action": "queue_list"}]])
    def test_a_document_that_is_no_object_is_400(
        self, socket: WebSocket, document: object, encoding: str
    ) -> None:
        frame = msgpack.packb(document) if encoding == "messagepack" else json.dumps(document)
        reply = socket.exchange(frame)
        assert (reply.status, reply.encoding) == (400, encoding)
        assert reply.body == {"error": "Unexpected body type. Expected dict or dict like."}
        assert socket.call("queue_list").status == 200

    @pytest.mark.parametrize("action", ["nope", "", "Queue_list", None, 3])
    def test_an_unknown_action_is_400(self, socket: WebSocket, action: object) -> None:
        reply = socket.call(action)
        assert (reply.status, reply.body) == (400, {"error": f"{action} is not a valid action"})

    @pytest.mark.parametrize("left_out", ["Client-ID", "X-Project-ID"])
    def test_a_missing_header_is_400(self, socket: WebSocket, left_out: str) -> None:
        headers = {name: value for name, value in socket.headers.items() if name != left_out}
        reply = socket.call("queue_list", headers=headers)
        assert reply.status == 400
        assert reply.body["error"].startswith("Schema validation failed.")

    @pytest.mark.parametrize("body", ["absent", [], "x", 3, {}, {"queue_name": 3}, {"queue_name": None}])
    def test_an_invalid_body_is_400(self, socket: WebSocket, body: object) -> None:
        reply = socket.call("queue_get", None if body == "absent" else body)
        assert reply.status == 400
        assert reply.body["error"].startswith("Schema validation failed.")


class TestWrongFrames:
    """The connection ends with a code that says why; the others do not notice."""

    @pytest.mark.differs("the original reads messages of any size")
    def test_a_message_beyond_the_limit_closes_the_connection(self, both, socket: WebSocket) -> None:
        with contextlib.suppress(ConnectionClosed):
            socket.connection.send("x" * 16_000_000)
        assert socket.closed()[0] == 1009
        assert lives(both)

    @pytest.mark.differs("the original drops the connection without a word")
    def test_text_that_is_not_utf8_closes_the_connection(self, both, socket: WebSocket) -> None:
        socket.connection.send(b'{"action": "\xff\xfe"}', text=True)
        assert socket.closed()[0] == 1007
        assert lives(both)

    def test_fragments_make_a_request(self, socket: WebSocket) -> None:
        request = socket.frame("queue_create", {"queue_name": "q"})
        socket.connection.send([request[:1], request[1:10], "", request[10:]])
        assert socket.answer().status == 201

    def test_a_ping_is_answered_between_requests(self, socket: WebSocket) -> None:
        assert socket.connection.ping().wait(30)
        assert socket.call("queue_list").status == 200

    @pytest.mark.differs("the original drops the connection without a word")
    @pytest.mark.parametrize(
        "frame",
        [
            b"\x83\x80\x00\x00\x00\x00",  # an opcode that is none
            b"\xf1\x80\x00\x00\x00\x00",  # reserved bits
            b"\x81\x02{}",  # not masked
            b"\x09\x80\x00\x00\x00\x00",  # a ping in pieces
            b"\x80\x80\x00\x00\x00\x00",  # a continuation of nothing
            b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",  # as long as can be
        ],
    )
    def test_an_invalid_frame_closes_the_connection(self, both, socket: WebSocket, frame: bytes) -> None:
        socket.connection.socket.sendall(frame)
        assert socket.closed()[0] in (1002, 1009)
        assert lives(both)


class TestHandshake:
    @pytest.mark.differs("the original shows a page")
    def test_plain_http_is_refused(self, both) -> None:
        with Api(both.websocket_url.replace("ws:", "http:")) as http:
            answer = http.call("GET", "/")
        assert 400 <= answer.status_code < 500
        assert lives(both)

    @pytest.mark.parametrize(
        "sent", [b"", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: t\r\n", b"\x16\x03\x01"]
    )
    def test_an_unfinished_handshake_delays_no_other(self, both, sent: bytes) -> None:
        host, port = both.websocket_url.removeprefix("ws://").rstrip("/").split(":")
        with sockets.create_connection((host, int(port)), 10) as connection:
            connection.sendall(sent)
            assert lives(both)

    def test_another_version_is_refused(self, both) -> None:
        host, port = both.websocket_url.removeprefix("ws://").rstrip("/").split(":")
        head = (
            "GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 99\r\n\r\n"
        )
        with sockets.create_connection((host, int(port)), 30) as connection:
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith((b"HTTP/1.1 4", b""))
        assert lives(both)


class TestProcess:
    def test_a_stop_closes_connections_with_1001(self, new_server) -> None:
        server: Server = new_server(websocket=True).start()
        connections = [WebSocket(server.websocket_url, "p", encoding) for encoding in ENCODINGS]
        for connection in connections:
            connection.ask("subscription_create", 201, queue_name="q")
        assert server.stop() == 0, server.log_tail()
        assert [connection.closed()[0] for connection in connections] == [1001, 1001]
        server.start()
        with Api(server.url, "p") as http:
            assert http.subscriptions("queues/q") == []
            assert http.call("GET", "/v2/queues/q/messages").status_code == 200

    def test_subscriptions_of_connections_are_deleted_after_a_kill(self, new_server) -> None:
        server: Server = new_server(websocket=True).start()
        with WebSocket(server.websocket_url, "p") as connection:
            connection.ask("subscription_create", 201, queue_name="q")
            connection.ask("subscription_create", 201, queue_name="q", subscriber="http://example.org/")
            server.kill()
        server.start()
        with Api(server.url, "p") as http:

            def left() -> list[str]:
                return [one["subscriber"] for one in http.subscriptions("queues/q")]

            wait_until(
                lambda: left() == ["http://example.org/"], "the webhook alone is left", LEASE_AND_SWEEP
            )

    def test_requests_in_progress_are_answered_before_a_stop(self, new_server) -> None:
        server: Server = new_server(websocket=True).start()
        connection = WebSocket(server.websocket_url, "p")
        connection.ask("queue_create", 201, queue_name="q")
        for number in range(50):
            messages = [{"body": number, "ttl": 300}]
            connection.connection.send(
                connection.frame("message_post", {"queue_name": "q", "messages": messages})
            )
        assert server.stop() == 0, server.log_tail()
        answered = 0
        with contextlib.suppress(ConnectionClosed):
            while connection.answer().status == 201:
                answered += 1
        assert connection.closed()[0] == 1001
        server.start()
        with Api(server.url, "p") as http:
            assert http.bodies("q") == list(range(answered))

    def test_websocket_is_served_alone(self, new_server) -> None:
        server: Server = new_server(websocket=True)
        server.sections["drivers"]["transport"] = "websocket"
        server.spawn()
        server.wait_for_websocket()
        with WebSocket(server.websocket_url) as connection:
            assert connection.ask("queue_create", 201, queue_name="q")
        with pytest.raises(OSError, match="refused"):
            sockets.create_connection(server.address, 10)

    def test_http_is_served_alone(self, new_server) -> None:
        port = free_port()
        section = {"drivers:transport:websocket": {"bind": "127.0.0.1", "port": port}}
        new_server(options={"drivers": {"transport": "wsgi"}, **section}).start()
        with pytest.raises(OSError, match="refused"):
            sockets.create_connection(("127.0.0.1", port), 10)

    def test_a_port_in_use_is_named(self, new_server) -> None:
        server: Server = new_server(websocket=True)
        with sockets.create_server(("127.0.0.1", server.websocket_port)):
            code, said = server.run_to_exit()
        assert code != 0
        assert str(server.websocket_port) in said


def test_any_origin_may_connect_by_default(both) -> None:
    """The original asks for no origin, and requests carry their own credentials: no cookie says who calls."""
    with WebSocket(both.websocket_url, origin="http://elsewhere.example") as connection:
        assert connection.call("queue_list").status == 200
