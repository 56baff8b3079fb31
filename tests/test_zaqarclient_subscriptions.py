"""Subscriptions with python-zaqarclient, unpatched: what its user sees."""

from __future__ import annotations

import uuid

import httpx
import pytest
from zaqarclient.transport import errors

from support.clients import bodies, post

#: A subscriber that the configuration allows and nobody listens at.
HOOK = "http://hooks.example.com/orders"

#: Heat subscribes for as long as the calendar goes.
UNTIL_THE_YEAR_9000 = 220_000_000_000


def confirm(client, subscription, confirmed: bool = True) -> httpx.Response:
    """What a subscriber does with the signed URL that it got: the client library has nothing for it."""
    queue = client.queue(subscription.queue_name, auto_create=False)
    signed = queue.signed_url(paths=["subscriptions"], methods=["PUT"])
    headers = {
        "Client-ID": str(uuid.uuid4()),
        "X-Project-ID": signed["project"],
        "URL-Expires": signed["expires"],
        "URL-Methods": ",".join(signed["methods"]),
        "URL-Paths": ",".join(signed["paths"]),
        "URL-Signature": signed["signature"],
    }
    path = f"/v2/queues/{subscription.queue_name}/subscriptions/{subscription.id}/confirm"
    return httpx.put(client.api_url + path, json={"confirmed": confirmed}, headers=headers, trust_env=False)


def get(client, queue: str, id_: str):
    return client.subscription(queue, id=id_)


def listed(subscriptions) -> list[str]:
    return [one.subscriber for one in subscriptions]


def test_a_subscription_is_created_and_read_back(client):
    client.queue("orders", force_create=True)
    made = client.subscription("orders", subscriber=HOOK, ttl=600, options={"post_headers": {"X-A": "1"}})
    assert made.id
    again = get(client, "orders", made.id)
    assert (again.subscriber, again.ttl, again.confirmed) == (HOOK, 600, False)
    assert again.options == {"post_headers": {"X-A": "1"}}
    assert 0 <= again.age < 60


def test_a_subscription_without_options_lives_a_minute(client):
    made = client.subscription("orders", subscriber=HOOK)
    assert (made.ttl, made.options) == (60, {})


def test_a_subscription_makes_its_queue(client):
    client.subscription("made-by-it", subscriber=HOOK)
    assert [queue.name for queue in client.queues()[0]] == ["made-by-it"]


@pytest.mark.parametrize(
    "subscriber",
    [
        "http://hooks.example.com/",
        "https://hooks.example.com/?a=b",
        "mailto:somebody@example.com",
    ],
)
def test_every_kind_of_subscriber_is_taken(client, subscriber):
    assert client.subscription("kinds", subscriber=subscriber, ttl=600).subscriber == subscriber


@pytest.mark.parametrize("scheme", ["trust+http", "trust+https"])
@pytest.mark.differs("a 503 there", sometimes=True)
def test_a_trust_without_a_trustee_is_refused(client, scheme):
    with pytest.raises(errors.MalformedRequest, match="makes no Keystone trusts"):
        client.subscription("kinds", subscriber=f"{scheme}://hooks.example.com/", ttl=600)


@pytest.mark.parametrize("subscriber", ["ftp://example.com/", "nonsense", "ws://example.com/"])
def test_another_kind_of_subscriber_is_refused(client, subscriber):
    with pytest.raises(errors.MalformedRequest, match="subscriber type"):
        client.subscription("kinds", subscriber=subscriber, ttl=600)


def test_a_subscription_shorter_than_a_minute_is_refused(client):
    with pytest.raises(errors.MalformedRequest, match="60"):
        client.subscription("orders", subscriber=HOOK, ttl=59)


def test_a_subscription_can_outlive_everybody(client):
    assert client.subscription("orders", subscriber=HOOK, ttl=UNTIL_THE_YEAR_9000).ttl == UNTIL_THE_YEAR_9000


def test_a_subscription_past_the_calendar_is_refused(client):
    with pytest.raises(errors.MalformedRequest, match="9999"):
        client.subscription("orders", subscriber=HOOK, ttl=253_402_300_800)


def test_a_missing_subscription_is_not_found(client):
    client.queue("orders", force_create=True)
    with pytest.raises(errors.ResourceNotFound):
        get(client, "orders", "5c6939a8f2b4d1e0a7c3b9d2")


def test_a_subscription_belongs_to_its_queue(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600)
    client.queue("others", force_create=True)
    with pytest.raises(errors.ResourceNotFound):
        get(client, "others", made.id)
    assert listed(client.subscriptions("others")) == []


def test_subscriptions_are_listed_by_the_queue_and_by_the_client(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600, options={"a": 1})
    for found in (client.queue("orders").subscriptions(), client.subscriptions("orders")):
        (one,) = found
        assert (one.id, one.queue_name, one.subscriber) == (made.id, "orders", HOOK)
        assert (one.ttl, one.options, one.confirmed) == (600, {"a": 1}, False)


def test_no_subscriptions_are_an_empty_list(client):
    client.queue("quiet", force_create=True)
    assert listed(client.queue("quiet").subscriptions()) == []
    assert listed(client.subscriptions("never-made")) == []


