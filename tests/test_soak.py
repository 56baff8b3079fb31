"""A short part of `tools/soak`: kills and power cuts of the embedded store by itself."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from support.powercut import WRITTEN, Disk, environment, read_log, read_tree
from support.server import REPOSITORY
from support.soak import ACKS, cut_power, kill_once, soak_binary
from support.wait import wait_until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def soak_example() -> Path:
    """The example, built where it is not named."""
    if "ZAQAR_SOAK_BIN" not in os.environ:
        command = ["cargo", "build", "-q", "-p", "zaqar-storage-embedded", "--example", "soak"]
        subprocess.run(command, cwd=REPOSITORY, check=True)
    return soak_binary()


def test_power_cuts_at_any_moment_lose_nothing_acknowledged(
    powercut_library: Path, soak_example: Path, tmp_path: Path, seed: int
):
    cuts = cut_power(tmp_path, powercut_library, "always", random.Random(seed), 40)
    assert cuts.faults == []
    assert cuts.states == 40
    assert cuts.checkpoints > 0, "no checkpoint took place"


def test_power_cuts_after_failed_syncs_lose_nothing_acknowledged(
    powercut_library: Path, soak_example: Path, tmp_path: Path, seed: int
):
    cuts = cut_power(tmp_path, powercut_library, "always", random.Random(seed), 40, fail_every=4)
    assert cuts.faults == []
    assert cuts.failed_syncs > 0


def test_the_same_check_finds_losses_of_a_store_that_does_not_sync(
    powercut_library: Path, soak_example: Path, tmp_path: Path, seed: int
):
    cuts = cut_power(tmp_path, powercut_library, "never", random.Random(seed), 40)
    assert cuts.faults, "no power cut lost anything although nothing was synced"


def test_kills_lose_nothing_acknowledged(soak_example: Path, tmp_path: Path, seed: int):
    choose = random.Random(seed)
    for mode in ("always", "interval", "never"):
        for number in range(20):
            assert kill_once(tmp_path / mode, mode, choose) == [], (mode, number)


def test_a_recovered_log_is_durable_before_anything_follows_it(
    powercut_library: Path, soak_example: Path, tmp_path: Path, seed: int
):
    """What a killed process has left may be in the system's memory alone. If the power failed while the
    next process writes after it, the disk would show a hole before a commit: a loss that was none."""
    directory, log = tmp_path / "live", tmp_path / "log"
    command = [soak_example, "load", directory, "always", str(seed), "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    acks = directory / ACKS
    try:
        wait_until(lambda: acks.exists() and acks.read_text().count("posted") > 20, "it has posted")
    finally:
        process.kill()
        process.wait()
    before = read_tree(directory)
    left = before["zaqar.db-wal"]
    assert left
    watched = {**os.environ, **environment(powercut_library, directory, log)}
    subprocess.run([soak_example, "check", directory], env=watched, check=True, capture_output=True)
    # Nothing of the log is on disk, although the process saw all of it.
    disk = Disk(directory, {**before, "zaqar.db-wal": bytes(len(left))})
    wal = disk.names["zaqar.db-wal"]
    for change in read_log(log):
        written = change.kind == WRITTEN and disk.inodes.get(change.inode) is wal
        end = change.offset + len(change.data)
        if written and change.data != left[change.offset : end]:
            assert change.offset > 32, "it goes on with the log"
            assert wal.durable[: change.offset] == left[: change.offset]
            return
        disk.apply(change)
    pytest.fail("nothing was written after what was recovered")
