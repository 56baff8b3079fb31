"""The workers of the load: each is a client on a connection that does one thing at a time and records it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.connection import GONE, Connection
from support.history import Claim, Delete, Event, Glimpse, Key, LostClaim, Pop, Post, Release, Renew, Write

if TYPE_CHECKING:
    from support.load import Load

CLAIM_TTL = 60


@dataclass(frozen=True)
class Place:
    """A queue or topic; the history knows it by its name alone."""

    name: str
    kind: str = "queues"

    @property
    def path(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def subscriptions(self) -> str:
        """The history's name for its subscriptions."""
        return f"subscriptions of {self.name}"

    @property
    def metadata(self) -> str:
        """The history's name for its metadata."""
        return f"metadata of {self.name}"


class Worker:
    """`step` does one thing and records it."""

    connection: Connection

    def __init__(self, load: Load, place: Place) -> None:
        self.load = load
        self.queue = place.name
        self.place = place
        self.random = load.random
        self.path = f"/v2/{place.path}"

    async def step(self) -> None:
        raise NotImplementedError

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        document: object = None,
        *,
        unanswered: Callable[[float], Event] | None = None,
    ) -> tuple[int, dict, float, float]:
        """Sends a request; what it may have done is recorded even when no answer comes."""
        start = time.monotonic()
        try:
            status, answer = await self.connection.request(method, path, document)
        except GONE:
            if unanswered:
                self.load.history.add(unanswered(start))
            raise
        self.load.answers[operation, status] += 1
        if status >= 500 and unanswered:
            self.load.history.add(unanswered(start))
        return status, answer, start, time.monotonic()

    async def delete(self, messages: list[dict], path: str, *, held: bool) -> None:
        keys = tuple(key_of(message) for message in messages)
        status, _, start, end = await self.call(
            "delete", "DELETE", path, unanswered=lambda start: Delete(self.queue, start, None, keys, held)
        )
        if status == 204:
            self.load.history.add(Delete(self.queue, start, end, keys, held))

    async def claim(self, limit: int) -> tuple[str, list[dict]]:
        """Claims messages; the claim's id and the messages, or an empty id and none after a short rest."""
        status, answer, start, end = await self.call(
            "claim",
            "POST",
            f"{self.path}/claims?limit={limit}",
            {"ttl": CLAIM_TTL, "grace": 60},
            unanswered=lambda start: LostClaim(self.queue, start, None),
        )
        if status != 201:
            await asyncio.sleep(0.01)
            return "", []
        messages = answer["messages"]
        claim = messages[0]["href"].split("claim_id=")[1]
        keys = tuple(key_of(message) for message in messages)
        self.load.history.add(Claim(self.queue, start, end, claim, CLAIM_TTL, keys))
        return claim, messages

    async def release(self, claim: str) -> None:
        status, _, start, end = await self.call(
            "release",
            "DELETE",
            f"{self.path}/claims/{claim}",
            unanswered=lambda start: Release(self.queue, start, None, claim),
        )
        if status == 204:
            self.load.history.add(Release(self.queue, start, end, claim))

    def count(self, what: str) -> int:
        """The next number of something, over all runs of the load."""
        self.load.produced[what] += 1
        return self.load.produced[what]


class Producer(Worker):
    """Posts batches of numbered messages; with `max_delay`, most of them delayed by up to so many seconds."""

    def __init__(self, load: Load, place: Place, name: str, max_delay: int = 0) -> None:
        super().__init__(load, place)
        self.name = name
        self.max_delay = max_delay

    async def step(self) -> None:
        await self.post(self.random.randint(1, 4))
        # Consumers are to keep up, so that listings stay short.
        await asyncio.sleep(self.random.random() * 0.02)

    async def post(self, count: int) -> None:
        keys = tuple((self.name, self.count(self.name)) for _ in range(count))
        delays = tuple(self.random.randint(0, self.max_delay) for _ in keys) if self.max_delay else ()
        messages = [{"ttl": 3600, "body": self._body(key)} for key in keys]
        for message, delay in zip(messages, delays, strict=False):
            message["delay"] = delay
        status, answer, start, end = await self.call(
            "post",
            "POST",
            f"{self.path}/messages",
            {"messages": messages},
            unanswered=lambda start: Post(self.queue, start, None, keys, (), delays),
        )
        if status == 201:
            ids = tuple(href.rsplit("/", 1)[1] for href in answer["resources"])
            self.load.history.add(Post(self.queue, start, end, keys, ids, delays))

    def _body(self, key: Key) -> dict:
        return {"key": list(key), "text": _words(key) * self.random.choice((1, 20, 300))}


