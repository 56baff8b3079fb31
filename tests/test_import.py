"""`zaqar-manage export` and `import`: definitions from store to store, and what a Python service left in
its Redis or MongoDB, written here as its code writes it. `tests/oracle` imports from the real one."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pymongo
import pytest
import redis as redis_client

from support.api import Api
from support.mongodb import MongoDB, new_name, on_mongodb
from support.redis import Redis, on_redis
from support.server import Sections, Server, server_binary

POOLING = {"pooling": True, "admin_mode": True}
#: More than any page, and not a multiple of one.
MESSAGES = 5_042


def manage(server: Server, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, and what is said on both outputs."""
    server.write_config()
    own = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    command = [server_binary().with_name("zaqar-manage"), "--config-file", server.config, *arguments]
    ran = subprocess.run(command, capture_output=True, cwd=server.root, env=own, text=True, timeout=300)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"), "--save", "").start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoDB]:
    server = MongoDB(tmp_path_factory.mktemp("mongodb")).start()
    yield server
    server.kill()


def define(api: Api) -> None:
    """A queue, one with subscribers, and a topic."""
    assert api.call("PUT", "/v2/queues/plain").status_code == 201
    metadata = {"_default_message_ttl": 600, "team": {"name": "blue ü"}}
    assert api.call("PUT", "/v2/queues/jobs", json=metadata).status_code == 201
    assert api.call("PUT", "/v2/topics/news", json={"a": 1}).status_code == 201
    for options in ({"k": "v"}, {"signing": True}):
        subscription = {"subscriber": f"http://example.org/{len(options)}{min(options)}", "ttl": 7200}
        answer = api.call("POST", "/v2/queues/jobs/subscriptions", json={**subscription, "options": options})
        assert answer.status_code == 201, answer.text
    mail = {"subscriber": "mailto:a@example.org", "ttl": 7200, "options": {}}
    assert api.call("POST", "/v2/topics/news/subscriptions", json=mail).status_code == 201
    api.post("jobs", "not a definition")


@pytest.mark.parametrize("target", ["embedded", "redis", "mongodb"])
def test_definitions_go_from_store_to_store(
    target: str, new_server: Callable[..., Server], request: pytest.FixtureRequest, tmp_path: Path
):
    source = new_server(options={"DEFAULT": POOLING}).start()
    file = tmp_path / "definitions"
    with Api(source.url, "p") as api:
        api.http.headers["X-Roles"] = "admin"
        pool = {"uri": f"embedded:{tmp_path / 'pool'}", "weight": 7}
        if target == "embedded":
            assert api.call("PUT", "/v2/pools/one", json=pool).status_code == 201
            assert api.call("PUT", "/v2/flavors/f", json={"pool_list": ["one"]}).status_code == 201
            assert api.call("PUT", "/v2/queues/gold", json={"_flavor": "f"}).status_code == 201
            options = {"DEFAULT": POOLING, "pooling:catalog": {"enable_virtual_pool": True}}
        elif target == "redis":
            options = on_redis(request.getfixturevalue("redis").uri)
        else:
            options = on_mongodb(request.getfixturevalue("mongodb").uri, new_name())
            options["DEFAULT"] = {"unreliable": True}
        source.sections["pooling:catalog"] = {"enable_virtual_pool": True}
        assert source.stop() == 0
        source.start()
        define(api)
    assert source.stop() == 0
    what = ["--pools"] if target == "embedded" else []
    code, said, error = manage(source, "export", "--project", "p", "--project", "none", *what, file)
    pools = "1 flavor, 1 pool, 3 queues" if what else "2 queues"
    assert (code, said) == (0, f"exported: {pools}, 3 subscriptions, 1 topic\n"), error
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {"type": "definitions", "format": 1}
    assert lines[-1] == {"type": "end", "lines": len(lines) - 2}
    cut_off = tmp_path / "cut off"
    cut_off.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert not any("not a definition" in str(line) for line in lines)
    # Never over another file.
    assert manage(source, "export", "--project", "p", file)[0] == 1

    server = new_server(options=options)
    code, said, _ = manage(server, "import", "--dry-run", file)
    assert code == 0
    assert said.startswith(f"would be imported: {pools}, 2 subscriptions, 1 topic\n")
    assert not server.data.exists()
    # Of a file that is cut off, nothing is imported.
    code, _, error = manage(server, "import", cut_off)
    assert (code, "it ends early" in error) == (1, True), error
    code, said, error = manage(server, "import", file)
    assert code == 0, error
    signed = "left out: a subscription of p/jobs: its secret is not in the file (signing): subscribe again\n"
    assert said == f"imported: {pools}, 2 subscriptions, 1 topic\n{signed}"
    code, again, error = manage(server, "import", file)
    assert code == 0, error
    assert "queue p/jobs" in again
    assert ": it exists\n" in again
    # Confirmed subscriptions exist, and those that await it stay as they are: none is counted.
    assert "subscription" not in again.splitlines()[0]
    server.start()
    with Api(server.url, "p") as api:
        api.http.headers["X-Roles"] = "admin"
        if what:
            assert api.call("GET", "/v2/pools/one").json()["weight"] == 7
            assert api.call("GET", "/v2/flavors/f").json()["pool_list"] == ["one"]
        metadata = api.call("GET", "/v2/queues/jobs").json()
        assert (metadata["team"], metadata["_default_message_ttl"]) == ({"name": "blue ü"}, 600)
        [subscription] = api.call("GET", "/v2/queues/jobs/subscriptions").json()["subscriptions"]
        assert (subscription["subscriber"], subscription["options"]) == ("http://example.org/1k", {"k": "v"})
        assert 7000 < subscription["ttl"] <= 7200
        [mail] = api.call("GET", "/v2/topics/news/subscriptions").json()["subscriptions"]
        assert mail["subscriber"] == "mailto:a@example.org"
        assert api.messages("jobs") == []
    assert server.stop() == 0, server.log_tail()


