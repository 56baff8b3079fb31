"""Subscribes to a queue over WebSocket and prints each message as it is posted.

pip install websockets msgpack
python3 subscribe.py ws://127.0.0.1:9000/ news
"""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Iterator

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


class Refused(Exception):
    """The server's answer to a request is an error."""


class Zaqar:
    """Requests over one connection, one at a time, and what the server pushes."""

    def __init__(self, connection: ClientConnection, project: str, *, messagepack: bool) -> None:
        self._connection = connection
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        self._messagepack = messagepack
        self._pushes: list[dict] = []

    def request(self, action: str, body: dict | None = None, **headers: str) -> object:
        """Sends a request; the body of its answer."""
        document = {
            "action": action,
            "headers": {**self._headers, **headers},
            "body": body or {},
        }
        # The answer comes in the encoding of the request: text frames are JSON, binary ones
        # MessagePack.
        self._connection.send(msgpack.packb(document) if self._messagepack else json.dumps(document))
        while "request" not in (answer := self._receive()):
            self._pushes.append(answer)
        status = answer["headers"]["status"]
        if status >= 400:
            raise Refused(f"{action}: {status} {answer['body']}")
        return answer["body"]

    def pushes(self) -> Iterator[dict]:
        """What is pushed, until the connection ends."""
        while True:
            yield self._pushes.pop(0) if self._pushes else self._receive()

    def _receive(self) -> dict:
        frame = self._connection.recv()
        return msgpack.unpackb(frame) if isinstance(frame, bytes) else json.loads(frame)


def main() -> None:
    arguments = parser().parse_args()
    with connect(arguments.url) as connection:
        zaqar = Zaqar(connection, arguments.project, messagepack=arguments.messagepack)
        if arguments.token:
            zaqar.request("authenticate", **{"X-Auth-Token": arguments.token})
        # Without a subscriber it is this connection, and ends with it. The queue is made if it is
        # not there.
        body = zaqar.request("subscription_create", {"queue_name": arguments.queue, "ttl": 3600})
        print(f"subscribed: {body['subscription_id']}", flush=True)
        for number, push in enumerate(zaqar.pushes(), 1):
            print(f"{push['queue_name']}: {json.dumps(push['body'])}", flush=True)
            if number == arguments.count:
                return


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Subscribes to a queue and prints what is posted to it.")
    parser.add_argument("url", help="of the server, such as ws://127.0.0.1:9000/")
    parser.add_argument("queue")
    parser.add_argument("--project", default="demo")
    parser.add_argument("--token", help="of Keystone, when the server asks for one")
    parser.add_argument("--messagepack", action="store_true", help="instead of JSON")
    parser.add_argument("--count", type=int, help="end after so many messages")
    return parser


if __name__ == "__main__":
    try:
        main()
    except (ConnectionClosed, Refused, OSError) as error:
        raise SystemExit(f"{error}") from None
    except KeyboardInterrupt:
        pass
