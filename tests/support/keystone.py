"""Just enough of Keystone for a client to log in and find the messaging endpoint."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeKeystone:
    """Gives every user a token of one project, and a catalog with one messaging service."""

    def __init__(self, messaging_url: str, project: str) -> None:
        self.project = project
        self.messaging_url = messaging_url
        keystone = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if self.path == "/":
                    self.answer(300, {"versions": {"values": [keystone.version()]}})
                else:
                    self.answer(200, {"version": keystone.version()})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(201, {"token": keystone.token()}, {"X-Subject-Token": "a-token"})

            def answer(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                fields = {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    **(headers or {}),
                }
                for name, value in fields.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        # The interval is how long a stop takes.
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> FakeKeystone:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def version(self) -> dict:
        return {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": self.url + "v3/"}]}

    def token(self) -> dict:
        domain = {"id": "default", "name": "Default"}
        endpoint = {"id": "e", "interface": "public", "region": "here", "region_id": "here"}
        return {
            "methods": ["password"],
            "issued_at": "2020-01-01T00:00:00.000000Z",
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "user": {"id": "user", "name": "user", "domain": domain},
            "project": {"id": self.project, "name": self.project, "domain": domain},
            "roles": [{"id": "m", "name": "member"}],
            "catalog": [
                {
                    "id": "s",
                    "type": "messaging",
                    "name": "zaqar",
                    "endpoints": [{**endpoint, "url": self.messaging_url}],
                }
            ],
        }