def test_an_import_checks_what_the_api_does(new_server: Callable[..., Server], tmp_path: Path):
    limits = {"max_queue_metadata": 300, "subscriber_types": "http"}
    server = new_server(options={"transport": limits})
    expires = int(time.time()) + 7200

    def subscription(subscriber: str, **options: object) -> dict:
        address = {"type": "subscription", "subscriber": subscriber, "expires": expires}
        return {**address, "confirmed": True, "options": options}

    def queue(name: str, **metadata: object) -> dict:
        return {"type": "queue", "project": "p", "name": name, "metadata": metadata}

    lines = [
        queue("good", colour="blue"),
        subscription("http://example.org/good"),
        subscription("http://10.0.0.1/private"),
        subscription("https://example.org/type"),
        subscription("http://example.org/batch", batch=1000),
        queue("large", x="y" * 400),
        subscription("http://example.org/lost"),
        queue("wrong", _default_message_ttl=-1),
        queue("good"),
        {"type": "pool", "name": "a", "uri": "redis://h", "weight": 1},
    ]
    lines = [{"type": "definitions", "format": 1}, *lines, {"type": "end", "lines": len(lines)}]
    file = tmp_path / "file"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, dry, error = manage(server, "import", "--dry-run", file)
    assert (code, error) == (1, "6 definitions refused\n")
    assert not server.data.exists()
    code, said, error = manage(server, "import", file)
    assert (code, error) == (1, "6 definitions refused\n")
    assert dry == said.replace("imported", "would be imported", 1)
    assert said.startswith("imported: 1 queue, 1 subscription\n")
    for part in ["queue p/large: its metadata", "pool a: [DEFAULT] pooling is off", "10.0.0.1", "batch"]:
        assert part in said
    server.start()
    with Api(server.url, "p") as api:
        assert [one["name"] for one in api.call("GET", "/v2/queues").json()["queues"]] == ["good"]
        assert [one["subscriber"] for one in api.subscriptions("queues/good")] == ["http://example.org/good"]


def test_passwords_of_pools_are_exported_on_request_only(
    redis: Redis, new_server: Callable[..., Server], tmp_path: Path
):
    server = new_server(options={"DEFAULT": POOLING}).start()
    redis.cli("ACL", "SETUSER", "pooled", "on", ">hidden", "~*", "&*", "+@all")
    with Api(server.url, "p") as api:
        api.http.headers["X-Roles"] = "admin"
        uri = redis.uri.replace("//", "//pooled:hidden@")
        answer = api.call("PUT", "/v2/pools/far", json={"uri": uri, "weight": 1})
        assert answer.status_code == 201, answer.text
    assert server.stop() == 0
    code, said, error = manage(server, "export", "--pools")
    assert code == 0, error
    assert "hidden" not in said
    (tmp_path / "masked").write_text(said)
    assert "pool far: its password is masked in the file" in manage(server, "import", tmp_path / "masked")[1]
    code, said, _ = manage(server, "export", "--pools", "--secrets")
    assert f'"uri":"{uri}"' in said
    (tmp_path / "whole").write_text(said)
    assert manage(server, "import", tmp_path / "whole")[:2] == (0, "imported: 1 pool\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it ends early"),
        ('{"type":"definitions","format":1}\n', "it ends early"),
        (
            '{"type":"definitions","format":1}\n{"type":"end","lines":1}\n',
            "0 lines, and it was written with 1",
        ),
        ('{"type":"definitions","format":1}\n{"type":"end","lines":0}\n', ""),
        ('{"type":"definitions","format":2}\n', "format 2, and this release reads 1"),
        ('{"type":"queue","project":"p","name":"q","metadata":{}}\n', "the first line names no format"),
        ('{"type":"definitions","format":1}\n{"type":"queue"}\n', "line 2 is no definition"),
        ('{"type":"definitions","format":1}\n[\n', "line 2 is no definition"),
    ],
)
def test_an_invalid_export_is_refused(new_server, tmp_path: Path, text: str, problem: str):
    server = new_server()
    (tmp_path / "file").write_text(text)
    code, _, error = manage(server, "import", "--dry-run", tmp_path / "file")
    assert (code, problem in error) == (1 if problem else 0, True), error


