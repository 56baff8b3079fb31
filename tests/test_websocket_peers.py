"""Slow, silent, greedy and too many peers: each costs a bounded amount, and the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.api import Api
from support.rawhttp import RawConnection
from support.server import Server
from support.wait import wait_until
from support.websocket import TIMEOUT, WebSocket

#: What no buffer of the kernel's holds many of.
LARGE = "x" * 100_000


def test_a_subscriber_that_does_not_read_is_closed(both, project: str) -> None:
    with Api(both.url, project) as http:
        slow, quick = (WebSocket(both.websocket_url, project) for _ in range(2))
        for socket in (slow, quick):
            socket.ask("subscription_create", 201, queue_name="q")
        for number in range(150):
            http.post("q", [number, LARGE], [number, LARGE])
            assert [body[0] for body in quick.pushed(2)] == [number, number]
        # After the pushes that were sent before, it gets the close with its reason.
        assert slow.closed()[0] == 1013
        wait_until(lambda: len(http.subscriptions("queues/q")) == 1, "the slow one has no subscription")
        http.post("q", "still there")
        assert quick.push().body == "still there"
        quick.close()


def test_a_client_that_reads_no_answers_is_not_read_from(both, project: str) -> None:
    """Far more requests than are read at once: none is lost, and answers are in order."""
    count = 3000
    with WebSocket(both.websocket_url, project) as other:
        frames = [other.frame("queue_get", {"queue_name": f"q{n}", "pad": "x" * 5000}) for n in range(count)]

        async def play() -> list[str]:
            url = both.websocket_url
            async with connect(url, compression=None, proxy=None, ping_interval=None) as greedy:

                async def ask() -> None:
                    for frame in frames:
                        await greedy.send(frame)

                asking = asyncio.create_task(ask())
                await asyncio.sleep(1)
                assert not asking.done(), "the server takes no more than it can hold"
                async with asyncio.timeout(TIMEOUT):
                    await asyncio.to_thread(other.ask, "queue_create", 201, queue_name="other")
                    answers = [json.loads(await greedy.recv()) for _ in frames]
                await asking
            return [answer["request"]["body"]["queue_name"] for answer in answers]

        assert asyncio.run(play()) == [f"q{number}" for number in range(count)]


def test_a_peer_that_answers_no_pings_is_closed(new_server: Callable[..., Server], project: str) -> None:
    section = {"drivers:transport:websocket": {"ping_interval": 3, "idle_timeout": 10}}
    server = new_server(websocket=True, options=section).start()
    address = ("127.0.0.1", server.websocket_port)
    with WebSocket(server.websocket_url, project) as alive, RawConnection(address, 60) as silent:
        silent.send(
            b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        alive.ask("subscription_create", 201, queue_name="q")
        received = silent.reader.read()
        assert b" 101 " in received.split(b"\r\n", 1)[0]
        assert b"\x89\x00" in received, "a ping"
        assert b"\x88" in received, "a close"
        assert (1008).to_bytes(2, "big") in received.rpartition(b"\x88")[2]
        # This one answers pings, and sends nothing else.
        with Api(server.url, project) as http:
            http.post("q", 1)
        assert alive.push().body == 1


def test_connections_past_the_limit_are_rejected(new_server: Callable[..., Server], project: str) -> None:
    section = {"drivers:transport:websocket": {"max_connections": 2}}
    server = new_server(websocket=True, options=section).start()
    first, second = (WebSocket(server.websocket_url, project) for _ in range(2))
    with pytest.raises(InvalidStatus) as refused:
        WebSocket(server.websocket_url, project)
    assert refused.value.response.status_code == 503
    assert first.call("queue_list").status == 200
    second.close()

    def is_accepted() -> bool:
        try:
            WebSocket(server.websocket_url, project).close()
        except InvalidStatus:
            return False
        return True

    wait_until(is_accepted, "another connection is accepted")
    first.close()


def test_a_configured_message_size_applies(new_server: Callable[..., Server], project: str) -> None:
    section = {"drivers:transport:websocket": {"max_message_size": 300_000}}
    server = new_server(websocket=True, options=section).start()
    with WebSocket(server.websocket_url, project) as socket:
        messages = [{"body": "x" * 250_000, "ttl": 300}]
        socket.ask("message_post", 201, queue_name="q", messages=messages)
        padded = {"queue_name": "q", "messages": messages, "pad": "x" * 40_000}
        assert socket.call("message_post", padded).status == 201
        # The server may close before all is sent.
        with contextlib.suppress(ConnectionClosed):
            socket.connection.send(socket.frame("queue_get", {"queue_name": "q", "pad": "x" * 300_000}))
        assert socket.closed()[0] == 1009
    with WebSocket(server.websocket_url, project) as socket:
        # The limit is on what the pieces make together.
        with contextlib.suppress(ConnectionClosed):
            socket.connection.send(["x" * 100_000] * 4)
        assert socket.closed()[0] == 1009
