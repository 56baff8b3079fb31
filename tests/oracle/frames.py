"""WebSocket requests: text frames of JSON, binary frames of MessagePack, and what comes back."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from .scenario import Request, body_bytes
from .wire import DROPPED, PUSHED, Answer

#: Seconds after which a server that says nothing is silent. Ours has an answer to everything, and
#: milliseconds are enough for it: the rest is for a machine that does other things too.
_PATIENCE = 20.0
#: What stands for many letters in a frame.
_LETTERS = re.compile(r"<x (\d+)>")


class Sockets:
    """The connections of one scenario to one server, opened when they are first used."""

    def __init__(self, address: tuple[str, int], encoding: str) -> None:
        self._url = f"ws://{address[0]}:{address[1]}/"
        self._encoding = encoding
        self._open: dict[str, _Socket] = {}

    def ask(self, request: Request, headers: Mapping[str, str], target: str, body: str | None) -> Answer:
        """Does what a `WS` line says; a connection that the server ended is opened anew by the next one."""
        name = request.connection
        if name not in self._open:
            self._open[name] = _Socket(self._url)
        socket = self._open[name]
        encoding = request.encoding or self._encoding
        try:
            match target:
                case "push":
                    return socket.pushed()
                case "close":
                    self._open.pop(name).close()
                    return DROPPED
                case "frame":
                    return socket.exchange(_frame(body or "", encoding))
                case action:
                    return socket.exchange(_frame(_request(action, headers, body), encoding))
        except ConnectionClosed as error:
            self._open.pop(name)
            return Answer(0, (), f"closed {error.rcvd.code if error.rcvd else 1006}".encode())
        except TimeoutError:
            return Answer(0, (), b"silence")

    def close(self) -> None:
        """Ends all connections."""
        for socket in self._open.values():
            socket.close()


def _request(action: str, headers: Mapping[str, str], body: str | None) -> str:
    parts = [f'"action": {json.dumps(action)}', f'"headers": {json.dumps(headers)}']
    parts += [] if body is None else [f'"body": {_LETTERS.sub(lambda made: "x" * int(made[1]), body)}']
    return "{" + ", ".join(parts) + "}"


def _frame(text: str, encoding: str) -> str | bytes:
    """The frame of a JSON text. What is no JSON goes out as it is."""
    content = body_bytes(text) or b""
    if encoding == "text":
        return content.decode()
    try:
        return msgpack.packb(json.loads(content))
    except ValueError:
        return content


class _Socket:
    """One connection. Pushes come in between answers, and are kept until somebody asks for them."""

    def __init__(self, url: str) -> None:
        self._connection: ClientConnection = connect(
            url, open_timeout=_PATIENCE, close_timeout=_PATIENCE, max_size=None, compression=None, proxy=None
        )
        self._pushes: deque[Answer] = deque()

    def exchange(self, frame: str | bytes) -> Answer:
        self._connection.send(frame)
        while True:
            answer = self._receive()
            if answer.status != PUSHED:
                return answer
            self._pushes.append(answer)

    def pushed(self) -> Answer:
        return self._pushes.popleft() if self._pushes else self._receive()

    def close(self) -> None:
        with suppress(OSError):
            self._connection.close()

    def _receive(self) -> Answer:
        frame = self._connection.recv(timeout=_PATIENCE)
        kind = (("frame", "binary" if isinstance(frame, bytes) else "text"),)
        document = _decode(frame)
        try:
            status = int(document["headers"]["status"])
        except (LookupError, TypeError, ValueError):
            status = PUSHED
        return Answer(status, kind, json.dumps(document, default=_bytes).encode())


def _decode(frame: str | bytes) -> Any:
    return msgpack.unpackb(frame, strict_map_key=False) if isinstance(frame, bytes) else json.loads(frame)


def _bytes(value: object) -> object:
    """What MessagePack has and JSON has not, so that it can be compared."""
    return {"bytes": value.hex()} if isinstance(value, bytes) else repr(value)
