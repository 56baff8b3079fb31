"""The Guru Meditation Report: asked for by SIGUSR2 or a file, laid out as the original's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.server import Server

RULER = "=" * 72
SECTION = re.compile(
    rf"^{RULER}\n====(?P<title>.{{64}})====\n{RULER}\n(?P<body>.*?)(?=^{RULER}$|\Z)", re.M | re.S
)
THREAD = re.compile(r"^------(?= *Thread #\d+ *------$).{60}------$", re.M)
PROCESS = re.compile(r"^Process \d+ \(under \d+\) \[ run by: \S+ \(\d+\), state: [a-z-]+ \]$", re.M)
OPTION = re.compile(r"^  [\w\-]+ = ", re.M)
GROUP = re.compile(r"^\n[\w:.\-]+: $", re.M)

#: The sections of the original, in their order; the second one of threads is for greenlets only.
ORIGINAL = ["Package", "Threads", "Processes", "Configuration"]
OWN = ["Stores", "Pools", "Transports", "Tasks", "Deliveries", "Recent Errors"]

MAKE_ORIGINAL = """
from oslo_reports import guru_meditation_report


class Version:
    def vendor_string(self):
        return "v"

    def product_string(self):
        return "p"

    def version_string_with_package(self):
        return "1"


print(guru_meditation_report.TextGuruMeditation(Version()).run())
"""


def parse(report: str) -> dict[str, str]:
    """The sections of a report by title; whatever is not as the original lays it out fails."""
    title, *sections = SECTION.finditer(report)
    assert title["title"] == f"{'Guru Meditation': ^64}"
    assert title["body"] == "|" * 72 + "\n\n\n"
    for section in sections:
        name = section["title"].strip()
        assert section["title"] == f"{name: ^64}"
    found = {section["title"].strip(): section["body"] for section in sections}
    assert re.fullmatch(r"product = .+\nvendor = .+\nversion = .+\n", found["Package"])
    assert THREAD.search(found["Threads"])
    assert PROCESS.search(found["Processes"])
    assert GROUP.search(found["Configuration"])
    assert OPTION.search(found["Configuration"])
    assert found["Configuration"].lstrip("\n").startswith("default: \n  ")
    return found


def until(what: Callable[[], object], timeout: float = 60.0) -> object:
    """What the function returns once it is true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout} s")


def whole(directory: Path) -> list[str]:
    """The complete reports of a directory."""
    found = sorted(directory.glob("zaqar-server_gurumeditation_*"))
    texts = [file.read_text() for file in found]
    return [text for text in texts if f"{'Recent Errors': ^64}" in text and text.endswith("\n\n")]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where reports go."""
    path = tmp_path / "reports"
    path.mkdir()
    return path


@pytest.fixture
def server(tmp_path: Path, directory: Path):
    options = {
        "oslo_reports": {"log_dir": directory, "file_event_handler": tmp_path / "touched"},
        "signed_url": {"secret_key": "the-first-secret"},
        "notification": {"smtp_user_password": "the-second-secret"},
        "unknown": {"api_token": "the-third-secret"},
    }
    server = Server(tmp_path / "server", options=options).start()
    yield server
    assert server.stop() == 0, server.log_tail()


def ask(server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGUSR2)


def test_a_report_is_laid_out_as_the_originals(server: Server, directory: Path):
    made = subprocess.run(
        [sys.executable, "-c", MAKE_ORIGINAL], capture_output=True, check=True, text=True, timeout=60
    )
    original = parse(made.stdout)
    assert [title for title in original if title != "Green Threads"] == ORIGINAL
    ask(server)
    (text,) = until(lambda: whole(directory))
    ours = parse(text)
    assert list(ours) == ORIGINAL + OWN
    assert made.stdout[:500].split("\n")[:6] == text.split("\n")[:6]
    assert "embedded (both roles):\n  state = reachable\n" in ours["Stores"]
    assert f"http://127.0.0.1:{server.port}" in ours["Transports"]
    assert "sweeper of the message store: running for " in ours["Tasks"]
    assert "unknown" in ours["Recent Errors"], "the warning of a section that is unknown"
    assert "\ndrivers:transport:wsgi: \n" in ours["Configuration"]
    assert f"\n  port = {server.port}\n" in ours["Configuration"]


def test_no_secret_is_in_a_report(server: Server, directory: Path):
    ask(server)
    (text,) = until(lambda: whole(directory))
    assert "secret_key = ***" in text
    assert "smtp_user_password = ***" in text
    assert not re.search("the-(first|second|third)-secret", text)
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_asks_for_a_report_whenever_it_is_touched(server: Server, tmp_path: Path, directory: Path):
    touched = tmp_path / "touched"
    for number in (1, 2):
        # Another time of modification than before, whatever the file system's clock shows.
        touched.touch()
        stamp = time.time() + number * 10
        os.utime(touched, (stamp, stamp))
        until(lambda least=number: len(whole(directory)) >= least)


def test_reports_under_load_fail_no_request(server: Server, directory: Path):
    """Signals that come while a report is written may share the next one; none is lost altogether."""
    stop, failures, done = threading.Event(), [], []
    headers = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": "p"}

    def post() -> None:
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/v2/queues/q/messages", json={"messages": [{"body": 1}]})
                (done if answer.status_code == 201 else failures).append(answer.status_code)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        ask(server)
        time.sleep(0.01)
    until(lambda: whole(directory))
    stop.set()
    for thread in threads:
        thread.join()
    assert done
    assert not failures
    # What was asked for last is being written.
    until(lambda: len(list(directory.iterdir())) == len(whole(directory)))
    for report in whole(directory):
        parse(report)


def test_without_a_directory_a_report_goes_to_standard_error(new_server):
    server = new_server()
    server.start()
    ask(server)
    until(lambda: f"{'Recent Errors': ^64}" in server.log.read_text())
    start = server.log.read_text().index(RULER)
    assert "Guru Meditation" in server.log.read_text()[start:]
