"""Several servers on one store: a load dealt out to them, and what they must have in common."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from support.api import Api
from support.history import check
from support.load import Load, save
from support.server import Server
from support.wait import TIMEOUT
from support.workers import Worker


class SpreadLoad(Load):
    """A load whose workers are dealt out to several servers."""

    #: How much of each it does at least, to be judged by.
    ENOUGH: ClassVar[dict[str, int]] = {"post": 100, "claim": 50, "delete": 100}

    def run_on(self, servers: list[Server], end: Callable[[], Awaitable[None]]) -> None:
        """Runs until `end` returns."""
        self.servers = itertools.cycle(servers)
        asyncio.run(self.run(servers[0].address, end))

    async def until_enough(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not self.is_enough():
            assert time.monotonic() < deadline, self.answers
            await asyncio.sleep(0.1)

    def is_enough(self) -> bool:
        return all(self.acknowledged(operation) >= least for operation, least in self.ENOUGH.items())

    def judge(self, url: str, path: Path) -> None:
        """All that was answered is what an honest store answers; `path` keeps it."""
        self.list_all(url)
        save(self.history, path)
        assert check(self.history) == []
        assert self.is_enough()

    async def _work(self, worker: Worker, address: tuple[str, int], stop: asyncio.Event) -> None:
        await super()._work(worker, next(self.servers).address, stop)


def share_queues_claims_and_markers(servers: list[Server]) -> None:
    """Each of three servers or more goes on where another one left off."""
    with ExitStack() as stack:
        apis = [stack.enter_context(Api(server.url, "shared")) for server in servers]
        one, two, three, *_ = apis
        assert one.call("PUT", "/v2/queues/q", json={"a": 1}).status_code == 201
        assert two.call("PUT", "/v2/queues/q", json={"a": 1}).status_code == 204
        assert two.call("GET", "/v2/queues/q").json()["a"] == 1
        ids = one.post("q", *range(30))
        claim, held = two.claim("q", limit=3)
        assert [message["body"] for message in held] == [0, 1, 2]
        assert three.call("GET", f"/v2/queues/q/claims/{claim}").json()["messages"][0]["body"] == 0
        assert one.call("DELETE", held[0]["href"].split("?")[0]).status_code == 403
        assert apis[-1].call("DELETE", held[0]["href"]).status_code == 204
        seen, path = [], "/v2/queues/q/messages?limit=7&echo=true&include_claimed=true"
        for api in itertools.cycle(apis):
            page = api.call("GET", path).json()
            if not page["messages"]:
                break
            seen += [message["id"] for message in page["messages"]]
            path = page["links"][0]["href"]
        assert seen == ids[1:]
        names = [queue["name"] for queue in three.call("GET", "/v2/queues").json()["queues"]]
        assert names == ["q"]
