"""Signed webhooks, verified with the Standard Webhooks specification's own Python package."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from support.api import Api
from support.receiver import Receiver, Request
from support.redis import Redis, on_redis
from support.server import Sections, Server
from support.wait import wait_until

LOCAL: Sections = {"notification": {"allow_networks": "127.0.0.0/8"}}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def subscribe(api: Api, subscriber: str, **options) -> tuple[str, str | None]:
    """The path of a new subscription, and its secret."""
    document = {"subscriber": subscriber, "ttl": 3600, "options": options}
    answer = api.call("POST", "/v2/queues/q/subscriptions", json=document)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return f"/v2/queues/q/subscriptions/{made['subscription_id']}", made.get("secret")


def sent(api: Api, receiver: Receiver, body: object) -> Request:
    """Posts a message; the request that brings it."""
    before = len(receiver.requests)
    api.post("q", body)
    wait_until(lambda: len(receiver.requests) > before, "the webhook arrives")
    return receiver.requests[before]


def verifies(secret: str, request: Request) -> bool:
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        verified = Webhook(secret).verify(request.body, headers)
    except WebhookVerificationError:
        return False
    return verified == request.json


def rotated(api: Api, path: str, **document) -> str:
    answer = api.call("POST", path + "/secret", json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()["secret"]


def stored(server: Server) -> bytes:
    """All that a server has written."""
    return b"".join(file.read_bytes() for file in server.data.rglob("*") if file.is_file())


def internal_queues(server: Server) -> set[str]:
    """The names of queues that no request can name."""
    [store] = (file for file in server.data.rglob("*.db"))
    with sqlite3.connect(store) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM heads WHERE kind = 2")}


def signs_rotates_and_hides(server: Server, receiver: Receiver) -> list[str]:
    """The secrets that were made."""
    with Api(server.url) as api:
        path, first = subscribe(api, receiver.url("/ok"), signing=True)
        request = sent(api, receiver, {"event": "ä"})
        assert verifies(first, request)
        changed = Request(request.path, request.headers, request.body.replace(b"event", b"Event"), 1)
        assert not verifies(first, changed)

        # Both are valid for the grace, which is a day.
        second = rotated(api, path)
        request = sent(api, receiver, 2)
        wait_until(lambda: verifies(second, sent(api, receiver, "again")), "the new secret signs")
        assert verifies(first, receiver.requests[-1])
        # The one before the last has ended; so has the last one without a grace.
        third = rotated(api, path, grace=0)
        wait_until(lambda: verifies(third, sent(api, receiver, "again")), "the new secret signs")
        assert not verifies(first, receiver.requests[-1])
        assert not verifies(second, receiver.requests[-1])

        # A secret is shown only once.
        shown = api.call("GET", path).text + api.call("GET", "/v2/queues/q/subscriptions").text
        shown += api.call("GET", "/v2/queues?detailed=true").text
        assert '"signing":true' in shown.replace(" ", "")
        again = {"subscriber": receiver.url("/ok"), "ttl": 3600, "options": {"signing": True}}
        answer = api.call("POST", "/v2/queues/q/subscriptions", json=again)
        assert (answer.status_code, path.endswith(answer.json()["subscription_id"])) == (201, True)
        shown += answer.text + server.log_tail(10_000)
        secrets = [first, second, third]
        assert len(set(secrets)) == 3
        assert all(secret.removeprefix("whsec_") not in shown for secret in secrets)
    return secrets


def test_webhooks_are_signed_and_secrets_rotate(
    new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path
):
    key = {"transport": {"message_encryption_key": "a key of test_webhook_signatures"}}
    server = new_server(options={**LOCAL, **key, "DEFAULT": {"debug": True}}).start()
    secrets = signs_rotates_and_hides(server, receiver)
    # With a key for encryption they are not in the file either.
    assert server.stop() == 0
    assert not any(secret.encode() in stored(server) for secret in secrets)


def test_webhooks_are_signed_on_redis(new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path):
    redis = Redis(tmp_path / "redis").start()
    try:
        signs_rotates_and_hides(new_server(options={**on_redis(redis.uri), **LOCAL}).start(), receiver)
    finally:
        redis.kill()


def test_signing_can_be_enabled_later(new_server: Callable[..., Server], receiver: Receiver):
    server = new_server(options=LOCAL).start()
    with Api(server.url) as api:
        path, secret = subscribe(api, receiver.url("/ok"))
        assert secret is None
        assert "Webhook-Signature" not in sent(api, receiver, 1).headers
        answer = api.call("POST", path + "/secret", json={})
        assert answer.status_code == 409, answer.text
        patch = api.call("PATCH", path, json={"options": {"signing": "hmac"}})
        assert patch.status_code == 204, patch.text
        secret = rotated(api, path)
        wait_until(lambda: "Webhook-Signature" in sent(api, receiver, 2).headers, "it signs within 5 s")
        assert verifies(secret, receiver.requests[-1])
        for grace in (-1, 604_801, "x", 1.5):
            answer = api.call("POST", path + "/secret", json={"grace": grace})
            assert answer.status_code == 400, (grace, answer.text)
        answer = api.call("POST", path[:-1] + "/secret", content=json.dumps({}))
        assert answer.status_code == 404


def verifies_asymmetric(public: str, request: Request) -> bool:
    """By the specification: its Python package has no `v1a`."""
    assert public.startswith("whpk_")
    key = Ed25519PublicKey.from_public_bytes(b64decode(public.removeprefix("whpk_")))
    headers = {name.lower(): value for name, value in request.headers.items()}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    for signature in headers["webhook-signature"].split():
        if signature.startswith("v1a,"):
            try:
                key.verify(b64decode(signature[4:]), signed)
            except InvalidSignature:
                continue
            return True
    return False


def test_webhooks_are_signed_with_a_key_pair(new_server: Callable[..., Server], receiver: Receiver):
    server = new_server(options=LOCAL).start()
    with Api(server.url) as api:
        path, first = subscribe(api, receiver.url("/ok"), signing="ed25519")
        request = sent(api, receiver, {"event": "ä"})
        assert verifies_asymmetric(first, request)
        assert not verifies_asymmetric(first, Request(request.path, request.headers, b"{}", 1))

        second = rotated(api, path)
        wait_until(lambda: verifies_asymmetric(second, sent(api, receiver, "again")), "the new key signs")
        assert verifies_asymmetric(first, receiver.requests[-1])

        # Another scheme: both sign for a day, until the new secret is asked for.
        assert api.call("PATCH", path, json={"options": {"signing": "hmac"}}).status_code == 204
        third = rotated(api, path, grace=0)
        assert third.startswith("whsec_")
        wait_until(lambda: verifies(third, sent(api, receiver, "again")), "the new secret signs")
        assert not verifies_asymmetric(second, receiver.requests[-1])
        answer = api.call("PATCH", path, json={"options": {"signing": "rsa"}})
        assert answer.status_code == 400, answer.text


def test_a_secret_is_deleted_with_its_subscription(new_server: Callable[..., Server], receiver: Receiver):
    server = new_server(options=LOCAL).start()
    with Api(server.url) as api:
        path, secret = subscribe(api, receiver.url("/ok"), signing=True)
        assert api.call("DELETE", path).status_code == 204
        other, another = subscribe(api, receiver.url("/ok"), signing=True)
        assert (other != path, another != secret) == (True, True)
        assert verifies(another, sent(api, receiver, 1))
        assert api.call("POST", path + "/secret", json={}).status_code == 404
    assert server.stop() == 0
    # Without a key for encryption a secret can be found, so that the search above means something.
    assert another.encode() in stored(server)
    assert internal_queues(server) >= {"secrets." + other.rsplit("/", 1)[1]}
    assert "secrets." + path.rsplit("/", 1)[1] not in internal_queues(server)
