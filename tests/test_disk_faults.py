"""Syncs, writes and space that fail under a running server, by a preloaded library."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.api import Api
from support.server import Server
from support.wait import wait_until


class Faults:
    """A server whose disk fails by rules that the test sets."""

    def __init__(self, server: Server, library: Path) -> None:
        self.server = server
        self.control = server.root / "faults"
        self.control.write_text("")
        server.data.mkdir()
        server.environment = {
            "LD_PRELOAD": str(library),
            "IOFAULT_DIR": str(server.data),
            "IOFAULT_CONTROL": str(self.control),
        }
        server.start()

    def set(self, *rules: str) -> None:
        fresh = self.control.with_suffix(".new")
        fresh.write_text("".join(f"{rule}\n" for rule in rules))
        fresh.replace(self.control)

    def lines(self, text: str) -> list[str]:
        return [line for line in self.server.log.read_text().splitlines() if text in line]


@pytest.fixture
def faults(new_server: Callable[..., Server], iofault_library: Path) -> Callable[..., Faults]:
    return lambda **arguments: Faults(new_server(**arguments), iofault_library)


def post(api: Api, queue: str = "q", size: int = 100) -> int:
    document = {"messages": [{"ttl": 3600, "body": "x" * size}]}
    return api.call("POST", f"/v2/queues/{queue}/messages", json=document).status_code


def ping(api: Api) -> int:
    return api.call("GET", "/v2/ping").status_code


def test_a_failed_sync_of_an_interval_refuses_changes_until_the_log_is_safe(faults):
    options = {"drivers:message_store:embedded": {"sync_interval_ms": 20}}
    disk = faults(sync="interval", options=options)
    with Api(disk.server.url) as api:
        assert (post(api), ping(api)) == (201, 204)
        disk.set("sync zaqar.db-wal")
        # Its own sync is to come, and then it is known.
        wait_until(lambda: post(api) == 503, "changes are refused")
        assert ping(api) == 503
        assert len(disk.lines("the log cannot be synced")) <= 2, "once, and at most every 5 s"
        disk.set()
        wait_until(lambda: post(api) == 201, "changes are accepted")
        assert ping(api) == 204
        assert disk.lines("the log is synced again")


#: Posts of almost 1 MB, which fill the log quickly.
LARGE = {"transport": {"max_messages_post_size": 1_048_576}}


def test_failed_checkpoints_are_reported(faults):
    disk = faults(sync="never", options=LARGE)
    with Api(disk.server.url) as api:
        assert ping(api) == 204
        disk.set("write zaqar.db")

        def is_told() -> bool:
            assert post(api, size=900_000) == 201, disk.server.log_tail()
            return ping(api) == 503

        wait_until(is_told, "the failure shows")
        assert disk.lines("the log cannot be copied into the file")
        disk.set()
        wait_until(lambda: post(api) == 201 and ping(api) == 204, "checkpoints work")
        assert disk.lines("the log can be copied into the file again")


def test_commits_whose_sync_failed_do_not_stop_the_next_start(faults):
    """Frames of failed commits stay behind the end of the log. They were never acknowledged, and the
    next start does not take them for lost changes. A post that is repeated is there once."""
    disk = faults(options=LARGE)
    with Api(disk.server.url) as api:
        assert post(api) == 201
        # Each failed commit is shorter than the one before, so that the ends of all of them stay.
        sizes = (900_000, 500_000, 200_000)
        for size in sizes:
            disk.set("sync zaqar.db-wal")
            assert post(api, size=size) == 503
            disk.set()
            assert post(api, size=100) == 201
        for rule in ("sync zaqar.db-wal", "write zaqar.db-wal"):
            disk.set(rule)
            assert post(api, size=5000) == 503
            disk.set()
        assert post(api, size=5000) == 201
        disk.server.kill()
        disk.server.start()
        messages = api.call("GET", "/v2/queues/q/messages?echo=true&limit=20").json()["messages"]
        assert [len(message["body"]) for message in messages] == [100, 100, 100, 100, 5000]
        assert post(api) == 201


def test_on_a_full_disk_deletion_works(faults):
    disk = faults()
    with Api(disk.server.url) as api:
        ids = [api.post("q", "x" * 10_000)[0] for _ in range(300)]
        used = sum(file.stat().st_size for file in disk.server.data.iterdir() if file.name[-4:] != "-shm")
        disk.set(f"space {used + 200_000}")
        posted = 0
        while (status := post(api, size=50_000)) == 201:
            posted += 1
            assert posted < 1000, "the limit is never reached"
        assert status == 503
        refused = api.call("POST", "/v2/queues/q/messages", json={"messages": [{"ttl": 60, "body": 1}]})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert ping(api) == 503
        for id in ids[:20]:
            assert api.call("DELETE", f"/v2/queues/q/messages/{id}").status_code == 204
        claim = api.call("POST", "/v2/queues/q/claims", json={"ttl": 300, "grace": 300})
        assert claim.status_code == 201, claim.text
        popped = api.call("DELETE", "/v2/queues/q/messages?pop=5")
        assert (popped.status_code, len(popped.json()["messages"])) == (200, 5)
        assert api.call("PUT", "/v2/queues/other").status_code == 503
        assert api.call("DELETE", "/v2/queues/q").status_code == 204
        for _ in range(20):
            assert post(api) in (201, 503)
        assert len(disk.lines("the disk is full")) == 1, "one line for a change of state"
        disk.set()
        wait_until(lambda: post(api, "new") == 201, "posts are accepted")
        assert ping(api) == 204
        assert len(disk.lines("the disk has space again")) == 1


@pytest.mark.parametrize("stop", [Server.stop, Server.kill], ids=["stopped", "killed"])
def test_a_store_on_a_full_disk_starts_and_can_be_emptied(faults, stop: Callable[[Server], object]):
    disk = faults()
    with Api(disk.server.url) as api:
        ids = [api.post("q", "x" * 10_000)[0] for _ in range(100)]
        project = api.project
    stop(disk.server)
    files = [file for file in disk.server.data.iterdir() if not file.name.endswith("-shm")]
    disk.set(f"space {sum(file.stat().st_size for file in files)}")
    disk.server.start()
    with Api(disk.server.url, project) as api:
        if stop is Server.stop:
            # The log, which is gone, needs space from the first change on.
            assert disk.lines("the store is opened in the space of the reserve")
            assert post(api) == 503
        for id in ids:
            assert api.call("GET", f"/v2/queues/q/messages/{id}").status_code == 200
            assert api.call("DELETE", f"/v2/queues/q/messages/{id}").status_code == 204
        disk.set()
        wait_until(lambda: post(api) == 201, "posts are accepted")


def test_a_lock_of_another_process_is_named(faults):
    disk = faults()
    with Api(disk.server.url) as api:
        assert post(api) == 201
        other = sqlite3.connect(disk.server.data / "zaqar.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert post(api) == 503
        began = time.monotonic()
        assert ping(api) == 503
        assert time.monotonic() - began < 4, "it is known by now: nobody waits for 5 s again"
        assert disk.lines("another process has locked the store's file")
        assert not disk.lines("the store is overloaded")
        other.execute("ROLLBACK")
        wait_until(lambda: post(api) == 201 and ping(api) == 204, "the lock is gone")
        assert disk.lines("no longer locked by another process")


def test_a_reader_with_an_old_snapshot_causes_a_warning(faults):
    disk = faults(sync="never", options=LARGE)
    with Api(disk.server.url) as api:
        assert post(api) == 201
        other = sqlite3.connect(disk.server.data / "zaqar.db", isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM messages").fetchone()
        for _ in range(400):
            assert post(api, size=900_000) == 201
            if disk.lines("holds an old snapshot"):
                break
        assert disk.lines("holds an old snapshot")
        other.execute("ROLLBACK")
