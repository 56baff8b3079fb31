"""What is posted reaches the connections that subscribe, and their subscriptions end with them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from support.api import Api
from support.server import REPOSITORY
from support.wait import wait_until
from support.websocket import ENCODINGS, TIMEOUT, WebSocket

#: Connections on one queue. Each is a socket here and one in the server.
MANY = 300


@pytest.fixture(params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def socket(both, project: str, encoding: str) -> Iterator[WebSocket]:
    with WebSocket(both.websocket_url, project, encoding) as connection:
        yield connection


@pytest.fixture
def http(both, project: str) -> Iterator[Api]:
    with Api(both.url, project) as client:
        yield client


def subscribe(socket: WebSocket, queue: str, **more: object) -> str:
    return socket.ask("subscription_create", 201, queue_name=queue, **more)["subscription_id"]


def post(socket: WebSocket, queue: str, *bodies: object) -> None:
    messages = [{"body": body, "ttl": 300} for body in bodies]
    socket.ask("message_post", 201, queue_name=queue, messages=messages)


class TestPushes:
    def test_a_push_is_what_a_webhook_gets(self, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        http.post("q", {"a": [1, None, "é"]}, ttl=120)
        push = socket.push()
        assert push.encoding == socket.encoding
        assert push.document == {
            "ttl": 120,
            "body": {"a": [1, None, "é"]},
            "Message_Type": "Notification",
            "queue_name": "q",
        }

    def test_posts_are_pushed_also_to_the_poster(self, both, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        http.post("q", "over HTTP")
        assert socket.push().body == "over HTTP"
        post(socket, "q", "by the subscriber")
        assert socket.push().body == "by the subscriber"
        with WebSocket(both.websocket_url, http.project) as other:
            post(other, "q", "by another connection")
        assert socket.push().body == "by another connection"

    @pytest.mark.differs("the original delivers from a pool of threads", sometimes=True)
    def test_each_message_is_pushed_once_and_in_order(self, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        numbers = list(range(200))
        for start in range(0, 200, 20):
            http.post("q", *numbers[start : start + 20])
        assert socket.pushed(200) == numbers
        post(socket, "q", "the end")
        assert socket.push().body == "the end"

    def test_messages_before_the_subscription_are_not_pushed(self, socket: WebSocket, http: Api) -> None:
        http.post("q", "before")
        subscribe(socket, "q")
        http.post("q", "after")
        assert socket.push().body == "after"

    def test_other_queues_and_projects_are_not_pushed(self, both, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        subscribe(socket, "r")
        with Api(both.url) as other_project:
            other_project.post("q", "of another project")
        http.post("s", "of another queue")
        http.post("q", 1)
        assert socket.push().document["queue_name"] == "q"
        http.post("r", 2)
        assert socket.push().document["queue_name"] == "r"

    @pytest.mark.differs("posting to a topic is a 500 in the original")
    def test_a_topic_and_a_queue_of_one_name_are_separate(self, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        document = {"messages": [{"body": "to the topic", "ttl": 300}]}
        assert http.call("POST", "/v2/topics/q/messages", json=document).status_code == 201
        http.post("q", "to the queue")
        assert socket.push().body == "to the queue"

    def test_the_encoding_is_that_of_the_subscribing_request(self, socket: WebSocket, http: Api) -> None:
        for encoding in ENCODINGS:
            reply = socket.call("subscription_create", {"queue_name": encoding}, encoding=encoding)
            assert reply.status == 201
            socket.ask("queue_list", 200)
            http.post(encoding, 1)
            push = socket.push()
            assert (push.document["queue_name"], push.encoding) == (encoding, encoding)

    def test_consumed_messages_are_still_pushed(self, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        http.post("q", 1, 2, 3)
        http.call("DELETE", "/v2/queues/q/messages", params={"pop": 3})
        assert socket.pushed(3) == [1, 2, 3]

    def test_a_large_body_is_pushed(self, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        body = {"text": "é" * 100_000}
        http.post("q", body)
        assert socket.push().body == body


class TestSubscriptions:
    def test_a_connection_subscribes_once_to_a_queue(self, both, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        again = socket.call("subscription_create", {"queue_name": "q", "subscriber": ""})
        assert (again.status, again.body) == (409, "Subscription q not created.")
        with WebSocket(both.websocket_url, http.project) as other:
            subscribe(other, "q")

    def test_both_wires_list_the_subscription(self, socket: WebSocket, http: Api) -> None:
        id = subscribe(socket, "q", ttl=600, options={"a": 1})
        (found,) = socket.ask("subscription_list", 200, queue_name="q")["subscriptions"]
        assert (found["id"], found["source"], found["ttl"], found["options"]) == (id, "q", 600, {"a": 1})
        assert socket.ask("subscription_get", 200, queue_name="q", subscription_id=id)["id"] == id
        assert [one["id"] for one in http.subscriptions("queues/q")] == [id]

    def test_a_subscription_that_its_connection_deletes_gets_no_pushes(
        self, socket: WebSocket, http: Api
    ) -> None:
        id = subscribe(socket, "q")
        subscribe(socket, "r")
        socket.ask("subscription_delete", 204, queue_name="q", subscription_id=id)
        http.post("q", "nobody hears this")
        http.post("r", "but this")
        assert socket.push().body == "but this"
        subscribe(socket, "q")
        http.post("q", "and this")
        assert socket.push().body == "and this"

    @pytest.mark.differs("the original says nothing to a connection whose subscription ends")
    @pytest.mark.parametrize("purges", [False, True])
    def test_somebody_who_ends_a_subscription_closes_its_connection(
        self, both, socket: WebSocket, http: Api, purges: bool
    ) -> None:
        id = subscribe(socket, "q")
        subscribe(socket, "r")
        with WebSocket(both.websocket_url, http.project) as other:
            subscribe(other, "r")
            if purges:
                other.ask("queue_purge", 204, queue_name="q", resource_types=["subscriptions"])
            else:
                assert http.call("DELETE", f"/v2/queues/q/subscriptions/{id}").status_code == 204
            code, reason = socket.closed()
            assert (code, "subscribe again" in reason) == (1012, True), reason
            http.post("r", "goes on")
            assert other.push().body == "goes on"

    @pytest.mark.differs("the original lets a signed subscription outlive its signature")
    def test_the_end_of_a_signature_ends_its_subscription(self, both, socket: WebSocket, http: Api) -> None:
        expires = (datetime.now(UTC) + timedelta(seconds=8)).strftime("%Y-%m-%dT%H:%M:%S")
        document = {"paths": ["subscriptions"], "methods": ["POST"], "expires": expires}
        made = http.call("POST", "/v2/queues/q/share", json=document).json()
        signed = {
            "Client-ID": str(uuid.uuid4()),
            "X-Project-ID": made["project"],
            "URL-Signature": made["signature"],
            "URL-Expires": made["expires"],
            "URL-Methods": made["methods"],
            "URL-Paths": made["paths"],
        }
        reply = socket.call("subscription_create", {"queue_name": "q", "ttl": 600}, signed)
        assert reply.status == 201
        assert socket.closed() == (4003, "Authentication expired.")
        wait_until(lambda: not http.subscriptions("queues/q"), "no subscription is left")

    def test_purged_subscriptions_get_no_pushes(self, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        subscribe(socket, "r")
        socket.ask("queue_purge", 204, queue_name="q", resource_types=["subscriptions"])
        http.post("q", "nobody hears this")
        http.post("r", "but this")
        assert socket.push().body == "but this"

    @pytest.mark.differs("subscriptions of the original outlive their queue")
    def test_a_deletion_of_the_queue_closes_its_subscribers(self, socket: WebSocket, http: Api) -> None:
        subscribe(socket, "q")
        assert http.call("DELETE", "/v2/queues/q").status_code == 204
        with pytest.raises(ConnectionClosedError, match=r"1012.*subscribe again"):
            socket.push()

    @pytest.mark.differs("subscriptions of the original outlive their queue")
    def test_a_deletion_of_ones_own_queue_is_answered_before_the_close(self, socket: WebSocket) -> None:
        subscribe(socket, "q")
        assert socket.ask("queue_delete", 204, queue_name="q") == "Queue q removed."
        assert socket.closed()[0] == 1012

    @pytest.mark.parametrize("cut", [False, True])
    def test_subscriptions_end_with_their_connection(self, both, http: Api, encoding: str, cut: bool) -> None:
        leaving = WebSocket(both.websocket_url, http.project, encoding)
        for queue in ("q", "r"):
            subscribe(leaving, queue)
        assert len(http.subscriptions("queues/q")) == 1
        if cut:
            leaving.connection.socket.close()
        leaving.close()
        for queue in ("q", "r"):
            wait_until(lambda queue=queue: not http.subscriptions(f"queues/{queue}"), "no subscription")

    def test_subscriptions_of_other_connections_stay(self, both, socket: WebSocket, http: Api) -> None:
        id = subscribe(socket, "q")
        with WebSocket(both.websocket_url, http.project) as leaving:
            subscribe(leaving, "q")
        wait_until(lambda: len(http.subscriptions("queues/q")) == 1, "one subscription is left")
        assert http.subscriptions("queues/q")[0]["id"] == id
        http.post("q", 1)
        assert socket.push().body == 1


def test_one_post_is_pushed_to_many_connections(both, http: Api) -> None:
    """One post reaches all of them, and all are gone when they are."""
    headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": http.project}
    request = json.dumps(
        {"action": "subscription_create", "headers": headers, "body": {"queue_name": "many"}}
    )
    subscribed: asyncio.Queue[None] = asyncio.Queue()
    posted = asyncio.Event()

    async def subscriber(number: int) -> list[object]:
        url = both.websocket_url
        async with connect(url, open_timeout=2 * TIMEOUT, compression=None, proxy=None) as connection:
            await connection.send(request)
            assert json.loads(await connection.recv())["headers"]["status"] == 201
            subscribed.put_nowait(None)
            await posted.wait()
            async with asyncio.timeout(2 * TIMEOUT):
                return [json.loads(await connection.recv())["body"] for _ in range(3)]

    async def play() -> list[list[object]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(subscriber(number)) for number in range(MANY)]
            for _ in range(MANY):
                await subscribed.get()
            await asyncio.to_thread(http.post, "many", "one", "two", "three")
            posted.set()
        return [task.result() for task in tasks]

    assert asyncio.run(play()) == [["one", "two", "three"]] * MANY
    wait_until(lambda: not http.subscriptions("queues/many"), "no subscription is left")


@pytest.mark.parametrize("options", [[], ["--messagepack"]])
def test_the_example_script(both, http: Api, options: list[str]) -> None:
    command = [sys.executable, Path("examples/subscribe.py"), both.websocket_url, "news", *options]
    with subprocess.Popen(
        [*command, "--project", http.project, "--count", "2"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as script:
        assert script.stdout is not None
        first = script.stdout.readline()
        assert first.startswith("subscribed: "), first + script.stdout.read()
        http.post("news", {"hello": "world"}, "again")
        rest = script.stdout.read()
        assert (rest, script.wait(TIMEOUT)) == ('news: {"hello": "world"}\nnews: "again"\n', 0)
