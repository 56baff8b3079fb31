"""A real litestream beside the server: it keeps a read transaction open, copies the log, checkpoints by
itself and writes to a table of its own. Clients notice nothing, and what it restores is a store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.api import Api
from support.server import Server
from support.wait import wait_until

#: Beside the interpreter, where pip puts it, or of the system.
LITESTREAM = shutil.which("litestream", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


class Litestream:
    """Replicates a server's store to a directory."""

    def __init__(self, server: Server) -> None:
        self.replica = f"file://{server.root / 'replica'}"
        self.log = server.root / "litestream.log"
        self.command = [LITESTREAM, "replicate", server.data / "zaqar.db", self.replica]
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(60)

    def finish(self) -> None:
        """Copies the rest of the log."""
        database, replica = self.command[2:]
        command = [LITESTREAM, "replicate", "-once", database, replica]
        subprocess.run(command, check=True, timeout=60, capture_output=True)

    def files(self, of: str = "") -> int:
        """The number of files of its replica."""
        return len(list((self.log.parent / "replica" / of).rglob("*.ltx")))

    def has_copied(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.files() > 0

    def restore(self, to: Path) -> None:
        subprocess.run([LITESTREAM, "restore", "-o", to, self.replica], check=True, timeout=60)


@pytest.fixture
def litestream() -> type[Litestream]:
    if LITESTREAM is None:
        pytest.skip("there is no litestream: install tests/requirements.txt")
    return Litestream


def post(api: Api, count: int) -> list[str]:
    bodies = ["x" * 10_000] * 20
    return [id for _ in range(count // 20) for id in api.post("q", *bodies)]


def listed(api: Api) -> list[str]:
    ids: list[str] = []
    path: str | None = "/v2/queues/q/messages?echo=true&include_claimed=true&limit=20"
    while path:
        page = api.call("GET", path).json()
        ids += [message["id"] for message in page["messages"]]
        path = page["links"][0]["href"] if page["messages"] else None
    return ids


def test_a_store_is_usable_under_litestream(
    new_server: Callable[..., Server], litestream: type[Litestream], tmp_path: Path
):
    server = new_server().start()
    with Api(server.url) as api:
        posted = post(api, 20)
        replication = litestream(server)
        wait_until(replication.has_copied, "litestream has copied something")
        # Several times what starts a checkpoint, of either.
        for _ in range(20):
            posted += post(api, 100)
            assert api.call("GET", "/v2/ping").status_code == 204
        claim = api.call("POST", "/v2/queues/q/claims?limit=5", json={"ttl": 300, "grace": 300})
        assert claim.status_code == 201, claim.text
        server.kill()
        replication.stop()
        server.start()
        assert listed(api) == posted
        replication.start()
        posted += post(api, 300)
        assert api.call("GET", "/v2/ping").status_code == 204
        log = server.data / "zaqar.db-wal"
        assert log.stat().st_size < 100_000_000, "the log is restarted under it"
        replication.stop()
        replication.finish()
        assert listed(api) == posted
    assert "ERROR" not in server.log.read_text()
    restored = new_server()
    restored.data.mkdir()
    replication.restore(tmp_path / "zaqar.db")
    shutil.move(tmp_path / "zaqar.db", restored.data / "zaqar.db")
    restored.start()
    with Api(restored.url, api.project) as api:
        assert listed(api) == posted
        assert len(post(api, 20)) == 20


def test_a_killed_litestream_starts_over_after_the_log_was_restarted(
    new_server: Callable[..., Server], litestream: type[Litestream], tmp_path: Path
):
    """It mistakes one restart of the log for its own, and then does not copy what was written before."""
    server = new_server().start()
    with Api(server.url) as api:
        posted = [id for _ in range(4) for id in api.post("q", *range(1000))]
        replication = litestream(server)
        # Only once: a second one would hide what is missing.
        wait_until(lambda: replication.files("ltx/9"), "litestream has made a snapshot")
        # More than the log had before it was restarted the last time: nothing older is behind it.
        posted += post(api, 100)
        copied = replication.files("ltx/0")
        wait_until(lambda: replication.files("ltx/0") > copied, "litestream copies the log")
        replication.process.send_signal(signal.SIGSTOP)
        # In pages that nothing writes to later.
        assert api.call("DELETE", f"/v2/queues/q/messages?ids={','.join(posted[:20])}").status_code == 204
        server.kill()
        replication.stop(signal.SIGKILL)
        server.start()
        copied = replication.files("ltx/0")
        replication.start()
        wait_until(lambda: replication.files("ltx/0") > copied, "litestream goes on")
        posted += post(api, 20)
        replication.stop()
        replication.finish()
    assert server.stop() == 0, server.log_tail()
    restored = new_server()
    restored.data.mkdir()
    replication.restore(tmp_path / "zaqar.db")
    shutil.move(tmp_path / "zaqar.db", restored.data / "zaqar.db")
    restored.start()
    with Api(restored.url, api.project) as api:
        assert listed(api) == posted[20:]
