"""Load from many connections, on one project with a queue of every sort, recorded as the clients see it."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.api import Api
from support.connection import GONE, Connection
from support.history import DeadLetters, History, Key, Listing, Read, Write
from support.workers import (
    Claimer,
    Clearer,
    Deleter,
    Patcher,
    Place,
    Popper,
    Producer,
    Releaser,
    Subscriber,
    Worker,
    key_of,
    shown_subscription,
)

#: Queues with claimers and deleters; the first has subscribers as well.
WORK_QUEUES = (Place("work-0"), Place("work-1"))
#: Has poppers. After an unanswered pop less is certain about the queue, so others have none.
POP_QUEUE = Place("popped")
#: A queue whose messages are claimed too often, and its dead-letter queue.
SOURCE_QUEUE, DEAD_QUEUE = Place("source"), Place("dead")
MAX_CLAIMS = 2
#: Its messages are delayed, by up to MAX_DELAY seconds.
DELAYED_QUEUE = Place("delayed")
MAX_DELAY = 3
TOPIC = Place("news", "topics")
#: Places that are purged and deleted, by one worker each.
CLEARED = (Place("cleared"), Place("cleared-topic", "topics"))

PLACES = (*WORK_QUEUES, POP_QUEUE, SOURCE_QUEUE, DEAD_QUEUE, DELAYED_QUEUE, TOPIC, *CLEARED)
SUBSCRIBED = (WORK_QUEUES[0], TOPIC)

RULE = {"_max_claim_count": MAX_CLAIMS, "_dead_letter_queue": DEAD_QUEUE.name}


@dataclass
class Load:
    """Workers of one project; their history and counts outlive the server's restarts."""

    project: str = field(default_factory=lambda: f"load-{uuid.uuid4()}")
    history: History = field(
        default_factory=lambda: History(
            dead_letters=[DeadLetters(SOURCE_QUEUE.name, DEAD_QUEUE.name, MAX_CLAIMS)]
        )
    )
    #: Answers by operation and status.
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    random: random.Random = field(default_factory=random.Random)
    #: How many messages, subscriptions and so on each worker has made.
    produced: Counter[str] = field(default_factory=Counter)
    #: When and how workers lost their connections.
    losses: list[tuple[float, str]] = field(default_factory=list)
    producers: int = 4
    claimers: int = 5
    deleters: int = 1
    #: Whether there are workers that purge and delete.
    clears: bool = False

    async def run(self, address: tuple[str, int], end: Callable[[], Awaitable[None]]) -> None:
        """Runs the workers until `end` returns, which may stop the server before it does."""
        if not self.answers:
            await asyncio.to_thread(self._prepare, f"http://{address[0]}:{address[1]}")
        stop = asyncio.Event()
        workers = [asyncio.create_task(self._work(worker, address, stop)) for worker in self._workers()]
        await end()
        stop.set()
        await asyncio.gather(*workers)

    def list_all(self, url: str) -> None:
        """Records all contents; no worker may run at the same time."""
        with Api(url, self.project) as api:
            for place in PLACES:
                self._list(api, place)
            self._list(api, DELAYED_QUEUE, includes_delayed=False)
            for place in SUBSCRIBED:
                start = time.monotonic()
                values = dict(map(shown_subscription, api.subscriptions(place.path)))
                self.history.add(Read(place.subscriptions, start, time.monotonic(), values))
            start = time.monotonic()
            metadata = api.call("GET", f"/v2/{SOURCE_QUEUE.path}").json()
            values = {name: value for name, value in metadata.items() if name in RULE or name[0] != "_"}
            self.history.add(Read(SOURCE_QUEUE.metadata, start, time.monotonic(), values))

    def listed(self, place: Place) -> set[Key]:
        """What any listing of a place has shown."""
        listings = self.history.of_queues(place.name).of(Listing)
        return {key for listing in listings for key in listing.keys}

    def held_back(self) -> set[Key]:
        """The keys that were listed while they were delayed."""
        listings = sorted(self.history.of_queues(DELAYED_QUEUE.name).of(Listing), key=lambda one: one.start)
        return {
            key
            for whole, visible in zip(listings[::2], listings[1::2], strict=True)
            for key in {*whole.keys} - {*visible.keys}
        }

    def take_losses(self) -> list[tuple[float, str]]:
        """The lost connections since the last call, the earliest first."""
        losses, self.losses = sorted(self.losses), []
        return losses

    def acknowledged(self, operation: str) -> int:
        """How many requests of one kind were answered with success."""
        return sum(
            count for (name, status), count in self.answers.items() if name == operation and status < 300
        )

    def server_errors(self) -> dict[tuple[str, int], int]:
        return {what: count for what, count in self.answers.items() if what[1] >= 500}

    def _prepare(self, url: str) -> None:
        """Creates the queue with a dead-letter queue; the first request creates any other place."""
        with Api(url, self.project) as api:
            start = time.monotonic()
            answer = api.call("PUT", f"/v2/{SOURCE_QUEUE.path}", json=RULE)
            assert answer.status_code == 201, answer.text
            for name, value in RULE.items():
                self.history.add(Write(SOURCE_QUEUE.metadata, start, time.monotonic(), name, value))

    def _list(self, api: Api, place: Place, *, includes_delayed: bool = True) -> None:
        start = time.monotonic()
        messages = api.messages(place.name, 200, kind=place.kind, include_delayed=includes_delayed)
        keys = tuple(key_of(message) for message in messages)
        ids = tuple(message["id"] for message in messages)
        self.history.add(Listing(place.name, start, time.monotonic(), keys, ids, includes_delayed))

    def _workers(self) -> list[Worker]:
        workers: list[Worker] = []
        for place in (*WORK_QUEUES, POP_QUEUE):
            workers += [Producer(self, place, f"{place.name}-{n}") for n in range(self.producers)]
        for place in WORK_QUEUES:
            workers += [Claimer(self, place) for _ in range(self.claimers)]
            workers += [Deleter(self, place) for _ in range(self.deleters)]
        workers += [Popper(self, POP_QUEUE) for _ in range(2)]
        # Two of each suffice: these are about the states of a message, not about concurrency.
        for number in range(2):
            workers += [
                Producer(self, SOURCE_QUEUE, f"source-{number}"),
                Releaser(self, SOURCE_QUEUE),
                Releaser(self, SOURCE_QUEUE),
                Producer(self, DELAYED_QUEUE, f"delayed-{number}", MAX_DELAY),
                Claimer(self, DELAYED_QUEUE),
                Producer(self, TOPIC, f"news-{number}"),
            ]
        workers += [Deleter(self, place) for place in (SOURCE_QUEUE, DEAD_QUEUE, DELAYED_QUEUE, TOPIC)]
        workers += [Claimer(self, DEAD_QUEUE), Patcher(self, SOURCE_QUEUE)]
        workers += [Clearer(self, place, place.name) for place in CLEARED] if self.clears else []
        return [*workers, *(Subscriber(self, place) for place in SUBSCRIBED)]

    async def _work(self, worker: Worker, address: tuple[str, int], stop: asyncio.Event) -> None:
        try:
            worker.connection = await Connection.open(address, self.project)
        except OSError as error:
            self.losses.append((time.monotonic(), repr(error)))
            return
        try:
            while not stop.is_set():
                await worker.step()
        except GONE as error:
            self.losses.append((time.monotonic(), repr(error)))
        finally:
            worker.connection.close()


def save(history: History, path: Path) -> None:
    """Writes a history, one event a line, for the analysis of a failure."""
    path.write_text("".join(f"{event}\n" for event in sorted(history.events, key=lambda event: event.start)))
