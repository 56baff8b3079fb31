"""Pools and flavors: their rules over both wires, and queues spread over stores of different kinds."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openstackclient import shell
from openstackclient.common.clientmanager import ClientManager
from zaqarclient.queues import cli
from zaqarclient.queues.v2 import client as zaqarclient
from zaqarclient.transport import errors

from support.api import Api
from support.clients import connect
from support.keystone import FakeKeystone
from support.operated import Operated, value
from support.redis import Redis, on_redis
from support.server import Server, server_binary
from support.spread import SpreadLoad
from support.wait import wait_until
from support.websocket import WebSocket

POOLING = {"DEFAULT": {"pooling": True, "admin_mode": True}}
#: A server that does not wait long for a Redis that is away.
HASTY = {"max_reconnect_attempts": 1, "reconnect_sleep": 0.1}


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process with everything embedded, so that its pools may be, too."""
    options = {
        **POOLING,
        "pooling:catalog": {"enable_virtual_pool": True},
        "signed_url": {"secret_key": "a key"},
    }
    own = Server(tmp_path_factory.mktemp("pooled"), options=options, websocket=True)
    own.start()
    yield own
    assert own.stop() == 0, own.log_tail()


@pytest.fixture
def admin(pooled: Server) -> Iterator[Api]:
    with Api(pooled.url) as api:
        api.http.headers["X-Roles"] = "admin"
        yield api
        clear(api)


def clear(api: Api) -> None:
    """Removes this project's flavors and all pools."""
    for flavor in api.call("GET", "/v2/flavors?limit=20").json()["flavors"]:
        assert api.call("DELETE", flavor["href"]).status_code == 204
    while pools := api.call("GET", "/v2/pools?limit=20").json()["pools"]:
        for pool in pools:
            api.call("PATCH", pool["href"], json={"flavor": ""})
            assert api.call("DELETE", pool["href"]).status_code == 204


def register(api: Api, name: str, uri: str, weight: int = 100, **more: object) -> None:
    answer = api.call("PUT", f"/v2/pools/{name}", json={"uri": uri, "weight": weight, **more})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v2/pools/{name}"


def embedded(root: Path, name: str) -> str:
    return f"embedded:{root / name}"


def test_without_pooling_pools_and_flavors_are_404(api: Api):
    for path in ("/v2/pools", "/v2/pools/p", "/v2/flavors", "/v2/flavors/f"):
        assert api.call("GET", path, headers={"X-Roles": "admin"}).status_code == 404, path
    assert "rel/pools" not in api.call("GET", "/v2/").json()["resources"]


def test_pools_are_for_administrators(pooled: Server, admin: Api):
    with Api(pooled.url, admin.project) as stranger:
        assert stranger.call("GET", "/v2/pools").status_code == 403
        assert stranger.call("PUT", "/v2/pools/p", json={"uri": "x:", "weight": 1}).status_code == 403
        assert stranger.call("GET", "/v2/flavors").status_code == 200
        assert stranger.call("PUT", "/v2/flavors/f", json={"pool_list": ["p"]}).status_code == 403
    assert "rel/pools" in admin.call("GET", "/v2/").json()["resources"]


def test_a_pool_is_registered_changed_and_deleted(admin: Api, tmp_path: Path):
    uri = embedded(tmp_path, "one")
    register(admin, "one", uri, 7, options={"sync": "never", "accept_loss": True})
    shown = {"href": "/v2/pools/one", "name": "one", "uri": uri, "weight": 7, "flavor": None}
    assert admin.call("GET", "/v2/pools/one").json() == shown
    detailed = {**shown, "options": {"sync": "never", "accept_loss": True}}
    assert admin.call("GET", "/v2/pools/one?detailed=True").json() == detailed
    changed = admin.call("PATCH", "/v2/pools/one", json={"weight": 9, "flavor": "gold", "more": 1})
    assert (changed.status_code, changed.json()) == (200, {**shown, "weight": 9, "flavor": "gold"})
    last = admin.call("DELETE", "/v2/pools/one")
    assert last.status_code == 403
    assert last.json() == {
        "title": "Unable to delete",
        "description": "This pool is used by flavors gold; It cannot be deleted.",
    }
    assert admin.call("PATCH", "/v2/pools/one", json={"flavor": ""}).json()["flavor"] is None
    assert admin.call("DELETE", "/v2/pools/one").status_code == 204
    assert admin.call("DELETE", "/v2/pools/one").status_code == 204
    gone = admin.call("GET", "/v2/pools/one")
    assert (gone.status_code, gone.json()["description"]) == (404, "Pool one does not exist")
    assert admin.call("PATCH", "/v2/pools/one", json={"weight": 1}).status_code == 404


