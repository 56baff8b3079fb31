"""Every action over WebSocket, in JSON and in MessagePack: what is answered, not only with which status."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from support.api import Api
from support.websocket import ENCODINGS, WebSocket


@pytest.fixture(params=ENCODINGS)
def socket(request: pytest.FixtureRequest, both, project: str) -> Iterator[WebSocket]:
    with WebSocket(both.websocket_url, project, request.param) as connection:
        yield connection


@pytest.fixture
def other(both, socket: WebSocket) -> Iterator[WebSocket]:
    """Another client of the same project: it sees what `socket` posts without asking for an echo."""
    with WebSocket(both.websocket_url, socket.headers["X-Project-ID"], socket.encoding) as connection:
        yield connection


def post(socket: WebSocket, queue: str, *bodies: object, ttl: int = 300) -> list[str]:
    messages = [{"body": body, "ttl": ttl} for body in bodies]
    return socket.ask("message_post", 201, queue_name=queue, messages=messages)["message_ids"]


def listed(socket: WebSocket, queue: str, **more: object) -> list[object]:
    answer = socket.ask("message_list", 200, queue_name=queue, echo=True, **more)
    return [message["body"] for message in answer["messages"]]


def refused(socket: WebSocket, status: int, action: str, **body: object) -> str:
    """What the server says is wrong: the schema's errors and those of operations have different names."""
    answer = socket.ask(action, status, **body)
    return answer.get("exception") or answer["error"]


class TestAnswers:
    def test_an_answer_repeats_the_request_in_its_own_encoding(self, socket: WebSocket) -> None:
        reply = socket.call("queue_create", {"queue_name": "q", "more": [1, None, {"a": "é"}]})
        assert reply.encoding == socket.encoding
        assert reply.request == {
            "action": "queue_create",
            "body": {"queue_name": "q", "more": [1, None, {"a": "é"}]},
            "headers": socket.headers,
            "api": "v2",
        }

    @pytest.mark.differs("the original repeats the token")
    def test_the_token_is_not_repeated(self, socket: WebSocket) -> None:
        headers = {**socket.headers, "X-Auth-Token": "secret"}
        reply = socket.call("queue_list", headers=headers)
        assert reply.status == 200
        assert reply.request["headers"] == socket.headers

    def test_encodings_may_change_from_request_to_request(self, socket: WebSocket) -> None:
        for encoding in (*ENCODINGS, *ENCODINGS):
            reply = socket.call("queue_get", {"queue_name": "q"}, encoding=encoding)
            assert (reply.status, reply.body, reply.encoding) == (200, {}, encoding)

    def test_many_requests_in_flight_are_answered_in_order(self, socket: WebSocket) -> None:
        names = [f"q{number}" for number in range(100)]
        for name in names:
            socket.connection.send(
                socket.frame("message_post", {"queue_name": name, "messages": [{"body": name}]})
            )
            socket.connection.send(socket.frame("message_list", {"queue_name": name, "echo": True}))
        for name in names:
            posted, found = socket.answer(), socket.answer()
            assert (posted.status, posted.request["body"]["queue_name"]) == (201, name)
            assert [message["body"] for message in found.body["messages"]] == [name]


