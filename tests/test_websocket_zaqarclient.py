"""python-zaqarclient's WebSocket transport. It authenticates first, also where nobody has to."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from zaqarclient import transport
from zaqarclient.transport import errors
from zaqarclient.transport.request import Request

pytestmark = pytest.mark.differs("the original drops the connection of who authenticates and need not")


class Client:
    """The transport as its documentation shows it: actions, and bodies as JSON text."""

    def __init__(self, url: str, project: str) -> None:
        options = {"os_auth_token": "any", "os_project_id": project}
        conf = {"auth_opts": {"backend": "keystone", "options": options}}
        self.url = url
        self.transport = transport.get_transport_for(url, options=conf)

    def send(self, action: str, **body: object):
        request = Request(self.url, action, content=json.dumps(body) if body else None)
        return self.transport.send(request)

    def ask(self, action: str, **body: object):
        return self.send(action, **body).deserialized_content


@pytest.fixture
def client(both, project: str) -> Iterator[Client]:
    made = Client(both.websocket_url, project)
    with made.transport:
        yield made


def test_queues(client: Client) -> None:
    created = client.send("queue_create", queue_name="q", metadata={"a": 1})
    assert (created.status_code, created.deserialized_content) == (201, "Queue q created.")
    assert client.ask("queue_get", queue_name="q") == {"a": 1}
    assert client.ask("queue_list") == {"queues": [{"name": "q"}]}
    assert client.send("queue_delete", queue_name="q").status_code == 204
    assert client.ask("queue_list") == {"queues": []}


def test_messages_and_claims(client: Client) -> None:
    messages = [{"body": {"n": 1}, "ttl": 300}, {"body": 2, "ttl": 300}]
    ids = client.ask("message_post", queue_name="q", messages=messages)["message_ids"]
    found = client.ask("message_list", queue_name="q", echo=True)["messages"]
    assert [(one["id"], one["body"]) for one in found] == [(ids[0], {"n": 1}), (ids[1], 2)]
    claim = client.ask("claim_create", queue_name="q", limit=1)
    assert [message["id"] for message in claim["messages"]] == ids[:1]
    with pytest.raises(errors.ForbiddenError, match="without a valid claim ID"):
        client.ask("message_delete", queue_name="q", message_id=ids[0])
    client.ask("message_delete", queue_name="q", message_id=ids[0], claim_id=claim["claim_id"])
    popped = client.ask("message_delete_many", queue_name="q", pop=2)["messages"]
    assert [message["id"] for message in popped] == ids[1:]


def test_what_is_pushed(client: Client) -> None:
    assert client.ask("subscription_create", queue_name="q", ttl=300)["subscription_id"]
    with_another = Client(client.url, client.transport._project_id)
    with with_another.transport:
        with_another.ask("message_post", queue_name="q", messages=[{"body": "hello", "ttl": 300}])
    push = client.transport.recv()
    assert (push["body"], push["queue_name"]) == ("hello", "q")


def test_errors(client: Client) -> None:
    with pytest.raises(errors.MalformedRequest, match="Schema validation failed"):
        client.ask("queue_get")
    with pytest.raises(errors.ResourceNotFound, match="does not exist"):
        client.ask("claim_get", queue_name="q", claim_id="unknown")
    with pytest.raises(errors.MalformedRequest):
        client.ask("queue_create", queue_name="a b")