@pytest.mark.parametrize(
    "document",
    [
        {"weight": 100},
        {"uri": "embedded:/x"},
        *({"uri": "embedded:/x", "weight": weight} for weight in (-1, 2**32, "big", 1.5, True, None)),
        *({"weight": 1, "uri": uri} for uri in (-1, [], "a" * 256, None)),
        *({"weight": 1, "uri": "embedded:/x", "options": options} for options in (-1, "wee", [], None)),
        {"weight": 1, "uri": "embedded:/x", "options": {"a": "x" * 4096}},
        {"weight": 1, "uri": "embedded:/x", "flavor": 1},
        {"weight": 1, "uri": "embedded:/x", "location": "here"},
        {"weight": 1, "uri": "localhost:27017"},
        {"weight": 1, "uri": "embedded:/proc/nowhere"},
        [],
    ],
    ids=str,
)
def test_invalid_pools_are_400(admin: Api, document: object):
    answer = admin.call("PUT", "/v2/pools/bad", json=document)
    assert answer.status_code == 400, answer.text
    assert answer.json()["title"] == "Invalid request body"
    assert admin.call("GET", "/v2/pools").json() == {"pools": [], "links": []}


def test_one_store_is_one_pool_and_passwords_are_not_shown(pooled: Server, admin: Api, tmp_path: Path):
    register(admin, "one", embedded(tmp_path, "one"))
    twice = admin.call("PUT", "/v2/pools/two", json={"uri": embedded(tmp_path, "one"), "weight": 1})
    assert twice.status_code == 409
    assert twice.json()["description"] == "The database URI is in use by another pool."
    own = admin.call("PUT", "/v2/pools/own", json={"uri": f"embedded:{pooled.data}", "weight": 1})
    assert own.status_code == 409
    assert "that of the configured message store" in own.json()["description"]
    # Again under its own name: replaced.
    register(admin, "one", embedded(tmp_path, "one"), 3)
    secret = {"uri": "redis://user:hunter2@127.0.0.1:1", "weight": 1, "options": HASTY}
    away = admin.call("PUT", "/v2/pools/away", json=secret)
    assert away.status_code == 400
    assert away.json()["description"].startswith("cannot connect to redis://user:***@127.0.0.1:1")
    assert "hunter2" not in away.text + pooled.log.read_text()


def test_pools_are_listed_in_pages(admin: Api, tmp_path: Path):
    for number in range(5):
        register(admin, f"p{number}", embedded(tmp_path, f"p{number}"), number)
    assert admin.call("GET", "/v2/pools?limit=0").status_code == 400
    assert admin.call("GET", "/v2/pools?limit=21").status_code == 400
    names, path = [], "/v2/pools?limit=2&detailed=True"
    while True:
        page = admin.call("GET", path).json()
        if not page["pools"]:
            break
        assert all(pool["options"] == {} for pool in page["pools"])
        names += [pool["name"] for pool in page["pools"]]
        path = page["links"][0]["href"]
        assert path == f"/v2/pools?limit=2&detailed=true&marker={names[-1]}"
    assert names == [f"p{number}" for number in range(5)]