class Clearer(Producer):
    """Fills a place of its own, and then purges or deletes it, so that the next post makes it again."""

    async def step(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            await self.post(self.random.randint(1, 20))
        await asyncio.sleep(self.random.random() * 0.05)
        if self.random.random() < 0.5:
            await self._clear("purge", "POST", f"{self.path}/purge", {"resource_types": ["messages"]})
        else:
            await self._clear("remove", "DELETE", self.path)

    async def _clear(self, operation: str, method: str, path: str, document: object = None) -> None:
        produced, cleared = self.load.produced, f"{self.name} cleared"
        # With those of before that an unanswered end may have left.
        last = produced[self.name]
        keys = tuple((self.name, number) for number in range(produced[cleared] + 1, last + 1))
        status, _, start, end = await self.call(
            operation, method, path, document, unanswered=lambda start: Delete(self.queue, start, None, keys)
        )
        if status == 204:
            self.load.history.add(Delete(self.queue, start, end, keys))
            produced[cleared] = last


class Claimer(Worker):
    """Claims messages and deletes them, releases them, or leaves them to the claim."""

    async def step(self) -> None:
        claim, messages = await self.claim(self.random.randint(1, 10))
        if not messages:
            return
        chance = self.random.random()
        if chance < 0.15:
            await self.release(claim)
        elif chance < 0.25:
            await self._renew(claim)
        elif chance < 0.30:
            ids = ",".join(message["id"] for message in messages)
            await self.delete(messages, f"{self.path}/messages?ids={ids}", held=True)
        else:
            # Some messages stay behind in the claim.
            for message in messages[: self.random.randint(1, 12)]:
                await self.delete([message], message["href"], held=True)

    async def _renew(self, claim: str) -> None:
        status, _, start, end = await self.call(
            "renew", "PATCH", f"{self.path}/claims/{claim}", {"ttl": CLAIM_TTL, "grace": 60}
        )
        if status == 204:
            self.load.history.add(Renew(self.queue, start, end, claim, CLAIM_TTL))


class Releaser(Worker):
    """Claims messages and fails: now and then it deletes one, the others it gives back."""

    async def step(self) -> None:
        claim, messages = await self.claim(self.random.randint(1, 10))
        if not messages:
            return
        if self.random.random() < 0.3:
            await self.delete(messages[:1], messages[0]["href"], held=True)
        await self.release(claim)


class Deleter(Worker):
    """Lists what is free and deletes some of it by id; what a claimer was faster with is refused."""

    async def step(self) -> None:
        status, answer, start, end = await self.call(
            "list", "GET", f"{self.path}/messages?echo=true&limit=20"
        )
        messages = answer.get("messages", [])
        if status == 200:
            keys = tuple(key_of(message) for message in messages)
            self.load.history.add(Glimpse(self.queue, start, end, keys))
        for message in self.random.sample(messages, min(3, len(messages))):
            await self.delete([message], f"{self.path}/messages/{message['id']}", held=False)
        await asyncio.sleep(0.02)


class Popper(Worker):
    """Pops one message at a time."""

    async def step(self) -> None:
        status, answer, start, end = await self.call(
            "pop",
            "DELETE",
            f"{self.path}/messages?pop=1",
            unanswered=lambda start: Pop(self.queue, start, None, 1),
        )
        messages = answer.get("messages", [])
        if status == 200 and messages:
            keys = tuple(key_of(message) for message in messages)
            self.load.history.add(Pop(self.queue, start, end, 1, keys))
        else:
            await asyncio.sleep(0.01)


class Subscriber(Worker):
    """Subscribes, changes and confirms what it made, and ends every other one."""

    async def step(self) -> None:
        self.subscriber = f"http://hooks.invalid/{self.queue}/{self.count(f'subscriber of {self.queue}')}"
        document = {"subscriber": self.subscriber, "ttl": 3600, "options": {"step": 1}}
        answer = await self._write("subscribe", "POST", "", document, (3600, '{"step": 1}', False))
        if answer is None:
            return
        path = "/" + answer["subscription_id"]
        change = {"ttl": 7200, "options": {"step": 2}}
        await self._write("change", "PATCH", path, change, (7200, '{"step": 2}', False))
        confirmation = {"confirmed": True}
        await self._write("confirm", "PUT", path + "/confirm", confirmation, (7200, '{"step": 2}', True))
        if self.random.random() < 0.5:
            await self._write("unsubscribe", "DELETE", path, None, None)
        await asyncio.sleep(self.random.random() * 0.1)

    async def _write(
        self, operation: str, method: str, path: str, document: object, value: object
    ) -> dict | None:
        """A request that gives the subscription a new value; its answer when that was acknowledged."""
        of, thing = self.place.subscriptions, self.subscriber
        status, answer, start, end = await self.call(
            operation,
            method,
            f"{self.path}/subscriptions{path}",
            document,
            unanswered=lambda start: Write(of, start, None, thing, value),
        )
        if status >= 300:
            return None
        self.load.history.add(Write(of, start, end, thing, value))
        return answer


class Patcher(Worker):
    """Numbers the versions of a queue's metadata."""

    async def step(self) -> None:
        number = self.count(f"patches of {self.queue}")
        of = self.place.metadata
        status, _, start, end = await self.call(
            "patch",
            "PATCH",
            self.path,
            [{"op": "add", "path": "/metadata/number", "value": number}],
            unanswered=lambda start: Write(of, start, None, "number", number),
        )
        if status == 200:
            self.load.history.add(Write(of, start, end, "number", number))
        await asyncio.sleep(0.02)


def key_of(message: dict) -> Key:
    """The key that the producer wrote into a message, whose text is what it wrote."""
    producer, number = message["body"]["key"]
    text, words = message["body"].get("text", ""), _words((producer, number))
    assert text == words * (len(text) // len(words)), message
    return producer, number


def _words(key: Key) -> str:
    return f"{key[0]} {key[1]} "


def shown_subscription(shown: dict) -> tuple[str, object]:
    """A subscription of a listing as the history has it: the subscriber and its value."""
    return shown["subscriber"], (shown["ttl"], json.dumps(shown["options"]), shown["confirmed"])
