"""`openstack messaging …`, the plugin of python-zaqarclient: the real command line, run in this process."""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Callable, Iterator

import pytest
from openstackclient import shell
from openstackclient.common.clientmanager import ClientManager
from zaqarclient.queues import cli

from support.api import Api
from support.keystone import FakeKeystone

HOOK = "http://hooks.example.com/orders"

#: The one who posts and lists.
ME = ("--client-id", str(uuid.uuid4()))

#: Runs `openstack messaging` with arguments: what it printed as JSON, or None when it printed
#: nothing.
Openstack = Callable[..., object]


@pytest.fixture
def api(server, project) -> Iterator[Api]:
    """The same project without the command line, for what that cannot show."""
    with Api(server.url, project) as api:
        yield api


@pytest.fixture
def openstack(server, project, capsys) -> Iterator[Openstack]:
    with FakeKeystone(server.url, project) as keystone:
        # Given as options: of the environment the command line makes its defaults once in a
        # process.
        login = [
            *("--os-auth-url", keystone.url, "--os-username", "user", "--os-password", "secret"),
            *("--os-user-domain-id", "default", "--os-region-name", "here"),
            # With its id, and not its name, the plugin says the project in each request.
            *("--os-project-id", project),
        ]

        def run(*words: str, fails: bool = False) -> object:
            capsys.readouterr()
            code = shell.OpenStackShell().run([*login, "messaging", *words])
            printed = capsys.readouterr()
            assert (code != 0) == fails, printed
            if fails:
                return printed.err
            return json.loads(printed.out) if printed.out.strip() else None

        yield run
    # A process of the command line has one login: it keeps the endpoint and the client of the
    # first.
    cli._MESSAGING_ENDPOINT = None
    inspect.getattr_static(ClientManager, "messaging")._handle = None


def shown(openstack: Openstack, *words: str) -> object:
    """A command that has a format to choose."""
    return openstack(*words, "-f", "json")


def subscribe(openstack: Openstack, *more: str) -> dict:
    return shown(openstack, "subscription", "create", "orders", HOOK, "600", *more)


def test_ping(openstack):
    assert shown(openstack, "ping") == {"Pingable": True}


def test_homedoc(openstack):
    assert "rel/queue" in openstack("homedoc")["resources"]


def test_health_is_for_admins(openstack):
    assert "403" in openstack("health", fails=True)


def test_queues_are_created_listed_and_deleted(openstack):
    for name in ("apples", "pears", "plums"):
        assert shown(openstack, "queue", "create", name) == {"Name": name}
    assert shown(openstack, "queue", "list") == [{"Name": name} for name in ("apples", "pears", "plums")]
    assert shown(openstack, "queue", "list", "--limit", "1", "--marker", "apples") == [{"Name": "pears"}]
    openstack("queue", "delete", "pears")
    detailed = shown(openstack, "queue", "list", "--detailed", "--with_count")
    assert [queue["Name"] for queue in detailed] == ["apples", "plums"]
    assert detailed[0]["Href"] == "/v2/queues/apples"
    assert detailed[0]["Metadata_Dict"]["_default_message_ttl"] == 3600


def test_metadata_are_set_and_got(openstack):
    shown(openstack, "queue", "create", "orders")
    openstack("queue", "set", "metadata", "orders", '{"colour": "red", "_default_message_ttl": 120}')
    metadata = shown(openstack, "queue", "get", "metadata", "orders")["Metadata"]
    assert (metadata["colour"], metadata["_default_message_ttl"]) == ("red", 120)
    openstack("queue", "set", "metadata", "orders", "{}")
    metadata = shown(openstack, "queue", "get", "metadata", "orders")["Metadata"]
    assert "colour" not in metadata
    assert metadata["_default_message_ttl"] == 3600


def test_dead_letters_are_configured(openstack, api):
    """The plugin adds and removes each reserved attribute without a default in the patch that sets it."""
    shown(openstack, "queue", "create", "orders")
    rule = {"_max_claim_count": 1, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 600}
    openstack("queue", "set", "metadata", "orders", json.dumps(rule))
    metadata = shown(openstack, "queue", "get", "metadata", "orders")["Metadata"]
    assert {name: metadata[name] for name in rule} == rule
    api.post("orders", "poison")
    claim, messages = api.claim("orders")
    assert [message["body"] for message in messages] == ["poison"]
    assert api.call("DELETE", f"/v2/queues/orders/claims/{claim}").status_code == 204
    assert api.claim("orders") == ("", [])
    assert api.bodies("dead") == ["poison"]


def test_bad_metadata_are_an_error_with_the_reason(openstack):
    shown(openstack, "queue", "create", "orders")
    error = openstack("queue", "set", "metadata", "orders", '{"_default_message_ttl": 1}', fails=True)
    assert "_default_message_ttl" in error


def test_messages_are_posted_and_listed(openstack, api):
    openstack("message", "post", "orders", *ME, '[{"body": {"n": 1}, "ttl": 300}, {"body": "two"}]')
    assert shown(openstack, "message", "list", "orders", *ME) == []
    first, second = shown(openstack, "message", "list", "orders", *ME, "--echo")
    assert (first["Body"], first["TTL"], first["Claim ID"]) == ({"n": 1}, 300, None)
    assert (second["Body"], second["TTL"]) == ("two", 3600)
    assert [
        one["ID"] for one in shown(openstack, "message", "list", "orders", *ME, "--echo", "--limit", "1")
    ] == [first["ID"]]
    by_id = shown(
        openstack, "message", "list", "orders", *ME, "--message-ids", f"{first['ID']},{second['ID']}"
    )
    assert [one["Body"] for one in by_id] == [{"n": 1}, "two"]
    claim, _ = api.claim("orders", limit=1)
    assert [one["Body"] for one in shown(openstack, "message", "list", "orders", *ME, "--echo")] == ["two"]
    listed = shown(openstack, "message", "list", "orders", *ME, "--echo", "--include-claimed")
    assert [one["Claim ID"] for one in listed] == [claim, None]