def test_a_flavor_is_created_changed_and_deleted(pooled: Server, admin: Api, tmp_path: Path):
    for name in ("a", "b"):
        register(admin, name, embedded(tmp_path, name))
    assert admin.call("PUT", "/v2/flavors/gold", json={"pool_list": ["a", "b"]}).status_code == 201
    can = ["FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"]
    shown = {"name": "gold", "href": "/v2/flavors/gold", "pool_list": ["a", "b"]}
    assert admin.call("GET", "/v2/flavors/gold").json() == {**shown, "capabilities": can}
    assert admin.call("GET", "/v2/flavors").json()["flavors"] == [shown]
    page = admin.call("GET", "/v2/flavors?detailed=True&limit=1").json()
    assert page["flavors"] == [{**shown, "capabilities": can}]
    assert page["links"] == [{"rel": "next", "href": "/v2/flavors?limit=1&detailed=true&marker=gold"}]
    changed = admin.call("PATCH", "/v2/flavors/gold", json={"pool_list": ["b"]})
    assert changed.json() == {**shown, "pool_list": ["b"], "capabilities": can}
    with Api(pooled.url) as other:
        assert other.call("GET", "/v2/flavors/gold").status_code == 404
    for document in (
        {},
        {"capabilities": {}},
        {"pool_list": 1},
        {"pool_list": [1]},
        {"pool_list": [], "x": 1},
    ):
        assert admin.call("PUT", "/v2/flavors/bad", json=document).status_code == 400, document
    assert admin.call("PUT", "/v2/flavors/bad", json={"pool_list": ["z"]}).json() == {
        "title": "Unable to create",
        "description": "Flavor bad could not be created, error:Pool z does not exist",
    }
    assert admin.call("PATCH", "/v2/flavors/none", json={"pool_list": ["a"]}).status_code == 404
    assert admin.call("DELETE", "/v2/flavors/gold").status_code == 204
    gone = admin.call("GET", "/v2/flavors/gold")
    assert (gone.status_code, gone.json()["description"]) == (404, "Flavor gold does not exist")


def test_pools_and_flavors_over_websocket(pooled: Server, admin: Api, tmp_path: Path):
    with WebSocket(pooled.websocket_url, admin.project) as socket:

        def ask(action: str, **body: object) -> tuple[int, object]:
            reply = socket.call(action, body, {**socket.headers, "X-Roles": "admin"})
            return reply.status, reply.body

        uri = embedded(tmp_path, "ws")
        assert ask("pool_create", pool_name="ws", uri=uri, weight=1)[0] == 201
        pool = {"name": "ws", "uri": uri, "weight": 1, "flavor": None}
        assert ask("pool_get", pool_name="ws", detailed=True) == (200, {**pool, "options": {}})
        assert ask("pool_list") == (200, {"pools": [pool]})
        assert ask("pool_update", pool_name="ws", weight=2) == (200, {**pool, "weight": 2})
        assert ask("pool_update", pool_name="ws")[0] == 400
        # There is no other pool for its queues.
        assert ask("pool_drain_create", pool_name="ws")[0] == 409
        spare = embedded(tmp_path, "spare")
        assert ask("pool_create", pool_name="spare", uri=spare, weight=1)[0] == 201
        assert ask("pool_drain_create", pool_name="ws") == (202, "Drain of pool ws began.")
        drain = {"draining": True, "queues_left": 0, "more": False, "moves": []}
        assert ask("pool_drain_get", pool_name="ws") == (200, drain)
        assert ask("pool_drain_delete", pool_name="ws")[0] == 204
        assert ask("pool_drain_get", pool_name="ws") == (200, {**drain, "draining": False})
        assert ask("pool_delete", pool_name="spare")[0] == 204
        assert ask("pool_drain_get", pool_name="none")[0] == 404
        assert ask("queue_create", queue_name="moves")[0] == 201
        assert ask("message_post", queue_name="moves", messages=[{"body": 1}])[0] == 201
        uri = embedded(tmp_path, "other")
        assert ask("pool_create", pool_name="other", uri=uri, weight=0)[0] == 201
        to = {"pool_name": "other", "queue_name": "moves"}
        assert ask("pool_queue_create", **to) == (202, "Move of queue moves to pool other began.")

        def state() -> str:
            return ask("pool_drain_get", pool_name="other")[1]["moves"][0]["state"]

        wait_until(lambda: state() == "moved", "the queue has moved")
        assert [one["body"] for one in ask("message_list", queue_name="moves", echo=True)[1]["messages"]] == [
            1
        ]
        assert ask("pool_queue_create", **to)[0] == 409
        assert ask("pool_queue_create", **{**to, "queue_name": "none"})[0] == 404
        assert ask("pool_queue_create", **to, kind="heap")[0] == 400
        assert ask("queue_delete", queue_name="moves")[0] == 204
        assert ask("flavor_create", flavor_name="f", pool_list=["ws"])[0] == 201
        assert ask("flavor_get", flavor_name="f")[1]["pool_list"] == ["ws"]
        assert ask("flavor_update", flavor_name="f", pool_list=["ws"])[0] == 200
        assert ask("flavor_list")[1]["flavors"] == [{"name": "f", "pool_list": ["ws"]}]
        assert ask("pool_delete", pool_name="ws")[0] == 403
        assert ask("flavor_delete", flavor_name="f")[0] == 204
        assert ask("flavor_get", flavor_name="f")[0] == 404
        assert ask("pool_delete", pool_name="ws")[0] == 204
        assert socket.call("pool_list", {}).status == 403