def test_an_import_names_one_source(new_server):
    server = new_server()
    assert manage(server, "import")[0] == 2
    assert manage(server, "import", "file", "--from", "redis://x")[0] == 2
    assert "redis://" in manage(server, "import", "--from", "mysql://x")[2]


def fill_redis(uri: str, count: int) -> None:
    """A queue as `zaqar/storage/redis` keeps it."""
    pack, now = msgpack.packb, time.time()
    with redis_client.Redis.from_url(uri) as client:
        pipe = client.pipeline(transaction=False)
        pipe.zadd("p.queues_set", {"p.q": 1})
        pipe.hset("p.q", mapping={"c": count, "m": pack({"team": "blue"}), "t": int(now)})
        for number in range(count):
            id = f"{number:08x}-0000-4000-8000-000000000000"
            body = {"c": "", "k": number, "t": 600, "e": now + 600, "cr": now, "d": 0, "c.e": now, "c.c": 0}
            pipe.hset(id, mapping={**body, "b": pack(number), "u": f"client-{number // 700}"})
            pipe.zadd("p.q.messages", {id: number})
            if number % 1000 == 999:
                pipe.execute()
        pipe.execute()


def fill_mongodb(uri: str, database: str, count: int) -> None:
    """Two queues and a subscription as `zaqar/storage/mongodb` keeps them, in two partitions."""
    now = int(time.time())
    ends = datetime.datetime.fromtimestamp(now + 600, tz=datetime.UTC)
    with pymongo.MongoClient(uri) as client:
        counter = {"v": count + 1, "t": now}
        for number, name in enumerate(("q", "r")):
            queue = {"p_q": f"p/{name}", "m": {"team": name}, "c": counter}
            client[f"{database}_queues"].queues.insert_one(queue)
            scope = {"p_q": f"p/{name}", "t": 600, "e": ends, "c": {"id": None, "e": now, "c": 0}}
            messages = [
                {**scope, "u": f"client-{k // 700}", "d": now, "b": k, "k": k, "tx": None}
                for k in range(count if name == "q" else 1)
            ]
            partition = client[f"{database}_messages_p{number}"].messages
            partition.create_index([("p_q", 1), ("k", 1), ("c.e", 1)])
            partition.insert_many(messages)
        # Of a post that was not completed.
        partition.insert_one({**scope, "u": "c", "d": now, "b": "never", "k": 7, "tx": "t"})
        subscription = {"s": "r", "p": "p", "u": "http://example.org/x", "t": 600, "e": ends, "o": {"k": 1}}
        client[f"{database}_subscriptions"].subscriptions.insert_one({**subscription, "c": True})


def listed(api: Api, queue: str) -> list[object]:
    return [message["body"] for page in api.pages(queue, limit=1000) for message in page]


def many() -> Sections:
    return {"transport": {"max_messages_per_page": 1000}}


def test_every_message_of_a_redis_is_imported_once_in_order(redis: Redis, new_server: Callable[..., Server]):
    fill_redis(redis.uri + "/3", MESSAGES)
    server = new_server(options=many())
    code, said, error = manage(server, "import", "--from", redis.uri + "/3")
    assert (code, said) == (0, f"imported: 1 queue of 1 project, {MESSAGES} messages, 0 subscriptions\n")
    assert "10000 messages" not in error, "progress is of every ten thousand"
    server.start()
    with Api(server.url, "p") as api:
        assert listed(api, "q") == list(range(MESSAGES))


def test_every_message_of_a_mongodb_is_imported_once_in_order(
    mongodb: MongoDB, new_server: Callable[..., Server]
):
    database = new_name()
    fill_mongodb(mongodb.uri, database, MESSAGES)
    server = new_server(options=many())
    source = ("--from", mongodb.uri, "--database", database)
    counted = f"2 queues of 1 project, {MESSAGES + 1} messages, 1 subscription\n"
    assert manage(server, "import", *source, "--dry-run")[1] == f"would be imported: {counted}"
    assert not server.data.exists()
    code, said, error = manage(server, "import", *source)
    assert (code, said) == (0, f"imported: {counted}"), error
    again = manage(server, "import", *source)[1]
    assert "queue p/q" in again
    assert ": it has messages here already" in again
    server.start()
    with Api(server.url, "p") as api:
        assert listed(api, "q") == list(range(MESSAGES))
        assert listed(api, "r") == [0]
        assert api.call("GET", "/v2/queues/r").json()["team"] == "r"
        [subscription] = api.call("GET", "/v2/queues/r/subscriptions").json()["subscriptions"]
        assert (subscription["options"], 500 < subscription["ttl"] <= 600) == ({"k": 1}, True)
