"""Signed URLs with python-zaqarclient, unpatched: made by one who may, used by one who has nothing else."""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import UTC, datetime

import pytest
from zaqarclient.transport import errors

from support.clients import bodies, connect, connect_signed, post
from support.server import Server


@pytest.fixture
def share(server, client):
    """Signs a URL of the queue `shared`; a client that has this URL alone."""

    def make(**wishes):
        return connect_signed(server.url, client.queue("shared").signed_url(**wishes))

    return make


def test_a_signed_url_names_what_it_opens(client, project):
    signed = client.queue("shared").signed_url()
    assert signed["paths"] == ["/v2/queues/shared/messages"]
    assert signed["methods"] == ["GET"]
    assert signed["project"] == project
    expires = datetime.fromisoformat(signed["expires"]).replace(tzinfo=UTC)
    assert 86_000 < (expires - datetime.now(UTC)).total_seconds() < 86_460


def test_a_share_makes_no_queue(client):
    client.queue("shared").signed_url()
    assert list(client.queues()[0]) == []


def test_a_signed_url_lists_messages(client, share):
    ids = post(client.queue("shared"), "a", "b")
    queue = share().queue("shared")
    assert bodies(queue.messages()) == ["a", "b"]
    assert queue.message(ids[1]).body == "b"


def test_a_signed_url_follows_the_pages(client, share):
    post(client.queue("shared"), *range(25))
    assert bodies(share().queue("shared").messages(limit=10).stream()) == list(range(25))


def test_a_signed_url_opens_no_other_method(client, share):
    ids = post(client.queue("shared"), "a")
    queue = share().queue("shared")
    for forbidden in (
        lambda: post(queue, "b"),
        lambda: queue.delete_messages(*ids),
        lambda: queue.pop(),
    ):
        with pytest.raises(errors.ResourceNotFound):
            forbidden()
    assert bodies(client.queue("shared").messages(echo=True)) == ["a"]


def test_a_signed_url_opens_nothing_beside_it(client, share):
    post(client.queue("shared"), "a")
    post(client.queue("shared2"), "b")
    outsider = share(methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    queue = outsider.queue("shared")
    for forbidden in (
        lambda: list(outsider.queue("shared2").messages()),
        lambda: queue.claim(ttl=60, grace=60),
        lambda: queue.stats,
        lambda: queue.metadata(),
        lambda: queue.delete(),
        lambda: queue.purge(),
        lambda: queue.signed_url(),
        lambda: list(queue.subscriptions()),
        lambda: list(outsider.queues()[0]),
        outsider.homedoc,
    ):
        with pytest.raises(errors.ResourceNotFound):
            forbidden()
    assert outsider.ping() is False


def test_a_signed_url_lets_a_worker_post_claim_and_delete(client, share):
    worker = share(paths=["messages", "claims"], methods=["GET", "POST", "PATCH", "DELETE"])
    queue = worker.queue("shared")
    post(queue, *range(4))

    claim = queue.claim(ttl=600, grace=60, limit=2)
    first, second = claim
    assert (first.body, second.body) == (0, 1)
    first.delete()
    claim.update(ttl=900, grace=60)
    assert queue.claim(id=claim.id).ttl == 900
    claim.delete()
    assert bodies(queue.pop(count=2)) == [1, 2]
    assert bodies(client.queue("shared").messages(echo=True)) == [3]


def test_a_signed_url_lets_a_subscriber_subscribe(client, share):
    outsider = share(paths=["subscriptions"], methods=["GET", "POST", "PATCH", "DELETE"])
    made = outsider.subscription("shared", subscriber="http://hooks.example.com/", ttl=600)
    made.update({"ttl": 900})
    (one,) = client.subscriptions("shared")
    assert (one.id, one.ttl) == (made.id, 900)
    made.delete()
    assert list(outsider.subscriptions("shared")) == []
    with pytest.raises(errors.ResourceNotFound):
        list(outsider.queue("shared").messages())


def test_a_signed_url_expires(client, share):
    post(client.queue("shared"), "a")
    queue = share(ttl_seconds=2).queue("shared")
    assert bodies(queue.messages()) == ["a"]
    time.sleep(2.1)
    with pytest.raises(errors.ResourceNotFound):
        queue.messages()


def test_a_signed_url_of_the_past_is_refused(client):
    with pytest.raises(errors.MalformedRequest, match="current time"):
        client.queue("shared").signed_url(ttl_seconds=-1)


@pytest.mark.parametrize("wrong", [{"paths": ["stats"]}, {"paths": "messages"}, {"methods": "GET"}], ids=str)
def test_a_share_of_what_can_not_be_shared_is_refused(client, wrong):
    with pytest.raises(errors.MalformedRequest):
        client.queue("shared").signed_url(**wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"methods": ["GET", "POST"]},
        {"paths": ["/v2/queues/other/messages"]},
        {"paths": ["/v2/queues/shared/messages", "/v2/queues/other/messages"]},
        {"paths": ["/v2"]},
        {"paths": []},
        {"expires": "2099-01-01T00:00:00"},
        {"expires": ""},
        {"project": "another"},
        {"signature": "0" * 64},
    ],
    ids=str,
)
def test_a_changed_signed_url_opens_nothing(client, server, change):
    post(client.queue("shared"), "a")
    outsider = connect_signed(server.url, {**client.queue("shared").signed_url(), **change})
    for queue in ("shared", "other"):
        with pytest.raises(errors.ResourceNotFound):
            outsider.queue(queue).messages()


def test_without_a_key_a_share_says_so(new_server):
    server = new_server().start()
    with pytest.raises(errors.MalformedRequest, match="secret_key"):
        connect(server.url, "p").queue("shared").signed_url()


def test_without_a_key_no_signature_opens_anything(new_server):
    server = new_server().start()
    grant = {
        "paths": ["/v2/queues/shared/messages"],
        "methods": ["GET"],
        "project": "p",
        "expires": "2099-01-01T00:00:00",
    }
    text = "\\n".join([grant["paths"][0], grant["methods"][0], grant["project"], grant["expires"]])
    for key in (b"", b"None"):
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        with pytest.raises(errors.ResourceNotFound):
            connect_signed(server.url, {**grant, "signature": signature}).queue("shared").messages()


def test_the_signature_is_the_one_that_the_text_and_the_key_make(server, client):
    """So the test above signs as the server would."""
    if not isinstance(server, Server):
        pytest.skip("the key of a server that somebody else started is not known")
    signed = client.queue("shared").signed_url(methods=["POST", "GET"], paths=["messages", "claims"])
    lists = [",".join(signed[name]) for name in ("paths", "methods")]
    text = "\\n".join([*lists, signed["project"], signed["expires"]])
    key = str(server.sections["signed_url"]["secret_key"]).encode()
    assert signed["signature"] == hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
