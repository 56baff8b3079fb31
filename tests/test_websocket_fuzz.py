"""Random requests: each is answered, and none with a server error."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator

import msgpack
import pytest

from support.websocket import ENCODINGS, WebSocket, encode

#: Frames a test sends; a few thousand find more.
FRAMES = int(os.environ.get("ZAQAR_TEST_FRAMES", "1500"))

#: The statuses that any request may be answered with.
EXPECTED = {200, 201, 204, 400, 403, 404, 409}

#: Valid requests to start from.
BODIES = {
    "queue_list": {"limit": 3, "marker": "a", "detailed": True},
    "queue_create": {"queue_name": "q", "metadata": {"a": [1], "_default_message_ttl": 100}},
    "queue_delete": {"queue_name": "r"},
    "queue_get": {"queue_name": "q"},
    "queue_get_stats": {"queue_name": "q"},
    "queue_purge": {"queue_name": "r", "resource_types": ["messages", "subscriptions"]},
    "message_post": {"queue_name": "q", "messages": [{"body": {"a": [1, None]}, "ttl": 100, "delay": 0}]},
    "message_list": {"queue_name": "q", "limit": 3, "echo": True, "include_claimed": True, "marker": "a"},
    "message_get": {"queue_name": "q", "message_id": "a"},
    "message_get_many": {"queue_name": "q", "message_ids": ["a", "b"]},
    "message_delete": {"queue_name": "q", "message_id": "a", "claim_id": "b"},
    "message_delete_many": {"queue_name": "q", "message_ids": ["a"], "pop": 1, "claim_ids": ["c"]},
    "claim_create": {"queue_name": "q", "limit": 3, "ttl": 100, "grace": 60},
    "claim_get": {"queue_name": "q", "claim_id": "a"},
    "claim_update": {"queue_name": "q", "claim_id": "a", "ttl": 100, "grace": 60},
    "claim_delete": {"queue_name": "q", "claim_id": "a"},
    "subscription_list": {"queue_name": "q", "limit": 3, "marker": "a"},
    "subscription_create": {"queue_name": "q", "subscriber": "http://e/", "ttl": 100, "options": {"a": 1}},
    "subscription_get": {"queue_name": "q", "subscription_id": "a"},
    "subscription_delete": {"queue_name": "q", "subscription_id": "a"},
    "authenticate": {},
    "get_home_doc": {},
    "check_node_health": {},
    "ping_node": {},
}

#: Values that replace others in them.
VALUES = [
    *(None, True, False, 0, 1, -1, 60, 20, 21, 2**31, 2**53, 2**63 - 1, -(2**63), 0.5, -0.0, 1e300),
    *("", "a", "é", "\0", "x" * 65, "x" * 5000, "../..", "true", "60", "ffffffffffffffffffffffff"),
    *([], [None], [[]], ["a"] * 25, {}, {"": ""}, {"a": {"b": {}}}, [{"body": 1}], [[[[[[[[1]]]]]]]]),
]


@pytest.fixture(params=ENCODINGS)
def socket(request: pytest.FixtureRequest, both, project: str) -> Iterator[WebSocket]:
    with WebSocket(both.websocket_url, project, request.param) as connection:
        yield connection


def test_wrong_values_are_answered(both, socket: WebSocket, seed: int) -> None:
    choices = random.Random(seed)
    bystander = WebSocket(both.websocket_url)
    for _ in range(FRAMES):
        document = changed(socket.headers, choices)
        reply = socket.exchange(encode(document, socket.encoding))
        assert reply.encoding == socket.encoding
        assert reply.status in EXPECTED, (document, reply)
    assert bystander.call("queue_list").status == 200
    bystander.close()


def changed(headers: dict, choices: random.Random) -> dict:
    """A right request with a few values replaced, added or left out."""
    action = choices.choice(list(BODIES))
    token = {"X-Auth-Token": "t"} if action == "authenticate" else {}
    document = {"action": action, "headers": {**headers, **token}, "body": copy.deepcopy(BODIES[action])}
    for _ in range(choices.choice((1, 1, 1, 2, 3))):
        parent, key = choices.choice(list(places(document)))
        what = choices.random()
        if what < 0.7:
            parent[key] = copy.deepcopy(choices.choice(VALUES))
        elif what < 0.85:
            del parent[key]
        elif isinstance(parent, dict):
            parent[choices.choice(list(BODIES["message_list"]))] = copy.deepcopy(choices.choice(VALUES))
        if not document:
            break
    return document


def places(value: object) -> Iterator[tuple[dict | list, object]]:
    """Every place in a document that holds something."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from places(inner)


def test_wrong_bytes_are_answered(both, socket: WebSocket, seed: int) -> None:
    choices = random.Random(seed)
    bystander = WebSocket(both.websocket_url)
    for _ in range(FRAMES):
        frame = damaged(changed(socket.headers, choices), socket.encoding, choices)
        if frame is None:
            continue
        reply = socket.exchange(frame)
        assert reply.encoding == socket.encoding
        assert reply.status in EXPECTED, (frame, reply)
    assert bystander.call("queue_list").status == 200
    bystander.close()


def damaged(document: dict, encoding: str, choices: random.Random) -> str | bytes | None:
    """A frame with a few bytes replaced, left out, added or doubled; None when it is no text any more."""
    data = bytearray(
        msgpack.packb(document)
        if encoding == "messagepack"
        else json.dumps(document, ensure_ascii=False).encode()
    )
    for _ in range(choices.choice((1, 1, 2, 5))):
        at = choices.randrange(len(data) + 1)
        match choices.randrange(5):
            case 0:
                data[at : at + 1] = choices.randbytes(1)
            case 1:
                del data[at : at + choices.randint(1, 8)]
            case 2:
                data[at:at] = choices.randbytes(choices.randint(1, 4))
            case 3:
                data[at:at] = data[at : at + 20]
            case 4:
                del data[at:]
    if encoding == "messagepack":
        return bytes(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
