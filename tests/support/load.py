"""Load from many connections: producers, claimers, deleters and poppers that record what they did."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.api import Api
from support.history import Claim, Delete, Event, History, Key, Listing, Pop, Post, Release, Renew

#: Queues with claimers and deleters, and the one with poppers: an unanswered pop blurs its queue's history.
WORK_QUEUES = ("work-0", "work-1", "work-2")
POP_QUEUE = "popped"

CLAIM_TTL = 60

#: What ends a connection when the server is killed.
GONE = (OSError, asyncio.IncompleteReadError)


class Connection:
    """HTTP/1.1 over one socket, as little of it as the load needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, project: str) -> None:
        self.reader = reader
        self.writer = writer
        self.fields = f"Host: t\r\nClient-ID: {uuid.uuid4()}\r\nX-Project-ID: {project}\r\n"

    @classmethod
    async def open(cls, address: tuple[str, int], project: str) -> Connection:
        return cls(*await asyncio.open_connection(*address), project)

    async def request(self, method: str, path: str, document: object = None) -> tuple[int, dict]:
        """The status and the decoded body of the answer, empty when it had none."""
        body = b"" if document is None else json.dumps(document).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self.fields}Content-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        status = int(lines[0].split()[1])
        length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
        content = await self.reader.readexactly(length) if length else b""
        return status, json.loads(content) if content else {}

    def close(self) -> None:
        self.writer.close()


@dataclass
class Load:
    """Workers of one project; their history and counts outlive the server's restarts."""

    project: str = field(default_factory=lambda: f"load-{uuid.uuid4()}")
    history: History = field(default_factory=History)
    #: Answers by operation and status.
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    random: random.Random = field(default_factory=random.Random)
    produced: Counter[str] = field(default_factory=Counter)
    #: When and how workers lost their connections.
    losses: list[tuple[float, str]] = field(default_factory=list)
    producers: int = 4
    claimers: int = 5
    deleters: int = 1

    async def run(self, address: tuple[str, int], end: Callable[[], Awaitable[None]]) -> None:
        """Works until `end` returns, which stops the workers or has taken the server from them."""
        stop = asyncio.Event()
        workers = [asyncio.create_task(self._work(worker, address, stop)) for worker in self._workers()]
        await end()
        stop.set()
        await asyncio.gather(*workers)

    def listing(self, api: Api, queue: str) -> None:
        """Records all that a queue holds; nobody may write meanwhile."""
        start = time.monotonic()
        messages = api.messages(queue, limit=200)
        keys = tuple(key_of(message) for message in messages)
        ids = tuple(message["id"] for message in messages)
        self.history.add(Listing(queue, start, time.monotonic(), keys, ids))

    def list_all(self, url: str) -> None:
        """Records all that all queues hold."""
        with Api(url, self.project) as api:
            for queue in (*WORK_QUEUES, POP_QUEUE):
                self.listing(api, queue)

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

    def _workers(self) -> list[Worker]:
        workers: list[Worker] = []
        for queue in (*WORK_QUEUES, POP_QUEUE):
            workers += [Producer(self, queue, f"{queue}-producer-{n}") for n in range(self.producers)]
        for queue in WORK_QUEUES:
            workers += [Claimer(self, queue) for _ in range(self.claimers)]
            workers += [Deleter(self, queue) for _ in range(self.deleters)]
        return [*workers, Popper(self, POP_QUEUE), Popper(self, POP_QUEUE)]

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


class Worker:
    """One client on one connection: `step` does one thing and records it."""

    connection: Connection

    def __init__(self, load: Load, queue: str) -> None:
        self.load = load
        self.queue = queue
        self.random = load.random
        self.path = f"/v2/queues/{queue}"

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

    async def delete(self, messages: list[dict], path: str) -> None:
        keys = tuple(key_of(message) for message in messages)
        status, _, start, end = await self.call(
            "delete", "DELETE", path, unanswered=lambda start: Delete(self.queue, start, None, keys)
        )
        if status == 204:
            self.load.history.add(Delete(self.queue, start, end, keys))


class Producer(Worker):
    """Posts batches of numbered messages."""

    def __init__(self, load: Load, queue: str, name: str) -> None:
        super().__init__(load, queue)
        self.name = name

    async def step(self) -> None:
        keys = tuple(self._next_key() for _ in range(self.random.randint(1, 4)))
        messages = [{"ttl": 3600, "body": self._body(key)} for key in keys]
        status, answer, start, end = await self.call(
            "post",
            "POST",
            f"{self.path}/messages",
            {"messages": messages},
            unanswered=lambda start: Post(self.queue, start, None, keys),
        )
        if status == 201:
            ids = tuple(href.rsplit("/", 1)[1] for href in answer["resources"])
            self.load.history.add(Post(self.queue, start, end, keys, ids))
        # Consumers are to keep up, so that listings stay short.
        await asyncio.sleep(self.random.random() * 0.02)

    def _next_key(self) -> Key:
        self.load.produced[self.name] += 1
        return self.name, self.load.produced[self.name]

    def _body(self, key: Key) -> dict:
        return {"key": list(key), "text": "x" * self.random.choice((10, 200, 3000))}


class Claimer(Worker):
    """Claims messages and deletes them, releases them, or leaves them to the claim."""

    async def step(self) -> None:
        limit = self.random.randint(1, 10)
        status, answer, start, end = await self.call(
            "claim", "POST", f"{self.path}/claims?limit={limit}", {"ttl": CLAIM_TTL, "grace": 60}
        )
        if status != 201:
            await asyncio.sleep(0.01)
            return
        messages = answer["messages"]
        claim = messages[0]["href"].split("claim_id=")[1]
        keys = tuple(key_of(message) for message in messages)
        self.load.history.add(Claim(self.queue, start, end, claim, CLAIM_TTL, keys))
        chance = self.random.random()
        if chance < 0.15:
            await self._release(claim)
        elif chance < 0.25:
            await self._renew(claim)
        elif chance < 0.30:
            await self.delete(
                messages, f"{self.path}/messages?ids=" + ",".join(one["id"] for one in messages)
            )
        else:
            # Some messages stay behind in the claim.
            for message in messages[: self.random.randint(1, 12)]:
                await self.delete([message], message["href"])

    async def _release(self, claim: str) -> None:
        status, _, start, end = await self.call(
            "release",
            "DELETE",
            f"{self.path}/claims/{claim}",
            unanswered=lambda start: Release(self.queue, start, None, claim),
        )
        if status == 204:
            self.load.history.add(Release(self.queue, start, end, claim))

    async def _renew(self, claim: str) -> None:
        status, _, start, end = await self.call(
            "renew", "PATCH", f"{self.path}/claims/{claim}", {"ttl": CLAIM_TTL, "grace": 60}
        )
        if status == 204:
            self.load.history.add(Renew(self.queue, start, end, claim, CLAIM_TTL))


class Deleter(Worker):
    """Lists what is free and deletes some of it by id; what a claimer was faster with is refused."""

    async def step(self) -> None:
        _, answer, _, _ = await self.call("list", "GET", f"{self.path}/messages?echo=true&limit=20")
        messages = answer.get("messages", [])
        for message in self.random.sample(messages, min(3, len(messages))):
            await self.delete([message], f"{self.path}/messages/{message['id']}")
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


def key_of(message: dict) -> Key:
    """The key that the producer wrote into a message."""
    producer, number = message["body"]["key"]
    return producer, number


def save(history: History, path: Path) -> None:
    """Writes a history down, one event a line, for whoever has to find out what went wrong."""
    path.write_text("".join(f"{event}\n" for event in sorted(history.events, key=lambda event: event.start)))
