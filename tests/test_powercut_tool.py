"""The power cut itself, on small programs whose writes and syncs are known."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from support.powercut import PAGE, Disk, LogError, Tree, environment, read_tree, write_tree

#: What each program may use: `d` is the watched directory.
PREAMBLE = """
import os
def sync_dir():
    fd = os.open(d, os.O_RDONLY | os.O_DIRECTORY); os.fsync(fd); os.close(fd)
def make(name):
    return os.open(os.path.join(d, name), os.O_RDWR | os.O_CREAT, 0o644)
"""


@pytest.fixture
def after(powercut_library: Path, tmp_path: Path):
    """Runs a program on a directory and returns the disk it left."""

    def run(program: str, before: Tree | None = None) -> Disk:
        directory, log = tmp_path / "d", tmp_path / "log"
        write_tree(directory, before or {})
        code = f"d = {str(directory)!r}\n{PREAMBLE}{program}"
        watched = {**os.environ, **environment(powercut_library, directory, log)}
        subprocess.run([sys.executable, "-c", code], env=watched, check=True)
        disk = Disk(directory, before or {}).replay(log)
        # Kept whole, the log must tell exactly what the directory now holds.
        assert stored(disk.surviving(random.Random(0), keep=1)) == stored(read_tree(directory))
        return disk

    return run


def stored(tree: Tree) -> Tree:
    """All but SQLite's shared memory, which the disk fills with noise."""
    return {path: content for path, content in tree.items() if not path.endswith("-shm")}


def nothing_kept(disk: Disk) -> Tree:
    return disk.surviving(random.Random(0), keep=0)


def test_synced_bytes_survive(after):
    disk = after("fd = make('f'); os.write(fd, b'abc'); os.pwrite(fd, b'X', 1); os.fsync(fd); sync_dir()")
    assert nothing_kept(disk) == {"f": b"aXc"}
    assert disk.unsynced() == 0


def test_data_sync_counts_as_sync(after):
    disk = after("fd = make('f'); os.write(fd, b'abc'); os.fdatasync(fd); sync_dir()")
    assert nothing_kept(disk) == {"f": b"abc"}


def test_bytes_written_after_the_sync_are_lost(after):
    disk = after("fd = make('f'); os.write(fd, b'abc'); os.fsync(fd); os.write(fd, b'def'); sync_dir()")
    assert nothing_kept(disk) == {"f": b"abc"}
    assert disk.unsynced() == 1


def test_an_overwrite_without_sync_leaves_the_old_bytes(after):
    disk = after("fd = make('f'); os.pwrite(fd, b'new', 0)", {"f": b"old"})
    assert nothing_kept(disk) == {"f": b"old"}


def test_pages_of_one_write_survive_independently(after):
    disk = after("fd = make('f'); os.write(fd, b'x' * 40960); sync_dir()")
    content = disk.surviving(random.Random(1), keep=0.4)["f"]
    pages = [content[start : start + PAGE] for start in range(0, len(content), PAGE)]
    assert {page[:1] for page in pages} == {b"x", b"\0"}
    assert all(len(set(page)) == 1 for page in pages)


def test_a_new_name_needs_its_directory_synced(after):
    disk = after("fd = make('f'); os.write(fd, b'abc'); os.fsync(fd)")
    assert nothing_kept(disk) == {}


def test_a_sync_does_not_cover_later_names(after):
    disk = after("make('a'); sync_dir(); make('b')")
    assert set(nothing_kept(disk)) == {"a"}


def test_an_appended_file_grows_at_its_end(after):
    program = "fd = os.open(d + '/f', os.O_WRONLY | os.O_APPEND); os.write(fd, b'def'); os.fsync(fd)"
    assert nothing_kept(after(program, {"f": b"abc"})) == {"f": b"abcdef"}


def test_truncation_is_a_change_like_any_other(after):
    program = "fd = make('f'); os.ftruncate(fd, 1)"
    assert nothing_kept(after(program, {"f": b"abc"})) == {"f": b"abc"}


def test_a_synced_truncation_stays(after):
    program = "fd = make('f'); os.ftruncate(fd, 1); os.fsync(fd)"
    assert nothing_kept(after(program, {"f": b"abc"})) == {"f": b"a"}


def test_a_rename_is_whole_or_not_at_all(after):
    program = "os.rename(d + '/new', d + '/f')"
    before: Tree = {"f": b"old", "new": b"new"}
    assert nothing_kept(after(program, before)) == before