class TestQueues:
    def test_a_queue_is_created_read_and_deleted(self, socket: WebSocket) -> None:
        assert socket.ask("queue_get", 200, queue_name="q") == {}
        metadata = {"a": [1, {"b": None}], "é": "😀", "_default_message_ttl": 100}
        assert socket.ask("queue_create", 201, queue_name="q", metadata=metadata) == "Queue q created."
        assert socket.ask("queue_create", 204, queue_name="q") == "Queue q created."
        assert socket.ask("queue_get", 200, queue_name="q") == metadata
        assert socket.ask("queue_delete", 204, queue_name="q") == "Queue q removed."
        assert socket.ask("queue_delete", 204, queue_name="q") == "Queue q removed."
        assert socket.ask("queue_list", 200) == {"queues": []}

    def test_list(self, socket: WebSocket) -> None:
        for name in "abc":
            socket.ask("queue_create", 201, queue_name=name, metadata={"is": name})
        assert socket.ask("queue_list", 200) == {"queues": [{"name": name} for name in "abc"]}
        page = socket.ask("queue_list", 200, limit=1, marker="a", detailed=True)
        assert page == {"queues": [{"name": "b", "metadata": {"is": "b"}}]}
        assert socket.ask("queue_list", 200, marker="c") == {"queues": []}

    def test_projects_are_isolated(self, both, socket: WebSocket) -> None:
        post(socket, "q", "mine")
        with WebSocket(both.websocket_url, encoding=socket.encoding) as stranger:
            assert stranger.ask("queue_list", 200) == {"queues": []}
            assert listed(stranger, "q") == []

    def test_statistics(self, socket: WebSocket) -> None:
        nothing = {"messages": {"claimed": 0, "free": 0, "total": 0}}
        assert socket.ask("queue_get_stats", 404, queue_name="q") == nothing
        socket.ask("queue_create", 201, queue_name="q")
        assert socket.ask("queue_get_stats", 200, queue_name="q") == nothing
        ids = post(socket, "q", 1, 2, 3)
        socket.ask("claim_create", 201, queue_name="q", limit=1)
        found = socket.ask("queue_get_stats", 200, queue_name="q")["messages"]
        assert (found["claimed"], found["free"], found["total"]) == (1, 2, 3)
        assert (found["oldest"]["id"], found["newest"]["id"]) == (ids[0], ids[2])
        assert set(found["oldest"]) == {"id", "age", "created"}

    def test_purge(self, socket: WebSocket) -> None:
        post(socket, "q", 1, 2)
        socket.ask("subscription_create", 201, queue_name="q", subscriber="http://example.org/")
        assert socket.ask("queue_purge", 204, queue_name="q", resource_types=["messages"]) == {}
        assert listed(socket, "q") == []
        assert len(socket.ask("subscription_list", 200, queue_name="q")["subscriptions"]) == 1
        socket.ask("queue_purge", 204, queue_name="q")
        assert socket.ask("subscription_list", 200, queue_name="q") == {"subscriptions": []}

    @pytest.mark.parametrize("name", ["a b", "a/b", "", "x" * 65, "é"])
    def test_an_invalid_name_is_400(self, socket: WebSocket, name: str) -> None:
        for action, more in (("queue_create", {}), ("message_post", {"messages": [{"body": 1}]})):
            assert refused(socket, 400, action, queue_name=name, **more).startswith("Queue names may ")


