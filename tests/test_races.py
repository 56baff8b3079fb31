"""Many clients doing the same thing to one queue at the same moment."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable

import pytest

from support.api import Api
from support.connection import Connection

CLIENTS = 30

loses_races = pytest.mark.differs("it reads and writes in two steps", sometimes=True)

Answers = list[tuple[int, dict]]
#: What one of the clients asks: its number to method, path and document.
Request = Callable[[int], tuple[str, str, object]]


@pytest.fixture
def project() -> str:
    return f"races-{uuid.uuid4()}"


@pytest.fixture
def api(server, project):
    with Api(server.url, project) as client:
        yield client


@pytest.fixture
def at_once(server, project) -> Callable[[Request], Answers]:
    """Sends what `request` gives for each client, all at the same moment, each on its own connection."""

    async def send(request: Request) -> Answers:
        connections = [await Connection.open(server.address, project) for _ in range(CLIENTS)]
        answers = await asyncio.gather(
            *(connection.request(*request(number)) for number, connection in enumerate(connections))
        )
        for connection in connections:
            connection.close()
        return answers

    return lambda request: asyncio.run(send(request))


def statuses(answers: Answers) -> Counter[int]:
    return Counter(status for status, _ in answers)


def message(body: object) -> dict:
    return {"messages": [{"ttl": 300, "body": body}]}


def test_concurrent_first_posts_create_the_queue_and_are_all_stored(at_once, api):
    # Many more clients than one creation needs: none of them may get a 503.
    for number in range(30):
        answers = at_once(lambda client, n=number: ("POST", f"/v2/queues/new-{n}/messages", message(client)))
        assert statuses(answers) == {201: CLIENTS}
        assert sorted(api.bodies(f"new-{number}")) == list(range(CLIENTS))


def test_one_of_many_concurrent_puts_creates_the_queue(at_once, queue):
    answers = at_once(lambda _: ("PUT", f"/v2/queues/{queue}", None))
    assert statuses(answers) == {201: 1, 204: CLIENTS - 1}


@loses_races
def test_concurrent_patches_are_all_applied(at_once, api, queue):
    api.call("PUT", f"/v2/queues/{queue}")

    def patch(number: int) -> int:
        return api.call(
            "PATCH",
            f"/v2/queues/{queue}",
            json=[{"op": "add", "path": f"/metadata/key-{number}", "value": number}],
            headers={"Content-Type": "application/openstack-messaging-v2.0-json-patch"},
        ).status_code

    async def patch_all() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(patch, number) for number in range(CLIENTS)))

    done = asyncio.run(patch_all())
    metadata = api.call("GET", f"/v2/queues/{queue}").json()
    assert set(done) == {200}
    assert all(metadata.get(f"key-{number}") == number for number in range(CLIENTS))


@loses_races
def test_concurrent_claims_share_the_messages(at_once, api, queue):
    for start in range(0, 100, 20):
        api.post(queue, *range(start, start + 20))
    answers = at_once(lambda _: ("POST", f"/v2/queues/{queue}/claims?limit=5", {"ttl": 60, "grace": 60}))
    claimed = [one["body"] for status, answer in answers if status == 201 for one in answer["messages"]]
    assert sorted(claimed) == list(range(100))


def test_concurrent_pops_share_the_messages(at_once, api, queue):
    for start in range(0, 100, 20):
        api.post(queue, *range(start, start + 20))
    answers = at_once(lambda _: ("DELETE", f"/v2/queues/{queue}/messages?pop=5", None))
    popped = [one["body"] for _, answer in answers for one in answer["messages"]]
    assert sorted(popped) == list(range(100))


@loses_races
def test_posts_succeed_while_the_queue_is_deleted(at_once, api, queue):
    for _ in range(10):
        answers = at_once(
            lambda client: (
                ("DELETE", f"/v2/queues/{queue}", None)
                if client % 3 == 0
                else ("POST", f"/v2/queues/{queue}/messages", message(client))
            )
        )
        assert statuses(answers) == {204: CLIENTS // 3, 201: CLIENTS - CLIENTS // 3}
    api.call("DELETE", f"/v2/queues/{queue}")
    assert api.bodies(queue) == []
    api.post(queue, "after")
    assert api.bodies(queue) == ["after"]
    assert [one["name"] for one in api.call("GET", "/v2/queues").json()["queues"]] == [queue]
