"""A webhook receiver that behaves as its paths say: well, slowly, badly."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    """What arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    #: Which of the requests with this path and body it is, from 1.
    number: int
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> dict:
        return json.loads(self.body)


class Receiver:
    """A server on a free port of the loopback address.

    The first part of a path says what it does:

    - `/ok`: 204;
    - `/then/A/B/…`: status A to the first request with a body, B to the second, the last to all others;
    - `/often`: 500 to the first request with a body, for one body in eight, and 204 to all others;
    - `/drop`: closes the connection once for each body, then 204;
    - `/slow`: sleeps for a minute, or until the receiver is closed;
    - `/endless`: 200, and a body that does not end;
    - `/headers`: 200, and headers that do not end;
    - `/garbage`: something that is not HTTP, once for each body, then 204;
    - `/redirect`: 302 to `/redirected`;
    - `/echo`: 200 with the request's `X-Auth-Token` in its body;
    - `/kept`: 204, says that it keeps the connection, and closes it.

    Whatever it says, a token that was rejected is answered 401.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.closed = threading.Event()
        self._rejected: set[str] = set()
        self._seen: Counter[tuple[str, bytes]] = Counter()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Nagle's algorithm would hold up the second part of an answer.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                request = receiver._note(self.path, dict(self.headers.items()), body)
                receiver._answer(self, request)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 1024

            def handle_error(self, *_: object) -> None:
                """Peers that leave are what some tests are about."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.scheme = "https" if tls else "http"
        if tls:
            # The handshake happens on the connection's own thread, with its first byte read.
            self.server.socket = tls.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def of(self, path: str) -> list[Request]:
        """The requests with this path, in the order of their arrival."""
        with self._lock:
            return [request for request in self.requests if request.path == path]

    def messages(self, path: str) -> list[object]:
        """The bodies of the messages that arrived at a path, each once, in the order of their arrival."""
        found = {json.dumps(request.json["body"]): None for request in self.of(path)}
        return [json.loads(body) for body in found]

    def reject(self, token: str) -> None:
        """From now on a request with this token is answered 401."""
        self._rejected.add(token)

    def _note(self, path: str, headers: dict[str, str], body: bytes) -> Request:
        with self._lock:
            self._seen[path, body] += 1
            request = Request(path, headers, body, self._seen[path, body])
            self.requests.append(request)
            return request

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        what, *rest = request.path.partition("?")[0].strip("/").split("/")
        is_first = request.number == 1
        if what in {"drop", "garbage"} and is_first:
            if what == "garbage":
                handler.wfile.write(b"\x00\xff nonsense\r\n\r\n")
            handler.close_connection = True
            return
        if what == "slow":
            self.closed.wait(60)
            handler.close_connection = True
            return
        if what in {"endless", "headers"}:
            start = b"HTTP/1.1 200 OK\r\n"
            start += b"Content-Length: 99999999999\r\n\r\n" if what == "endless" else b""
            piece = b"x" * 8192 if what == "endless" else b"X-More: " + b"x" * 1000 + b"\r\n"
            with contextlib.suppress(OSError):
                handler.wfile.write(start)
                while not self.closed.is_set():
                    handler.wfile.write(piece)
            handler.close_connection = True
            return
        status, content = 204, b""
        if request.headers.get("X-Auth-Token") in self._rejected:
            status = 401
        elif what == "echo":
            status, content = 200, f"X-Auth-Token: {request.headers.get('X-Auth-Token')}".encode()
        elif what == "then":
            status = int(rest[min(request.number, len(rest)) - 1])
        elif what == "often" and is_first and zlib.crc32(request.body) % 8 == 0:
            status = 500
        elif what == "redirect":
            status = 302
        handler.send_response(status)
        if status == 302:
            handler.send_header("Location", self.url("/redirected"))
        if status != 204:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        if what == "kept":
            handler.close_connection = True
