"""Expiry after a minute, the least ttl of a message and a claim. `support/minute.py` prepares it."""

from __future__ import annotations

import pytest

differs = pytest.mark.differs("it shows expired messages until MongoDB has collected them")


@pytest.fixture(autouse=True)
def minute(past):
    """The minute has passed in every test of this file."""
    past.wait()


@differs
def test_a_reader_continues_after_expired_messages(past):
    assert past.first_page == [f"{kind} {number}" for number in range(5) for kind in ("short", "long")]
    seen = []
    path = past.next_page
    while page := past.api.call("GET", path).json():
        if not page["messages"]:
            break
        seen += [message["body"] for message in page["messages"]]
        path = page["links"][0]["href"]
    assert seen == [f"long {number}" for number in range(5, 20)]


@differs
def test_expired_messages_are_gone_from_listings(past):
    assert past.api.bodies("mixed") == [f"long {number}" for number in range(20)]


@differs
def test_an_expired_message_is_not_found(past):
    answer = past.api.call("GET", f"/v2/queues/mixed/messages/{past.short_ids[0]}")
    assert answer.status_code == 404


@differs
def test_expired_messages_are_not_counted(past):
    stats = past.api.call("GET", "/v2/queues/emptied/stats")
    assert stats.status_code == 200
    assert stats.json()["messages"]["total"] == 0


def test_messages_of_an_expired_claim_are_free_in_their_order(past):
    _, messages = past.api.claim("claimed", limit=4)
    assert [message["body"] for message in messages] == [0, 1, 2, 3]


def test_an_expired_claim_is_not_found(past):
    assert past.api.call("GET", f"/v2/queues/claimed/claims/{past.claim}").status_code == 404
    renewal = past.api.call("PATCH", f"/v2/queues/claimed/claims/{past.claim}", json={"ttl": 60, "grace": 60})
    assert renewal.status_code == 404


def test_a_claim_extends_the_ttl_of_its_messages(past):
    assert past.api.bodies("extended") == ["kept alive"]


def test_a_renewed_claim_still_holds_its_messages(past):
    assert past.api.claim("renewed") == ("", [])


def test_an_expired_subscription_is_not_listed(past):
    listed = past.api.subscriptions("queues/subscribed")
    assert [one["subscriber"] for one in listed] == ["http://hooks.invalid/lasts"]
