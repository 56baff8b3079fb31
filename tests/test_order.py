"""Many producers and readers on one queue while messages come and go: one order, each message once."""

from __future__ import annotations

import asyncio
import random
import uuid
from itertools import combinations

import pytest

from support.history import Key
from support.load import GONE, Connection, key_of

PRODUCERS = 8
READERS = 4
BATCHES = 60

#: The queue as the promise of order wants it listed.
LISTING = "messages?limit=20&echo=true&include_claimed=true&include_delayed=true"


class Scene:
    """One queue, the producers at work on it, and what is going to stay in it."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.address = address
        self.project = f"order-{uuid.uuid4()}"
        self.random = random.Random(seed)
        self.path = "/v2/queues/ordered"
        self.lasting: set[Key] = set()
        self.posted = asyncio.Event()

    async def run(self) -> list[list[Key]]:
        """What each reader saw."""
        readers = [asyncio.create_task(self.read()) for _ in range(READERS)]
        claimers = [asyncio.create_task(self.claim()) for _ in range(2)]
        await asyncio.gather(*(self.produce(f"producer-{number}") for number in range(PRODUCERS)))
        self.posted.set()
        await asyncio.gather(*claimers)
        return await asyncio.gather(*readers)

    async def connect(self) -> Connection:
        return await Connection.open(self.address, self.project)

    async def produce(self, name: str) -> None:
        connection = await self.connect()
        number = 0
        for _ in range(BATCHES):
            messages = []
            for _ in range(self.random.randint(1, 5)):
                number += 1
                lasts = self.random.random() < 0.6
                if lasts:
                    self.lasting.add((name, number))
                messages.append({"ttl": 3600, "body": {"key": [name, number], "lasts": lasts}})
            status, _ = await connection.request("POST", f"{self.path}/messages", {"messages": messages})
            assert status == 201
            await asyncio.sleep(self.random.random() * 0.02)
        connection.close()

    async def read(self) -> list[Key]:
        """Follows the `next` links; now and then it deletes the message that its marker stands on."""
        connection = await self.connect()
        seen: list[Key] = []
        path = f"{self.path}/{LISTING}"
        while True:
            last_look = self.posted.is_set()
            status, page = await connection.request("GET", path)
            assert status == 200
            messages = page["messages"]
            seen += [key_of(message) for message in messages]
            if messages:
                path = next(link["href"] for link in page["links"] if link["rel"] == "next")
                if not messages[-1]["body"]["lasts"]:
                    await self.delete(connection, messages[-1])
            elif last_look:
                connection.close()
                return seen
            else:
                await asyncio.sleep(0.005)

    async def claim(self) -> None:
        """Claims, deletes what is not to last, and releases or keeps the rest."""
        connection = await self.connect()
        while not self.posted.is_set():
            status, page = await connection.request(
                "POST", f"{self.path}/claims?limit=10", {"ttl": 60, "grace": 60}
            )
            if status != 201:
                await asyncio.sleep(0.01)
                continue
            for message in page["messages"]:
                if not message["body"]["lasts"]:
                    await self.delete(connection, message)
            if self.random.random() < 0.5:
                claim = page["messages"][0]["href"].split("claim_id=")[1]
                await connection.request("DELETE", f"{self.path}/claims/{claim}")
        connection.close()

    async def delete(self, connection: Connection, message: dict) -> None:
        # By its id alone a claimed message is refused, which is as good here.
        status, _ = await connection.request("DELETE", message["href"])
        assert status in (204, 400, 403)


@pytest.fixture(scope="module")
def readings(server):
    """What the readers saw, and what they all must have seen."""

    async def play() -> tuple[list[list[Key]], set[Key]]:
        scene = Scene(server.address, seed=random.randrange(1_000_000))
        try:
            return await asyncio.wait_for(scene.run(), 120), scene.lasting
        except GONE as error:
            raise AssertionError("the server closed a connection") from error

    return asyncio.run(play())


def test_every_reader_sees_every_lasting_message_once(readings):
    seen_by, lasting = readings
    assert len(lasting) > PRODUCERS * BATCHES
    for seen in seen_by:
        assert len(seen) == len(set(seen))
        assert lasting <= set(seen)


def test_every_reader_sees_each_producer_in_its_order(readings):
    seen_by, _ = readings
    for seen in seen_by:
        last: dict[str, int] = {}
        for producer, number in seen:
            assert number > last.get(producer, 0)
            last[producer] = number


def test_all_readers_agree_on_one_order(readings):
    seen_by, _ = readings
    for one, other in combinations(seen_by, 2):
        common = set(one) & set(other)
        assert [key for key in one if key in common] == [key for key in other if key in common]
