"""README.md: the server without a configuration, and each command line does what the page prints."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import EXTERNAL_URL
from support.server import REPOSITORY, Server, server_binary

#: Where the page says that the server listens. The tests' own listens elsewhere: the port may be
#: taken.
ADDRESS = "127.0.0.1:8888"

#: A command, over as many lines as end in a backslash, and what it prints.
EXAMPLE = re.compile(r"^ {4}\$ (?P<command>(?:.*\\\n)*.*)\n(?P<printed>(?: {4}[^$ ].*\n)+)", re.M)


class Bare(Server):
    """The server, started in an empty directory without arguments."""

    def spawn(self) -> subprocess.Popen[bytes]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [server_binary()],
                cwd=self.root,
                env={**own, "HOME": str(self.root), "OS_DRIVERS_TRANSPORT_WSGI__PORT": str(self.port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.process


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    if EXTERNAL_URL:
        pytest.skip("needs a server process of its own, and ZAQAR_TEST_URL names a running one")
    server = Bare(tmp_path)
    server.start()
    yield server
    assert server.stop() == 0, server.log_tail()


def run(command: str, server: Server) -> str:
    """What a command line prints, headers with it."""
    command = command.replace(ADDRESS, f"127.0.0.1:{server.port}").replace(
        "curl ", "curl -sS --noproxy '*' ", 1
    )
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_the_examples_print_what_the_page_shows(bare: Bare):
    examples = list(EXAMPLE.finditer((REPOSITORY / "README.md").read_text()))
    assert len(examples) >= 2
    assert all(ADDRESS in example["command"] for example in examples)
    for example in examples:
        printed = run(example["command"], bare)
        for line in example["printed"].splitlines():
            # An ellipsis stands for any text; on a slow machine the age may differ, too.
            pieces = line.strip().replace('"age":0', '"age":…').split("…")
            expected = r"[^\n]+".join(map(re.escape, pieces))
            assert re.search(rf"^{expected}\r?$", printed, re.M), (line, printed)
    # The page says that the data are here.
    assert any((bare.root / "zaqar-data").iterdir())
