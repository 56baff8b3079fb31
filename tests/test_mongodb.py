"""Several server processes on one MongoDB database: they share everything, and survive each other's end.

Without `ZAQAR_TEST_MONGODB_URI` the database is a compatible one; what only MongoDB can show is skipped.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pymongo
import pytest

from support.api import Api
from support.load import DELAYED_QUEUE, POP_QUEUE, WORK_QUEUES, Load
from support.mongodb import REAL_URI, MongoDB, drop, new_name, on_mongodb
from support.server import Server
from support.spread import SpreadLoad, share_queues_claims_and_markers
from support.wait import wait_until
from support.workers import CLAIM_TTL, Patcher, Worker, key_of

SERVERS = 4
#: A server is stopped for so long; for longer only until the others were seen to go on.
PAUSE, LONGEST_PAUSE = 4.0, 12.0

NEEDS_REAL = "needs a real MongoDB: set ZAQAR_TEST_MONGODB_URI"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the tests' databases are."""
    if REAL_URI:
        yield REAL_URI
        return
    server = MongoDB(tmp_path_factory.mktemp("mongodb")).start()
    yield server.uri
    server.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[MongoDB]:
    """A server that the test may stop."""
    server = MongoDB(tmp_path / "mongodb").start()
    yield server
    server.kill()


@pytest.fixture
def database(uri: str) -> Iterator[str]:
    """The `database` option of a test."""
    name = new_name()
    yield name
    drop(uri, name)


@pytest.fixture
def servers(uri: str, database: str, new_server: Callable[..., Server]) -> list[Server]:
    return [new_server(options=on_mongodb(uri, database)).start() for _ in range(SERVERS)]


class GentleLoad(SpreadLoad):
    """Without the workers that change a queue all the time: a post retries such a conflict a bounded number
    of times, and the compatible server is slow."""

    ENOUGH: ClassVar[dict[str, int]] = {"post": 120, "claim": 40, "delete": 60}

    def _workers(self) -> list[Worker]:
        return [worker for worker in super()._workers() if not isinstance(worker, Patcher)]


def refuses_little(load: Load) -> None:
    """On a slow machine a server may answer some requests with 503, and no other error."""
    errors = load.server_errors()
    assert {status for _, status in errors} <= {503}, errors
    assert sum(errors.values()) * 10 <= sum(load.answers.values()), errors


@dataclass
class Deaths:
    """What is left when all servers but one were killed under load."""

    load: GentleLoad
    survivor: Server
    history: Path
    #: When the last clients stopped.
    time: float


