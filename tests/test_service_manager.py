"""systemd's protocol: notifications, the watchdog, sockets that it passes; and what SIGHUP reloads."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.redis import on_redis
from support.server import Server, server_binary
from support.websocket import WebSocket

HEADERS = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "p"}

#: Passes descriptors as 3, 4, … to a program, as systemd does: their names, the descriptors, the
#: program.
PASS = """
import os, sys
names, descriptors, program = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
for place, descriptor in enumerate(descriptors, start=100):
    os.dup2(int(descriptor), place)
for place in range(len(descriptors)):
    os.dup2(100 + place, 3 + place, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": names}
os.execv(program[0], program)
"""


class Activated(Server):
    """A server on sockets that the test holds."""

    def __init__(self, root: Path, passed: dict[str, socket.socket], **arguments) -> None:
        super().__init__(root, **arguments)
        self.passed = passed

    def spawn(self) -> subprocess.Popen[bytes]:
        self.write_config()
        descriptors = [one.fileno() for one in self.passed.values()]
        command = [sys.executable, "-c", PASS, ":".join(self.passed), ",".join(map(str, descriptors))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, server_binary(), "--config-file", self.config],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
            )
        return self.process


class Manager:
    """Receives notifications as systemd does."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(60)

    def until(self, wanted: str) -> str:
        """The first message with this line; others before it are passed over."""
        while True:
            message = self.socket.recv(4096).decode()
            if wanted in message.splitlines():
                return message

    def rest(self) -> str:
        """The messages that were not received yet; the server has ended."""
        messages = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(4096).decode())
        return "\n".join(messages)


