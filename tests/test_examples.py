"""The examples in Python and JavaScript; those in Rust have tests of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import EXTERNAL_URL
from support.server import REPOSITORY, Server

EXAMPLES = REPOSITORY / "examples"
PYTHON = [sys.executable]
LANGUAGES = {"python": PYTHON, "javascript": ["node"]}
SUFFIX = {"python": "py", "javascript": "mjs"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if EXTERNAL_URL:
        pytest.skip("needs a server process of its own, and ZAQAR_TEST_URL names a running one")
    server = Server(tmp_path)
    server.start()
    yield server
    assert server.stop() == 0, server.log_tail()


def run(language: str, program: str, *arguments: str) -> str:
    command = LANGUAGES[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    path = EXAMPLES / language / f"{program}.{SUFFIX[language]}"
    ran = subprocess.run([*command, path, *arguments], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("worker", LANGUAGES)
@pytest.mark.parametrize("producer", LANGUAGES)
def test_a_worker_does_what_a_producer_posts(producer: str, worker: str, server: Server):
    posted = run(producer, "producer", server.url, "demo", "jobs", "12")
    assert len(posted.splitlines()) == 12
    done = run(worker, "worker", server.url, "demo", "jobs")
    assert done.splitlines() == [f"did job {number}" for number in range(1, 13)]
    assert run(worker, "worker", server.url, "demo", "jobs") == ""


def test_every_example_is_in_the_readme():
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name != "README.md":
            assert f"`{path.name}" in text, path.name
    for path in (EXAMPLES / "programs/src/bin").iterdir():
        assert f"`{path.stem}`" in text, path.stem
