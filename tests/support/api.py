"""A small synchronous client: one connection, one project, the headers that Zaqar wants."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx

from support.connection import PATCH_TYPE


class Api:
    """Requests on behalf of one project and one client."""

    def __init__(self, url: str, project: str | None = None) -> None:
        self.project = project or f"project-{uuid.uuid4()}"
        self.client_id = str(uuid.uuid4())
        self.http = httpx.Client(
            base_url=url,
            headers={"Client-ID": self.client_id, "X-Project-ID": self.project},
            timeout=30,
            # No proxy, no .netrc: only what the test says.
            trust_env=False,
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, **arguments) -> httpx.Response:
        return self.http.request(method, path, **arguments)

    def set_metadata(self, queue: str, attributes: dict[str, object]) -> None:
        """Adds attributes to the metadata of a queue that is there."""
        answer = self.call(
            "PATCH",
            f"/v2/queues/{queue}",
            json=[
                {"op": "add", "path": f"/metadata/{name}", "value": value}
                for name, value in attributes.items()
            ],
            headers={"Content-Type": PATCH_TYPE},
        )
        assert answer.status_code == 200, answer.text

    def post(self, queue: str, *bodies: object, ttl: int = 300) -> list[str]:
        """Posts one message a body; the ids."""
        document = {"messages": [{"ttl": ttl, "body": body} for body in bodies]}
        answer = self.call("POST", f"/v2/queues/{queue}/messages", json=document)
        assert answer.status_code == 201, answer.text
        return [href.rsplit("/", 1)[1] for href in answer.json()["resources"]]

    def claim(self, queue: str, limit: int = 10, ttl: int = 60, grace: int = 60) -> tuple[str, list[dict]]:
        """Claims messages; the claim's id and the messages, or an empty id and none."""
        answer = self.call(
            "POST", f"/v2/queues/{queue}/claims", params={"limit": limit}, json={"ttl": ttl, "grace": grace}
        )
        if answer.status_code == 204:
            return "", []
        assert answer.status_code == 201, answer.text
        return answer.headers["location"].rsplit("/", 1)[1], answer.json()["messages"]

    def pages(
        self, queue: str, limit: int = 20, *, kind: str = "queues", include_delayed: bool = True
    ) -> Iterator[list[dict]]:
        """All pages of a queue or topic, everything included, by following `next`."""
        path = f"/v2/{kind}/{queue}/messages?limit={limit}&echo=true&include_claimed=true"
        path += "&include_delayed=true" if include_delayed else ""
        return self._follow(path, "messages")

    def messages(self, queue: str, limit: int = 20, **which: object) -> list[dict]:
        """Every message of a queue, or those that `pages` is asked for."""
        return [message for page in self.pages(queue, limit, **which) for message in page]

    def subscriptions(self, path: str) -> list[dict]:
        """Every subscription of a queue or topic, named by its kind and name."""
        return [
            one
            for page in self._follow(f"/v2/{path}/subscriptions?limit=20", "subscriptions")
            for one in page
        ]

    def _follow(self, path: str, what: str) -> Iterator[list[dict]]:
        while True:
            answer = self.call("GET", path)
            assert answer.status_code == 200, answer.text
            document = answer.json()
            if not document[what]:
                return
            yield document[what]
            path = next(link["href"] for link in document["links"] if link["rel"] == "next")

    def bodies(self, queue: str) -> list[object]:
        return [message["body"] for message in self.messages(queue)]
