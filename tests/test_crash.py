"""SIGKILL under load, again and again, on one directory: what was acknowledged holds."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.history import check
from support.load import DEAD_QUEUE, TOPIC, Load, save
from support.server import Server

KILLS = 20

#: What the load does.
OPERATIONS = (
    *("post", "claim", "delete", "pop", "release", "renew"),
    *("subscribe", "change", "confirm", "unsubscribe", "patch", "purge", "remove"),
)


def load_until_killed(server: Server, load: Load, seconds: float) -> None:
    """Runs the load on a started server and kills it while requests are under way."""

    async def kill() -> None:
        await asyncio.sleep(seconds)
        killed.append(time.monotonic())
        server.kill()

    killed: list[float] = []
    asyncio.run(load.run(server.address, kill))
    losses = load.take_losses()
    assert losses, "no connection was open when the server was killed"
    assert losses[0][0] >= killed[0], f"a connection was lost before the kill: {losses[0]}"


@pytest.mark.timeout(600)
def test_kills_under_load_lose_nothing(new_server: Callable[..., Server], tmp_path: Path, seed: int):
    load = Load(random=random.Random(seed), clears=True)
    server = new_server(options={"transport": {"max_messages_per_page": 200}})
    for _ in rounds(load, KILLS):
        server.start()
        load.list_all(server.url)
        load_until_killed(server, load, load.random.uniform(0.1, 1.2))
        # Once more, while it opens what the kill has left.
        server.spawn()
        time.sleep(load.random.uniform(0, 0.2))
        server.kill()
    server.start()
    load.list_all(server.url)

    save(load.history, tmp_path / "history")
    assert check(load.history) == []
    assert load.server_errors() == {}


def rounds(load: Load, least: int) -> Iterator[int]:
    """So many rounds, and more on a slow machine, until all happened in them that could have been lost."""
    for number in range(4 * least):
        if number >= least and not rare(load, least):
            break
        yield number
    assert rare(load, least) == [], load.answers


def rare(load: Load, least: int) -> list[str]:
    """What the load did fewer times than this."""
    counts = {operation: load.acknowledged(operation) for operation in OPERATIONS}
    counts["dead letter"] = len(load.listed(DEAD_QUEUE))
    counts["message of the topic"] = len(load.listed(TOPIC))
    counts["delayed message"] = len(load.held_back())
    return [what for what, count in counts.items() if count < least]
