"""Frames of HTTP/2 by hand: thousands of streams that a library would take minutes for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4

#: What one stream, and all streams of a connection, may send before the server says more.
FIRST_WINDOW = 65_535

#: The largest frame that a server takes without having said so.
FRAME_SIZE = 16_384

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


@dataclass
class Connection:
    """One connection: requests are sent without a look at answers, which are read when asked for."""

    address: tuple[str, int]
    #: What the server may send on one stream before the client says more.
    window: int = FIRST_WINDOW
    statuses: dict[int, int] = field(default_factory=dict)
    #: Streams that the server reset, and the code it gave to the whole connection.
    resets: set[int] = field(default_factory=set)
    closed: bool = False
    #: Bytes of bodies that the server lets all streams together send.
    credit: int = FIRST_WINDOW

    def __post_init__(self) -> None:
        self._socket = socket.create_connection(self.address, timeout=30)
        self._decoder = hpack.Decoder()
        self._received = b""
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, self.window)
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            self._socket.sendall(data)
        except OSError:
            self.closed = True

    def send_body(self, stream: int, part: bytes, flags: int = 0) -> None:
        """Sends a part of a body within the window of the connection, at most a frame."""
        assert len(part) <= min(self.credit, FRAME_SIZE), (len(part), self.credit)
        self.credit -= len(part)
        self.send(frame(DATA, flags, stream, part))

    def close(self) -> None:
        self._socket.close()
        self.closed = True

    def read(self, seconds: float) -> None:
        """Takes what came, answers pings and settings, and waits for nothing longer than so."""
        if self.closed:
            return
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            return
        except OSError:
            data = b""
        finally:
            self._socket.settimeout(30)
        if not data:
            self.closed = True
        self._received += data
        for kind, flags, stream, payload in self._frames():
            self._take(kind, flags, stream, payload)

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + length:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            payload = self._received[9 : 9 + length]
            self._received = self._received[9 + length :]
            yield kind, flags, stream, payload

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            fields = dict(self._decoder.decode(payload))
            self.statuses.setdefault(stream, int(fields.get(":status", 0)))
        elif kind == RST_STREAM:
            self.resets.add(stream)
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == WINDOW_UPDATE and stream == 0:
            self.credit += int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.closed = True


def block(method: str, path: str, headers: dict[str, str]) -> bytes:
    """A request's headers in a form that changes no state, so that every stream can send the same."""
    pseudo = {":method": method, ":scheme": "http", ":authority": "localhost", ":path": path}
    fields = [*pseudo.items(), *((name.lower(), value) for name, value in headers.items())]
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])
