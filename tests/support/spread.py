"""A load on several servers at once."""

from __future__ import annotations

import asyncio
import itertools

from support.load import Load
from support.server import Server
from support.workers import Worker


class SpreadLoad(Load):
    """A load whose workers are dealt out to several servers."""

    def to(self, servers: list[Server]) -> SpreadLoad:
        self.servers = itertools.cycle(servers)
        return self

    async def _work(self, worker: Worker, address: tuple[str, int], stop: asyncio.Event) -> None:
        await super()._work(worker, next(self.servers).address, stop)
