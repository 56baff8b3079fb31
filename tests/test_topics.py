"""Topics: like queues, without claims; a topic and a queue of the same name share nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.api import Api
from support.connection import PATCH_TYPE

HOOK = "http://hooks.example.com/news"


@pytest.fixture
def api(server) -> Iterator[Api]:
    with Api(server.url) as api:
        yield api


def post(api: Api, *bodies: object, path: str = "topics/news") -> list[str]:
    document = {"messages": [{"ttl": 300, "body": body} for body in bodies]}
    answer = api.call("POST", f"/v2/{path}/messages", json=document)
    assert answer.status_code == 201, answer.text
    return [href.removeprefix(f"/v2/{path}/messages/") for href in answer.json()["resources"]]


def bodies(api: Api, kind: str = "topics") -> list[object]:
    return [message["body"] for message in api.messages("news", kind=kind)]


def test_a_topic_is_created_listed_and_deleted(api):
    assert api.call("PUT", "/v2/topics/news", json={"colour": "red"}).status_code == 201
    assert api.call("PUT", "/v2/topics/news").status_code == 204
    assert [topic["name"] for topic in api.call("GET", "/v2/topics").json()["topics"]] == ["news"]
    assert api.call("GET", "/v2/topics/news").json()["colour"] == "red"
    assert api.call("DELETE", "/v2/topics/news").status_code == 204
    assert api.call("GET", "/v2/topics").json()["topics"] == []


def test_metadata_are_patched(api):
    api.call("PUT", "/v2/topics/news")
    patch = [{"op": "add", "path": "/metadata/_default_message_ttl", "value": 90}]
    answer = api.call("PATCH", "/v2/topics/news", json=patch, headers={"Content-Type": PATCH_TYPE})
    assert answer.status_code == 200
    assert api.call("GET", "/v2/topics/news").json()["_default_message_ttl"] == 90


@pytest.mark.differs("topics there hold no messages")
def test_messages_are_posted_listed_got_and_deleted(api):
    ids = post(api, *range(25))
    assert bodies(api) == list(range(25))
    shown = api.call("GET", f"/v2/topics/news/messages/{ids[3]}").json()
    assert (shown["body"], shown["href"]) == (3, f"/v2/topics/news/messages/{ids[3]}")
    by_id = api.call("GET", f"/v2/topics/news/messages?ids={ids[0]},{ids[1]}").json()["messages"]
    assert [message["body"] for message in by_id] == [0, 1]

    assert api.call("DELETE", f"/v2/topics/news/messages/{ids[0]}").status_code == 204
    assert api.call("DELETE", f"/v2/topics/news/messages?ids={ids[1]},{ids[2]}").status_code == 204
    popped = api.call("DELETE", "/v2/topics/news/messages?pop=2").json()["messages"]
    assert [message["body"] for message in popped] == [3, 4]
    assert bodies(api) == list(range(5, 25))
    stats = api.call("GET", "/v2/topics/news/stats").json()["messages"]
    assert stats["total"] == 20


@pytest.mark.differs("topics there hold no messages")
def test_a_purge_empties_a_topic(api):
    post(api, 1)
    api.call("POST", "/v2/topics/news/subscriptions", json={"subscriber": HOOK, "ttl": 600})
    purge = {"resource_types": ["messages"]}
    assert api.call("POST", "/v2/topics/news/purge", json=purge).status_code == 204
    assert (bodies(api), len(api.subscriptions("topics/news"))) == ([], 1)
    assert api.call("POST", "/v2/topics/news/purge").status_code == 204
    assert api.subscriptions("topics/news") == []


@pytest.mark.differs("topics there have no subscriptions of their own")
def test_a_topic_has_subscriptions(api):
    made = api.call("POST", "/v2/topics/news/subscriptions", json={"subscriber": HOOK, "ttl": 600})
    assert made.status_code == 201
    path = f"/v2/topics/news/subscriptions/{made.json()['subscription_id']}"
    assert api.call("PATCH", path, json={"ttl": 900}).status_code == 204
    assert api.call("PUT", path + "/confirm", json={"confirmed": True}).status_code == 204
    shown = api.call("GET", path).json()
    assert (shown["source"], shown["subscriber"]) == ("news", HOOK)
    assert (shown["ttl"], shown["confirmed"]) == (900, True)
    assert api.call("DELETE", path).status_code == 204
    assert api.call("GET", path).status_code == 404


@pytest.mark.parametrize("path", ["claims", "share", "claims/x"])
def test_a_topic_has_no_claims_and_no_share(api, path):
    api.call("PUT", "/v2/topics/news")
    assert api.call("POST", f"/v2/topics/news/{path}", json={}).status_code == 404


@pytest.mark.differs("topics there hold no messages")
def test_a_topic_and_a_queue_of_one_name_share_nothing(api):
    topic_ids = post(api, "of the topic")
    queue_ids = post(api, "of the queue", path="queues/news")
    for kind, own, other in (("topics", topic_ids, queue_ids), ("queues", queue_ids, topic_ids)):
        (body,) = bodies(api, kind)
        assert body == f"of the {kind[:-1]}"
        assert api.call("GET", f"/v2/{kind}/news/messages/{own[0]}").status_code == 200
        assert api.call("GET", f"/v2/{kind}/news/messages/{other[0]}").status_code == 404
        assert api.call("DELETE", f"/v2/{kind}/news/messages/{other[0]}").status_code == 204
    made = api.call("POST", "/v2/topics/news/subscriptions", json={"subscriber": HOOK, "ttl": 600}).json()
    assert api.subscriptions("queues/news") == []
    path = f"/v2/queues/news/subscriptions/{made['subscription_id']}"
    assert api.call("GET", path).status_code == 404

    assert api.call("DELETE", "/v2/queues/news").status_code == 204
    assert bodies(api) == ["of the topic"]
    assert [one["subscriber"] for one in api.subscriptions("topics/news")] == [HOOK]
    assert (
        api.call("GET", "/v2/topics/news").json().get("_max_claim_count", "not for topics")
        == "not for topics"
    )
