"""What a disk can hold after a power cut: only what was synced, and a random part of the rest.

powercut/powercut.c logs what a process does below a directory; this module replays the log. A file's
content is durable up to its last sync, a name up to the last sync of its directory. Of what came later
the disk may have kept any page or sector on its own, the size without the data, and any first part
of a directory's changes.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096

_HEAD = struct.Struct("=IIQQII")
_MAGIC = 0x50435554
OPENED, CREATED, WRITTEN, TRUNCATED, SYNCED, DIR_SYNCED = range(1, 7)
RENAMED, UNLINKED, MADE_DIR, UNFOLLOWED, SYNC_FAILED = range(7, 12)

#: A directory's content: path below it to bytes, or None for a directory.
Tree = dict[str, "bytes | None"]


class LogError(Exception):
    """The log does not tell the whole truth."""


@dataclass
class Record:
    """One line of the log; `position` is where it begins."""

    position: int
    kind: int
    inode: int
    offset: int
    path: str
    data: bytes


@dataclass
class File:
    """What is certainly on disk, and what was written since."""

    durable: bytearray = field(default_factory=bytearray)
    #: Changes in order: log position, offset, bytes; bytes of None cut or extend the file to the
    #: offset.
    pending: list[tuple[int, int, bytes | None]] = field(default_factory=list)

    def sync(self, began: int) -> None:
        for position, offset, data in self.pending:
            if position < began:
                _apply(self.durable, offset, data)
        self.pending = [change for change in self.pending if change[0] >= began]

    def fail(self, began: int, choose: random.Random) -> None:
        """A failed sync: the system takes what was written for clean. Half of it is on disk, and no
        later sync vouches for the rest."""
        for position, offset, data in self.pending:
            if position < began:
                for at, part in _pieces(offset, data, PAGE):
                    if choose.random() < 0.5:
                        _apply(self.durable, at, part)
        self.pending = [change for change in self.pending if change[0] >= began]

    def surviving(self, choose: random.Random, keep: float, piece: int = PAGE) -> bytes:
        content = bytearray(self.durable)
        for _, offset, data in self.pending:
            for at, part in _pieces(offset, data, piece):
                if choose.random() < keep:
                    _apply(content, at, part)
                elif part is not None and at + len(part) > len(content) and choose.random() < keep:
                    # The new size is on disk and the data is not.
                    content.extend(bytes(at + len(part) - len(content)))
        return bytes(content)


@dataclass
class NameChange:
    """A change of a directory: `file` appears as `path`, or `path` goes; a rename takes `gone` along."""

    position: int
    path: str
    file: File | None
    is_dir: bool = False
    gone: str | None = None

    @property
    def parent(self) -> str:
        return os.path.dirname(self.path)

    def apply(self, names: dict[str, File], dirs: set[str]) -> None:
        if self.gone is not None:
            names.pop(self.gone, None)
        if self.file is None:
            names.pop(self.path, None)
            dirs.discard(self.path)
        else:
            names[self.path] = self.file
            if self.is_dir:
                dirs.add(self.path)


class Disk:
    """A directory's files and names, replayed from a log over what was there before."""

    def __init__(self, root: Path, before: Tree, choose: random.Random | None = None) -> None:
        """`choose` decides what failed syncs lose."""
        self.root = os.path.realpath(root)
        self.choose = choose or random.Random(0)
        self.failed_syncs = 0
        files = {path: File(bytearray(content or b"")) for path, content in before.items()}
        self.dirs = {path for path, content in before.items() if content is None}
        #: Names as the process sees them, and as the disk has them for certain.
        self.names = dict(files)
        self.durable_names = dict(files)
        self.inodes: dict[int, File] = {}
        self.changes: list[NameChange] = []

    def replay(self, log: Path) -> Disk:
        for record in read_log(log):
            self.apply(record)
        return self

    def unsynced(self) -> int:
        """How many changes of files and names a power cut can take back."""
        return len(self.changes) + sum(len(file.pending) for file in self.names.values())

    def surviving(self, choose: random.Random, keep: float = 0.4, piece: int = PAGE) -> Tree:
        """One state of the disk after the cut; `keep` is the chance of each unsynced piece."""
        names = dict(self.durable_names)
        dirs = set(self.dirs)
        lost: set[str] = set()
        for change in self.changes:
            if choose.random() >= keep:
                lost.add(change.parent)
            if change.parent not in lost:
                change.apply(names, dirs)
        tree: Tree = {path: None for path in dirs}
        for path, file in names.items():
            if path in dirs:
                continue
            content = file.surviving(choose, keep, piece)
            # SQLite promises to need nothing of it, so whatever the disk has there is as good.
            tree[path] = choose.randbytes(len(content)) if path.endswith("-shm") else content
        return tree

    def apply(self, record: Record) -> None:
        if record.kind == UNFOLLOWED:
            raise LogError(f"{record.path} was changed in a way that the log does not follow")
        if record.kind == OPENED:
            if (file := self.names.get(self._below(record.path))) is not None:
                self.inodes[record.inode] = file
        elif record.kind == CREATED:
            self.inodes[record.inode] = File()
            self._name(record, self.inodes[record.inode])
        elif record.kind in (WRITTEN, TRUNCATED):
            data = record.data if record.kind == WRITTEN else None
            self.inodes[record.inode].pending.append((record.position, record.offset, data))
        elif record.kind == SYNCED:
            self.inodes[record.inode].sync(record.offset)
        elif record.kind == SYNC_FAILED:
            self.failed_syncs += 1
            self.inodes[record.inode].fail(record.offset, self.choose)
        elif record.kind == DIR_SYNCED:
            self._sync_dir(self._below(record.path), record.offset)
        elif record.kind == RENAMED:
            moved = self.names[self._below(record.path)]
            self._name(record, moved, path=record.data.decode(), gone=self._below(record.path))
        elif record.kind == UNLINKED:
            self._name(record, None)
        elif record.kind == MADE_DIR:
            self._name(record, File(), is_dir=True)

    def _name(
        self,
        record: Record,
        file: File | None,
        *,
        path: str | None = None,
        gone: str | None = None,
        is_dir: bool = False,
    ) -> None:
        change = NameChange(record.position, self._below(path or record.path), file, is_dir, gone)
        self.changes.append(change)
        # Directories never leave: the process's own names matter for files only.
        change.apply(self.names, set())

    def _sync_dir(self, path: str, began: int) -> None:
        for change in self.changes:
            if change.position < began and change.parent == path:
                change.apply(self.durable_names, self.dirs)
        self.changes = [
            change for change in self.changes if change.position >= began or change.parent != path
        ]

    def _below(self, path: str) -> str:
        below = os.path.relpath(path, self.root)
        return "" if below == "." else below


