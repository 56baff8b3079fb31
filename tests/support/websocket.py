"""A WebSocket client: requests and their answers over one connection, in JSON or MessagePack, and pushes."""

from __future__ import annotations

import json
import uuid
from collections import deque
from dataclasses import dataclass

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ENCODINGS = ("json", "messagepack")

#: Seconds until what a server does at once must have happened, on a machine that does other things
#: too.
TIMEOUT = 30.0

#: Seconds until the subscriptions of a dead server are gone: its lease must end, and a sweep come
#: by.
LEASE_AND_SWEEP = 60.0


@dataclass(frozen=True)
class Reply:
    """An answer: its status and body, the request as the server repeats it, and the frame's encoding."""

    status: int
    body: object
    request: dict
    encoding: str


@dataclass(frozen=True)
class Push:
    """What the server sent by itself."""

    document: dict
    encoding: str

    @property
    def body(self) -> object:
        return self.document["body"]


class WebSocket:
    """One connection, one client of one project."""

    def __init__(
        self, url: str, project: str | None = None, encoding: str = "json", origin: str | None = None
    ) -> None:
        self.encoding = encoding
        self.headers = {
            "Client-ID": str(uuid.uuid4()),
            "X-Project-ID": project or f"project-{uuid.uuid4()}",
        }
        self.connection = connect(
            url,
            open_timeout=TIMEOUT,
            close_timeout=TIMEOUT,
            max_size=None,
            compression=None,
            proxy=None,
            # A connection that a test does not read must not end by itself: it is the server that
            # asks.
            ping_interval=None,
            origin=origin,
        )
        self._pushes: deque[Push] = deque()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def call(
        self, action: str, body: object = None, headers: dict | None = None, encoding: str = ""
    ) -> Reply:
        """Sends a request and waits for its answer; a body of None is left out."""
        return self.exchange(self.frame(action, body, headers, encoding))

    def ask(self, action: str, status: int, **body: object):
        """Sends a request that must be answered with this status; the body of the answer."""
        reply = self.call(action, body)
        assert reply.status == status, reply
        return reply.body

    def exchange(self, frame: str | bytes) -> Reply:
        """Sends a frame and waits for an answer."""
        self.connection.send(frame)
        return self.answer()

    def answer(self) -> Reply:
        """The next answer; pushes before it are kept."""
        while True:
            encoding, document = self._receive(TIMEOUT)
            if "request" in document:
                return Reply(document["headers"]["status"], document["body"], document["request"], encoding)
            self._pushes.append(Push(document, encoding))

    def push(self, timeout: float = TIMEOUT) -> Push:
        """The next push; TimeoutError when none comes."""
        if self._pushes:
            return self._pushes.popleft()
        encoding, document = self._receive(timeout)
        assert "request" not in document, f"an answer that nobody waits for: {document}"
        return Push(document, encoding)

    def pushed(self, count: int) -> list[object]:
        """The bodies of the next pushes."""
        return [self.push().body for _ in range(count)]

    def closed(self) -> tuple[int, str]:
        """Waits until the server ends the connection; the code and the reason, 1006 when it gave none."""
        try:
            while True:
                self._receive(TIMEOUT)
        except ConnectionClosed as error:
            return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")

    def frame(
        self, action: str, body: object, headers: dict | None = None, encoding: str = ""
    ) -> str | bytes:
        document = {"action": action, "headers": self.headers if headers is None else headers}
        if body is not None:
            document["body"] = body
        return encode(document, encoding or self.encoding)

    def _receive(self, timeout: float) -> tuple[str, dict]:
        frame = self.connection.recv(timeout=timeout)
        if isinstance(frame, bytes):
            return "messagepack", msgpack.unpackb(frame)
        return "json", json.loads(frame)


def encode(document: object, encoding: str) -> str | bytes:
    """A document as a frame."""
    return msgpack.packb(document) if encoding == "messagepack" else json.dumps(document)