class Admin(zaqarclient.Client):
    """The client behind a proxy that sends the caller's roles."""

    def _request_and_transport(self):
        request, transport = super()._request_and_transport()
        request.headers["X-Roles"] = "admin"
        return request, transport


def test_python_zaqarclient(pooled: Server, admin: Api, tmp_path: Path):
    plain = connect(pooled.url, admin.project)
    client = Admin(plain.api_url, 2, plain.conf)
    uri = embedded(tmp_path, "py")
    pool = client.pool("py", weight=10, uri=uri)
    assert [one.name for one in client.pools()] == ["py"]
    pool.update({"weight": 11})
    assert pool.get()["weight"] == 11
    flavor = client.flavor("fast", pool_list=["py"])
    assert [one.name for one in client.flavors()] == ["fast"]
    assert flavor.get()["pool_list"] == ["py"]
    flavor.update({"pool_list": ["py"]})
    with pytest.raises(errors.ConflictError):
        client.pool("twin", weight=1, uri=uri)
    flavor.delete()
    pool.delete()
    assert list(client.pools()) == []


def test_a_queue_is_placed_in_a_pool_of_its_flavor(admin: Api, tmp_path: Path):
    for name in ("plain", "gold"):
        register(admin, name, embedded(tmp_path, name))
    assert admin.call("PUT", "/v2/flavors/gold", json={"pool_list": ["gold"]}).status_code == 201
    unknown = admin.call("PUT", "/v2/queues/q", json={"_flavor": "silver"})
    assert (unknown.status_code, unknown.json()["description"]) == (400, "Flavor silver does not exist")
    assert admin.call("PUT", "/v2/queues/g", json={"_flavor": "gold"}).status_code == 201
    patch = {"op": "add", "path": "/metadata/_flavor", "value": "silver"}
    media = {"Content-Type": "application/openstack-messaging-v2.0-json-patch"}
    assert admin.call("PATCH", "/v2/queues/g", json=[patch], headers=media).status_code == 400
    for queue in ("g", "h"):
        admin.post(queue, *range(5))
        assert [one["body"] for one in admin.messages(queue)] == list(range(5))
    claim, messages = admin.claim("g", 3)
    assert len(messages) == 3
    assert claim
    assert {queue["name"] for queue in admin.call("GET", "/v2/queues").json()["queues"]} == {"g", "h"}
    # A dead letter moves from one pool to the other.
    assert admin.call("PUT", "/v2/queues/dead").status_code == 201
    assert admin.call("PUT", "/v2/queues/source", json={"_flavor": "gold"}).status_code == 201
    admin.set_metadata("source", {"_max_claim_count": 1, "_dead_letter_queue": "dead"})
    admin.post("source", "letter")
    claim, messages = admin.claim("source")
    assert [one["body"] for one in messages] == ["letter"]
    assert admin.call("DELETE", f"/v2/queues/source/claims/{claim}").status_code == 204
    assert admin.claim("source") == ("", [])
    assert [one["body"] for one in admin.messages("dead")] == ["letter"]
    assert admin.messages("source") == []


