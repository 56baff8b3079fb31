"""Clients by hand that read little or nothing of what a server sends them."""

from __future__ import annotations

import contextlib
import socket
import struct


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection that receives little before it is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect(address)
    return client


def send(address: tuple[str, int], request: bytes) -> socket.socket:
    """Such a connection, on which a request was sent as far as it was taken."""
    client = connect(address)
    with contextlib.suppress(OSError):
        client.sendall(request)
    return client


def open_websocket(port: int) -> socket.socket:
    """Such a connection after the opening handshake of WebSocket."""
    client = connect(("127.0.0.1", port))
    client.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        received = client.recv(1)
        assert received, f"the connection was closed: {answer!r}"
        answer += received
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return client


def text_frame(text: bytes) -> bytes:
    """A text of fewer than 64 KiB in one frame, masked with zeros."""
    return struct.pack(">BBHI", 0x81, 0x80 | 126, len(text), 0) + text
