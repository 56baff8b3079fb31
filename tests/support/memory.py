"""What a process occupies, as Linux tells it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from support.server import Server

MIB = 1 << 20


def resident(server: Server) -> int:
    """Bytes of the server's process that are in memory."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


class Peak:
    """The most that a server occupied while a test ran, looked at twenty times a second."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.before = self.bytes = resident(server)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self.bytes - self.before

    def _watch(self) -> None:
        while not self._stop.is_set() and self._server.running():
            self.bytes = max(self.bytes, resident(self._server))
            time.sleep(0.05)
