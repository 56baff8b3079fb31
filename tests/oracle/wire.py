"""HTTP by hand: sends exactly what a scenario says, and reads the answer as it came."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

#: An answer that takes longer than this, in seconds, is none.
TIMEOUT = 60.0


@dataclass(frozen=True)
class Answer:
    """An answer; header names in lower case, in the order they came. Status 0: the connection was dropped."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


#: What stands for an answer that never came.
DROPPED = Answer(0, (), b"")

#: The status of what a server sends by itself, as a WebSocket server does to subscribers.
PUSHED = 1


def exchange(
    address: tuple[str, int],
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None,
    timeout: float = TIMEOUT,
) -> Answer:
    """One request on a connection of its own; OSError when no answer comes in time."""
    fields = {"Host": "127.0.0.1", "Connection": "close", **headers}
    if body is not None and not any(name.lower() == "content-length" for name in fields):
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    with socket.create_connection(address, timeout) as connection:
        # The answer to a refused body can arrive before the body is sent.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head + (body or b""))
        return _parse(_read_to_end(connection), method)


def _read_to_end(connection: socket.socket) -> bytes:
    data = bytearray()
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    return bytes(data)


def _parse(data: bytes, method: str) -> Answer:
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        return DROPPED
    start, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    answer = Answer(int(start.split()[1]), headers, rest)
    if method != "HEAD" and (answer.header("transfer-encoding") or "").lower() == "chunked":
        return Answer(answer.status, headers, _unchunk(rest))
    return answer


def _unchunk(data: bytes) -> bytes:
    body = bytearray()
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return bytes(body)
        body += data[:length]
        data = data[length + 2 :]