class TestMessages:
    def test_post_and_list(self, socket: WebSocket, other: WebSocket) -> None:
        bodies = [{"a": [1, None, 1.5, "é"]}, "text", None, True, 2**63 - 1, []]
        ids = post(socket, "q", *bodies, ttl=100)
        assert len(set(ids)) == len(bodies)
        assert socket.ask("message_list", 200, queue_name="q") == {"messages": []}, "one's own"
        found = other.ask("message_list", 200, queue_name="q")["messages"]
        assert [(one["id"], one["body"], one["ttl"], one["claim_id"]) for one in found] == [
            (id, body, 100, None) for id, body in zip(ids, bodies, strict=True)
        ]
        assert all(0 <= one["age"] <= 30 and set(one) == {*MESSAGE} for one in found)
        assert listed(socket, "q", limit=2) == bodies[:2]

    @pytest.mark.differs("the original's markers are not shown, and ids are none")
    def test_an_id_is_a_marker(self, socket: WebSocket) -> None:
        ids = post(socket, "q", 1, 2, 3)
        assert listed(socket, "q", marker=ids[0], limit=1) == [2]
        assert listed(socket, "q", marker=ids[2]) == []

    def test_get(self, socket: WebSocket) -> None:
        ids = post(socket, "q", {"a": 1}, 2, ttl=100)
        message = socket.ask("message_get", 200, queue_name="q", message_id=ids[0])["messages"]
        assert (message["id"], message["body"], message["ttl"]) == (ids[0], {"a": 1}, 100)
        many = socket.ask("message_get_many", 200, queue_name="q", message_ids=[*ids, "unknown"])
        assert [(one["id"], one["body"]) for one in many["messages"]] == [(ids[0], {"a": 1}), (ids[1], 2)]
        text = refused(socket, 404, "message_get", queue_name="q", message_id="unknown")
        assert text.startswith("Message unknown does not exist in queue q for project ")
        assert refused(socket, 404, "message_get", queue_name="other", message_id=ids[0])

    def test_delete(self, socket: WebSocket) -> None:
        ids = post(socket, "q", 1, 2, 3, 4)
        assert socket.ask("message_delete", 204, queue_name="q", message_id=ids[0]) == {}
        assert socket.ask("message_delete", 204, queue_name="q", message_id=ids[0]) == {}
        assert socket.ask("message_delete_many", 204, queue_name="q", message_ids=ids[1:3]) == {}
        assert listed(socket, "q") == [4]

    def test_pop(self, socket: WebSocket) -> None:
        ids = post(socket, "q", 1, 2, 3)
        popped = socket.ask("message_delete_many", 200, queue_name="q", pop=2)["messages"]
        assert [(one["id"], one["body"], one["claim_id"], one["claim_count"]) for one in popped] == [
            (ids[0], 1, None, 0),
            (ids[1], 2, None, 0),
        ]
        assert listed(socket, "q") == [3]
        assert socket.ask("message_delete_many", 200, queue_name="empty", pop=1) == {"messages": []}

    def test_metadata_of_the_queue_apply_to_posts(self, socket: WebSocket, other: WebSocket) -> None:
        rules = {"_default_message_ttl": 120, "_max_messages_post_size": 200}
        socket.ask("queue_create", 201, queue_name="q", metadata=rules)
        socket.ask("message_post", 201, queue_name="q", messages=[{"body": 1}])
        assert other.ask("message_list", 200, queue_name="q")["messages"][0]["ttl"] == 120
        text = refused(socket, 400, "message_post", queue_name="q", messages=[{"body": "x" * 300}])
        assert text.startswith("Message collection size is too large.")
        assert "200" in text

    @pytest.mark.parametrize(
        ("messages", "says"),
        [
            ([], "No messages to enqueu"),
            ([{"ttl": 60}], "body"),
            ([{"body": 1, "ttl": 59}], "1209600"),
            ([{"body": 1, "ttl": "60"}], "ttl"),
            ([{"body": "x" * 262_144}], "262144"),
            ({}, "Schema validation failed."),
            (None, "Schema validation failed."),
        ],
    )
    def test_invalid_posts_are_400(self, socket: WebSocket, messages: object, says: str) -> None:
        assert says in refused(socket, 400, "message_post", queue_name="q", messages=messages)
        assert listed(socket, "q") == []

    @pytest.mark.differs("the original answers 500")
    @pytest.mark.parametrize("message", [3, None, "x", []])
    def test_a_message_that_is_not_an_object_is_400(self, socket: WebSocket, message: object) -> None:
        assert refused(socket, 400, "message_post", queue_name="q", messages=[message])

    def test_both_wires_see_the_same(self, both, socket: WebSocket) -> None:
        with Api(both.url, socket.headers["X-Project-ID"]) as http:
            (posted,) = http.post("q", {"over": "http"})
            assert listed(socket, "q") == [{"over": "http"}]
            (mine,) = post(socket, "q", {"over": "websocket"})
            assert http.bodies("q") == [{"over": "http"}, {"over": "websocket"}]
            socket.ask("message_delete", 204, queue_name="q", message_id=posted)
            assert http.call("DELETE", f"/v2/queues/q/messages/{mine}").status_code == 204
            assert listed(socket, "q") == []


#: What a message shows in lists.
MESSAGE = ("id", "claim_id", "ttl", "age", "body")


