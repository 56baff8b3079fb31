"""openstacksdk's message proxy, unpatched, through a login and the service catalog: what its user sees."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import openstack
import pytest
from openstack import exceptions

from support.api import Api
from support.keystone import FakeKeystone


@pytest.fixture
def project() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def message(server, project) -> Iterator:
    """The proxy: it logs in, finds `messaging` in the catalog, and asks `/` for the versions."""
    with FakeKeystone(server.url + "/", project) as keystone:
        connection = openstack.connection.Connection(
            region_name="here",
            auth={
                "auth_url": keystone.url,
                "username": "user",
                "password": "secret",
                "project_name": project,
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
        )
        yield connection.message
        connection.close()


@pytest.fixture
def api(server, project) -> Iterator[Api]:
    """The same project without the SDK, for what the SDK cannot do."""
    with Api(server.url, project) as client:
        yield client


def post(message, queue: str, *bodies: object) -> list[str]:
    hrefs = message.post_message(queue, [{"body": body, "ttl": 300} for body in bodies])
    return [href.rsplit("/", 1)[1] for href in hrefs]


def bodies(messages) -> list[object]:
    return [one.body for one in messages]


def test_the_version_document_leads_to_v2(message, server):
    assert message.get_endpoint() == server.url + "/v2/"


def test_a_queue_is_created_with_attributes(message):
    created = message.create_queue(name="orders", description="what to do", default_message_ttl=90)
    assert created.name == "orders"
    got = message.get_queue("orders")
    assert (got.name, got.description, got.default_message_ttl) == ("orders", "what to do", 90)
    assert got.max_messages_post_size == 262144


def test_a_missing_queue_shows_the_defaults(message):
    assert message.get_queue("missing").default_message_ttl == 3600


def test_queues_are_listed_through_all_pages(message):
    names = [f"queue-{number:02}" for number in range(25)]
    for name in names:
        message.create_queue(name=name)
    assert [queue.name for queue in message.queues()] == names
    assert [queue.name for queue in message.queues(limit=10)] == names


def test_a_queue_is_deleted(message):
    message.create_queue(name="gone")
    message.delete_queue("gone")
    assert list(message.queues()) == []


def test_deleting_a_missing_queue_is_no_error(message):
    # The API answers 204 for both, so `ignore_missing=False` finds nothing to complain about.
    message.delete_queue("missing", ignore_missing=False)


def test_a_bad_queue_name_is_a_bad_request(message):
    with pytest.raises(exceptions.BadRequestException):
        message.get_queue("bad name")


@pytest.mark.differs("its markers are not ids, so the SDK sees the first page only")
def test_messages_are_posted_and_listed_through_all_pages(message):
    for start in range(0, 25, 5):
        post(message, "many", *range(start, start + 5))
    assert bodies(message.messages("many")) == list(range(25))


def test_one_message_is_enough_to_end_a_listing(message):
    # The SDK asks on with `limit=1&marker=<the message>` until a page is empty.
    post(message, "one", "only")
    assert bodies(message.messages("one")) == ["only"]


def test_a_message_is_got(message):
    ids = post(message, "got", {"a": 1}, "two")
    first = message.get_message("got", ids[0])
    assert (first.body, first.ttl, first.id) == ({"a": 1}, 300, ids[0])
    assert first.href.endswith(ids[0])


def test_a_missing_message_is_not_found(message):
    with pytest.raises(exceptions.NotFoundException):
        message.get_message("got", "missing")


def test_a_message_is_deleted(message):
    ids = post(message, "del", "goes", "stays")
    message.delete_message("del", ids[0])
    assert bodies(message.messages("del")) == ["stays"]
    message.delete_message("del", ids[0])


def test_post_of_nothing_shows_as_a_missing_key(message):
    # The SDK does not look at the status of a post: a 400 has no `resources`.
    with pytest.raises(KeyError, match="resources"):
        message.post_message("none", [])


def test_create_claim_claims_although_the_sdk_trips_over_its_own_answer(message):
    # The SDK overwrites its `location` attribute and then splits it; the claim itself stands.
    post(message, "work", *range(3))
    with pytest.raises(AttributeError):
        message.create_claim("work", ttl=60, grace=60, limit=2)
    assert bodies(message.messages("work")) == []
    assert bodies(message.messages("work", include_claimed=True)) == [0, 1, 2]


def test_create_claim_of_an_empty_queue(message):
    claim = message.create_claim("idle", ttl=60, grace=60)
    assert claim.id is None
    assert claim.messages is None


def test_create_claim_out_of_bounds_is_a_bad_request(message):
    with pytest.raises(exceptions.BadRequestException):
        message.create_claim("work", ttl=59, grace=60)


def test_a_claim_is_got_updated_and_deleted(message, api):
    post(message, "work", "a", "b")
    claim_id, _ = api.claim("work", limit=1)

    claim = message.get_claim("work", claim_id)
    assert claim.ttl == 60
    assert [one["body"] for one in claim.messages] == ["a"]

    message.update_claim("work", claim_id, ttl=600, grace=60)
    assert message.get_claim("work", claim_id).ttl == 600

    message.delete_claim("work", claim_id)
    assert bodies(message.messages("work")) == ["a", "b"]
    with pytest.raises(exceptions.NotFoundException):
        message.get_claim("work", claim_id)


def test_a_claimed_message_is_deleted_with_its_claim_only(message, api):
    ids = post(message, "work", "a")
    claim_id, _ = api.claim("work")
    with pytest.raises(exceptions.ForbiddenException):
        message.delete_message("work", ids[0])
    message.delete_message("work", ids[0], claim=claim_id)
    assert bodies(message.messages("work", include_claimed=True)) == []


HOOK = "http://hooks.example.com/orders"


def listed(subscriptions) -> list[str]:
    return [one.subscriber for one in subscriptions]


def test_a_subscription_is_created_and_got(message):
    made = message.create_subscription(
        "orders", subscriber=HOOK, ttl=600, options={"post_headers": {"A": "1"}}
    )
    assert made.subscription_id
    got = message.get_subscription("orders", made.subscription_id)
    assert (got.subscriber, got.ttl, got.source) == (HOOK, 600, "orders")
    assert got.options == {"post_headers": {"A": "1"}}
    assert got.age < 60


def test_a_subscription_needs_a_subscriber_only(message):
    made = message.create_subscription("orders", subscriber=HOOK)
    got = message.get_subscription("orders", made.subscription_id)
    assert (got.ttl, got.options) == (3600, {})


@pytest.mark.parametrize(
    "wrong", [{"subscriber": "ftp://example.com"}, {"ttl": 59}, {"options": [1]}], ids=str
)
def test_a_bad_subscription_is_a_bad_request(message, wrong):
    with pytest.raises(exceptions.BadRequestException):
        message.create_subscription("orders", **{"subscriber": HOOK, "ttl": 600, **wrong})


def test_subscriptions_are_listed_through_all_pages(message):
    hooks = [f"{HOOK}/{number}" for number in range(25)]
    for hook in hooks:
        message.create_subscription("orders", subscriber=hook, ttl=600)
    assert listed(message.subscriptions("orders")) == hooks
    assert listed(message.subscriptions("orders", limit=7)) == hooks
    assert listed(message.subscriptions("others")) == []


def test_an_unconfirmed_subscriber_finds_itself_again(message):
    first = message.create_subscription("orders", subscriber=HOOK, ttl=600)
    second = message.create_subscription("orders", subscriber=HOOK, ttl=600)
    assert second.subscription_id == first.subscription_id


def test_a_confirmed_subscriber_is_a_conflict(message, api):
    made = message.create_subscription("orders", subscriber=HOOK, ttl=600)
    path = f"/v2/queues/orders/subscriptions/{made.subscription_id}/confirm"
    assert api.call("PUT", path, json={"confirmed": True}).status_code == 204
    with pytest.raises(exceptions.ConflictException):
        message.create_subscription("orders", subscriber=HOOK, ttl=600)


def test_a_subscription_is_deleted(message):
    made = message.create_subscription("orders", subscriber=HOOK, ttl=600)
    message.delete_subscription("orders", made.subscription_id)
    with pytest.raises(exceptions.NotFoundException):
        message.get_subscription("orders", made.subscription_id)
    assert listed(message.subscriptions("orders")) == []
    # A missing one is 204 as well, so `ignore_missing=False` finds nothing to complain about.
    message.delete_subscription("orders", made.subscription_id, ignore_missing=False)


def test_an_end_can_be_waited_for(message, api):
    post(message, "work", "a")
    claim_id, _ = api.claim("work")
    claim = message.get_claim("work", claim_id)
    message.delete_claim("work", claim_id)
    message.wait_for_delete(claim, interval=0.1, wait=60)
    made = message.create_subscription("orders", subscriber=HOOK, ttl=600)
    subscription = message.get_subscription("orders", made.subscription_id)
    message.delete_subscription("orders", subscription)
    message.wait_for_delete(subscription, interval=0.1, wait=60)


def test_what_was_got_can_be_handed_back(message):
    """Objects of the SDK in the place of names and ids."""
    post(message, "work", "goes", "stays")
    message.delete_message("work", next(iter(message.messages("work"))))
    assert bodies(message.messages("work")) == ["stays"]
    message.delete_queue(message.get_queue("work"))
    assert list(message.queues()) == []


@pytest.mark.differs("there a delay counts only in a queue with a default delay")
def test_a_delayed_message_is_not_listed_before_its_time(message):
    message.post_message("later", [{"body": "now", "ttl": 300}, {"body": "then", "ttl": 300, "delay": 30}])
    assert bodies(message.messages("later")) == ["now"]


def test_a_queue_is_created_with_its_size_and_says_no_more(message):
    # Of the reserved attributes the SDK knows two; the others it neither sends nor shows.
    message.create_queue(name="small", max_messages_post_size=100)
    assert message.get_queue("small").max_messages_post_size == 100
    with pytest.raises(KeyError, match="resources"):
        post(message, "small", "x" * 100)


def test_without_a_login_the_endpoint_is_enough(server, project):
    """`auth_type=none` with the endpoint and the project given by hand."""
    connection = openstack.connection.Connection(
        auth_type="none", auth={"endpoint": server.url}, message_endpoint_override=server.url
    )
    message = connection.message
    message.create_queue(name="plain", project_id=project)
    assert [queue.name for queue in message.queues(project_id=project)] == ["plain"]
    connection.close()