def test_subscriptions_are_listed_in_pages(client):
    hooks = [f"{HOOK}/{number}" for number in range(25)]
    ids = [client.subscription("many", subscriber=hook, ttl=600).id for hook in hooks]
    assert listed(client.subscriptions("many", limit=10)) == hooks[:10]
    assert listed(client.subscriptions("many", limit=10, marker=ids[9])) == hooks[10:20]
    assert listed(client.subscriptions("many", limit=10).stream()) == hooks
    assert listed(client.queue("many").subscriptions(limit=20, marker=ids[19])) == hooks[20:]


def test_an_update_changes_what_it_names(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600, options={"a": 1})
    made.update({"subscriber": HOOK + "/new", "ttl": 900, "options": {"b": 2}})
    again = get(client, "orders", made.id)
    assert (again.subscriber, again.ttl, again.options) == (HOOK + "/new", 900, {"b": 2})

    made.update({"ttl": 1200})
    again = get(client, "orders", made.id)
    assert (again.subscriber, again.ttl, again.options) == (HOOK + "/new", 1200, {"b": 2})


def test_an_update_keeps_what_is_null(client):
    # The command line sends null for a subscriber and a ttl that the user left out.
    made = client.subscription("orders", subscriber=HOOK, ttl=600, options={"a": 1})
    made.update({"subscriber": None, "ttl": None, "options": {"b": 2}})
    again = get(client, "orders", made.id)
    assert (again.subscriber, again.ttl, again.options) == (HOOK, 600, {"b": 2})


def test_an_update_with_empty_options_empties_them(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600, options={"a": 1})
    made.update({"subscriber": None, "ttl": 700, "options": {}})
    again = get(client, "orders", made.id)
    assert (again.ttl, again.options) == (700, {})


@pytest.mark.parametrize(
    "update",
    [{"ttl": 59}, {"ttl": "long"}, {"subscriber": "ftp://example.com/"}, {"options": [1]}],
    ids=str,
)
def test_a_bad_update_is_refused_and_changes_nothing(client, update):
    made = client.subscription("orders", subscriber=HOOK, ttl=600, options={"a": 1})
    with pytest.raises(errors.MalformedRequest):
        made.update({"ttl": 900, **update})
    again = get(client, "orders", made.id)
    assert (again.subscriber, again.ttl, again.options) == (HOOK, 600, {"a": 1})


def test_an_update_to_a_subscriber_of_another_one_is_a_conflict(client):
    client.subscription("orders", subscriber=HOOK, ttl=600)
    second = client.subscription("orders", subscriber=HOOK + "/second", ttl=600)
    with pytest.raises(errors.ConflictError):
        second.update({"subscriber": HOOK})


def test_an_update_of_a_missing_subscription_is_not_found(client):
    missing = client.subscription("orders", id="5c6939a8f2b4d1e0a7c3b9d2", auto_create=False)
    with pytest.raises(errors.ResourceNotFound):
        missing.update({"ttl": 600})


def test_a_deleted_subscription_is_gone(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600)
    made.delete()
    with pytest.raises(errors.ResourceNotFound):
        get(client, "orders", made.id)
    assert listed(client.subscriptions("orders")) == []
    made.delete()


def test_an_unconfirmed_subscriber_subscribes_again_and_finds_itself(client):
    first = client.subscription("orders", subscriber=HOOK, ttl=600)
    second = client.subscription("orders", subscriber=HOOK, ttl=700)
    assert second.id == first.id
    assert listed(client.subscriptions("orders")) == [HOOK]


def test_a_confirmed_subscriber_can_not_subscribe_again(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600)
    assert confirm(client, made).status_code == 204
    assert get(client, "orders", made.id).confirmed is True
    with pytest.raises(errors.ConflictError):
        client.subscription("orders", subscriber=HOOK, ttl=600)


def test_a_subscriber_can_take_its_agreement_back(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600)
    confirm(client, made)
    assert confirm(client, made, confirmed=False).status_code == 204
    assert get(client, "orders", made.id).confirmed is False


def test_a_confirmation_stays_through_an_update(client):
    made = client.subscription("orders", subscriber=HOOK, ttl=600)
    confirm(client, made)
    made.update({"ttl": 900})
    again = get(client, "orders", made.id)
    assert (again.ttl, again.confirmed) == (900, True)


@pytest.mark.differs("a purge there takes the first page")
def test_a_purge_takes_the_subscriptions_or_leaves_them(client):
    queue = client.queue("purged")
    post(queue, "stays")
    for number in range(25):
        client.subscription("purged", subscriber=f"{HOOK}/{number}", ttl=600)

    queue.purge(resource_types=["subscriptions"])
    assert listed(queue.subscriptions()) == []
    assert bodies(queue.messages(echo=True)) == ["stays"]

    client.subscription("purged", subscriber=HOOK, ttl=600)
    queue.purge(resource_types=["messages"])
    assert listed(queue.subscriptions()) == [HOOK]
    queue.purge()
    assert listed(queue.subscriptions()) == []


@pytest.mark.differs("subscriptions there belong to a name, also of a queue that is made again")
def test_a_deleted_queue_takes_its_subscriptions_along(client):
    made = client.subscription("gone", subscriber=HOOK, ttl=600)
    client.queue("gone").delete()
    client.queue("gone", force_create=True)
    assert listed(client.subscriptions("gone")) == []
    with pytest.raises(errors.ResourceNotFound):
        get(client, "gone", made.id)


def test_posts_to_a_queue_with_subscribers_stay_in_it(client):
    client.subscription("orders", subscriber=HOOK, ttl=600)
    queue = client.queue("orders")
    post(queue, "a", "b")
    assert bodies(queue.messages(echo=True)) == ["a", "b"]