class TestClaims:
    def test_a_claim_is_created_read_renewed_and_released(self, socket: WebSocket) -> None:
        ids = post(socket, "q", 1, 2, 3, ttl=600)
        claimed = socket.ask("claim_create", 201, queue_name="q", limit=2, ttl=100, grace=60)
        claim = claimed["claim_id"]
        assert [(one["id"], one["body"], one["claim_id"]) for one in claimed["messages"]] == [
            (ids[0], 1, claim),
            (ids[1], 2, claim),
        ]
        found = socket.ask("claim_get", 200, queue_name="q", claim_id=claim)
        assert found["ttl"] == 100
        assert [(one["id"], one["claim_id"]) for one in found["messages"]] == [
            (ids[0], claim),
            (ids[1], claim),
        ]
        assert listed(socket, "q") == [3]
        assert listed(socket, "q", include_claimed=True) == [1, 2, 3]
        updated = socket.ask("claim_update", 204, queue_name="q", claim_id=claim, ttl=200, grace=60)
        assert updated == f"Claim {claim} updated."
        assert socket.ask("claim_get", 200, queue_name="q", claim_id=claim)["ttl"] == 200
        deleted = socket.ask("claim_delete", 204, queue_name="q", claim_id=claim)
        assert deleted == f"Claim {claim} deleted."
        assert listed(socket, "q") == [1, 2, 3]
        text = f"Claim {claim} does not exist."
        for action in ("claim_get", "claim_update"):
            assert socket.ask(action, 404, queue_name="q", claim_id=claim)["error"] == text

    def test_nothing_to_claim(self, socket: WebSocket) -> None:
        assert socket.ask("claim_create", 204, queue_name="q") == {"claim_id": None}

    def test_a_claimed_message_is_deleted_with_its_claim_only(self, socket: WebSocket) -> None:
        ids = post(socket, "q", 1, 2)
        claim = socket.ask("claim_create", 201, queue_name="q", limit=1)["claim_id"]
        named = {"queue_name": "q", "message_id": ids[0]}
        answer = socket.ask("message_delete", 403, **named)
        assert answer["error"] == "This message is claimed; it cannot be deleted without a valid claim ID."
        answer = socket.ask("message_delete", 400, **named, claim_id="unknown")
        assert answer["error"] == "The specified claim does not exist or has expired."
        answer = socket.ask("message_delete", 400, queue_name="q", message_id=ids[1], claim_id=claim)
        assert answer["error"] == "A claim was specified, but the message is not currently claimed."
        assert socket.ask("message_delete", 204, **named, claim_id=claim) == {}
        assert listed(socket, "q", include_claimed=True) == [2]

    @pytest.mark.parametrize(
        "values", [{"limit": 0}, {"limit": 21}, {"ttl": 59}, {"ttl": 43_201}, {"grace": 59}, {"ttl": "60"}]
    )
    def test_invalid_claims_are_400(self, socket: WebSocket, values: dict) -> None:
        post(socket, "q", 1)
        assert refused(socket, 400, "claim_create", queue_name="q", **values)
        assert listed(socket, "q") == [1]


class TestSubscriptions:
    def test_a_webhook_subscription_is_created_read_and_deleted(self, both, socket: WebSocket) -> None:
        subscriber = {"queue_name": "q", "subscriber": "http://example.org/a"}
        made = socket.ask("subscription_create", 201, **subscriber, ttl=600, options={"a": 1})
        assert made["message"] == "Subscription q created."
        named = {"queue_name": "q", "subscription_id": made["subscription_id"]}
        found = socket.ask("subscription_get", 200, **named)
        assert found.pop("age") <= 30
        assert found == {
            "id": made["subscription_id"],
            "source": "q",
            "subscriber": "http://example.org/a",
            "ttl": 600,
            "options": {"a": 1},
            "confirmed": False,
        }
        with Api(both.url, socket.headers["X-Project-ID"]) as http:
            path = f"/v2/queues/q/subscriptions/{made['subscription_id']}/confirm"
            assert http.call("PUT", path, json={"confirmed": True}).status_code == 204
        assert socket.ask("subscription_get", 200, **named)["confirmed"] is True
        assert socket.ask("subscription_create", 409, **subscriber) == "Subscription q not created."
        removed = socket.ask("subscription_delete", 204, **named)
        assert removed == f"Subscription {made['subscription_id']} removed."
        text = f"Subscription {made['subscription_id']} for queue q does not exist."
        assert socket.ask("subscription_get", 404, **named)["error"] == text

    def test_list(self, socket: WebSocket) -> None:
        for name in "ab":
            socket.ask("subscription_create", 201, queue_name="q", subscriber=f"http://example.org/{name}")
        (first,) = socket.ask("subscription_list", 200, queue_name="q", limit=1)["subscriptions"]
        rest = socket.ask("subscription_list", 200, queue_name="q", marker=first["id"])["subscriptions"]
        assert [one["subscriber"] for one in (first, *rest)] == [
            "http://example.org/a",
            "http://example.org/b",
        ]
        assert refused(socket, 400, "subscription_list", queue_name="q", limit=21)

    @pytest.mark.parametrize(
        "values",
        [
            {"subscriber": "http://example.org/", "ttl": 59},
            {"subscriber": "http://example.org/", "options": []},
            {"subscriber": 3},
            {"subscriber": None},
            {"ttl": 59},
        ],
    )
    def test_invalid_subscriptions_are_400(self, socket: WebSocket, values: dict) -> None:
        assert refused(socket, 400, "subscription_create", queue_name="q", **values)
        assert socket.ask("subscription_list", 200, queue_name="q") == {"subscriptions": []}

    @pytest.mark.differs("the original answers 500")
    @pytest.mark.parametrize("subscriber", ["x", "ftp://example.org/"])
    def test_an_unknown_scheme_is_400(self, socket: WebSocket, subscriber: str) -> None:
        assert refused(socket, 400, "subscription_create", queue_name="q", subscriber=subscriber)


