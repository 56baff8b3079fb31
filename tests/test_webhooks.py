"""Webhooks that arrive: what is sent, what is retried, what is not, and that no message is lost."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openstack
import pytest

from support import clients
from support.api import Api
from support.certificates import certificate
from support.keystone import FakeKeystone
from support.mongodb import REAL_URI, MongoDB, drop, new_name, on_mongodb
from support.receiver import Receiver
from support.redis import Redis, on_redis
from support.server import Sections, Server
from support.wait import wait_until

#: What lets a server reach the receiver of the tests; short times, so that a slow one is soon given
#: up.
LOCAL: Sections = {"notification": {"allow_networks": "127.0.0.0/8", "timeout": 2, "connect_timeout": 1}}

#: A policy whose retries come soon.
QUICK = {
    "retries_with_no_delay": 0,
    "minimum_delay_retries": 50,
    "minimum_delay": 1,
    "maximum_delay": 11,
    "maximum_delay_retries": 10,
}


#: Messages that must arrive though servers are killed; more find more, in more time.
MESSAGES = int(os.environ.get("ZAQAR_TEST_DELIVERIES", "1000"))
KILLS = max(6, MESSAGES // 250)
#: Seconds for these tests.
LONG = max(400, MESSAGES // 5)
#: Subscriptions of one queue.
SUBSCRIPTIONS = int(os.environ.get("ZAQAR_TEST_SUBSCRIPTIONS", "300"))


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may reach the receiver; tests use projects of their own."""
    options = {**LOCAL, "transport": {"message_encryption_key": "a key of test_webhooks"}}
    own = Server(tmp_path_factory.mktemp("hooked"), options=options)
    own.start()
    yield own
    assert own.stop() == 0, own.log_tail()


@pytest.fixture
def hooks(hooked: Server) -> Iterator[Api]:
    with Api(hooked.url) as client:
        yield client


def path_of(name: str) -> str:
    """A path that no other test uses."""
    return f"{name}/{uuid.uuid4()}" if "then" not in name else f"{name}?{uuid.uuid4()}"


def subscribe(api: Api, subscriber: str, queue: str = "q", collection: str = "queues", **options) -> str:
    document = {"subscriber": subscriber, "ttl": 3600, "options": options}
    answer = api.call("POST", f"/v2/{collection}/{queue}/subscriptions", json=document)
    assert answer.status_code == 201, answer.text
    return answer.json()["subscription_id"]


def arrived(receiver: Receiver, path: str, count: int = 1) -> None:
    wait_until(lambda: len(receiver.of(path)) >= count, f"{count} requests arrive at {path}")


def assert_no_more(receiver: Receiver, path: str, count: int, seconds: float = 2.0) -> None:
    """Fails if another request arrives within this time."""
    time.sleep(seconds)
    found = receiver.of(path)
    assert len(found) == count, found


