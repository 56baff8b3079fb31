"""Several servers on one Redis: they share everything, and survive what happens to it and to each other."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from support.api import Api
from support.history import Claim, History, check
from support.redis import Redis, Watched, on_redis
from support.server import Server
from support.spread import SpreadLoad, share_queues_claims_and_markers
from support.wait import TIMEOUT, wait_until
from support.websocket import WebSocket

SERVERS = 3


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that has on disk what it acknowledged."""
    server = Redis(tmp_path / "redis", "--save", "", "--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.kill()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    servers = Watched(tmp_path / "redis")
    yield servers
    servers.kill()


@pytest.fixture
def servers(redis: Redis, new_server: Callable[..., Server]) -> list[Server]:
    return [new_server(options=on_redis(redis.uri)).start() for _ in range(SERVERS)]


@pytest.mark.timeout(300)
def test_many_clients_of_several_servers(servers: list[Server], tmp_path: Path, seed: int):
    load = SpreadLoad(random=random.Random(seed), producers=8, claimers=8)
    assert len(load._workers()) >= 64

    async def end() -> None:
        await asyncio.sleep(10)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == []
    assert load.server_errors() == {}
    load.judge(servers[1].url, tmp_path / "history")
    one = next(claim for claim in load.history.of(Claim) if claim.keys and claim.queue == "work-0")
    planted = History([*load.history.events, replace(one, claim="planted")], load.history.dead_letters)
    assert any(f"live claims {one.claim} and planted" in found for found in check(planted))


@pytest.mark.timeout(300)
def test_the_death_of_a_server_loses_nothing(servers: list[Server], tmp_path: Path, seed: int):
    load = SpreadLoad(random=random.Random(seed))

    async def end() -> None:
        for victim in servers[1:]:
            await asyncio.sleep(2)
            victim.kill()
        await asyncio.sleep(2)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses()
    assert load.server_errors() == {}
    load.judge(servers[0].url, tmp_path / "history")


@pytest.mark.timeout(300)
def test_a_killed_and_restarted_redis_loses_nothing(
    redis: Redis, servers: list[Server], tmp_path: Path, seed: int
):
    load = SpreadLoad(random=random.Random(seed))

    async def end() -> None:
        for _ in range(3):
            await asyncio.sleep(1.5)
            redis.kill()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(redis.start)
        await asyncio.sleep(1.5)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == [], "servers answer, whatever Redis does"
    load.judge(servers[2].url, tmp_path / "history")


@pytest.mark.timeout(300)
def test_a_fail_over_loses_nothing(
    watched: Watched, new_server: Callable[..., Server], tmp_path: Path, seed: int
):
    options = on_redis(f"{watched.uri}&socket_timeout=2", wait_replicas=1)
    servers = [new_server(options=options).start() for _ in range(2)]
    load = SpreadLoad(random=random.Random(seed), producers=2, claimers=3)

    def fail_over() -> None:
        watched.master.kill()
        wait_until(lambda: watched.replica.info("role") == "master", "the replica is promoted")
        # The Sentinels would tell it in ten seconds whom to follow.
        watched.master.start("--replicaof", f"127.0.0.1 {watched.replica.port}")
        wait_until(lambda: watched.master.info("master_link_status") == "up", "the old master follows")

    async def end() -> None:
        await asyncio.sleep(2)
        await asyncio.to_thread(fail_over)
        before = load.acknowledged("post")
        deadline = time.monotonic() + TIMEOUT
        while load.acknowledged("post") < before + 50:
            assert time.monotonic() < deadline, "nobody is served again"
            await asyncio.sleep(0.1)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == []
    load.judge(servers[1].url, tmp_path / "history")


def read_only(redis: Redis) -> None:
    redis.cli("REPLICAOF", "127.0.0.1", "1")


def writable(redis: Redis) -> None:
    redis.cli("REPLICAOF", "NO", "ONE")


def load_for_long(redis: Redis) -> None:
    """Starts it again with more keys than it reads before it is told to hurry."""
    redis.cli("EVAL", "for n = 1, 1000 do redis.call('SET', 'other' .. n, string.rep('x', 4096)) end", "0")
    redis.cli("SAVE")
    redis.kill()
    redis.start("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")


def hurry(redis: Redis) -> None:
    redis.cli("CONFIG", "SET", "key-load-delay", "0")


def save_and_end(redis: Redis) -> None:
    redis.cli("SAVE")
    redis.kill()


#: What happens to Redis, and how it ends.
TROUBLES: dict[str, tuple[Callable[[Redis], object], Callable[[Redis], object]]] = {
    "it is gone": (save_and_end, Redis.start),
    "it is silent": (Redis.suspend, Redis.resume),
    "it is a replica": (read_only, writable),
    "it is loading": (load_for_long, hurry),
}
POST = ("POST", "/v2/queues/q/messages", {"messages": [{"ttl": 300, "body": "late"}]})
#: What changes something, and so cannot be answered by a server that does not take changes.
CHANGES = [POST, POST, ("POST", "/v2/queues/q/claims", {"ttl": 60, "grace": 60}), ("GET", "/v2/ping", None)]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_unusable_redis_is_a_503_with_retry_after(tmp_path: Path, new_server, trouble: str):
    begin, end = TROUBLES[trouble]
    redis = Redis(tmp_path / "redis", "--save", "").start()
    options = on_redis(f"{redis.uri}?socket_timeout=3", max_reconnect_attempts=2, reconnect_sleep=0.1)
    server = new_server(options=options).start()

    def refused(request: tuple[str, str, object]) -> None:
        method, path, document = request
        with Api(server.url, api.project) as other:
            start = time.monotonic()
            answer = other.call(method, path, json=document)
            assert answer.status_code == 503, f"{method} {path}: {answer.status_code} {answer.text}"
            assert time.monotonic() - start < 25, "a bounded wait"
            if path != "/v2/ping":
                assert int(answer.headers["Retry-After"]) > 0
                assert answer.json()["title"]

    try:
        with Api(server.url) as api, ThreadPoolExecutor() as clients:
            api.post("q", 1)
            begin(redis)
            assert list(clients.map(refused, CHANGES)) == [None] * len(CHANGES)
            end(redis)
            wait_until(lambda: api.call("GET", "/v2/ping").status_code == 204, "the server recovers")
            api.post("q", 2)
            bodies = [message["body"] for message in api.messages("q")]
        # What was refused by a silent server may have been done by it.
        assert [body for body in bodies if body != "late"] == [1, 2]
        assert trouble == "it is silent" or "late" not in bodies
    finally:
        redis.resume()
        redis.kill()


def test_a_full_redis_is_a_503_for_posts_and_serves_consumers(redis: Redis, servers: list[Server]):
    with Api(servers[0].url) as api:
        api.post("q", 1, 2, 3)
        redis.cli("CONFIG", "SET", "maxmemory", "1")
        refused = api.call("POST", "/v2/queues/q/messages", json={"messages": [{"ttl": 60, "body": 4}]})
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        _, held = api.claim("q", limit=1)
        assert api.call("DELETE", held[0]["href"]).status_code == 204
        redis.cli("CONFIG", "SET", "maxmemory", "0")
        api.post("q", 5)
        assert [message["body"] for message in api.messages("q")] == [2, 3, 5]


@pytest.mark.timeout(300)
def test_dropped_connections_lose_and_duplicate_nothing(
    redis: Redis, servers: list[Server], tmp_path: Path, seed: int
):
    """Connections end in the middle of requests: what may have been done already is not done again."""
    load = SpreadLoad(random=random.Random(seed), producers=2, claimers=3)

    async def end() -> None:
        for _ in range(20):
            await asyncio.sleep(0.15)
            killed = await asyncio.to_thread(redis.cli, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert int(killed.split()[-1]) > 0
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == []
    load.judge(servers[0].url, tmp_path / "history")


def test_changed_rules_apply_on_every_server(servers: list[Server]):
    """A patch on one server while others post with what they know of the queue."""
    project = "rules"
    stop = threading.Event()
    posts: list[tuple[float, str]] = []

    def post(url: str) -> None:
        with Api(url, project) as api:
            while not stop.is_set():
                start = time.monotonic()
                answer = api.call("POST", "/v2/queues/q/messages", json={"messages": [{"body": 1}]})
                assert answer.status_code == 201, answer.text
                posts.append((start, answer.json()["resources"][0].rsplit("/", 1)[1]))

    with Api(servers[0].url, project) as api:
        assert api.call("PUT", "/v2/queues/q", json={"_default_message_ttl": 100}).status_code == 201
        changes = [(time.monotonic(), 100)]
        posters = [threading.Thread(target=post, args=(server.url,)) for server in servers]
        for poster in posters:
            poster.start()
        for ttl in range(101, 121):
            known = len(posts)
            wait_until(lambda known=known: len(posts) >= known + 6, "others post")
            api.set_metadata("q", {"_default_message_ttl": ttl})
            changes.append((time.monotonic(), ttl))
        known = len(posts)
        wait_until(lambda: len(posts) >= known + 6, "others post")
        stop.set()
        for poster in posters:
            poster.join()
        ttls = {message["id"]: message["ttl"] for message in api.messages("q", 200)}
    assert len(posts) > 100
    for start, one in posts:
        in_force = max(ttl for at, ttl in changes if at < start)
        assert ttls[one] >= in_force, (
            f"a post begun after {in_force} was in force was stored under {ttls[one]}"
        )


def test_nothing_of_a_deleted_queue_returns(servers: list[Server]):
    """A queue is deleted and created again on one server while others post to it."""
    project = "deleted"
    stop = threading.Event()
    lock = threading.Lock()
    posted: list[tuple[float, str]] = []

    def post(url: str) -> None:
        with Api(url, project) as api:
            while not stop.is_set():
                answer = api.call(
                    "POST", "/v2/queues/q/messages", json={"messages": [{"ttl": 300, "body": 1}]}
                )
                assert answer.status_code == 201, answer.text
                with lock:
                    one = answer.json()["resources"][0].rsplit("/", 1)[1]
                    posted.append((time.monotonic(), one))

    posters = [threading.Thread(target=post, args=(server.url,)) for server in servers]
    with Api(servers[0].url, project) as api, Api(servers[1].url, project) as other:
        for poster in posters:
            poster.start()
        for round_ in range(15):
            known = len(posted)
            wait_until(lambda known=known: len(posted) >= known + 6, "others post")
            with lock:
                before = [one for _, one in posted]
            assert api.call("DELETE", "/v2/queues/q").status_code == 204
            if round_ % 2:
                api.call("PUT", "/v2/queues/q", json={"round": round_})
            shown = {message["id"] for message in other.messages("q", 200)}
            assert not shown & {*before}, "messages of before the deletion are shown after it"
        stop.set()
        for poster in posters:
            poster.join()
        shown = [message["id"] for message in other.messages("q", 200)]
        assert len(shown) == len({*shown})
        assert {*shown} <= {one for _, one in posted}


def test_servers_share_queues_claims_and_markers(servers: list[Server]):
    share_queues_claims_and_markers(servers)


class Rotation:
    """A balancer: clients keep a connection to each server, and send to those that are not taken out."""

    def __init__(self, servers: list[Server]) -> None:
        self.lock, self.servers = threading.Lock(), list(servers)
        self.failures: list[object] = []
        self.posted = 0

    def take_out(self, server: Server) -> None:
        """From then on no request is sent to it; those that were sent may be under way."""
        with self.lock:
            self.servers.remove(server)

    def put_back(self, server: Server) -> None:
        with self.lock:
            self.servers.append(server)

    def work(self, number: int, stop: threading.Event) -> None:
        connections: dict[tuple[int, int], http.client.HTTPConnection] = {}
        headers = {"Client-ID": str(uuid.uuid4()), "X-Project-Id": "rolling"}
        body = json.dumps({"messages": [{"body": number, "ttl": 600}]})
        count = number
        while not stop.is_set():
            count += 1
            try:
                with self.lock:
                    server = self.servers[count % len(self.servers)]
                    key = (server.port, server.process.pid)
                    if key not in connections:
                        connections[key] = http.client.HTTPConnection(*server.address, timeout=60)
                    connections[key].request("POST", "/v2/queues/q/messages", body, headers)
                answer = connections[key].getresponse()
                answer.read()
                if answer.status != 201:
                    self.failures.append(answer.status)
            except OSError as error:
                self.failures.append(error)
                return
            with self.lock:
                self.posted += 1
        for connection in connections.values():
            connection.close()


def test_a_rolling_restart_fails_no_request(servers: list[Server]):
    rotation, stop = Rotation(servers), threading.Event()
    clients = [threading.Thread(target=rotation.work, args=(number, stop)) for number in range(6)]
    for client in clients:
        client.start()

    def wait_for_more() -> None:
        least = rotation.posted + 50
        wait_until(lambda: rotation.posted >= least or rotation.failures, "requests are answered")

    try:
        for server in servers:
            wait_for_more()
            rotation.take_out(server)
            assert server.stop() == 0, server.log_tail()
            server.start()
            rotation.put_back(server)
        wait_for_more()
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert rotation.failures == []
    with Api(servers[0].url, "rolling") as api:
        assert api.call("GET", "/v2/queues/q/stats").json()["messages"]["free"] == rotation.posted


def test_a_stop_does_not_wait_for_a_redis_that_is_away(redis: Redis, new_server: Callable[..., Server]):
    """Not even one with something to deliver, and connections that hear of messages."""
    options = on_redis(redis.uri)
    options["DEFAULT"] = {"graceful_shutdown_timeout": 600}
    options["notification"] = {"allow_networks": "127.0.0.0/8"}
    server = new_server(options=options, websocket=True).start()
    with Api(server.url) as api, WebSocket(server.websocket_url, api.project) as opened:
        subscriber = {"subscriber": "http://127.0.0.1:9/", "ttl": 600, "options": {}}
        assert api.call("POST", "/v2/queues/q/subscriptions", json=subscriber).status_code == 201
        opened.ask("subscription_create", 201, queue_name="q", ttl=600)
        api.post("q", 1)
        redis.kill()
        assert server.stop() == 0, server.log_tail()


def test_a_wrong_uri_says_what_is_wrong_and_keeps_the_password(new_server: Callable[..., Server]):
    for uri, says in [
        ("redis://:hidden@h1,h2", "master=NAME"),
        ("http://:hidden@h", "must begin with redis:"),
        ("redis://:hidden@127.0.0.1:1?socket_timeout=0.2", "cannot connect to Redis"),
    ]:
        code, said = new_server(options=on_redis(uri)).run_to_exit()
        assert code != 0
        assert says in said
        assert "drivers:m" in said
        assert "hidden" not in said


def test_data_of_the_original_is_a_warning(redis: Redis, new_server: Callable[..., Server]):
    redis.cli("ZADD", "msgset_index", "1", "p.q.messages")
    redis.cli("ZADD", "p.q.messages", "1", "a", "2", "b")
    server = new_server(options=on_redis(redis.uri)).start()
    said = server.log_tail()
    assert "data of the original Zaqar" in said
    assert "queues=1" in said.replace('"', "")
    with Api(server.url, "p") as api:
        assert api.call("GET", "/v2/ping").status_code == 204
    assert redis.cli("ZCARD", "p.q.messages") == "2"


def health_problems(server: Server) -> str:
    """What health says is wrong; empty when nothing is."""
    with Api(server.url) as api:
        answer = api.call("GET", "/v2/health", headers={"X-Roles": "admin"})
    return "" if answer.status_code == 200 and answer.json()["storage_reachable"] else answer.text


def lines_of(server: Server, text: str) -> int:
    return sum(text in line for line in server.log.read_text(errors="replace").splitlines())


#: What happens to Redis, how it ends, and the lines that tell of its beginning and of its end.
CONDITIONS = {
    "it hangs": (Redis.suspend, Redis.resume, "Redis is unavailable", "Redis is available again"),
    "it is full": (
        lambda redis: redis.cli("CONFIG", "SET", "maxmemory", "1"),
        lambda redis: redis.cli("CONFIG", "SET", "maxmemory", "0"),
        "Redis is full",
        "Redis accepts posts again",
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_several_servers_log_once_what_is_wrong_with_redis(
    redis: Redis, new_server: Callable[..., Server], condition: str
):
    begin, end, said, recovered = CONDITIONS[condition]
    uri = f"{redis.uri}?socket_timeout=2"
    options = on_redis(uri, max_reconnect_attempts=2, reconnect_sleep=0.1)
    servers = [new_server(options=options).start() for _ in range(SERVERS)]

    def post(server: Server) -> int:
        with Api(server.url, "several") as api:
            document = {"messages": [{"ttl": 300, "body": "refused"}]}
            answer = api.call("POST", "/v2/queues/q/messages", json=document)
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) > 0
        return answer.status_code

    try:
        for round_ in (1, 2):
            for server in servers:
                assert post(server) == 201
                assert health_problems(server) == ""
            start = time.monotonic()
            begin(redis)
            with ThreadPoolExecutor(len(servers) * 4) as clients:
                statuses = set(clients.map(post, servers * 8))
            assert statuses == {503}
            for server in servers:
                assert health_problems(server) != ""
                assert server.running()
            # One line at the beginning, and one every five seconds at most.
            most = round_ * (1 + (time.monotonic() - start) // 5 + 1)
            for server in servers:
                assert 1 <= lines_of(server, said) <= most, server.log_tail()
            end(redis)
            for server in servers:
                wait_until(lambda server=server: post(server) == 201, "it serves again")
                wait_until(lambda server=server: health_problems(server) == "", "and says so")
                assert 1 <= lines_of(server, recovered) <= round_, server.log_tail()
    finally:
        redis.resume()
