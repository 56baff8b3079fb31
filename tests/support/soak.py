"""Kills and power cuts of the embedded store by itself: the load and the check are examples/soak.rs."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.powercut import CREATED, OPENED, WRITTEN, Disk, Tree, environment, read_log, write_tree
from support.server import REPOSITORY

ACKS = "acks"


def soak_binary() -> Path:
    """The example, built by `cargo build -p zaqar-storage-embedded --example soak`."""
    return Path(os.environ.get("ZAQAR_SOAK_BIN", REPOSITORY / "target/debug/examples/soak"))


@dataclass
class Acknowledged:
    """What the lines of an `acks` file say."""

    posting: set[str] = field(default_factory=set)
    posted: set[str] = field(default_factory=set)
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    claims: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> Acknowledged:
        found = cls()
        # A line without its end was not written whole, so nothing was done yet, or more may be.
        for line in text.split("\n")[:-1]:
            verb, *words = line.split(" ")
            if verb in ("posting", "posted", "deleting", "deleted"):
                getattr(found, verb).update(words)
            elif verb == "claimed":
                claim, *keys = words
                for key in filter(None, keys):
                    if key in found.claims:
                        found.faults.append(f"{key} was claimed twice")
                    if key in found.deleted:
                        found.faults.append(f"{key} was claimed after its deletion")
                    found.claims[key] = claim
        return found

    def compare(self, shown: str) -> list[str]:
        """What is wrong with the output of a check."""
        lines = shown.splitlines()
        faults = [*self.faults, *(line for line in lines if line.startswith("bad "))]
        if "checked" not in lines:
            faults.append("the check did not come to its end")
        messages = [line.split(" ")[1:] for line in lines if line.startswith("message ")]
        there = Counter(key for key, _ in messages)
        faults += [f"{key} is there {count} times" for key, count in there.items() if count > 1]
        faults += [f"{key} is lost" for key in self.posted - self.deleting if key not in there]
        faults += [f"{key} is back" for key in self.deleted if key in there]
        faults += [f"{key} came from nowhere" for key in there if key not in self.posting]
        for key, claim in messages:
            if key in self.claims and self.claims[key] != claim:
                faults.append(f"{key} has lost its claim")
        return faults


def check(directory: Path) -> str:
    """Opens a store and shows it; an error in that is part of what is shown."""
    command = [soak_binary(), "check", directory]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stdout + (f"bad check: {done.stderr}\n" if done.returncode else "")


def kill_once(directory: Path, mode: str, choose: random.Random, most: float = 0.4) -> list[str]:
    """Runs the load, kills it, and compares what is there with what was acknowledged."""
    steps = choose.choice((5, 20, 100_000))
    command = [soak_binary(), "load", directory, mode, str(choose.randrange(10**9)), str(steps)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(choose.uniform(0, most))
    process.kill()
    _, said = process.communicate()
    acks = directory / ACKS
    known = Acknowledged.read(acks.read_text()) if acks.exists() else Acknowledged()
    faults = known.compare(check(directory))
    if process.returncode not in (0, -9):
        faults.append(f"the load failed: {said}")
    return faults


@dataclass
class Cuts:
    """What the cuts of one log have shown."""

    states: int = 0
    checkpoints: int = 0
    failed_syncs: int = 0
    faults: list[str] = field(default_factory=list)


def record(
    root: Path, library: Path, mode: str, choose: random.Random, before: Tree, fail_every: int = 0
) -> Path:
    """Runs the load on a tree under the watch of the library; the log of what it wrote."""
    directory, log = root / "live", root / "log"
    log.unlink(missing_ok=True)
    write_tree(directory, before)
    steps = choose.choice((3, 40, 100_000))
    command = [soak_binary(), "load", directory, mode, str(choose.randrange(10**9)), str(steps)]
    watched = {**os.environ, **environment(library, directory, log)}
    if fail_every:
        watched["POWERCUT_FAIL_SYNCS"] = str(fail_every)
    process = subprocess.Popen(command, env=watched, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(choose.uniform(0.3, 2.0))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return log


def cut_positions(log: Path, choose: random.Random, count: int) -> set[int]:
    """Which records the power fails after: many where a store opens and closes."""
    total = sum(1 for _ in read_log(log))
    edge = max(1, count // 4)
    chosen = [choose.randrange(min(total, 80)) for _ in range(edge)]
    chosen += [total - 1 - choose.randrange(min(total, 80)) for _ in range(edge)]
    chosen += [choose.randrange(total) for _ in range(count - 2 * edge)]
    return set(chosen[:count])


def states(
    root: Path, log: Path, choose: random.Random, count: int, before: Tree, cuts: Cuts
) -> Iterator[tuple[Tree, str]]:
    """States of the disk at many moments of one log, each with the acknowledgements before it."""
    disk = Disk(root / "live", before, choose)
    at = cut_positions(log, choose, count)
    acks, acks_inode, file_inode = (before.get(ACKS) or b"").decode(), None, None
    for number, change in enumerate(read_log(log)):
        disk.apply(change)
        if change.kind in (OPENED, CREATED):
            name = os.path.basename(change.path)
            acks_inode = change.inode if name == ACKS else acks_inode
            file_inode = change.inode if name == "zaqar.db" else file_inode
        elif change.kind == WRITTEN and change.inode == acks_inode:
            acks += change.data.decode()
        elif change.kind == WRITTEN and change.inode == file_inode:
            cuts.checkpoints += 1
        if number in at:
            keep, piece = choose.choice((0, 0.1, 0.5, 0.9)), choose.choice((512, 4096))
            tree = disk.surviving(choose, keep=keep, piece=piece)
            # Whoever was told remembers it.
            tree[ACKS] = acks.encode()
            yield tree, acks
    cuts.failed_syncs += disk.failed_syncs


def cut_power(
    root: Path, library: Path, mode: str, choose: random.Random, count: int, fail_every: int = 0
) -> Cuts:
    """Some rounds, each on what a cut of the one before has left, with many cuts each."""
    cuts, before = Cuts(), {}
    while cuts.states < count:
        log = record(root, library, mode, choose, before, fail_every)
        following = before
        for tree, acks in states(root, log, choose, min(20, count - cuts.states), before, cuts):
            write_tree(root / "image", tree)
            faults = Acknowledged.read(acks).compare(check(root / "image"))
            cuts.states += 1
            cuts.faults += [f"state {cuts.states}: {fault}" for fault in faults]
            following = tree
        # Begins anew now and then, so that creation is cut, too, and the lists stay short.
        before = {} if choose.random() < 0.3 else following
    return cuts
