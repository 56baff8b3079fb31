"""python-zaqarclient as its users start it, and short forms of what they do with it."""

from __future__ import annotations

from zaqarclient.queues import client as zaqarclient


def connect(url: str, project: str):
    """A client that says its project and has no token."""
    return zaqarclient.Client(url, version=2, conf={"auth_opts": _auth("noauth", {"os_project_id": project})})


def connect_signed(url: str, signed: dict):
    """A client that has a signed URL and nothing else; `signed` is what `Queue.signed_url` answered."""
    options = {name: signed[name] for name in ("expires", "methods", "paths", "signature")}
    options["os_project_id"] = signed["project"]
    return zaqarclient.Client(url, version=2, conf={"auth_opts": _auth("signed-url", options)})


def post(queue, *bodies: object, ttl: int = 300, **more: object) -> list[str]:
    """Posts one message a body; the ids."""
    answer = queue.post([{"body": body, "ttl": ttl, **more} for body in bodies])
    return [href.rsplit("/", 1)[1] for href in answer["resources"]]


def bodies(messages) -> list[object]:
    return [message.body for message in messages]


def _auth(backend: str, options: dict) -> dict:
    return {"backend": backend, "options": options}
