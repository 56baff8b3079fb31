"""The named differences: reads differences.toml, and matches what a run found against it."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .compare import Difference
from .scenario import Request

FILE = Path(__file__).with_name("differences.toml")


@dataclass(frozen=True)
class Group:
    """A chapter of the compatibility page."""

    id: str
    title: str


@dataclass(frozen=True)
class Match:
    """Which differences an entry covers. In every text `*` stands for anything."""

    scenario: str = "*"
    request: str = "*"
    body: str | None = None
    facet: str = "*"
    original: str = "*"
    ours: str = "*"

    def covers(self, found: Found) -> bool:
        """Whether this is about what was found."""
        difference, request = found.difference, found.request
        return (
            _like(self.scenario, found.scenario)
            and _like(self.request, request.title)
            and (self.body is None or _like(self.body, request.body or ""))
            and _like(self.facet, difference.facet)
            and _like(self.original, difference.original)
            and _like(self.ours, difference.ours)
        )


@dataclass(frozen=True)
class Entry:
    """A difference that we mean: what it is, why, and where it shows."""

    id: str
    group: str
    original: str
    here: str
    reason: str
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Found:
    """A difference that a run found."""

    scenario: str
    request: Request
    difference: Difference

    def __str__(self) -> str:
        request = self.request
        body = "" if request.body is None else f" {request.body[:100]}"
        return f"{self.scenario}:{request.line} {request.title}{body}\n    {self.difference}"


@dataclass(frozen=True)
class Differences:
    """The whole file."""

    groups: tuple[Group, ...]
    entries: tuple[Entry, ...]

    def judge(self, found: list[Found]) -> Verdict:
        """Which findings no entry names, and which parts of entries name nothing that was found."""
        uses: Counter[tuple[str, int]] = Counter()
        unmatched = []
        for one in found:
            if key := self._first(one):
                uses[key] += 1
            else:
                unmatched.append(one)
        parts = [(entry.id, number) for entry in self.entries for number in range(len(entry.matches))]
        unused = [f"{entry} (match {number + 1})" for entry, number in parts if not uses[entry, number]]
        return Verdict(unmatched, unused, len(found) - len(unmatched))

    def _first(self, found: Found) -> tuple[str, int] | None:
        for entry in self.entries:
            for number, match in enumerate(entry.matches):
                if match.covers(found):
                    return entry.id, number
        return None


@dataclass(frozen=True)
class Verdict:
    """The result of a run: it passes when both lists are empty."""

    unmatched: list[Found]
    unused: list[str]
    matched: int


def load(path: Path = FILE) -> Differences:
    """Reads and checks the file: ids are unique, groups exist, nothing is empty."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    groups = tuple(Group(**group) for group in document.get("group", []))
    entries = tuple(_entry(values) for values in document.get("difference", []))
    known = {group.id for group in groups}
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise ValueError(f"two differences are called {entry.id}")
        if entry.group not in known:
            raise ValueError(f"difference {entry.id}: no group {entry.group}")
        if not all((entry.original, entry.here, entry.reason, entry.matches)):
            raise ValueError(f"difference {entry.id}: original, here, reason and match must say something")
        seen.add(entry.id)
    return Differences(groups, entries)


def _entry(values: dict) -> Entry:
    matches = tuple(Match(**match) for match in values.pop("match", []))
    return Entry(**values, matches=matches)


def _like(pattern: str, text: str) -> bool:
    """Whether the text is like the pattern. Only `*` is special: paths and JSON are full of `?` and `[`."""
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None
