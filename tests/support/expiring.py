"""Producers and readers on one queue while messages expire right where the readers stand.

The shortest life is a minute, so this goes on in the background of the other tests (`support/minute.py`).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from support.connection import Connection
from support.history import Key
from support.workers import key_of

PRODUCERS = 8
#: How old, in seconds, the messages are that each reader reads: new ones, or those that are about
#: to expire.
READERS = (0, 57, 58, 59)
#: Seconds that the producers post for.
POSTING = 15
LIFE = 60
#: Seconds after which a message that lives for a minute is over for certain, once its post is
#: answered.
OVER = LIFE + 1

PATH = "/v2/queues/expiring/messages"
LISTING = f"{PATH}?echo=true&include_claimed=true&include_delayed=true&limit="


@dataclass
class Reader:
    """One who follows `next`, and what it saw."""

    #: Seconds that it stays behind the producers.
    behind: int
    seen: list[Key] = field(default_factory=list)
    #: Messages that it was shown after they were over.
    ghosts: list[Key] = field(default_factory=list)
    #: How often the message under its marker was over when it went on.
    gone_markers: int = 0


@dataclass
class Expiring:
    """The scene: by whom what was posted, and what each reader saw."""

    address: tuple[str, int]
    project: str = field(default_factory=lambda: f"expiring-{uuid.uuid4()}")
    random: random.Random = field(default_factory=random.Random)
    readers: list[Reader] = field(default_factory=lambda: [Reader(behind) for behind in READERS])
    #: When each post of a message was answered, by what becomes of the message.
    lasting: dict[Key, float] = field(default_factory=dict)
    short: dict[Key, float] = field(default_factory=dict)
    #: Deleted by the first reader whose marker stands on it.
    deletable: dict[Key, float] = field(default_factory=dict)
    left: list[Key] = field(default_factory=list)
    is_posted: bool = False
    failure: BaseException | None = None
    thread: threading.Thread | None = None

    def start(self) -> Expiring:
        self.thread = threading.Thread(target=self._play, daemon=True)
        self.thread.start()
        return self

    def wait(self) -> Expiring:
        """Until the scene is over."""
        assert self.thread is not None
        self.thread.join()
        if self.failure is not None:
            raise self.failure
        return self

    def _play(self) -> None:
        try:
            asyncio.run(asyncio.wait_for(self._run(), 600))
        except BaseException as error:
            # For the tests that wait.
            self.failure = error

    async def _run(self) -> None:
        """All of it, and a last look once every short life is over."""
        readers = [asyncio.create_task(self._read(reader)) for reader in self.readers]
        await asyncio.gather(*(self._produce(f"producer-{number}") for number in range(PRODUCERS)))
        self.is_posted = True
        await asyncio.gather(*readers)
        await asyncio.sleep(max(0.0, max(self.short.values()) + OVER - time.monotonic()))
        last = Reader(0)
        await self._read(last)
        self.left = last.seen

    async def _produce(self, name: str) -> None:
        connection = await Connection.open(self.address, self.project)
        end = time.monotonic() + POSTING
        number = 0
        while time.monotonic() < end:
            fates = self.random.choices((self.lasting, self.short, self.deletable), (5, 4, 1), k=3)
            keys = [(name, number + place) for place in range(len(fates))]
            number += len(fates)
            messages = [
                {
                    "ttl": LIFE if fate is self.short else 3600,
                    "body": {"key": key, "at": time.monotonic(), "is_deletable": fate is self.deletable},
                }
                for key, fate in zip(keys, fates, strict=True)
            ]
            status, _ = await connection.request("POST", PATH, {"messages": messages})
            assert status == 201
            for key, fate in zip(keys, fates, strict=True):
                fate[key] = time.monotonic()
            await asyncio.sleep(self.random.random() * 0.3)
        connection.close()

    async def _read(self, reader: Reader) -> None:
        following = f"{LISTING}{self.random.randint(2, 8)}"
        while True:
            was_posted = self.is_posted
            asked = time.monotonic()
            page = await self._ask("GET", following)
            messages = page["messages"]
            keys = [key_of(message) for message in messages]
            reader.seen += keys
            reader.ghosts += [key for key in keys if self._is_over(key, asked)]
            if messages:
                following = next(link["href"] for link in page["links"] if link["rel"] == "next")
                await self._stay_behind(reader, messages[-1])
            elif was_posted:
                return
            else:
                await asyncio.sleep(0.05)

    async def _ask(self, method: str, path: str) -> dict:
        """A request over a connection of its own: one that is silent for as long as readers are is closed."""
        connection = await Connection.open(self.address, self.project)
        status, answer = await connection.request(method, path)
        connection.close()
        assert status in (200, 204)
        return answer

    async def _stay_behind(self, reader: Reader, last: dict) -> None:
        """Waits until the message under the marker is old enough; a short-lived one until it is over."""
        key = key_of(last)
        until = last["body"]["at"] + reader.behind
        if reader.behind and key in self.short:
            until = self.short[key] + OVER
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        if last["body"]["is_deletable"]:
            await self._ask("DELETE", f"{PATH}/{last['id']}")
        reader.gone_markers += self._is_over(key, time.monotonic())

    def _is_over(self, key: Key, now: float) -> bool:
        return key in self.short and self.short[key] + OVER <= now


@pytest.fixture(scope="session")
def expiring(shared_server) -> Iterator[Expiring]:
    """The scene, begun."""
    scene = Expiring(shared_server.address).start()
    yield scene
    # The server must not stop before.
    assert scene.thread is not None
    scene.thread.join()
