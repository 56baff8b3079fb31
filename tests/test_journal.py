"""As a service of systemd, each line on standard error begins with its priority."""

from __future__ import annotations

import re


def lines_with(new_server, stream_of) -> list[str]:
    """What the server logs when `JOURNAL_STREAM` names the file that `stream_of` makes of its log."""
    # Unauthenticated on all addresses: that is warned of.
    server = new_server(options={"drivers:transport:wsgi": {"bind": "0.0.0.0"}})
    server.log.touch()
    named = stream_of(server.log).stat()
    server.environment["JOURNAL_STREAM"] = f"{named.st_dev}:{named.st_ino}"
    server.start()
    assert server.stop() == 0
    return server.log.read_text().splitlines()


def test_lines_for_the_journal_have_their_priority(new_server):
    lines = lines_with(new_server, lambda log: log)
    levels = {match[1]: match[2] for match in (re.match(r"<(\d)>\S+ +(\w+) ", line) for line in lines)}
    assert levels == {"6": "INFO", "4": "WARN"}


def test_lines_that_go_elsewhere_have_none(new_server):
    """A service may pass its environment to a server whose standard error it has redirected."""
    lines = lines_with(new_server, lambda log: log.parent)
    assert len(lines) > 1
    assert not any(line.startswith("<") for line in lines)