class TestWhatIsSent:
    def test_the_message_as_the_original_sends_it(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        subscribe(hooks, receiver.url(path), post_headers={"X-Mine": "a b"})
        body = {"event": "ä", "list": [1, None, 2.5e3], "deep": {"a": '"$zaqar_message$"'}}
        hooks.post("q", body, ttl=123)
        arrived(receiver, path)
        (request,) = receiver.of(path)
        assert request.json == {"ttl": 123, "body": body, "Message_Type": "Notification", "queue_name": "q"}
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["X-Mine"] == "a b"
        assert "X-Auth-Token" not in request.headers

    def test_post_data_holds_the_message(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        template = '{"workflow_id": "w", "input": {"message": "$zaqar_message$"}}'
        subscribe(hooks, receiver.url(path), post_data=template, post_headers={"Content-Type": "text/x"})
        hooks.post("q", {"a": 1})
        arrived(receiver, path)
        (request,) = receiver.of(path)
        assert request.headers["Content-Type"] == "text/x"
        assert request.json["workflow_id"] == "w"
        assert request.json["input"]["message"]["body"] == {"a": 1}

    def test_each_message_of_a_post_in_order(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", *range(20))
        arrived(receiver, path, 20)
        assert sorted(receiver.messages(path)) == list(range(20))

    def test_a_topic_has_subscribers_of_its_own(self, hooks: Api, receiver: Receiver):
        path, other = path_of("/ok"), path_of("/ok")
        subscribe(hooks, receiver.url(path), collection="topics")
        subscribe(hooks, receiver.url(other))
        document = {"messages": [{"ttl": 60, "body": "of the topic"}]}
        assert hooks.call("POST", "/v2/topics/q/messages", json=document).status_code == 201
        arrived(receiver, path)
        assert receiver.messages(path) == ["of the topic"]
        assert receiver.of(other) == []

    def test_an_encrypted_queue_sends_plain_bodies(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        made = hooks.call("PUT", "/v2/queues/q", json={"_enable_encrypt_messages": True})
        assert made.status_code == 201
        subscribe(hooks, receiver.url(path))
        large = "x" * 5000
        hooks.post("q", "secret", large)
        arrived(receiver, path, 2)
        assert sorted(receiver.messages(path)) == ["secret", large]

    def test_messages_before_the_subscription_are_not_delivered(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        subscribe(hooks, "http://hooks.invalid/")
        hooks.post("q", "before")
        time.sleep(0.01)
        subscribe(hooks, receiver.url(path))
        hooks.post("q", "after")
        arrived(receiver, path)
        assert receiver.messages(path) == ["after"]

    def test_consumed_messages_are_still_delivered(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", "taken")
        purged = hooks.call("POST", "/v2/queues/q/purge", json={"resource_types": ["messages"]})
        assert purged.status_code == 204
        arrived(receiver, path)

    def test_a_delayed_message_is_delivered_when_it_is_due(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        assert hooks.call("PUT", "/v2/queues/q", json={"_default_message_delay": 1}).status_code == 201
        subscribe(hooks, receiver.url(path))
        posted = time.monotonic()
        document = {"messages": [{"ttl": 60, "delay": 3, "body": "late"}]}
        assert hooks.call("POST", "/v2/queues/q/messages", json=document).status_code == 201
        arrived(receiver, path)
        assert receiver.of(path)[0].at - posted > 2.9

    def test_a_filter_selects_messages(self, hooks: Api, receiver: Receiver):
        path = path_of("/ok")
        subscribe(hooks, receiver.url(path), filter={"body.type": ["created"]})
        hooks.post("q", {"type": "deleted"}, {"type": "created"}, 7)
        arrived(receiver, path)
        assert_no_more(receiver, path, 1, 0.5)
        assert receiver.messages(path) == [{"type": "created"}]


class TestReceiversThatAreNotWell:
    def test_a_500_is_retried(self, hooks: Api, receiver: Receiver):
        path = path_of("/then/500/503/200")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", 1)
        arrived(receiver, path, 3)
        # The id is the same for every attempt.
        assert len({request.headers["Webhook-Id"] for request in receiver.of(path)}) == 1
        assert_no_more(receiver, path, 3)

    def test_ordered_deliveries_wait_for_earlier_ones(self, hooks: Api, receiver: Receiver):
        path = path_of("/then/500/204")
        subscribe(hooks, receiver.url(path), ordered=True, _retry_policy=QUICK)
        hooks.post("q", "a", "b", "c")
        arrived(receiver, path, 6)
        assert [request.json["body"] for request in receiver.of(path)] == list("aabbcc")

    def test_a_subscription_has_a_timeout_of_its_own(self, hooks: Api, receiver: Receiver):
        path = path_of("/slow")
        subscribe(hooks, receiver.url(path), timeout=0.2, _retry_policy=QUICK)
        hooks.post("q", 1)
        arrived(receiver, path, 2)

    @pytest.mark.parametrize("what", ["drop", "garbage"])
    def test_a_connection_without_an_answer_is_retried(self, hooks: Api, receiver: Receiver, what: str):
        path = path_of(f"/{what}")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", 1)
        arrived(receiver, path, 2)
        assert_no_more(receiver, path, 2)

    def test_a_redirect_is_not_followed(self, hooks: Api, receiver: Receiver):
        path = path_of("/redirect")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", 1)
        arrived(receiver, path)
        assert_no_more(receiver, path, 1)
        assert receiver.of("/redirected") == []

    @pytest.mark.parametrize("status", [400, 404, 501])
    def test_which_statuses_are_retried(self, hooks: Api, receiver: Receiver, status: int):
        path = path_of(f"/then/{status}/204")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", 1)
        count = 2 if status >= 500 else 1
        arrived(receiver, path, count)
        assert_no_more(receiver, path, count)

    def test_an_unfinished_body_is_a_success(self, hooks: Api, receiver: Receiver):
        path = path_of("/endless")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", 1)
        arrived(receiver, path)
        assert_no_more(receiver, path, 1, 3)

    def test_unfinished_headers_are_a_failure(self, hooks: Api, receiver: Receiver):
        path = path_of("/headers")
        subscribe(hooks, receiver.url(path))
        hooks.post("q", 1)
        arrived(receiver, path, 4)

    def test_a_slow_receiver_times_out_and_delays_no_other(self, hooks: Api, receiver: Receiver):
        slow = path_of("/slow")
        subscribe(hooks, receiver.url(slow))
        with Receiver() as other:
            subscribe(hooks, other.url("/ok"))
            hooks.post("q", *range(30))
            arrived(other, "/ok", 30)
            assert len(receiver.messages(slow)) < 30, "they did not wait for the slow one"
        arrived(receiver, slow, 17)

    def test_closed_idle_connections_are_replaced(self, hooks: Api, receiver: Receiver):
        path = path_of("/kept")
        subscribe(hooks, receiver.url(path), _retry_policy=QUICK)
        for number in range(10):
            hooks.post("q", number)
            arrived(receiver, path, number + 1)
        assert set(receiver.messages(path)) == set(range(10))

    def test_410_suspends_until_the_subscription_is_changed(self, hooks: Api, receiver: Receiver):
        path = path_of("/then/410/204")
        id_ = subscribe(hooks, receiver.url(path))
        hooks.post("q", "gone")
        arrived(receiver, path)
        hooks.post("q", "kept")
        assert_no_more(receiver, path, 1)
        ok = path_of("/ok")
        changed = hooks.call(
            "PATCH", f"/v2/queues/q/subscriptions/{id_}", json={"subscriber": receiver.url(ok)}
        )
        assert changed.status_code == 204, changed.text
        arrived(receiver, ok)
        assert receiver.messages(ok) == ["kept"]

    def test_a_deleted_subscription_gets_nothing_more(self, hooks: Api, receiver: Receiver):
        path = path_of("/then/500")
        id_ = subscribe(hooks, receiver.url(path), _retry_policy=QUICK)
        hooks.post("q", 1)
        arrived(receiver, path)
        assert hooks.call("DELETE", f"/v2/queues/q/subscriptions/{id_}").status_code == 204
        time.sleep(1)
        assert_no_more(receiver, path, len(receiver.of(path)), 3)


@pytest.mark.parametrize("removal", ["delete", "purge"])
def test_subscriptions_of_a_removed_queue_leave_nothing(
    receiver: Receiver, tmp_path: Path, new_server: Callable[..., Server], removal: str
):
    """Neither rows of deliveries nor a log nor secrets stay, though the queue is removed in one step."""
    redis = Redis(tmp_path / "redis").start()
    try:
        options = {**on_redis(redis.uri), **LOCAL}
        options["transport"] = {"message_encryption_key": "a key of test_webhooks"}
        path = path_of("/ok")
        with Api(new_server(options=options).start().url, project="p-removed") as api:

            def own() -> list[str]:
                return [key for key in redis.cli("--scan").split() if "i/p-removed/" in key]

            for number in range(25):
                subscribe(api, receiver.url(f"{path}/{number}"), signing=True)
            api.post("q", 1)
            for number in range(25):
                arrived(receiver, f"{path}/{number}")
            assert len(own()) >= 25, own()
            if removal == "delete":
                assert api.call("DELETE", "/v2/queues/q").status_code == 204
            else:
                document = {"resource_types": ["subscriptions"]}
                assert api.call("POST", "/v2/queues/q/purge", json=document).status_code == 204
            # What was closed is deleted by the next sweeps.
            wait_until(lambda: not own(), "nothing is left", timeout=120)
    finally:
        redis.kill()


class TestTargets:
    @pytest.mark.parametrize(
        ("subscriber", "says"),
        [
            ("http://10.1.2.3/", "private"),
            ("http://[::1]:8080/", "loopback"),
            ("http://169.254.169.254/latest/", "metadata"),
            ("https://[::ffff:192.168.0.1]/", "private"),
            ("http://user:secret@example.org/", "password"),
            ("http://example.org:99999/", "URI"),
        ],
    )
    def test_forbidden_addresses_are_rejected(self, hooks: Api, subscriber: str, says: str):
        document = {"subscriber": subscriber, "ttl": 600}
        answer = hooks.call("POST", "/v2/queues/q/subscriptions", json=document)
        assert answer.status_code == 400
        assert says in answer.json()["description"]
        id_ = subscribe(hooks, "http://example.org/")
        changed = hooks.call("PATCH", f"/v2/queues/q/subscriptions/{id_}", json={"subscriber": subscriber})
        assert changed.status_code == 400

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_loopback_is_rejected_unless_it_is_allowed(self, api: Api, host: str):
        answer = api.call("POST", "/v2/queues/q/subscriptions", json={"subscriber": f"http://{host}:9/"})
        assert answer.status_code == 400
        assert "allow_networks" in answer.json()["description"]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"post_headers": {"Host": "a"}}, "Host"),
            ({"post_headers": {"X": "a\r\nY: b"}}, "X"),
            ({"post_data": ["$zaqar_message$"] * 5}, "at most 4 are allowed"),
            ({"post_headers": [1]}, "post_headers"),
            ({"filter": {"headers": [1]}}, "headers"),
            ({"ordered": "yes"}, "ordered"),
            ({"max_in_flight": 0}, "max_in_flight"),
            ({"timeout": 0}, "timeout"),
        ],
    )
    def test_options_that_cannot_be_sent_are_rejected(self, hooks: Api, options: dict, says: str):
        document = {"subscriber": "http://example.org/", "options": options}
        answer = hooks.call("POST", "/v2/queues/q/subscriptions", json=document)
        assert answer.status_code == 400
        assert says in answer.json()["description"]


def test_tls_checks_the_name_of_the_receiver(new_server: Callable[..., Server], tmp_path: Path):
    right, trusted = certificate(tmp_path, "localhost")
    wrong, also_trusted = certificate(tmp_path, "other.example.org")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(trusted.read_bytes() + also_trusted.read_bytes())
    opened = {"ca_file": bundle, "allow_networks": "127.0.0.0/8,::1"}
    options = {"notification": {**LOCAL["notification"], **opened}}
    server = new_server(options=options).start()
    with Receiver(right) as good, Receiver(wrong) as bad, Api(server.url) as api:
        for receiver in (bad, good):
            subscribe(api, receiver.url("/ok", "localhost"))
        api.post("q", "over TLS")
        arrived(good, "/ok")
        assert_no_more(bad, "/ok", 0)


@pytest.mark.timeout(max(400, SUBSCRIPTIONS // 10))
def test_each_of_many_subscriptions_of_a_queue_gets_the_message(new_server: Callable[..., Server]):
    """What a post costs with one and with all of them is printed, not judged."""
    server = new_server(options=LOCAL).start()
    with Receiver() as receiver, Api(server.url) as api:

        def post(count: int) -> tuple[float, float]:
            """Milliseconds until the post is answered, and seconds until all have the message."""
            receiver.requests.clear()
            began = time.monotonic()
            api.post("q", "to all")
            answered = time.monotonic() - began
            wait_until(
                lambda: len({request.path for request in receiver.requests}) == count,
                f"{count} subscribers get the message",
                max(60, count // 10),
            )
            return answered * 1000, time.monotonic() - began

        subscribe(api, receiver.url("/ok/0"))
        one = statistics.median(post(1)[0] for _ in range(10))
        for number in range(1, SUBSCRIPTIONS):
            subscribe(api, receiver.url(f"/ok/{number}"))
        answered, arrived = post(SUBSCRIPTIONS)
        print(
            f"a post takes {one:.1f} ms with 1 subscription and {answered:.1f} ms with {SUBSCRIPTIONS}; "
            f"all have its message after {arrived:.1f} s"
        )


class TestClients:
    def test_zaqarclient(self, hooked: Server, receiver: Receiver):
        path = path_of("/ok")
        client = clients.connect(hooked.url, f"project-{uuid.uuid4()}")
        client.subscription("orders", subscriber=receiver.url(path), ttl=600)
        clients.post(client.queue("orders"), {"number": 1}, "two")
        arrived(receiver, path, 2)
        assert {str(body) for body in receiver.messages(path)} == {"{'number': 1}", "two"}

    def test_openstacksdk(self, hooked: Server, receiver: Receiver):
        path, project = path_of("/ok"), uuid.uuid4().hex
        with FakeKeystone(hooked.url + "/", project) as keystone:
            auth = {"auth_url": keystone.url, "username": "user", "password": "secret"}
            auth |= {"project_name": project, "user_domain_id": "default", "project_domain_id": "default"}
            connection = openstack.connection.Connection(region_name="here", auth=auth)
            message = connection.message
            message.create_queue(name="orders")
            message.create_subscription("orders", subscriber=receiver.url(path), ttl=600, options={})
            message.post_message("orders", [{"body": "by the SDK", "ttl": 60}])
            connection.close()
        arrived(receiver, path)
        assert receiver.messages(path) == ["by the SDK"]


class Deployment:
    """Servers on one store that are killed and started again while messages are posted."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        self.servers = servers
        self.random = random.Random(seed)
        self.posted: list[str] = []
        self.done = threading.Event()
        self.kills = 0

    def post(self, project: str, count: int) -> None:
        """Posts until so many were acknowledged, at whichever server takes it."""
        headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        with httpx.Client(headers=headers, timeout=10, trust_env=False) as client:
            while len(self.posted) < count:
                bodies = [f"m{len(self.posted) + at}" for at in range(10)]
                document = {"messages": [{"ttl": 3600, "body": body} for body in bodies]}
                server = self.random.choice(self.servers)
                try:
                    answer = client.post(server.url + "/v2/queues/q/messages", json=document)
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code == 201:
                    self.posted += bodies
                else:
                    time.sleep(0.05)
        self.done.set()

    def disturb(self, kills: int) -> None:
        """Kills servers one after the other, at random moments."""
        while self.kills < kills:
            time.sleep(self.random.uniform(0.3, 1.2))
            server = self.random.choice(self.servers)
            server.kill()
            self.kills += 1
            server.start()


def deliver_through_kills(servers: list[Server], seed: int, messages: int, kills: int) -> None:
    deployment = Deployment(servers, seed)
    paths = [f"/ok/{number}" for number in range(3)] + ["/often"]
    with Receiver() as receiver:
        project = f"project-{uuid.uuid4()}"
        with Api(servers[0].url, project) as api:
            for path in paths:
                subscribe(api, receiver.url(path), _retry_policy=QUICK)
        poster = threading.Thread(target=deployment.post, args=(project, messages))
        poster.start()
        deployment.disturb(kills)
        poster.join(LONG / 2)
        assert deployment.done.is_set(), "the posts end"
        expected = set(deployment.posted)
        for path in paths:
            wait_until(
                lambda path=path: expected <= set(receiver.messages(path)), f"all arrive at {path}", LONG / 2
            )
        for path in paths[:3]:
            requests = receiver.of(path)
            share = len(requests) / len(receiver.messages(path)) - 1
            print(f"{path}: {len(expected)} messages, {share:.1%} duplicates, {deployment.kills} kills")


@pytest.mark.timeout(LONG)
def test_no_message_is_lost_with_a_server_that_is_killed(new_server: Callable[..., Server], seed: int):
    deliver_through_kills([new_server(options=LOCAL).start()], seed, MESSAGES, KILLS)


@pytest.mark.timeout(LONG)
def test_no_message_is_lost_with_one_of_three_servers_on_redis(
    new_server: Callable[..., Server], tmp_path: Path, seed: int
):
    redis = Redis(tmp_path / "redis", "--save", "", "--appendonly", "yes").start()
    try:
        options = {**on_redis(redis.uri), **LOCAL}
        servers = [new_server(options=options).start() for _ in range(3)]
        deliver_through_kills(servers, seed, MESSAGES, KILLS)
    finally:
        redis.kill()


@pytest.mark.timeout(400)
def test_no_message_is_lost_with_one_of_three_servers_on_mongodb(
    new_server: Callable[..., Server], tmp_path: Path, seed: int
):
    own = None if REAL_URI else MongoDB(tmp_path / "mongodb").start()
    uri, name = REAL_URI or own.uri, new_name()
    try:
        options = {**on_mongodb(uri, name), **LOCAL}
        servers = [new_server(options=options).start() for _ in range(3)]
        # A compatible server of the tests makes a few deliveries a second.
        deliver_through_kills(servers, seed, messages=40, kills=2)
        # Before their database ends: without it a stop takes all of its time, and fails.
        assert [server.stop() for server in servers if server.running()] == [0] * len(servers)
    finally:
        drop(uri, name)
        if own is not None:
            own.kill()
