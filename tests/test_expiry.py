"""What a minute does: the shortest life of a message and of a claim is 60 s, and one wait serves all."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from support.api import Api

MINUTE = 60

differs = pytest.mark.differs("it shows expired messages until MongoDB has collected them")


@dataclass
class Past:
    """What was prepared a minute ago."""

    api: Api
    first_page: list[object] = field(default_factory=list)
    next_page: str = ""
    short_ids: list[str] = field(default_factory=list)
    claim: str = ""


@pytest.fixture(scope="module")
def past(server):
    """Prepares the queues, then lets the minute pass."""
    with Api(server.url) as api:
        past = Past(api)
        for number in range(20):
            past.short_ids += api.post("mixed", f"short {number}", ttl=MINUTE)
            api.post("mixed", f"long {number}", ttl=3600)
        page = api.call("GET", "/v2/queues/mixed/messages?limit=10&echo=true&include_claimed=true").json()
        past.first_page = [message["body"] for message in page["messages"]]
        past.next_page = page["links"][0]["href"]

        api.post("claimed", *range(4), ttl=3600)
        past.claim, _ = api.claim("claimed", limit=2, ttl=MINUTE)

        api.post("extended", "kept alive", ttl=MINUTE)
        api.claim("extended", ttl=3600, grace=60)

        api.post("renewed", "held", ttl=3600)
        claim, _ = api.claim("renewed", ttl=MINUTE)
        renewal = api.call("PATCH", f"/v2/queues/renewed/claims/{claim}", json={"ttl": 600, "grace": 60})
        assert renewal.status_code == 204

        api.post("emptied", *range(3), ttl=MINUTE)
        time.sleep(MINUTE + 1.5)
        yield past


@differs
def test_a_reader_goes_on_after_expired_messages(past):
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


def test_an_expired_claim_gives_its_messages_back_in_their_place(past):
    _, messages = past.api.claim("claimed", limit=4)
    assert [message["body"] for message in messages] == [0, 1, 2, 3]


def test_an_expired_claim_is_not_found(past):
    assert past.api.call("GET", f"/v2/queues/claimed/claims/{past.claim}").status_code == 404
    renewal = past.api.call("PATCH", f"/v2/queues/claimed/claims/{past.claim}", json={"ttl": 60, "grace": 60})
    assert renewal.status_code == 404


def test_a_claim_extends_the_life_of_its_messages(past):
    assert past.api.bodies("extended") == ["kept alive"]


def test_a_renewed_claim_still_holds(past):
    assert past.api.claim("renewed") == ("", [])
