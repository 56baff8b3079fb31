"""Power cuts under load: `sync = always` loses nothing, and the same check catches `sync = never`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.api import Api
from support.history import check
from support.load import Load, save
from support.powercut import Disk, Tree, environment, read_tree, write_tree
from support.server import Server, ServerFailed
from test_crash import load_until_killed, rounds

CUTS = 6
LOG = "powercut.log"


def cut_power(server: Server, load: Load, library: Path, choose: random.Random) -> None:
    """Runs the load, kills the server, and leaves on its directory what a disk could have kept."""
    before = start_watched(server, load, library)
    run_and_cut(server, load, choose, before)


def start_watched(server: Server, load: Load, library: Path) -> Tree:
    """Starts the server and lists what it has; the directory as it was before."""
    log = server.root / LOG
    log.unlink(missing_ok=True)
    before = read_tree(server.data)
    server.environment = environment(library, server.data, log)
    server.start()
    load.list_all(server.url)
    return before


def run_and_cut(server: Server, load: Load, choose: random.Random, before: Tree) -> None:
    load_until_killed(server, load, choose.uniform(0.2, 1.5))
    disk = Disk(server.data, before).replay(server.root / LOG)
    # From nothing at all to nearly all of what was not synced.
    write_tree(server.data, disk.surviving(choose, keep=choose.choice((0, 0.4, 0.4, 0.9))))


def prepared(new_server: Callable[..., Server], sync: str) -> Server:
    server = new_server(sync=sync, options={"transport": {"max_messages_per_page": 200}})
    # The name of the data directory itself is not the server's to sync.
    server.data.mkdir()
    return server


@pytest.mark.timeout(600)
def test_synced_data_survives_power_cuts(
    new_server: Callable[..., Server], powercut_library: Path, tmp_path: Path, seed: int
):
    choose = random.Random(seed)
    load = Load(random=random.Random(seed + 1), clears=True)
    server = prepared(new_server, "always")
    for _ in rounds(load, CUTS):
        cut_power(server, load, powercut_library, choose)
    server.environment = {}
    server.start()
    load.list_all(server.url)

    save(load.history, tmp_path / "history")
    assert check(load.history) == []


@pytest.mark.timeout(600)
def test_the_same_check_finds_losses_of_a_server_that_does_not_sync(
    new_server: Callable[..., Server], powercut_library: Path, seed: int
):
    choose = random.Random(seed)
    load = Load(random=random.Random(seed + 1), clears=True)
    server = prepared(new_server, "never")
    cut_power(server, load, powercut_library, choose)
    for _ in range(CUTS):
        try:
            before = start_watched(server, load, powercut_library)
        except (ServerFailed, AssertionError, httpx.HTTPError):
            # The disk held so little that the server could not make a store of it: lost as well.
            return
        if check(load.history):
            return
        run_and_cut(server, load, choose, before)
    pytest.fail("no power cut lost anything although nothing was synced")


def test_sync_interval_loses_nothing_older_than_the_interval(
    new_server: Callable[..., Server], powercut_library: Path, seed: int
):
    server = new_server(
        sync="interval", options={"drivers:message_store:embedded": {"sync_interval_ms": 200}}
    )
    server.data.mkdir()
    log = server.root / LOG
    server.environment = environment(powercut_library, server.data, log)
    server.start()
    with Api(server.url) as api:
        posted = [api.post("q", n)[0] for n in range(20)]
        # Far longer than the interval, and nothing else comes: it must sync by itself.
        time.sleep(4)
        server.kill()
        disk = Disk(server.data, {}).replay(log)
        write_tree(server.data, disk.surviving(random.Random(seed), keep=0))
        server.environment = {}
        server.start()
        page = api.call("GET", "/v2/queues/q/messages?echo=true&limit=20").json()
        assert [message["id"] for message in page["messages"]] == posted
