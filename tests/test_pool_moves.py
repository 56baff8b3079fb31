"""Queues that move back and forth between pools of different kinds while servers are killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.api import Api
from support.redis import Redis
from support.server import Sections, Server
from support.spread import SpreadLoad
from support.wait import wait_until

#: How long a slow machine may take for a drain: a move that fails is tried again after a minute.
TIMEOUT = 400.0

POOLING: Sections = {
    "DEFAULT": {"pooling": True, "admin_mode": True},
    "pooling:catalog": {"enable_virtual_pool": True},
    "transport": {"max_messages_per_page": 200},
}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that has on disk what it acknowledged."""
    server = Redis(tmp_path / "redis", "--save", "", "--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.kill()


class Operator:
    """An administrator that moves queues through any running server."""

    def __init__(self, project: str) -> None:
        self.project = project

    def call(self, server: Server, method: str, path: str, **more: object):
        with Api(server.url, self.project) as api:
            api.http.headers["X-Roles"] = "admin"
            return api.call(method, path, **more)

    def register(self, server: Server, name: str, uri: str, weight: int, **options: object) -> None:
        pool = {"uri": uri, "weight": weight, "options": options}
        answer = self.call(server, "PUT", f"/v2/pools/{name}", json=pool)
        assert answer.status_code == 201, answer.text

    def drain(self, server: Server, pool: str) -> None:
        assert self.call(server, "POST", f"/v2/pools/{pool}/drain").status_code == 202

    def end_drain(self, server: Server, pool: str) -> None:
        assert self.call(server, "DELETE", f"/v2/pools/{pool}/drain").status_code == 204

    def queues_left(self, server: Server, pool: str) -> int:
        drain = self.call(server, "GET", f"/v2/pools/{pool}/drain").json()
        assert not drain["more"]
        return drain["queues_left"]

    def until_left(self, server: Server, pool: str) -> None:
        wait_until(lambda: self.queues_left(server, pool) == 0, f"no queue is left in {pool}", TIMEOUT)


def drain_both(load: SpreadLoad, servers: list[Server], pools: tuple[str, str], operator: Operator) -> None:
    """Drains each pool to the other one, and kills one of the servers during the drain."""
    for source, target in (pools, pools[::-1]):
        victim = load.random.choice(servers)

        def kill_during_drain(source: str = source, target: str = target) -> None:
            operator.end_drain(servers[0], target)
            operator.drain(servers[0], source)
            before = operator.queues_left(servers[0], source)
            # Queues that have just come stay for a minute.
            moved = f"a queue leaves {source}"
            wait_until(lambda: operator.queues_left(servers[0], source) < max(before, 1), moved, TIMEOUT)

        async def kill(
            kill_during_drain: Callable[[], None] = kill_during_drain, victim: Server = victim
        ) -> None:
            await asyncio.sleep(1)
            await asyncio.to_thread(kill_during_drain)
            await asyncio.sleep(load.random.uniform(0, 0.05))
            victim.kill()

        load.run_on(servers, kill)
        assert load.take_losses()
        victim.start()

        async def end(source: str = source) -> None:
            await asyncio.to_thread(operator.until_left, servers[-1], source)

        load.run_on(servers, end)
    assert {status for _, status in load.server_errors()} <= {503}


@pytest.mark.timeout(1800)
def test_between_a_disk_and_redis_in_one_process(
    redis: Redis, new_server: Callable[..., Server], tmp_path: Path, seed: int
):
    load = SpreadLoad(random=random.Random(seed), producers=8, claimers=8)
    operator = Operator(load.project)
    server = new_server(options=POOLING).start()
    operator.register(server, "disk", f"embedded:{tmp_path / 'pool'}", 1)
    operator.register(server, "redis", redis.uri, 1)
    drain_both(load, [server], ("disk", "redis"), operator)
    load.judge(server.url, tmp_path / "history")


def test_the_end_of_a_drain_is_told_beside_many_other_keys(redis: Redis, new_server: Callable[..., Server]):
    redis.cli("EVAL", "for n = 1, 30000 do redis.call('SET', 'other:' .. n, '') end", "0")
    operator = Operator("p")
    server = new_server(options=POOLING).start()
    operator.register(server, "redis", redis.uri, 1)
    assert operator.queues_left(server, "redis") == 0
