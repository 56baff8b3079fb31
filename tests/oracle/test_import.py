"""`zaqar-manage import`: what the original wrote to its store is here afterwards, once and in order."""

from __future__ import annotations

import subprocess

import pytest

from oracle.servers import original, original_on_redis
from support.api import Api
from support.redis import Redis
from support.server import Server, server_binary

BODIES = [None, 1.5, "text ü", [1, {"a": "b"}], {"nested": {"deep": [True]}}]
METADATA = {"_default_message_ttl": 7200, "team": "blue"}


def manage(server: Server, *arguments: str) -> str:
    program = server_binary().with_name("zaqar-manage")
    server.write_config()
    command = [program, "--config-file", server.config, "import", *arguments]
    done = subprocess.run(command, cwd=server.root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fill(url: str) -> None:
    """Two projects; queues with and without metadata, messages of two clients, subscriptions, claims."""
    with Api(url, "p1") as api, Api(url, "p1") as other, Api(url, "p2") as stranger:
        assert api.call("PUT", "/v2/queues/q", json=METADATA).status_code == 201
        for number in range(250):
            sender = api if number % 3 else other
            sender.post("q", {"number": number})
        api.post("q", *BODIES)
        assert len(api.claim("q", limit=5)[1]) == 5
        assert api.call("PUT", "/v2/queues/empty", json={}).status_code == 201
        stranger.post("q", "of p2")
        subscription = {"subscriber": "http://hooks.example.org/x", "ttl": 3600, "options": {"k": "v"}}
        assert api.call("POST", "/v2/queues/q/subscriptions", json=subscription).status_code == 201
        trust = {"subscriber": "gopher://x", "ttl": 3600, "options": {}}
        assert api.call("POST", "/v2/queues/q/subscriptions", json=trust).status_code == 400


def is_whole(server: Server) -> None:
    """What `fill` wrote is all there."""
    server.start()
    with Api(server.url, "p1") as api, Api(server.url, "p2") as stranger:
        shown = [message["body"] for page in api.pages("q") for message in page]
        assert shown == [{"number": number} for number in range(250)] + BODIES
        metadata = api.call("GET", "/v2/queues/q").json()
        assert {name: metadata[name] for name in METADATA} == METADATA
        names = [queue["name"] for queue in api.call("GET", "/v2/queues").json()["queues"]]
        assert names == ["empty", "q"]
        [subscription] = api.call("GET", "/v2/queues/q/subscriptions").json()["subscriptions"]
        assert subscription["subscriber"] == "http://hooks.example.org/x"
        assert subscription["options"] == {"k": "v"}
        assert 3000 < subscription["ttl"] <= 3600
        # What was claimed is free, and every message is claimed once.
        assert len(api.claim("q", limit=20)[1]) == 20
        assert api.call("GET", "/v2/queues/q/stats").json()["messages"]["total"] == 255
        [message] = stranger.call("GET", "/v2/queues/q/messages").json()["messages"]
        assert message["body"] == "of p2"
        assert 100 < message["ttl"] <= 300, "what was left of its life"


# The first to use the original installs it, which takes minutes.
@pytest.mark.timeout(1200)
def test_what_the_original_wrote_to_redis_is_imported_once_and_in_order(tmp_path, new_server):
    redis = Redis(tmp_path / "redis").start()
    try:
        with original_on_redis(tmp_path / "original", redis.uri) as address:
            fill(f"http://{address[0]}:{address[1]}")
        before = redis.cli("DBSIZE")
        server = new_server()
        counted = "2 projects, 256 messages, 1 subscription"
        dry = manage(server, "--from", redis.uri, "--dry-run")
        assert dry == f"would be imported: 3 queues of {counted}\n"
        assert not server.data.exists()
        assert manage(server, "--from", redis.uri) == f"imported: 3 queues of {counted}\n"
        # Once more changes nothing.
        again = manage(server, "--from", redis.uri)
        assert "queue p1/q" in again
        assert ": it has messages here already" in again
        assert redis.cli("DBSIZE") == before
    finally:
        redis.kill()
    is_whole(server)


# The first to use the original installs it, which takes minutes.
@pytest.mark.timeout(1200)
def test_what_the_original_wrote_to_mongodb_is_imported_once_and_in_order(tmp_path, new_server):
    server = new_server()
    with original(tmp_path / "original") as target:
        fill(f"http://{target.http[0]}:{target.http[1]}")
        counted = "2 projects, 256 messages, 1 subscription"
        dry = manage(server, "--from", target.database, "--dry-run")
        assert dry == f"would be imported: 3 queues of {counted}\n"
        assert not server.data.exists()
        assert manage(server, "--from", target.database) == f"imported: 3 queues of {counted}\n"
    is_whole(server)


def test_an_import_says_what_is_wrong(tmp_path, new_server):
    server = new_server()
    server.write_config()
    program = server_binary().with_name("zaqar-manage")
    for source, text in (("mysql://x", "redis://"), ("redis://127.0.0.1:1", "refused")):
        command = [program, "--config-file", server.config, "import", "--from", source]
        done = subprocess.run(command, cwd=server.root, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert text in done.stderr