def read_log(log: Path) -> Iterator[Record]:
    """The records of a log; one cut short by the kill is dropped."""
    content = log.read_bytes()
    position = 0
    while position + _HEAD.size <= len(content):
        magic, kind, inode, offset, path_length, data_length = _HEAD.unpack_from(content, position)
        if magic != _MAGIC:
            raise LogError(f"no record at {position} of {log}")
        start = position + _HEAD.size
        end = start + path_length + data_length
        if end > len(content):
            return
        path = content[start : start + path_length].decode()
        yield Record(position, kind, inode, offset, path, content[start + path_length : end])
        position = end


def read_tree(root: Path) -> Tree:
    """A directory as it is."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")
    }


def write_tree(root: Path, tree: Tree) -> None:
    """Puts a tree in the place of a directory."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for path in sorted(path for path, content in tree.items() if content is None):
        (root / path).mkdir(parents=True, exist_ok=True)
    for path, content in tree.items():
        # A file whose directory did not survive is lost with it.
        if content is not None and (root / path).parent.is_dir():
            (root / path).write_bytes(content)


def build_library(directory: Path, name: str = "powercut") -> Path:
    """Compiles a library to preload, by default the one that writes the log; CC names the compiler."""
    library = directory / f"{name}.so"
    source = Path(__file__).resolve().parents[1] / name / f"{name}.c"
    flags = ["-O2", "-Wall", "-Wextra", "-fPIC", "-shared"]
    subprocess.run(
        [os.environ.get("CC", "cc"), *flags, "-o", library, source, "-ldl", "-lpthread"], check=True
    )
    return library


def environment(library: Path, directory: Path, log: Path) -> dict[str, str]:
    """What a process needs in its environment to be watched."""
    return {"LD_PRELOAD": str(library), "POWERCUT_DIR": str(directory), "POWERCUT_LOG": str(log)}


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset + len(data or b"")
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data


def _pieces(offset: int, data: bytes | None, size: int) -> Iterator[tuple[int, bytes | None]]:
    """A change cut into pieces of this size."""
    if data is None:
        yield offset, None
        return
    start = 0
    while start < len(data):
        end = start + size - (offset + start) % size
        yield offset + start, data[start:end]
        start = end
