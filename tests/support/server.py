"""The server as a process of its own: configuration, start, stop, kill."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).resolve().parents[2]

#: Sections of a configuration: section name to option to value.
Sections = dict[str, dict[str, object]]


class ServerFailed(Exception):
    """The process ended, or did not answer, before it was ready."""


def server_binary() -> Path:
    """The binary under test: ZAQAR_SERVER_BIN, else the debug build."""
    return Path(os.environ.get("ZAQAR_SERVER_BIN", REPOSITORY / "target/debug/zaqar-server"))


def free_port() -> int:
    """A port of the loopback address that nobody listens on.

    Systems give higher ports to connections: one that waits for the server could get that port for its own
    side, and be connected to itself. Tests in Rust take lower ones.
    """
    # Each worker has ports of its own, so that a server that is started again finds its port free.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 14
    for _ in range(10_000):
        port = 25_000 + 500 * worker + random.randrange(500)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


class Server:
    """One server process on one directory; it can be started again after it ended."""

    def __init__(
        self,
        root: Path,
        *,
        sync: str = "always",
        options: Sections | None = None,
        environment: dict[str, str] | None = None,
        port: int | None = None,
        websocket: bool = False,
        arguments: Sequence[str | Path] = (),
    ) -> None:
        self.root = root
        self.arguments = arguments
        self.data = root / "data"
        self.config = root / "zaqar.conf"
        self.log = root / "server.log"
        self.port = port or free_port()
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.sections: Sections = {
            "DEFAULT": {"admin_mode": True},
            "drivers:transport:wsgi": {"bind": "127.0.0.1", "port": self.port},
            "drivers": {"message_store": "embedded", "management_store": "embedded"},
            "drivers:message_store:embedded": {"path": self.data, "sync": sync},
        }
        self.websocket_port = free_port() if websocket else None
        if websocket:
            self.sections["drivers"]["transport"] = "wsgi, websocket"
            self.sections["drivers:transport:websocket"] = {"bind": "127.0.0.1", "port": self.websocket_port}
        for section, values in (options or {}).items():
            self.sections.setdefault(section, {}).update(values)
        root.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        assert self.websocket_port is not None, "a server without the WebSocket transport"
        return f"ws://127.0.0.1:{self.websocket_port}/"

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def write_config(self) -> None:
        lines = []
        for section, values in self.sections.items():
            lines.append(f"[{section}]")
            lines += [f"{option} = {value}" for option, value in values.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts the process and returns at once."""
        self.write_config()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [server_binary(), "--config-file", self.config, *self.arguments],
                cwd=self.root,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # SIGXFSZ stays ignored, as Python has it: at a limit a write then fails, as on a
                # full disk.
                restore_signals=False,
            )
        return self.process

    def start(self, timeout: float = 90.0) -> Server:
        """Starts the process and returns when it answers."""
        self.spawn()
        self.wait_until_ready(timeout)
        return self

    def wait_until_ready(self, timeout: float = 90.0) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                raise ServerFailed(f"exit code {self.process.returncode}:\n{self.log_tail()}")
            try:
                if httpx.get(self.url + "/", timeout=2).status_code == 300 and self._listens():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        self.kill()
        raise ServerFailed(f"no answer within {timeout} s:\n{self.log_tail()}")

    def _listens(self) -> bool:
        """Whether the WebSocket port can be connected to, if there is one."""
        if self.websocket_port is None:
            return True
        try:
            socket.create_connection(("127.0.0.1", self.websocket_port), timeout=2).close()
        except OSError:
            return False
        return True

    def wait_for_websocket(self, timeout: float = 30.0) -> None:
        """Until the WebSocket port can be connected to; for a server without HTTP."""
        deadline = time.monotonic() + timeout
        while not self._listens():
            assert time.monotonic() < deadline, self.log_tail()
            time.sleep(0.02)

    def run_to_exit(self, timeout: float = 30.0) -> tuple[int, str]:
        """Starts a process that is expected to end by itself; its exit code and what it said."""
        before = self.log.stat().st_size if self.log.exists() else 0
        process = self.spawn()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return code, self.log.read_bytes()[before:].decode(errors="replace")

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_tail(self, length: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-length:] if self.log.exists() else ""


class RunningServer:
    """A server that somebody else started: it can be asked, not stopped."""

    def __init__(self, url: str, websocket_url: str = "") -> None:
        parsed = httpx.URL(url)
        self.url = url.rstrip("/")
        self.websocket_url = websocket_url
        self.address = (parsed.host, parsed.port or 80)

    def running(self) -> bool:
        return True