def test_a_removed_file_comes_back_without_a_synced_directory(after):
    assert nothing_kept(after("os.unlink(d + '/f')", {"f": b"abc"})) == {"f": b"abc"}
    assert nothing_kept(after("os.unlink(d + '/f'); sync_dir()", {"f": b"abc"})) == {}


def test_new_directories_need_a_sync_too(after):
    program = "os.mkdir(d + '/sub'); sync_dir(); make('sub/f')"
    assert nothing_kept(after(program)) == {"sub": None}


def test_vectored_writes_are_logged(after):
    disk = after(
        "fd = make('f'); os.writev(fd, [b'ab', b'cd']); os.pwritev(fd, [b'X'], 0); os.fsync(fd); sync_dir()"
    )
    assert nothing_kept(disk) == {"f": b"Xbcd"}


SQLITE = """
import sqlite3
def connect():
    connection = sqlite3.connect(d + '/x.db', isolation_level=None)
    connection.execute('PRAGMA journal_mode=WAL'); connection.execute('PRAGMA synchronous=%s')
    return connection
connections = [connect(), connect()]
connections[0].execute('CREATE TABLE t (n)')
for n in range(1000):
    connections[n %% 2].execute('INSERT INTO t VALUES (?)', (n,))
os._exit(0)
"""


def rows(tree: Tree, directory: Path) -> list[int]:
    write_tree(directory, tree)
    connection = sqlite3.connect(directory / "x.db")
    try:
        return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]
    finally:
        connection.close()


def test_sqlite_that_syncs_loses_no_commit(after, tmp_path):
    disk = after(SQLITE % "FULL")
    for seed in range(10):
        image = disk.surviving(random.Random(seed))
        assert rows(image, tmp_path / f"image-{seed}") == list(range(1000)), seed


def test_sqlite_without_sync_loses_commits(after, tmp_path):
    disk = after(SQLITE % "OFF")
    with pytest.raises(sqlite3.DatabaseError):
        rows(nothing_kept(disk), tmp_path / "image")


@pytest.mark.parametrize(
    "program",
    [
        "fd = make('f'); os.write(fd, b'abc'); import mmap; mmap.mmap(fd, 3)",
        "fd = make('f'); os.dup(fd)",
        "make('f'); os.link(d + '/f', d + '/g')",
    ],
    ids=["mapping", "duplicate", "link"],
)
def test_what_the_log_cannot_follow_is_refused(after, program):
    with pytest.raises(LogError):
        after(program)


def test_a_failed_sync_loses_pages_for_good(powercut_library: Path, tmp_path: Path):
    directory, log = tmp_path / "d", tmp_path / "log"
    directory.mkdir()
    program = """
fd = make('f'); sync_dir(); os.write(fd, b'x' * 40960)
try:
    os.fsync(fd); raise SystemExit('the sync did not fail')
except OSError as error:
    assert error.errno == 5
os.fsync(fd)
"""
    watched = {**os.environ, **environment(powercut_library, directory, log)}
    watched["POWERCUT_FAIL_SYNCS"] = "3"
    program = "g = make('g'); os.fsync(g); os.fsync(g)" + program
    code = f"d = {str(directory)!r}\n{PREAMBLE}{program}"
    subprocess.run([sys.executable, "-c", code], env=watched, check=True)
    disk = Disk(directory, {}, random.Random(1)).replay(log)
    assert disk.failed_syncs == 1
    content = nothing_kept(disk)["f"]
    pages = [content[start : start + PAGE] for start in range(0, 40960, PAGE)]
    assert {page[:1] for page in pages} >= {b"x", b"\0"}, "some are on disk, some are not"


def test_a_failed_sync_is_reported_to_every_descriptor_that_is_open(powercut_library: Path, tmp_path: Path):
    directory, log = tmp_path / "d", tmp_path / "log"
    directory.mkdir()
    program = """
def outcome(fd):
    try:
        os.fsync(fd); return True
    except OSError as error:
        assert error.errno == 5; return False
one, other = make('f'), make('f')
assert [outcome(one), outcome(one), outcome(one)] == [True, True, False]
later = make('f')
assert outcome(later), 'it was opened after the failure'
assert [outcome(other), outcome(other)] == [False, True], 'it is told once'
"""
    watched = {**os.environ, **environment(powercut_library, directory, log)}
    watched["POWERCUT_FAIL_SYNCS"] = "3"
    code = f"d = {str(directory)!r}\n{PREAMBLE}{program}"
    subprocess.run([sys.executable, "-c", code], env=watched, check=True)
    assert Disk(directory, {}).replay(log).failed_syncs == 1, "only one has lost something"
