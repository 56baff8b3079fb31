"""HTTP by hand over a socket, for requests that no HTTP library would send."""

from __future__ import annotations

import contextlib
import json
import socket
import uuid
from dataclasses import dataclass

#: The project of raw requests that name none; a new one for each run.
PROJECT = f"raw-{uuid.uuid4()}"


@dataclass
class RawAnswer:
    """An answer as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


class RawConnection:
    """A socket on which bytes are written and answers are read."""

    def __init__(self, address: tuple[str, int], timeout: float = 15.0) -> None:
        self.socket = socket.create_connection(address, timeout)
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.socket.close()

    def send(self, *parts: bytes | str) -> None:
        data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
        self.socket.sendall(data)

    def answer(self, method: str = "GET") -> RawAnswer:
        """Reads one answer; ConnectionError when the server hung up instead."""
        line = self.reader.readline()
        if not line:
            raise ConnectionError("the server closed the connection without an answer")
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return RawAnswer(status, headers, self._body(method, status, headers))

    def _body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304) or status < 200:
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.reader.readline().split(b";")[0], 16):
                body += self.reader.read(size)
                self.reader.readline()
            self.reader.readline()
            return body
        if "content-length" in headers:
            return self.reader.read(int(headers["content-length"]))
        return self.reader.read()

    def closed_by_server(self) -> bool:
        """Whether the server hangs up within the timeout."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


def head(
    method: str,
    path: str | bytes,
    headers: dict[str, str | bytes | None] | None = None,
    *,
    project: str = PROJECT,
) -> bytes:
    """A request head with the usual headers; a header given as None is left out."""
    raw_path = path.encode() if isinstance(path, str) else path
    fields: dict[str, str | bytes | None] = {
        "Host": "localhost",
        "Client-ID": str(uuid.uuid4()),
        "X-Project-ID": project,
        **(headers or {}),
    }
    lines = [method.encode() + b" " + raw_path + b" HTTP/1.1"]
    for name, value in fields.items():
        if value is not None:
            lines.append(name.encode() + b": " + (value.encode() if isinstance(value, str) else value))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def exchange(address: tuple[str, int], request: bytes, method: str = "GET") -> RawAnswer:
    """One request on one connection; a server that answers early may leave part of it unread."""
    with RawConnection(address) as connection:
        # The answer to a refused body can arrive before the body is sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(request)
        return connection.answer(method)