class TestNode:
    """Declared by the original, which drops the connection when it is asked."""

    @pytest.mark.differs("the original drops the connection")
    def test_ping(self, socket: WebSocket) -> None:
        assert socket.call("ping_node", headers={}).status == 204

    @pytest.mark.differs("the original drops the connection")
    def test_home_document(self, socket: WebSocket) -> None:
        reply = socket.call("get_home_doc", headers={})
        assert reply.status == 200
        assert isinstance(reply.body["resources"], dict)

    @pytest.mark.differs("the original drops the connection")
    def test_health(self, both, socket: WebSocket) -> None:
        reply = socket.call("check_node_health", headers={**socket.headers, "X-Roles": "admin"})
        assert (reply.status, reply.body["storage_reachable"]) == (200, True)
        with Api(both.url) as http:
            over_http = http.call("GET", "/v2/health", headers={"X-Roles": "admin"}).json()
        assert reply.body.keys() == over_http.keys()
        assert reply.body["operation_status"].keys() == over_http["operation_status"].keys()

    @pytest.mark.differs("the original drops the connection")
    def test_authenticate_is_accepted_without_authentication(self, socket: WebSocket) -> None:
        headers = {**socket.headers, "X-Auth-Token": str(uuid.uuid4())}
        reply = socket.call("authenticate", headers=headers)
        assert (reply.status, reply.body) == (200, {"message": "Authentified."})
        assert socket.call("queue_list").status == 200


class TestSignedUrls:
    """Made over HTTP, used instead of a token: for the queue, the paths and the methods that are signed."""

    #: The original looks at them only where a token is asked for, and then not at the queue.
    pytestmark = pytest.mark.differs("the original does not look at them without Keystone")

    @pytest.fixture
    def signed(self, both, socket: WebSocket) -> dict[str, str]:
        """The headers of a URL that is good for posting to the queue q and reading it."""
        with Api(both.url, socket.headers["X-Project-ID"]) as http:
            document = {"methods": ["GET", "POST"], "paths": ["messages"]}
            share = http.call("POST", "/v2/queues/q/share", json=document)
            assert share.status_code == 200, share.text
        made = share.json()
        return {
            "Client-ID": str(uuid.uuid4()),
            "X-Project-ID": made["project"],
            "URL-Signature": made["signature"],
            "URL-Expires": made["expires"],
            "URL-Methods": ",".join(made["methods"]),
            "URL-Paths": ",".join(made["paths"]),
        }

    def test_signed_requests_are_allowed(self, socket: WebSocket, signed: dict) -> None:
        messages = [{"body": 1, "ttl": 300}]
        assert socket.call("message_post", {"queue_name": "q", "messages": messages}, signed).status == 201
        reply = socket.call("message_list", {"queue_name": "q", "echo": True}, signed)
        assert (reply.status, [one["body"] for one in reply.body["messages"]]) == (200, [1])

    @pytest.mark.parametrize(
        ("action", "queue"),
        [
            ("message_list", "other"),
            ("message_post", "other"),
            ("message_delete_many", "q"),
            ("claim_create", "q"),
            ("queue_get", "q"),
            ("subscription_create", "q"),
        ],
    )
    def test_other_requests_are_rejected(
        self, socket: WebSocket, signed: dict, action: str, queue: str
    ) -> None:
        body = {"queue_name": queue, "messages": [{"body": 1}], "pop": 1}
        reply = socket.call(action, body, signed)
        assert (reply.status, reply.body) == (403, {"error": "Not authentified."})
        assert listed(socket, queue) == []

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("X-Project-ID", "another"),
            ("URL-Signature", "0" * 64),
            ("URL-Signature", ""),
            ("URL-Expires", "2000-01-01T00:00:00"),
            ("URL-Expires", "2999-01-01T00:00:00"),
            ("URL-Methods", "GET,POST,DELETE"),
            ("URL-Paths", "/v2/queues/other/messages"),
        ],
    )
    def test_changed_headers_are_rejected(
        self, socket: WebSocket, signed: dict, header: str, value: str
    ) -> None:
        reply = socket.call("message_list", {"queue_name": "q"}, {**signed, header: value})
        assert (reply.status, reply.body) == (403, {"error": "Not authentified."})
