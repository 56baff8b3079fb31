"""Waiting for what others do."""

from __future__ import annotations

import time
from collections.abc import Callable

#: How long a slow machine may take for what servers do by themselves, in seconds.
TIMEOUT = 120.0


def wait_until(is_so: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.05)
