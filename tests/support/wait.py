"""Waiting for what others do."""

from __future__ import annotations

import time
from collections.abc import Callable

#: How long a slow machine may take for what servers do by themselves, in seconds.
PATIENCE = 120.0


def wait_until(is_so: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.05)