def test_snapshots_are_made_of_an_embedded_pool(pooled: Server, admin: Api, tmp_path: Path):
    made = [tmp_path / f"copies{number}" for number in range(4)]
    for number, directory in enumerate(made):
        options = {"snapshot_interval": 3600, "snapshot_dir": str(directory)}
        uri = embedded(tmp_path, f"copied{number}")
        # So that the next queue is placed in it, and it is opened at once.
        register(admin, f"copied{number}", uri, 1000**number, options=options)
        admin.post(f"in{number}", number)
        assert admin.call("DELETE", f"/v2/queues/in{number}").status_code == 204
    wait_until(lambda: all(any(one.glob("snapshot-*.db")) for one in made), "snapshots are made")
    # By what checks the pool, whose own store has its snapshots there.
    assert "snapshots cannot be created" not in pooled.log.read_text()


def test_a_pool_gets_another_store_and_the_first_one_back(admin: Api, pooled: Server, tmp_path: Path):
    register(admin, "back", embedded(tmp_path, "one"))
    opened = f'pool="back" uri="{embedded(tmp_path, "one")}"'
    wait_until(lambda: opened in pooled.log.read_text(), "the pool is open")
    for name in ["two", "one"]:
        changed = admin.call("PATCH", "/v2/pools/back", json={"uri": embedded(tmp_path, name)})
        assert changed.status_code == 200, changed.text


def test_health_reports_each_pool(pooled: Server, admin: Api, tmp_path: Path):
    def health() -> dict:
        return admin.call("GET", "/v2/health").json()

    assert health() == {"catalog_reachable": True}
    for name in ("a", "b"):
        register(admin, name, embedded(tmp_path, name))
        assert admin.call("PUT", f"/v2/flavors/f{name}", json={"pool_list": [name]}).status_code == 201
        assert admin.call("PUT", f"/v2/queues/q{name}", json={"_flavor": f"f{name}"}).status_code == 201
    for number in range(3):
        admin.post("qa", str(number))
    admin.claim("qa", limit=1)

    # What a store holds may be some seconds old.
    volume = {"free": 2, "claimed": 1, "total": 3}
    wait_until(lambda: health()["a"]["message_volume"] == volume, "pool a tells what it holds")
    found = health()
    assert found["catalog_reachable"] is True
    assert set(found) == {"catalog_reachable", "a", "b"}
    for name in ("a", "b"):
        assert found[name]["storage_reachable"] is True
        assert len(found[name]["operation_status"]) == 8
        for operation, status in found[name]["operation_status"].items():
            assert status["succeeded"] is True, operation
            assert status["ref"] is None
    with WebSocket(pooled.websocket_url, admin.project) as socket:
        reply = socket.call("check_node_health", headers={**socket.headers, "X-Roles": "admin"})
        assert (reply.status, set(reply.body)) == (200, set(found))
    for name in ("qa", "qb"):
        assert admin.call("DELETE", f"/v2/queues/{name}").status_code == 204


