"""Writes docs/compatibility.md from differences.toml, so that the page says what the suite checks."""

from __future__ import annotations

from pathlib import Path

from .differences import Differences, load

PAGE = Path(__file__).resolve().parents[2] / "docs/compatibility.md"

_HEAD = """\
# Compatibility

`zaqar-server` speaks the v2 API of OpenStack Zaqar. `tests/oracle` sends the same requests, over
HTTP and over WebSocket, to the original (23.0.1 on its MongoDB driver) and to this server, and
compares status, headers and bodies. These are all the differences that it knows, and each is
meant; any other fails the suite.

This page is generated from `tests/oracle/differences.toml` by `python -m oracle --document`.
"""


def page(differences: Differences) -> str:
    """The page's text."""
    parts = [_HEAD]
    for group in differences.groups:
        rows = [entry for entry in differences.entries if entry.group == group.id]
        if not rows:
            continue
        parts.append(f"\n## {group.title}\n\n| the original | here | why |\n|---|---|---|\n")
        parts += [f"| {_cell(row.original)} | {_cell(row.here)} | {_cell(row.reason)} |\n" for row in rows]
    return "".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def write(path: Path = PAGE) -> None:
    """Writes the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(load()), encoding="utf-8")
