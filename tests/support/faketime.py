"""A clock for one server process that tests set: libfaketime around the binary."""

from __future__ import annotations

from pathlib import Path

#: Where Debian's package `libfaketime` puts it; a directory for each architecture.
LIBRARIES = "lib/*/faketime/libfaketimeMT.so.1"


def library() -> Path | None:
    """libfaketime for programs with threads, if it is installed."""
    return next(iter(sorted(Path("/usr").glob(LIBRARIES))), None)


class WallClock:
    """The wall clock that a process sees, as its distance in seconds from the machine's.

    Only the wall clock: timers and the time since boot stay right, as they do when somebody sets a
    machine's clock.
    """

    def __init__(self, path: Path, ahead: int = 0) -> None:
        self._path = path
        self.set(ahead)

    def set(self, ahead: int) -> None:
        # Renamed into place: a reader sees the old text or the new one.
        new = self._path.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        new.rename(self._path)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