@pytest.fixture
def manager(tmp_path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.socket.close()


def until(what: Callable[[], object], timeout: float = 60.0) -> object:
    """What the function returns once it is true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout} s")


def test_the_service_manager_is_notified_of_each_phase_and_that_the_server_is_alive(new_server, manager):
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "300000"}
    server = new_server(environment=environment)
    server.spawn()
    manager.until("READY=1")
    # Whoever waited for it can connect.
    assert httpx.get(server.url + "/v2/ping", headers=HEADERS).status_code == 204
    manager.until("WATCHDOG=1")
    manager.until("WATCHDOG=1")
    server.process.send_signal(signal.SIGHUP)
    reloading = manager.until("RELOADING=1")
    assert re.search(r"^MONOTONIC_USEC=\d+$", reloading, re.M), reloading
    manager.until("READY=1")
    server.process.terminate()
    manager.until("STOPPING=1")
    assert server.process.wait(60) == 0


def test_a_failed_start_never_notifies_ready(new_server, manager):
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        server = new_server(port=port, environment={"NOTIFY_SOCKET": str(manager.path)})
        assert server.run_to_exit()[0] == 1
    assert manager.rest() == ""


def hang_up(server: Server, wanted: str = "configuration reloaded") -> list[str]:
    """What a reload logs, until this text."""
    before = len(server.log_tail(1_000_000))
    server.process.send_signal(signal.SIGHUP)

    def lines() -> list[str]:
        logged = server.log_tail(1_000_000)[before:].splitlines()
        last = next((place for place, line in enumerate(logged) if wanted in line), -1)
        return logged[: last + 1]

    return list(until(lines))


def test_a_reload_before_the_server_serves_does_not_notify_ready(new_server, manager):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        server = new_server(
            options=on_redis(f"redis://127.0.0.1:{silent.getsockname()[1]}"),
            environment={"NOTIFY_SOCKET": str(manager.path)},
        )
        server.spawn()
        connection, _ = silent.accept()
        with connection:
            hang_up(server)
            server.process.terminate()
            server.process.wait(60)
    notified = manager.rest()
    assert "STOPPING=1" in notified
    assert "READY=1" not in notified
    assert "RELOADING=1" not in notified


def test_a_reload_while_the_server_stops_does_not_notify_ready(new_server, manager):
    server = new_server(environment={"NOTIFY_SOCKET": str(manager.path)})
    server.start()
    manager.until("READY=1")
    # A request whose body has not arrived delays the end.
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /v2/queues/q/messages HTTP/1.1\r\nHost: q\r\nX-Project-ID: p\r\n"
            b"Client-ID: " + HEADERS["Client-ID"].encode() + b"\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b"100" in connection.recv(4096)
        server.process.terminate()
        manager.until("STOPPING=1")
        hang_up(server)
    assert server.process.wait(60) == 0
    assert manager.rest() == ""


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


def test_both_transports_serve_on_the_sockets_that_are_passed(tmp_path, new_server):
    del new_server  # skips where a running server is tested
    with listening() as websocket, listening() as wsgi:
        server = Activated(tmp_path, {"websocket": websocket, "wsgi": wsgi}, websocket=True)
        server.port, server.websocket_port = wsgi.getsockname()[1], websocket.getsockname()[1]
        # What the file says is not bound.
        server.sections["drivers:transport:wsgi"]["port"] = 1
        server.sections["drivers:transport:websocket"]["port"] = 1
        server.start()
        with WebSocket(server.websocket_url) as opened:
            opened.ask("queue_list", 200)
        assert server.stop() == 0
        assert "listening on a socket of the service manager" in server.log_tail()


def test_a_restart_rejects_and_loses_no_request(tmp_path, new_server):
    del new_server
    with listening() as wsgi:
        server = Activated(tmp_path, {"zaqar-server.socket": wsgi})
        server.port = wsgi.getsockname()[1]
        server.sections["drivers:transport:wsgi"]["port"] = 1
        server.start()
        stop, failures, posted = threading.Event(), [], []

        def post(number: int) -> None:
            count = 0
            while not stop.is_set():
                body = {"messages": [{"body": [number, count], "ttl": 300}]}
                try:
                    answer = httpx.post(
                        f"{server.url}/v2/queues/q/messages", json=body, headers=HEADERS, timeout=60
                    )
                    if answer.status_code != 201:
                        failures.append(answer)
                    posted.append((number, count))
                except httpx.TransportError as error:
                    failures.append(error)
                count += 1

        clients = [threading.Thread(target=post, args=(number,)) for number in range(4)]
        for client in clients:
            client.start()
        for _ in range(2):
            before = len(posted)
            until(lambda: len(posted) > before + 20)  # noqa: B023 # called before the loop goes on
            assert server.stop(60) == 0
            server.spawn()
        before = len(posted)
        until(lambda: len(posted) > before + 20)
        stop.set()
        for client in clients:
            client.join()
        assert failures == []
        stats = httpx.get(f"{server.url}/v2/queues/q/stats", headers=HEADERS, timeout=60).json()
        assert stats["messages"]["free"] == len(posted)
        assert server.stop() == 0


def test_a_socket_without_a_transport_is_named(tmp_path, new_server):
    del new_server
    with listening() as first, listening() as second:
        server = Activated(tmp_path, {"wsgi": first, "websocket": second})
        server.port = first.getsockname()[1]
        server.start()
        assert server.stop() == 0
    assert "is used by no transport" in server.log_tail()
    assert 'name="websocket"' in server.log_tail()


def test_sighup_applies_log_levels_and_names_what_needs_a_restart(new_server):
    server = new_server()
    server.start()

    def reload() -> str:
        before = len(server.log_tail(1_000_000))
        server.write_config()
        server.process.send_signal(signal.SIGHUP)

        def line() -> str | None:
            said = server.log_tail(1_000_000)[before:]
            return next((one for one in said.splitlines() if " reload" in one or "in force" in one), None)

        return str(until(line))

    assert 'changed="nothing" needs_restart="nothing"' in reload()
    server.sections["DEFAULT"]["debug"] = True
    server.sections["transport"] = {"max_message_ttl": 600}
    server.sections["signed_url"] = {"secret_key": "hidden"}
    line = reload()
    assert 'changed="[DEFAULT] debug"' in line
    assert 'needs_restart="[signed_url] secret_key, [transport] max_message_ttl"' in line
    assert "hidden" not in server.log_tail(1_000_000)
    httpx.get(server.url + "/v2/queues/q/claims/none", headers=HEADERS)
    until(lambda: " DEBUG " in server.log_tail(1_000_000))
    # Options that need a restart are named each time, those that were applied are not.
    assert 'changed="nothing" needs_restart="[signed_url] secret_key, [transport] max' in reload()
    # The ttl that the server was started with still holds.
    message = {"messages": [{"body": 1, "ttl": 3600}]}
    posted = httpx.post(server.url + "/v2/queues/q/messages", json=message, headers=HEADERS)
    assert posted.status_code == 201

    server.sections["DEFAULT"]["debug"] = "perhaps"
    line = reload()
    assert "ERROR" in line
    assert "perhaps" in line
    assert httpx.get(server.url + "/v2/ping", headers=HEADERS).status_code == 204
    server.sections["DEFAULT"]["debug"] = False
    assert 'changed="[DEFAULT] debug"' in reload()
    assert os.waitpid(server.process.pid, os.WNOHANG) == (0, 0)


def test_quotas_that_a_reload_rejects_are_not_named_as_changed(new_server):
    options = {"quotas": {"max_queues": 1}}
    server = new_server(options=options)
    server.start()

    def create(name: str) -> int:
        return httpx.put(f"{server.url}/v2/queues/{name}", headers=HEADERS).status_code

    assert [create("a"), create("b")] == [201, 403]
    server.sections["quotas"] |= {"max_queues": 2, "projects_file": "missing.yaml"}
    server.sections["DEFAULT"]["debug"] = True
    server.write_config()
    logged = hang_up(server)
    assert any("the previous quotas stay in force" in line for line in logged)
    assert 'changed="[DEFAULT] debug"' in logged[-1]
    assert create("b") == 403
    del server.sections["quotas"]["projects_file"]
    server.write_config()
    assert 'changed="[quotas] max_queues"' in hang_up(server)[-1]
    assert create("b") == 201
