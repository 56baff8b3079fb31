"""Many producers and readers of one queue while messages come and go: one order, each message once."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import pytest

from support.connection import GONE, Connection
from support.history import Key
from support.workers import Place, key_of

PRODUCERS = 8
READERS = 4
BATCHES = 60
#: Enough dead letters to check their order.
LETTERS = 50

#: How a queue or topic is listed in order, with everything in it.
LISTING = "messages?limit=20&echo=true&include_claimed=true&include_delayed=true"

DEAD = Place("dead")

Reading = list[Key]


@dataclass
class Seen:
    """What each reader saw of the queue and of its dead letters, and the messages that were not deleted."""

    readings: list[Reading]
    dead_readings: list[Reading]
    lasting: set[Key]
    #: The contents at the end, after all workers have stopped.
    left: Reading = field(default_factory=list)
    dead: Reading = field(default_factory=list)


class Scene:
    """A queue or topic, its workers, and the messages that stay in it or among its dead letters."""

    def __init__(
        self,
        address: tuple[str, int],
        seed: int,
        place: Place,
        *,
        metadata: dict[str, object] | None = None,
        delays: tuple[int, ...] = (0,),
        subscribers: int = 0,
    ) -> None:
        self.address = address
        self.project = f"order-{uuid.uuid4()}"
        self.random = random.Random(seed)
        self.place = place
        self.path = f"/v2/{place.path}"
        self.metadata = metadata or {}
        self.delays = delays
        self.subscribers = subscribers
        self.lasting: set[Key] = set()
        #: Dead letters that a reader has seen.
        self.letters = 0
        self.ended = asyncio.Event()

    async def run(self) -> Seen:
        await self.prepare()
        readers = [asyncio.create_task(self.read(self.path)) for _ in range(READERS)]
        dead_readers = [asyncio.create_task(self.read(f"/v2/{DEAD.path}")) for _ in range(2)]
        posted = asyncio.Event()
        claimers = [asyncio.create_task(self.claim(posted)) for _ in range(2 if self.has_claims else 0)]
        await asyncio.gather(*(self.produce(f"producer-{number}") for number in range(PRODUCERS)))
        posted.set()
        await asyncio.gather(*claimers)
        self.ended.set()
        seen = Seen(await asyncio.gather(*readers), await asyncio.gather(*dead_readers), self.lasting)
        seen.left, seen.dead = await self.read(self.path), await self.read(f"/v2/{DEAD.path}")
        return seen

    @property
    def has_claims(self) -> bool:
        return self.place.kind == "queues"

    async def prepare(self) -> None:
        connection = await self.connect()
        status, _ = await connection.request("PUT", self.path, self.metadata)
        assert status == 201
        for number in range(self.subscribers):
            subscription = {"subscriber": f"http://hooks.invalid/{number}", "ttl": 3600}
            status, _ = await connection.request("POST", f"{self.path}/subscriptions", subscription)
            assert status == 201
        connection.close()

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
                body = {"key": [name, number], "lasts": lasts}
                messages.append({"ttl": 3600, "delay": self.random.choice(self.delays), "body": body})
            status, _ = await connection.request("POST", f"{self.path}/messages", {"messages": messages})
            assert status == 201
            await asyncio.sleep(self.random.random() * 0.02)
        connection.close()

    async def read(self, path: str) -> Reading:
        """Follows the `next` links; now and then it deletes the message that its marker stands on."""
        connection = await self.connect()
        seen: Reading = []
        following = f"{path}/{LISTING}"
        while True:
            is_last_look = self.ended.is_set()
            status, page = await connection.request("GET", following)
            assert status == 200
            messages = page["messages"]
            seen += [key_of(message) for message in messages]
            if path.endswith(DEAD.path):
                self.letters = len(seen)
            if messages:
                following = next(link["href"] for link in page["links"] if link["rel"] == "next")
                if not messages[-1]["body"]["lasts"] and not is_last_look:
                    await self.delete(connection, messages[-1])
            elif is_last_look:
                connection.close()
                return seen
            else:
                await asyncio.sleep(0.005)

    async def claim(self, posted: asyncio.Event) -> None:
        """Claims; deletes what need not last, releases or keeps the rest, until there are dead letters."""
        connection = await self.connect()
        while not posted.is_set() or (self.metadata and self.letters <= LETTERS):
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
        # A claimed message is not deleted by its id alone, which does not matter here.
        status, _ = await connection.request("DELETE", message["href"])
        assert status in (204, 400, 403)


#: What each scene adds to a plain queue.
SCENES: dict[str, Callable[[tuple[str, int], int], Scene]] = {
    "queue": lambda address, seed: Scene(address, seed, Place("ordered")),
    "delays and subscribers": lambda address, seed: Scene(
        address, seed, Place("ordered"), delays=(0, 0, 1, 2), subscribers=3
    ),
    "dead letters": lambda address, seed: Scene(
        address, seed, Place("ordered"), metadata={"_max_claim_count": 2, "_dead_letter_queue": DEAD.name}
    ),
    "topic": lambda address, seed: Scene(address, seed, Place("ordered", "topics"), subscribers=3),
}


@pytest.fixture(scope="module", params=SCENES)
def seen(server, request) -> Seen:
    async def play() -> Seen:
        scene = SCENES[request.param](server.address, random.randrange(1_000_000))
        try:
            return await asyncio.wait_for(scene.run(), 120)
        except GONE as error:
            raise AssertionError("the server closed a connection") from error

    seen = asyncio.run(play())
    # What a scene tests must have happened in it.
    assert len(seen.lasting) > PRODUCERS * BATCHES
    assert (len(seen.dead) > LETTERS) == (request.param == "dead letters"), len(seen.dead)
    return seen


def test_every_reader_sees_every_lasting_message_once(seen):
    for reading in seen.readings:
        assert len(reading) == len(set(reading))
        # A message that moved before the reader reached it is among the dead letters.
        assert seen.lasting <= {*reading, *seen.dead}


def test_every_reader_of_the_dead_letters_sees_each_once(seen):
    for reading in seen.dead_readings:
        assert len(reading) == len(set(reading))
        assert set(seen.dead) <= set(reading)


def test_every_lasting_message_is_in_one_place(seen):
    assert sorted(key for key in [*seen.left, *seen.dead] if key in seen.lasting) == sorted(seen.lasting)
    assert not {*seen.left} & {*seen.dead}


def test_every_reader_sees_each_producer_in_its_order(seen):
    for reading in seen.readings:
        last: dict[str, int] = {}
        for producer, number in reading:
            assert number > last.get(producer, 0)
            last[producer] = number


def test_all_readers_agree_on_one_order(seen):
    for readings in (seen.readings, seen.dead_readings):
        for one, other in combinations(readings, 2):
            common = {*one} & {*other}
            assert [key for key in one if key in common] == [key for key in other if key in common]