def test_subscribers_get_messages_of_queues_in_every_pool(pooled: Server, admin: Api, tmp_path: Path):
    for name in ("a", "b"):
        register(admin, name, embedded(tmp_path, name))
    queues = [f"q{number}" for number in range(6)]
    with WebSocket(pooled.websocket_url, admin.project) as socket:
        for queue in queues:
            socket.ask("subscription_create", 201, queue_name=queue, ttl=600)
        for queue in queues:
            admin.post(queue, queue)
        received = {socket.push(timeout=60).document["queue_name"] for _ in queues}
    assert received == set(queues)


@pytest.fixture
def redises(tmp_path: Path) -> Iterator[list[Redis]]:
    servers = [Redis(tmp_path / f"redis-{name}", "--save", "").start() for name in ("home", "a", "b")]
    yield servers
    for server in servers:
        server.kill()


def test_two_servers_three_redises_and_one_that_fails(
    redises: list[Redis], new_server: Callable[..., Server], tmp_path: Path
):
    home, *pools = redises
    options = {**on_redis(home.uri), **POOLING}
    first = new_server(options=options).start()
    second = Operated(tmp_path / "second", options=options)
    second.start()
    with Api(first.url) as api, Api(second.url, api.project) as other:
        api.http.headers["X-Roles"] = "admin"
        refused = api.call("PUT", "/v2/queues/early")
        assert refused.status_code == 503, "no pool takes it"
        for name, redis in zip("ab", pools, strict=True):
            register(api, name, redis.uri, options=HASTY)
        disk = api.call("PUT", "/v2/pools/disk", json={"uri": f"embedded:{tmp_path}/disk", "weight": 1})
        assert disk.status_code == 400
        assert "one process" in disk.text
        queues = [f"q{number}" for number in range(20)]
        for queue in queues:
            api.post(queue, queue)
            assert [one["body"] for one in other.messages(queue)] == [queue]
        keys = [int(redis.cli("DBSIZE")) for redis in pools]
        assert all(keys), keys
        # One pool goes: its queues fail, the others do not notice.
        pools[1].kill()
        answers = [other.call("GET", f"/v2/queues/{queue}/messages?echo=true") for queue in queues]
        codes = {answer.status_code for answer in answers}
        assert codes == {200, 503}, codes
        assert other.call("GET", "/v2/ping").status_code == 204
        assert other.call("GET", "/v2/queues?limit=20").status_code == 200
        wait_until(lambda: 'pool="b"' in second.log.read_text(), "the log names the pool")
        assert all("b" not in answer.json()["description"].split() for answer in answers if answer.is_error)
        # Metrics and health name this pool, and no other.
        health = api.call("GET", "/v2/health").json()
        assert health["catalog_reachable"] is False
        assert health["a"]["storage_reachable"] is True
        assert health["b"]["storage_reachable"] is False
        assert health["b"]["problems"]
        wait_until(lambda: value(second.metrics(), "zaqar_pool_up", pool="b") == 0, "the metrics tell")
        assert value(second.metrics(), "zaqar_pool_up", pool="a") == 1
        assert second.ask("/ready").status_code == 200
        told = {pool["name"]: pool["state"] for pool in second.ask("/report?format=json").json()["pools"]}
        assert told["a"] == "serves"
        assert "reached" in told["b"]
        pools[1].start()
        wait_until(lambda: value(second.metrics(), "zaqar_pool_up", pool="b") == 1, "the pool is back")
        wait_until(lambda: api.call("GET", "/v2/health").json()["catalog_reachable"] is True, "both servers")
    assert second.stop() == 0, second.log_tail()


