"""A headless Chromium, driven over its DevTools protocol, and a file server for its pages."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

#: Seconds for its start and for what a page does; a busy machine takes many for the first.
TIMEOUT = 60.0

_FLAGS = (
    "--headless",
    # The tests run as root in containers, where there is neither a sandbox nor much shared memory.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


class Browser:
    """One process with one page, on a profile that is new and empty."""

    def __init__(self, root: Path) -> None:
        self.profile = root / "profile"
        self.log = root / "chromium.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [_program(), *_FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        #: What went wrong in the page and nobody caught.
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._connection = connect(self._page(), open_timeout=TIMEOUT, max_size=None, proxy=None)
        self._command("Page.enable")
        self._command("Runtime.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.process.terminate()
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def open(self, url: str) -> None:
        """Loads a page."""
        answer = self._command("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, script: str):
        """The value of a JavaScript expression in the page."""
        answer = self._command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT
        while not self.evaluate(condition):
            shown = self.evaluate("document.body?.innerText")
            assert time.monotonic() < deadline, f"not within {TIMEOUT} s: {condition}\n{self.errors}\n{shown}"
            time.sleep(0.05)

    def _command(self, method: str, **parameters: object) -> dict:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=TIMEOUT))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _page(self) -> str:
        """Where the page's own DevTools are."""
        port_file = self.profile / "DevToolsActivePort"
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline and self.process.poll() is None:
            lines = port_file.read_text().splitlines() if port_file.exists() else []
            if len(lines) == 2:
                targets = httpx.get(f"http://127.0.0.1:{lines[0]}/json/list", trust_env=False).json()
                pages = [one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page"]
                if pages:
                    return pages[0]
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"Chromium does not start:\n{self.log.read_text(errors='replace')[-4000:]}")


def _program() -> str:
    """A browser that can read what the tests write: as a snap it sees no profile below /tmp."""
    is_snap = Path("/snap/bin/chromium").exists()
    for name in ("google-chrome", *([] if is_snap else ["chromium", "chromium-browser"])):
        if program := shutil.which(name):
            return program
    pytest.skip("there is no browser: install Chromium (not as a snap) or Google Chrome")


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serves a folder on the loopback address; its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