@pytest.fixture(scope="module")
def deaths(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deaths]:
    if os.environ.get("ZAQAR_TEST_URL"):
        pytest.skip("needs server processes of its own, and ZAQAR_TEST_URL names a running one")
    seed = int(os.environ.get("ZAQAR_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"ZAQAR_TEST_SEED={seed}")
    database = new_name()
    options = on_mongodb(uri, database)
    servers = [Server(tmp_path_factory.mktemp("deaths"), options=options).start() for _ in range(SERVERS)]
    load = GentleLoad(random=random.Random(seed), producers=2, claimers=4)

    async def end() -> None:
        for victim in servers[1:]:
            await asyncio.sleep(load.random.uniform(2, 4))
            victim.kill()
        await asyncio.sleep(2)
        await load.until_enough()

    try:
        load.run_on(servers, end)
        yield Deaths(load, servers[0], tmp_path_factory.mktemp("deaths") / "history", time.monotonic())
    finally:
        for server in servers:
            if server.running():
                server.kill()
        drop(uri, database)


@pytest.mark.timeout(300)
def test_the_death_of_servers_loses_nothing(deaths: Deaths):
    assert deaths.load.take_losses()
    refuses_little(deaths.load)
    deaths.load.judge(deaths.survivor.url, deaths.history)


@pytest.mark.timeout(300)
def test_many_clients_of_several_servers(servers: list[Server], tmp_path: Path, seed: int):
    load = GentleLoad(random=random.Random(seed), producers=2, claimers=4)

    async def end() -> None:
        await asyncio.sleep(10)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == []
    refuses_little(load)
    load.judge(servers[1].url, tmp_path / "history")


@pytest.mark.timeout(300)
def test_suspended_servers_lose_nothing(servers: list[Server], tmp_path: Path, seed: int):
    """Each is stopped in the middle of whatever it does; the others go on, and finish it."""
    load = GentleLoad(random=random.Random(seed), producers=2, claimers=4)

    async def end() -> None:
        for sleeper in servers[1:]:
            await asyncio.sleep(load.random.uniform(0.5, 1.5))
            start, before = time.monotonic(), load.acknowledged("post")
            sleeper.process.send_signal(signal.SIGSTOP)
            pause = PAUSE
            while time.monotonic() < start + pause:
                await asyncio.sleep(0.1)
                goes_on = load.acknowledged("post") > before + 10
                pause = PAUSE if goes_on else LONGEST_PAUSE
            sleeper.process.send_signal(signal.SIGCONT)
            assert goes_on, "the others wait for the suspended server"
        await asyncio.sleep(2)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == []
    refuses_little(load)
    load.judge(servers[0].url, tmp_path / "history")


@pytest.mark.timeout(300)
def test_the_database_is_restarted_under_load(
    own: MongoDB, new_server: Callable[..., Server], tmp_path: Path, seed: int
):
    options = on_mongodb(own.uri, "restarted")
    servers = [new_server(options=options).start() for _ in range(2)]
    load = GentleLoad(random=random.Random(seed), producers=2, claimers=3)

    def restart() -> None:
        own.stop()
        own.start()

    async def end() -> None:
        for _ in range(2):
            await asyncio.sleep(3)
            await asyncio.to_thread(restart)
        await asyncio.sleep(4)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == [], "servers answer, whatever the database does"
    load.judge(servers[1].url, tmp_path / "history")


@pytest.mark.timeout(300)
def test_a_fail_over_loses_nothing(uri: str, servers: list[Server], tmp_path: Path, seed: int):
    if not REAL_URI:
        pytest.skip(NEEDS_REAL)
    with pymongo.MongoClient(uri) as client:
        if len(client.admin.command("hello").get("hosts", [])) < 3:
            pytest.skip("needs a replica set of three: ZAQAR_TEST_MONGODB_URI names none")
        load = GentleLoad(random=random.Random(seed), producers=2, claimers=3)

        async def end() -> None:
            for _ in range(2):
                await asyncio.sleep(5)
                await asyncio.to_thread(client.admin.command, "replSetStepDown", 10)
            await asyncio.sleep(15)
            await load.until_enough()

        load.run_on(servers, end)
    assert load.take_losses() == []
    load.judge(servers[1].url, tmp_path / "history")


def test_what_no_document_can_hold_is_rejected_with_the_limit(
    uri: str, database: str, new_server: Callable[..., Server]
) -> None:
    """If the limits allow more than MongoDB does, a request is rejected with a reason and changes nothing."""
    limit = 40_000_000
    options = on_mongodb(uri, database)
    options["transport"] = {"max_messages_post_size": limit, "max_queue_metadata": limit}
    server = new_server(options=options).start()
    large = "x" * (17 << 20)
    with Api(server.url) as api:
        api.post("q", "before")
        answer = api.call("POST", "/v2/queues/q/messages", json={"messages": [{"body": large, "ttl": 60}]})
        assert (answer.status_code, "16711680" in answer.text) == (400, True), answer.text
        answer = api.call("PUT", "/v2/queues/large", json={"text": large})
        assert (answer.status_code, "16711680" in answer.text) == (400, True), answer.text
        api.post("q", "after")
        assert api.bodies("q") == ["before", "after"]
        assert api.call("GET", "/v2/ping").status_code == 204


@pytest.fixture
def sharded(uri: str, database: str) -> Iterator[pymongo.MongoClient]:
    """A client of a sharded cluster."""
    if not REAL_URI:
        pytest.skip("needs a sharded cluster: set ZAQAR_TEST_MONGODB_URI to a mongos")
    with pymongo.MongoClient(uri) as client:
        if client.admin.command("hello").get("msg") != "isdbgrid":
            pytest.skip("needs a sharded cluster: ZAQAR_TEST_MONGODB_URI names none")
        yield client


@pytest.mark.parametrize("collection", ["queue_messages", "queue_heads", "queue_outbox"])
def test_a_sharded_collection_is_refused_by_name(
    sharded: pymongo.MongoClient,
    uri: str,
    database: str,
    collection: str,
    new_server: Callable[..., Server],
):
    sharded.admin.command("enableSharding", f"{database}_server")
    sharded.admin.command("shardCollection", f"{database}_server.{collection}", key={"_id": "hashed"})
    code, said = new_server(options=on_mongodb(uri, database)).run_to_exit()
    assert code != 0
    assert f"collection {collection} of the MongoDB store is sharded" in said


@pytest.mark.timeout(300)
def test_a_database_on_one_shard_of_a_cluster_loses_nothing(
    sharded: pymongo.MongoClient, servers: list[Server], tmp_path: Path, seed: int
):
    load = GentleLoad(random=random.Random(seed), producers=2, claimers=4)

    async def end() -> None:
        await asyncio.sleep(10)
        await load.until_enough()

    load.run_on(servers, end)
    assert load.take_losses() == []
    load.judge(servers[1].url, tmp_path / "history")


@pytest.mark.timeout(300)
def test_no_query_reads_a_whole_collection(
    uri: str, database: str, new_server: Callable[..., Server], seed: int
):
    """What the server itself says of how it has run each query."""
    if not REAL_URI:
        pytest.skip(NEEDS_REAL)
    with pymongo.MongoClient(uri) as client:
        if client.is_mongos:
            pytest.skip("a mongos has no profiler")
        watched = client[f"{database}_server"]
        watched.command("profile", 2)
        server = new_server(options=on_mongodb(uri, database)).start()
        load = GentleLoad(random=random.Random(seed), producers=2, claimers=3)

        async def end() -> None:
            await asyncio.sleep(10)
            await load.until_enough()

        load.run_on([server], end)
        load.list_all(server.url)
        watched.command("profile", 0)
        ours = {"ns": {"$regex": r"\.queue_"}}
        assert watched["system.profile"].count_documents(ours) > 100
        scans = {**ours, "planSummary": {"$regex": "COLLSCAN"}}
        assert list(watched["system.profile"].find(scans, {"command": 1, "ns": 1}).limit(5)) == []
        sorts = {**ours, "hasSortStage": True}
        assert list(watched["system.profile"].find(sorts, {"command": 1, "ns": 1}).limit(5)) == []


def test_servers_share_queues_claims_and_markers(servers: list[Server]):
    share_queues_claims_and_markers(servers)


def test_queues_survive_their_servers(uri: str, database: str, new_server: Callable[..., Server]):
    server = new_server(options=on_mongodb(uri, database)).start()
    with Api(server.url, "kept") as api:
        api.call("PUT", "/v2/queues/q", json={"z": 1, "a": [1.0, 2]})
        ids = api.post("q", "a", {"b": None})
    server.stop()
    server.start()
    with Api(server.url, "kept") as api:
        assert [message["id"] for message in api.messages("q")] == ids
        assert api.call("GET", "/v2/queues/q").json()["a"] == [1.0, 2]


def test_the_names_of_the_original_are_accepted(uri: str, database: str, new_server: Callable[..., Server]):
    """`mongodb.fifo`, in [drivers] and in the URI, and every option that it has."""
    options = on_mongodb(
        uri.replace("mongodb://", "mongodb.fifo://"),
        database,
        partitions=2,
        max_attempts=10,
        max_retry_sleep=0.1,
        max_retry_jitter=0.005,
        max_reconnect_attempts=3,
        reconnect_sleep=0.02,
        ssl_cert_reqs="CERT_REQUIRED",
    )
    options["drivers"]["message_store"] = "mongodb.fifo"
    server = new_server(options=options).start()
    with Api(server.url) as api:
        api.post("q", 1)
        assert [message["body"] for message in api.messages("q")] == [1]


def test_each_role_can_have_another_store(uri: str, database: str, new_server: Callable[..., Server]):
    for role, other in [("message_store", "management_store"), ("management_store", "message_store")]:
        options = on_mongodb(uri, database)
        options["drivers"][other] = "embedded"
        del options[f"drivers:{other}:mongodb"]
        server = new_server(options=options).start()
        with Api(server.url, role) as api:
            api.call("PUT", "/v2/queues/q", json={"a": 1})
            api.post("q", 1, 2)
            assert [message["body"] for message in api.messages("q")] == [1, 2]
            assert api.call("GET", "/v2/queues/q").json()["a"] == 1


def test_without_its_database_a_server_answers_503_with_retry_after(
    own: MongoDB, new_server: Callable[..., Server]
):
    uri = f"{own.uri}&serverSelectionTimeoutMS=500"
    server = new_server(options=on_mongodb(uri, "stopped", max_reconnect_attempts=2)).start()
    with Api(server.url) as api:
        api.post("q", 1)
        own.stop()
        start = time.monotonic()
        for method, path in [("GET", "/v2/queues/q/messages?echo=true"), ("GET", "/v2/ping")]:
            answer = api.call(method, path)
            assert answer.status_code == 503, f"{method} {path}: {answer.status_code}"
            if path != "/v2/ping":
                assert int(answer.headers["Retry-After"]) > 0
        assert time.monotonic() - start < 40
        own.start()
        wait_until(lambda: api.call("GET", "/v2/ping").status_code == 204, "the server recovers")
        assert [message["body"] for message in api.messages("q")] == [1]


@pytest.mark.parametrize(
    ("uri_", "says"),
    [
        ("http://user:hidden@host", "uri of the MongoDB store cannot be read"),
        ("mongodb://user:hidden@127.0.0.1:1/?serverSelectionTimeoutMS=200", "cannot be used"),
        ("mongodb://user:hidden@127.0.0.1:1/?w=1", "asks for w=1"),
        ("mongodb://user:hidden@127.0.0.1:1/?tls=true&tlsCAFile=/nonexistent", "cannot be read"),
        ("", "uri must be set"),
    ],
)
def test_a_wrong_uri_says_what_is_wrong_and_keeps_the_password(
    uri_: str, says: str, new_server: Callable[..., Server]
):
    code, said = new_server(options=on_mongodb(uri_, "wrong")).run_to_exit()
    assert code != 0
    assert says in said
    assert "drivers:m" in said
    assert "hidden" not in said


def test_a_weaker_write_concern_is_allowed_if_configured(
    uri: str, database: str, new_server: Callable[..., Server]
):
    options = on_mongodb(f"{uri}{'&' if '?' in uri else '/?'}w=1", database)
    options["DEFAULT"] = {"unreliable": True}
    server = new_server(options=options).start()
    with Api(server.url) as api:
        api.post("q", 1)


def test_data_of_the_original_is_a_warning(uri: str, database: str, new_server: Callable[..., Server]):
    originals = [f"{database}_queues", f"{database}_messages_p0", database]
    with pymongo.MongoClient(uri) as client:
        try:
            client[originals[0]].queues.insert_many([{"p_q": "p/a"}, {"p_q": "p/b"}])
            client[originals[1]].messages.insert_one({"p_q": "p/a"})
            client[originals[2]].pools.insert_one({"n": "pool"})
            server = new_server(options=on_mongodb(uri, database)).start()
            said = server.log_tail()
            assert "the original's data is in this MongoDB" in said
            assert f"{originals[0]}.queues: 2" in said
            assert f"{originals[1]}.messages: 1" in said
            assert f"{originals[2]}.pools: 1" in said
            with Api(server.url, "p") as api:
                assert api.call("GET", "/v2/queues").json()["queues"] == []
            assert client[originals[0]].queues.count_documents({}) == 2
        finally:
            for name in originals:
                client.drop_database(name)


@pytest.mark.timeout(300)
def test_messages_are_delivered_after_the_claims_of_killed_servers_expire(deaths: Deaths):
    """The last of this file: the others use the minute that claims take."""
    time.sleep(max(0.0, deaths.time + CLAIM_TTL + 5 - time.monotonic()))
    delivered = 0
    with Api(deaths.survivor.url, deaths.load.project) as api:
        for place in (*WORK_QUEUES, POP_QUEUE, DELAYED_QUEUE):
            left = [key_of(message) for message in api.messages(place.name, 200)]
            claimed: list = []
            while messages := api.claim(place.name, limit=20, ttl=300)[1]:
                claimed += [key_of(message) for message in messages]
            assert claimed == left, f"{place.name}: what is listed is claimed, in order"
            delivered += len(left)
    assert delivered > 10
