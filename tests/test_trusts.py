"""Subscribers that act for their owner: trusts of a real Keystone, made, kept, used, and refused."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.identity import PASSWORD, Cloud
from support.receiver import Receiver
from support.server import Sections, Server
from support.wait import wait_until

# The first test of a run waits for Keystone to start: some 15 s, minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

QUICK = {
    "retries_with_no_delay": 0,
    "minimum_delay_retries": 50,
    "minimum_delay": 1,
    "maximum_delay": 11,
    "maximum_delay_retries": 10,
}


def options(cloud: Cloud) -> Sections:
    return cloud.options() | {
        "trustee": {
            "auth_type": "password",
            "auth_url": cloud.url,
            "username": "zaqar",
            "password": PASSWORD,
            "user_domain_id": "default",
            "timeout": 120,
        },
        "notification": {"allow_networks": "127.0.0.0/8", "trust_http_hosts": "127.0.0.1"},
    }


@pytest.fixture(scope="module")
def server(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), options=options(cloud))
    made.start()
    yield made
    assert made.stop() == 0, made.log_tail()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


class Caller:
    """A client with a token and a queue of its own."""

    def __init__(self, server: Server, token: str) -> None:
        self.url = server.url
        self.token = token
        self.queue = f"/v2/queues/q-{uuid.uuid4()}"

    def call(self, method: str, path: str, document: object = None) -> httpx.Response:
        headers = {"Client-ID": str(uuid.uuid4()), "X-Auth-Token": self.token}
        return httpx.request(
            method, self.url + self.queue + path, headers=headers, json=document, timeout=120
        )

    def ask(self, subscriber: str, ttl: int = 600, **options: object) -> httpx.Response:
        document = {"subscriber": subscriber, "ttl": ttl, "options": options}
        return self.call("POST", "/subscriptions", document)

    def subscribe(self, subscriber: str, ttl: int = 600, **options: object) -> str:
        answer = self.ask(subscriber, ttl, **options)
        assert answer.status_code == 201, answer.text
        return answer.json()["subscription_id"]

    def options(self, subscription: str) -> dict:
        answer = self.call("GET", f"/subscriptions/{subscription}")
        assert answer.status_code == 200, answer.text
        return answer.json()["options"]

    def patch(self, subscription: str, **change: object) -> httpx.Response:
        return self.call("PATCH", f"/subscriptions/{subscription}", change)

    def post(self, body: object) -> None:
        answer = self.call("POST", "/messages", {"messages": [{"body": body, "ttl": 300}]})
        assert answer.status_code == 201, answer.text

    def deliveries(self, subscription: str) -> list[dict]:
        answer = self.call("GET", f"/subscriptions/{subscription}/deliveries")
        assert answer.status_code == 200, answer.text
        return answer.json()["deliveries"]


@pytest.fixture
def ann(server: Server, cloud: Cloud, token: str) -> Caller:
    return Caller(server, token)


def trusts(cloud: Cloud, token: str) -> list[dict]:
    path = f"/OS-TRUST/trusts?trustor_user_id={cloud.users['ann']}"
    return cloud.request("GET", path, token=token)["trusts"]


def trusting(receiver: Receiver, what: str = "/ok") -> tuple[str, str]:
    """A subscriber, and the path at which its messages arrive."""
    path = f"{what}?{uuid.uuid4()}"
    return "trust+" + receiver.url(path), path


def arrives(receiver: Receiver, path: str, count: int = 1) -> list[str]:
    """Waits for requests; the tokens that they brought."""
    wait_until(lambda: len(receiver.of(path)) >= count, f"{count} requests arrive at {path}")
    return [request.headers["X-Auth-Token"] for request in receiver.of(path)]


def described(cloud: Cloud, token: str) -> dict:
    """What Keystone says of a token."""
    headers = {"X-Auth-Token": cloud.token("root", cloud.demo), "X-Subject-Token": token}
    answer = httpx.get(cloud.url + "/auth/tokens", headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["token"]


def test_a_message_is_delivered_with_a_token_of_its_owner(ann, cloud, receiver):
    subscriber, path = trusting(receiver)
    subscription = ann.subscribe(subscriber, post_headers={"X-Mine": "1"})
    trust = ann.options(subscription)["trust_id"]
    made = cloud.request("GET", f"/OS-TRUST/trusts/{trust}", token=ann.token)["trust"]
    assert made["trustor_user_id"] == cloud.users["ann"]
    assert made["trustee_user_id"] == cloud.users["zaqar"]
    assert (made["project_id"], made["impersonation"]) == (cloud.demo, True)
    assert "member" in [role["name"] for role in made["roles"]]
    assert made["expires_at"] is not None
    ann.post({"a": 1})
    (sent,) = arrives(receiver, path)
    (request,) = receiver.of(path)
    assert request.json["body"] == {"a": 1}
    assert request.headers["X-Mine"] == "1"
    assert sent != ann.token
    token = described(cloud, sent)
    assert (token["user"]["name"], token["project"]["id"]) == ("ann", cloud.demo)
    assert token["OS-TRUST:trust"]["id"] == trust


def test_a_repeated_subscription_makes_no_other_trust(ann, cloud, receiver):
    subscriber, _ = trusting(receiver)
    subscription = ann.subscribe(subscriber)
    before = trusts(cloud, ann.token)
    assert ann.subscribe(subscriber) == subscription
    confirmed = ann.call("PUT", f"/subscriptions/{subscription}/confirm", {"confirmed": True})
    assert confirmed.status_code == 204, confirmed.text
    assert ann.ask(subscriber).status_code == 409
    assert trusts(cloud, ann.token) == before


def test_a_trust_may_expire_thousands_of_years_later(ann, cloud, receiver):
    # What Heat asks for, twice: two trusts that end at the same second.
    for _ in range(2):
        subscription = ann.subscribe(trusting(receiver)[0], ttl=220_367_260_800)
        path = f"/OS-TRUST/trusts/{ann.options(subscription)['trust_id']}"
        trust = cloud.request("GET", path, token=ann.token)["trust"]
        assert trust["expires_at"].startswith("90")


def test_a_trust_that_is_given_is_kept_and_used(ann, cloud, receiver):
    given = cloud.request(
        "POST",
        "/OS-TRUST/trusts",
        {
            "trust": {
                "trustor_user_id": cloud.users["ann"],
                "trustee_user_id": cloud.users["zaqar"],
                "project_id": cloud.demo,
                "impersonation": True,
                "roles": [{"name": "member"}],
            }
        },
        token=ann.token,
    )["trust"]["id"]
    before = trusts(cloud, ann.token)
    subscriber, path = trusting(receiver)
    subscription = ann.subscribe(subscriber, trust_id=given)
    assert ann.options(subscription)["trust_id"] == given
    assert trusts(cloud, ann.token) == before
    ann.post("given")
    (sent,) = arrives(receiver, path)
    assert described(cloud, sent)["OS-TRUST:trust"]["id"] == given


def test_a_trust_of_another_user_is_rejected(server, ann, cloud, receiver):
    subscriber, _ = trusting(receiver)
    trust = ann.options(ann.subscribe(subscriber))["trust_id"]
    root = Caller(server, cloud.token("root", cloud.demo))
    elsewhere = Caller(server, cloud.token("ann", cloud.other))
    for caller, given in ((root, trust), (elsewhere, trust), (ann, "0" * 32), (ann, "../users"), (ann, 5)):
        answer = caller.ask(trusting(receiver)[0], trust_id=given)
        assert answer.status_code == 400, (given, answer.text)
        assert "trust_id" in answer.json()["description"]


def test_a_change_keeps_the_trust_of_the_same_subscriber_only(ann, cloud, receiver):
    subscriber, path = trusting(receiver)
    subscription = ann.subscribe(subscriber)
    trust = ann.options(subscription)["trust_id"]
    # Heat sends all three, and knows nothing of the trust.
    assert ann.patch(subscription, subscriber=subscriber, ttl=700, options={"a": 1}).status_code == 204
    assert ann.options(subscription) == {"a": 1, "trust_id": trust}
    assert ann.patch(subscription, options={"trust_id": None}).status_code == 204
    newer = ann.options(subscription)["trust_id"]
    assert newer not in (None, trust)
    other, other_path = trusting(receiver)
    assert ann.patch(subscription, subscriber=other).status_code == 204
    assert ann.options(subscription)["trust_id"] not in (None, trust, newer)
    # A webhook that becomes one that acts for its owner.
    plain = ann.subscribe(receiver.url(f"/ok?{uuid.uuid4()}"), b=2)
    third, third_path = trusting(receiver)
    assert ann.patch(plain, subscriber=third).status_code == 204
    assert ann.options(plain)["b"] == 2
    ann.post("changed")
    assert arrives(receiver, other_path)
    assert arrives(receiver, third_path)
    assert receiver.of(path) == []


def test_a_rejected_change_leaves_no_trust(ann, cloud, receiver):
    subscription = ann.subscribe(receiver.url(f"/ok?{uuid.uuid4()}"))
    taken, _ = trusting(receiver)
    ann.subscribe(taken)
    before = trusts(cloud, ann.token)
    assert ann.patch(subscription, subscriber=taken).status_code == 409
    assert trusts(cloud, ann.token) == before


def test_a_token_that_was_revoked_is_replaced(ann, cloud, receiver):
    subscriber, path = trusting(receiver)
    ann.subscribe(subscriber)
    ann.post(1)
    (first,) = arrives(receiver, path)
    ann.post(2)
    assert arrives(receiver, path, 2)[1] == first, "cached"
    # What a service answers to a token that was revoked.
    receiver.reject(first)
    ann.post(3)
    sent = arrives(receiver, path, 4)
    assert sent[2] == first
    assert sent[3] != first
    assert described(cloud, sent[3])["user"]["name"] == "ann"


def test_a_deleted_trust_ends_deliveries_and_shows_no_token(ann, cloud, receiver):
    subscriber, path = trusting(receiver, "/echo")
    subscription = ann.subscribe(subscriber)
    ann.post("once")
    (sent,) = arrives(receiver, path)
    wait_until(lambda: len(ann.deliveries(subscription)) == 1, "the log has it")
    (one,) = ann.deliveries(subscription)
    shown = ann.call("GET", f"/subscriptions/{subscription}/deliveries/{one['id']}").json()
    assert shown["attempts"][0]["answer"] == "X-Auth-Token: ***"
    assert sent not in str(shown)
    trust = ann.options(subscription)["trust_id"]
    cloud.request("DELETE", f"/OS-TRUST/trusts/{trust}", token=ann.token)
    assert ann.patch(subscription, options={"_retry_policy": QUICK}).status_code == 204
    assert ann.options(subscription)["trust_id"] == trust
    receiver.reject(sent)
    ann.post("twice")

    def states() -> list[str]:
        return [one["status"] for one in ann.deliveries(subscription)]

    wait_until(lambda: "failed" in states(), "it ends")


def test_a_trust_that_cannot_be_made_is_a_400_with_the_reason(server, ann, cloud, receiver, new_server):
    port = receiver.port
    for subscriber, says in (
        (f"trust+http://localhost:{port}/", "trust_http_hosts"),
        ("trust+https://10.0.0.1/", "allow_networks"),
        ("trust+https://", "URI"),
    ):
        answer = ann.ask(subscriber)
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["description"]
    credential = cloud.application_credential(ann.token, cloud.users["ann"])
    limited = Caller(server, cloud.credential_token(credential))
    answer = limited.ask(trusting(receiver)[0])
    assert answer.status_code == 400, answer.text
    assert "application credential" in answer.json()["description"]


def test_a_confirmation_names_the_endpoint_of_the_service(
    cloud, token, new_server: Callable[..., Server], receiver: Receiver
):
    own = options(cloud)
    own["notification"]["require_confirmation"] = True
    own["signed_url"] = {"secret_key": "a signing key"}
    caller, path = Caller(new_server(options=own).start(), token), f"/ok?{uuid.uuid4()}"
    subscription = caller.subscribe(receiver.url(path))
    wait_until(lambda: len(receiver.of(path)) == 1, "it is asked to confirm")
    (asked,) = receiver.of(path)
    at = f"http://127.0.0.1:{cloud.messaging_port}{caller.queue}/subscriptions/{subscription}/confirm"
    assert asked.json["WSGISubscribeURL"] == at
    # The catalog has no service of this name.
    assert "WebSocketSubscribeURL" not in asked.json


def test_without_a_trustee_there_are_no_trusts(ann, cloud, new_server: Callable[..., Server], tmp_path: Path):
    server = new_server(options=cloud.options()).start()
    answer = Caller(server, ann.token).ask("trust+https://hooks.example.com/")
    assert answer.status_code == 400, answer.text
    assert "[trustee]" in answer.json()["description"]


def test_without_checked_tokens_a_trust_must_be_given(cloud, new_server: Callable[..., Server]):
    own = options(cloud)
    del own["DEFAULT"], own["keystone_authtoken"]
    server = new_server(options=own).start()
    document = {"subscriber": "trust+http://127.0.0.1:1/", "ttl": 600}
    headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": cloud.demo}
    answer = httpx.post(f"{server.url}/v2/queues/q/subscriptions", json=document, headers=headers, timeout=60)
    assert answer.status_code == 400, answer.text
    assert "trust_id" in answer.json()["description"]
