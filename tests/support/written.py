"""Requests over both wires, good and bad, for what the server writes of them."""

from __future__ import annotations

import contextlib
import json
import uuid

import httpx
from websockets.exceptions import ConnectionClosed

from support.identity import Cloud
from support.operated import Operated
from support.redis import Redis
from support.websocket import WebSocket


def use(server: Operated, cloud: Cloud, token: str) -> list[str]:
    """Requests over both wires with a token, good or not; all that is answered."""
    headers = {"Client-ID": str(uuid.uuid4()), "X-Auth-Token": token, "X-Service-Token": ""}
    said: list[str] = []
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        for method, path, document in [
            ("PUT", "/v2/queues/plain", {}),
            ("PUT", "/v2/queues/sealed", {"_enable_encrypt_messages": True}),
            ("POST", "/v2/queues/sealed/messages", {"messages": [{"body": 1, "ttl": 60}]}),
            ("POST", "/v2/queues/plain/messages", {"messages": [{"body": 1, "ttl": 60}]}),
            (
                "POST",
                "/v2/queues/plain/subscriptions",
                {"subscriber": "trust+http://127.0.0.1:1/"},
            ),
            ("POST", "/v2/queues/plain/subscriptions", {"subscriber": "mailto:a@example.org", "ttl": 600}),
            ("POST", "/v2/queues/plain/messages", {"messages": [{"body": 2, "ttl": 60}]}),
            ("POST", "/v2/queues/plain/share", {"paths": ["messages"], "methods": ["GET"]}),
            ("PUT", "/v2/queues/plain", ["wrong"]),
            ("GET", "/v2/health", None),
        ]:
            answer = client.request(method, path, json=document)
            said.append(str(answer.headers) + answer.text)
        bad = client.get("/v2/queues", headers={"X-Service-Token": token})
        said.append(str(bad.headers) + bad.text)
    with WebSocket(server.websocket_url, cloud.demo) as socket:
        with_token = {**socket.headers, "X-Auth-Token": token}
        for frame in [
            socket.frame("authenticate", None, with_token),
            socket.frame("queue_list", {}, with_token),
            socket.frame("no_such_action", {}, with_token),
            socket.frame("message_post", {"queue_name": "plain", "messages": "wrong"}, with_token),
            json.dumps({"action": 7, "headers": with_token, "body": {}}),
        ]:
            socket.connection.send(frame)
            with contextlib.suppress(ConnectionClosed):
                said.append(str(socket.connection.recv(timeout=60)))
    return said


def fail(server: Operated, store: Redis, token: str) -> list[str]:
    """A store that is away, and what is said of it."""
    store.suspend()
    try:
        answer = httpx.get(
            server.url + "/v2/queues/plain/stats",
            headers={"Client-ID": str(uuid.uuid4()), "X-Auth-Token": token},
            timeout=60,
        )
        assert answer.status_code == 503, answer.text
        return [str(answer.headers) + answer.text, server.ask("/report").text]
    finally:
        store.resume()