def test_a_pool_is_drained_under_load(
    redises: list[Redis], new_server: Callable[..., Server], tmp_path: Path, seed: int
):
    """Every queue of a pool moves to another one while two servers are used: an honest history."""
    home, *pools = redises
    options = {**on_redis(home.uri), **POOLING}
    servers = [new_server(options=options).start() for _ in range(2)]
    load = SpreadLoad(random=random.Random(seed), producers=4, claimers=4)
    with Api(servers[0].url, load.project) as api:
        api.http.headers["X-Roles"] = "admin"
        register(api, "a", pools[0].uri)

        def drain() -> dict:
            return api.call("GET", "/v2/pools/a/drain").json()

        def drain_all() -> None:
            register(api, "b", pools[1].uri)
            assert api.call("POST", "/v2/pools/a/drain").status_code == 202
            wait_until(lambda: drain()["queues_left"] == 0, "no queue is left")

        async def end() -> None:
            await asyncio.sleep(1)
            await asyncio.to_thread(drain_all)
            await load.until_enough()

        load.run_on(servers, end)
        moves = drain()["moves"]
        assert {move["state"] for move in moves} == {"moved"}, moves
        assert "work-0" in {move["queue_name"] for move in moves}
        assert sum(move["rows"] for move in moves) > 0
        # A machine that is busy may need longer than requests wait.
        assert {status for _, status in load.server_errors()} <= {503}
        load.judge(servers[1].url, tmp_path / "history")
        assert api.call("DELETE", "/v2/pools/a/drain").status_code == 204
        assert drain()["draining"] is False


def test_a_queue_is_moved_by_the_command(redises: list[Redis], new_server: Callable[..., Server]):
    home, *pools = redises
    server = new_server(options={**on_redis(home.uri), **POOLING}).start()
    with Api(server.url) as api:
        api.http.headers["X-Roles"] = "admin"
        register(api, "a", pools[0].uri)
        ids = api.post("q", *range(50))
        claim, held = api.claim("q", limit=3)
        register(api, "b", pools[1].uri)
        program = server_binary().with_name("zaqar-manage")
        order = ["queue", "move", "q", "b", "--project", api.project]
        moved = subprocess.run(
            [program, "--config-file", server.config, *order],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert moved.returncode == 0, moved.stderr
        assert "moved to b: 51 rows" in moved.stdout
        assert api.call("DELETE", held[0]["href"]).status_code == 204
        assert len(api.call("GET", f"/v2/queues/q/claims/{claim}").json()["messages"]) == 2
        listed = api.call("GET", "/v2/queues/q/messages?limit=20&echo=true&include_claimed=true").json()
        assert [message["id"] for message in listed["messages"]] == ids[1:21]
        for body, code in (
            ({"queue_name": "q"}, 409),
            ({"queue_name": "missing"}, 404),
            ({}, 400),
            ({"queue_name": "q", "kind": "heap"}, 400),
        ):
            answer = api.call("POST", "/v2/pools/b/queues", json=body)
            assert answer.status_code == code, answer.text
        assert api.call("POST", "/v2/pools/x/queues", json={"queue_name": "q"}).status_code == 404


def test_openstack_commands(pooled: Server, admin: Api, tmp_path: Path, capsys):
    # Behind a Keystone that is no part of this: roles come from a proxy.
    uri = embedded(tmp_path, "cli")
    with FakeKeystone(pooled.url, admin.project) as keystone:
        login = [
            *("--os-auth-url", keystone.url, "--os-username", "user", "--os-password", "secret"),
            *("--os-user-domain-id", "default", "--os-region-name", "here"),
            *("--os-project-id", admin.project),
        ]

        def run(*words: str) -> tuple[int, str]:
            capsys.readouterr()
            code = shell.OpenStackShell().run([*login, "messaging", *words])
            return code, capsys.readouterr().out

        register(admin, "cli", uri)
        assert admin.call("PUT", "/v2/flavors/cli", json={"pool_list": ["cli"]}).status_code == 201
        try:
            code, shown = run("flavor", "list", "-f", "json")
            assert (code, json.loads(shown)) == (0, [{"Name": "cli", "Pool list": ["cli"]}])
            code, shown = run("flavor", "show", "cli", "-f", "json")
            assert (code, json.loads(shown)["Pool list"]) == (0, ["cli"])
            # The command line has no role here.
            assert run("pool", "list", "-f", "json")[0] != 0
        finally:
            cli._MESSAGING_ENDPOINT = None
            inspect.getattr_static(ClientManager, "messaging")._handle = None