@pytest.mark.differs("there a delay counts only in a queue with a default delay")
def test_delayed_messages_are_listed_when_asked_for(openstack):
    openstack("message", "post", "orders", *ME, '[{"body": "later", "delay": 60}]')
    assert shown(openstack, "message", "list", "orders", *ME, "--echo") == []
    (later,) = shown(openstack, "message", "list", "orders", *ME, "--echo", "--include-delayed")
    assert later["Body"] == "later"


def test_stats(openstack, api):
    api.post("orders", 1, 2, 3)
    api.claim("orders", limit=1)
    messages = shown(openstack, "queue", "stats", "orders")["Stats"]["messages"]
    assert (messages["claimed"], messages["free"], messages["total"]) == (1, 2, 3)


def test_claims_are_created_queried_renewed_and_released(openstack, api):
    api.post("orders", "a", "b")
    (taken,) = shown(openstack, "claim", "create", "orders", "--ttl", "600", "--grace", "60", "--limit", "1")
    assert taken["Messages"] == "a"
    claim = taken["Claim_ID"]
    assert [one["Message"] for one in shown(openstack, "claim", "query", "orders", claim)] == ["a"]
    shown(openstack, "claim", "renew", "orders", claim, "--ttl", "900", "--grace", "60")
    assert api.call("GET", f"/v2/queues/orders/claims/{claim}").json()["ttl"] == 900
    openstack("claim", "release", "orders", claim)
    again = shown(openstack, "claim", "create", "orders")
    assert [one["Messages"] for one in again] == ["a", "b"]


def test_subscriptions_are_created_shown_and_listed(openstack):
    made = subscribe(openstack, "--options", '{"post_headers": {"A": "1"}}')
    assert (made["Subscriber"], made["TTL"], made["Options"]) == (HOOK, 600, {"post_headers": {"A": "1"}})
    for found in (
        shown(openstack, "subscription", "show", "orders", made["ID"]),
        *shown(openstack, "subscription", "list", "orders", "--limit", "5"),
    ):
        assert (found["ID"], found["Subscriber"], found["TTL"]) == (made["ID"], HOOK, 600)
        assert (found["Confirmed"], found["Options"]) == (False, {"post_headers": {"A": "1"}})
    assert shown(openstack, "subscription", "list", "orders", "--marker", made["ID"]) == []


def test_a_subscription_is_updated_with_what_is_given(openstack):
    made = subscribe(openstack, "--options", '{"a": 1}')
    # What is left out is sent as null, options as `{}`.
    shown(openstack, "subscription", "update", "orders", made["ID"], "--ttl", "900")
    found = shown(openstack, "subscription", "show", "orders", made["ID"])
    assert (found["Subscriber"], found["TTL"], found["Options"]) == (HOOK, 900, {})
    shown(
        openstack,
        *("subscription", "update", "orders", made["ID"]),
        *("--subscriber", HOOK + "/new", "--options", '{"b": 2}'),
    )
    found = shown(openstack, "subscription", "show", "orders", made["ID"])
    assert (found["Subscriber"], found["TTL"], found["Options"]) == (HOOK + "/new", 900, {"b": 2})


def test_a_subscription_is_deleted(openstack):
    made = subscribe(openstack)
    openstack("subscription", "delete", "orders", made["ID"])
    assert shown(openstack, "subscription", "list", "orders") == []
    assert "404" in openstack("subscription", "show", "orders", made["ID"], fails=True)


def test_a_bad_subscriber_is_an_error_with_the_reason(openstack):
    error = openstack("subscription", "create", "orders", "ftp://example.com", "600", fails=True)
    assert "subscriber type" in error


@pytest.mark.parametrize(
    ("types", "left"),
    [((), (0, 0)), (("messages",), (0, 1)), (("subscriptions",), (1, 0))],
    ids=lambda value: str(value),
)
def test_purge(openstack, api, types, left):
    api.post("orders", 1)
    subscribe(openstack)
    openstack("queue", "purge", "orders", *(word for type_ in types for word in ("--resource_types", type_)))
    found = len(api.messages("orders")), len(shown(openstack, "subscription", "list", "orders"))
    assert found == left


def test_a_signed_url_opens_the_queue(openstack, api, project):
    api.post("orders", "a")
    signed = shown(
        openstack,
        *("queue", "signed", "url", "orders"),
        *("--paths", "messages,claims", "--methods", "GET,POST", "--ttl-seconds", "600"),
    )
    assert signed["Project ID"] == project
    headers = {
        "URL-Signature": signed["Signature"],
        "URL-Expires": signed["Expires"],
        "URL-Methods": signed["Methods"],
        "URL-Paths": signed["Paths"],
    }
    assert api.call("GET", "/v2/queues/orders/messages?echo=true", headers=headers).status_code == 200
    assert api.call("POST", "/v2/queues/orders/claims", json={}, headers=headers).status_code == 201
    assert api.call("GET", "/v2/queues/orders/stats", headers=headers).status_code == 404
