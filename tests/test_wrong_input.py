"""Requests that are wrong in all the ways a client can be: the answer says what is wrong, nothing breaks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from support.rawhttp import RawAnswer, exchange, head

JSON = "application/json"
PATCH_JSON = "application/openstack-messaging-v2.0-json-patch"
MESSAGES = "/v2/queues/wrong/messages"
CLAIMS = "/v2/queues/wrong/claims"
QUEUE = "/v2/queues/wrong"


@dataclass(frozen=True)
class Case:
    """A request, and the answer that it must get."""

    name: str
    method: str
    path: str | bytes
    status: int
    #: The body: bytes as they are, anything else as JSON; None sends none.
    body: object = None
    headers: dict[str, str | bytes | None] = field(default_factory=dict)
    #: What the description must name: limits above all.
    names: tuple[str, ...] = ()
    #: Why the original answers otherwise.
    differs: str = ""

    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    def request(self) -> bytes:
        content = self.content()
        fields: dict[str, str | bytes | None] = {}
        if self.body is not None:
            fields = {"Content-Type": JSON, "Content-Length": str(len(content))}
        return head(self.method, self.path, {**fields, **self.headers}) + content


def message(**fields: object) -> dict:
    return {"messages": [{"ttl": 300, "body": 1, **fields}]}


def parameters(cases: list[Case]):
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.differs(case.differs)] if case.differs else [])
        for case in cases
    ]


@pytest.fixture(autouse=True)
def _still_serves(server) -> Iterator[None]:
    """After each request, whatever it was, the server answers the next."""
    yield
    assert exchange(server.address, head("GET", "/")).status == 300
    assert server.running()


def expect(server, case: Case) -> RawAnswer:
    answer = exchange(server.address, case.request(), case.method)
    assert answer.status == case.status, answer.body
    # Who accepts no JSON gets none.
    if answer.status >= 400 and answer.status != 406:
        explained(answer, *case.names)
    return answer


def explained(answer: RawAnswer, *names: str) -> None:
    """An error is a title and a description, in JSON, and names what it is about."""
    assert answer.headers["content-type"].startswith(JSON)
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    document = answer.json()
    assert {"title", "description"} <= document.keys()
    text = f"{document['title']} {document['description']}"
    assert document["title"]
    assert all(name in text for name in names), text


BODIES = [
    Case("no body", "POST", MESSAGES, 400),
    Case("empty body", "POST", MESSAGES, 400, b""),
    Case("no JSON", "POST", MESSAGES, 400, b"hello"),
    Case("half JSON", "POST", MESSAGES, 400, b'{"messages": [{"ttl": 60'),
    Case("JSON and more", "POST", MESSAGES, 400, b'{"messages": [{"body": 1}]} x'),
    Case("two documents", "POST", MESSAGES, 400, b'{"messages": [{"body": 1}]}{}'),
    Case("invalid UTF-8", "POST", MESSAGES, 400, b'{"messages": [{"body": "\xff\xfe"}]}'),
    Case(
        "NaN",
        "POST",
        MESSAGES,
        400,
        b'{"messages": [{"body": NaN}]}',
        differs="it takes NaN, which is no JSON",
    ),
    Case("control character", "POST", MESSAGES, 400, b'{"messages": [{"body": "\x01"}]}'),
    Case("trailing comma", "POST", MESSAGES, 400, b'{"messages": [{"body": 1},]}'),
    Case("a string", "POST", MESSAGES, 400, "messages"),
    Case("a number", "POST", MESSAGES, 400, 3),
    Case("null", "POST", MESSAGES, 400, b"null"),
    Case("a list", "POST", MESSAGES, 400, [{"ttl": 300, "body": 1}]),
    Case("no messages key", "POST", MESSAGES, 400, {"message": []}),
    Case("no messages", "POST", MESSAGES, 400, {"messages": []}),
    Case("messages is an object", "POST", MESSAGES, 400, {"messages": {"ttl": 300, "body": 1}}),
    Case("messages is a string", "POST", MESSAGES, 400, {"messages": "x"}),
    Case("messages is null", "POST", MESSAGES, 400, {"messages": None}),
    Case("a message is a number", "POST", MESSAGES, 400, {"messages": [3]}, differs="500"),
    Case("a message is null", "POST", MESSAGES, 400, {"messages": [None]}, differs="500"),
    Case("a message is a list", "POST", MESSAGES, 400, {"messages": [[1]]}, differs="500"),
    Case("no body field", "POST", MESSAGES, 400, {"messages": [{"ttl": 300}]}, names=("body",)),
    Case("deep nesting", "POST", MESSAGES, 400, b'{"messages": [{"body": ' + b"[" * 100_000, differs="500"),
    Case(
        "deep nesting, closed",
        "POST",
        MESSAGES,
        400,
        b'{"messages": [{"body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        differs="500",
    ),
    Case("nesting that is right", "POST", MESSAGES, 201, message(body=json.loads("[" * 60 + "]" * 60))),
    Case("ttl is a string", "POST", MESSAGES, 400, message(ttl="300"), names=("ttl",)),
    Case("ttl is a float", "POST", MESSAGES, 400, message(ttl=300.5), names=("ttl",)),
    Case("ttl is null", "POST", MESSAGES, 400, message(ttl=None), names=("ttl",)),
    Case("ttl is a list", "POST", MESSAGES, 400, message(ttl=[300]), names=("ttl",)),
    Case("ttl too short", "POST", MESSAGES, 400, message(ttl=59), names=("60", "1209600")),
    Case("ttl too long", "POST", MESSAGES, 400, message(ttl=1209601), names=("60", "1209600")),
    Case("ttl negative", "POST", MESSAGES, 400, message(ttl=-300), names=("60",)),
    Case("ttl beyond 64 bits", "POST", MESSAGES, 400, message(ttl=2**64)),
    Case("body beyond 64 bits", "POST", MESSAGES, 400, message(body=2**64)),
    Case("body below 64 bits", "POST", MESSAGES, 400, message(body=-(2**63) - 1)),
    Case("one bad message of many", "POST", MESSAGES, 400, {"messages": [{"body": 1}, {"ttl": 300}]}),
    Case("purge of nothing known", "POST", f"{QUEUE}/purge", 400, {"resource_types": ["claims"]}),
    Case("purge without types", "POST", f"{QUEUE}/purge", 400, {"types": []}, names=("resource_types",)),
    Case("queue metadata is a list", "PUT", QUEUE, 400, [1]),
    Case("queue metadata is no JSON", "PUT", QUEUE, 400, b"{"),
    Case(
        "default ttl is a string",
        "PUT",
        QUEUE,
        400,
        {"_default_message_ttl": "x"},
        names=("_default_message_ttl",),
    ),
    Case("default ttl too short", "PUT", QUEUE, 400, {"_default_message_ttl": 59}, names=("60",)),
    Case("post size too big", "PUT", QUEUE, 400, {"_max_messages_post_size": 262145}, names=("262144",)),
    Case("post size of nothing", "PUT", QUEUE, 400, {"_max_messages_post_size": 0}),
    Case("claim is no JSON", "POST", CLAIMS, 400, b"{"),
    Case("claim is a list", "POST", CLAIMS, 400, []),
    Case("claim of nulls", "POST", CLAIMS, 400, {"ttl": None, "grace": None}),
    Case("claim ttl is a string", "POST", CLAIMS, 400, {"ttl": "60", "grace": 60}, names=("ttl",)),
    Case("claim ttl too short", "POST", CLAIMS, 400, {"ttl": 59, "grace": 60}, names=("60", "43200")),
    Case("claim ttl too long", "POST", CLAIMS, 400, {"ttl": 43201, "grace": 60}, names=("60", "43200")),
    Case("claim grace too short", "POST", CLAIMS, 400, {"ttl": 60, "grace": 59}, names=("60", "43200")),
    Case("claim grace too long", "POST", CLAIMS, 400, {"ttl": 60, "grace": 43201}, names=("60", "43200")),
]

PATCHES = [
    Case("no JSON", "PATCH", QUEUE, 400, b"["),
    Case("empty", "PATCH", QUEUE, 400, b""),
    Case("an object", "PATCH", QUEUE, 400, {}, differs="503"),
    Case("a number in the list", "PATCH", QUEUE, 400, [3]),
    Case("no op", "PATCH", QUEUE, 400, [{"path": "/metadata/a", "value": 1}], names=("op",)),
    Case("unknown op", "PATCH", QUEUE, 400, [{"op": "move", "path": "/metadata/a"}], names=("move",)),
    Case("no path", "PATCH", QUEUE, 400, [{"op": "add", "value": 1}], names=("path",)),
    Case("path is a number", "PATCH", QUEUE, 400, [{"op": "add", "path": 3, "value": 1}], differs="503"),
    Case("path of no metadata", "PATCH", QUEUE, 400, [{"op": "add", "path": "/other/a", "value": 1}]),
    Case("path too deep", "PATCH", QUEUE, 400, [{"op": "add", "path": "/metadata/a/b", "value": 1}]),
    Case("path without a slash", "PATCH", QUEUE, 400, [{"op": "add", "path": "metadata/a", "value": 1}]),
    Case("no value", "PATCH", QUEUE, 400, [{"op": "add", "path": "/metadata/a"}], names=("value",)),
    Case("replace of nothing", "PATCH", QUEUE, 409, [{"op": "replace", "path": "/metadata/zz", "value": 1}]),
    Case("remove of nothing", "PATCH", QUEUE, 409, [{"op": "remove", "path": "/metadata/zz"}], names=("zz",)),
    Case(
        "remove of a reserved key",
        "PATCH",
        QUEUE,
        200,
        [{"op": "remove", "path": "/metadata/_max_claim_count"}],
    ),
    Case(
        "reserved value out of bounds",
        "PATCH",
        QUEUE,
        400,
        [{"op": "add", "path": "/metadata/_default_message_ttl", "value": 1}],
        names=("60",),
    ),
    Case("missing queue", "PATCH", "/v2/queues/nonesuch", 404, []),
]

QUERIES = [
    Case("limit 0", "GET", f"{MESSAGES}?limit=0", 400, names=("20",)),
    Case("limit over the page", "GET", f"{MESSAGES}?limit=21", 400, names=("20",)),
    Case("limit negative", "GET", f"{MESSAGES}?limit=-1", 400, names=("20",)),
    Case("limit no number", "GET", f"{MESSAGES}?limit=ten", 400, names=("limit",)),
    Case("limit huge", "GET", f"{MESSAGES}?limit=99999999999999999999999999", 400),
    Case("echo no boolean", "GET", f"{MESSAGES}?echo=perhaps", 400, names=("echo",)),
    Case("claimed no boolean", "GET", f"{MESSAGES}?include_claimed=2", 400, names=("include_claimed",)),
    Case("queue limit 0", "GET", "/v2/queues?limit=0", 400, names=("20",)),
    Case("queue limit over the page", "GET", "/v2/queues?limit=21", 400, names=("20",)),
    Case("queue limit no number", "GET", "/v2/queues?limit=x", 400, names=("limit",)),
    Case("claim limit 0", "POST", f"{CLAIMS}?limit=0", 400, names=("20",)),
    Case("claim limit over", "POST", f"{CLAIMS}?limit=21", 400, names=("20",)),
    Case("claim limit no number", "POST", f"{CLAIMS}?limit=x", 400, names=("limit",)),
    Case("pop 0", "DELETE", f"{MESSAGES}?pop=0", 400, names=("20",)),
    Case("pop over", "DELETE", f"{MESSAGES}?pop=21", 400, names=("20",)),
    Case("pop no number", "DELETE", f"{MESSAGES}?pop=x", 400, names=("pop",)),
    Case("pop and ids", "DELETE", f"{MESSAGES}?pop=1&ids=a", 400, names=("pop", "id")),
    Case("neither pop nor ids", "DELETE", MESSAGES, 400, names=("pop", "ids")),
    Case(
        "too many ids to get",
        "GET",
        f"{MESSAGES}?ids=" + ",".join("abcdefghijklmnopqrstu"),
        400,
        names=("20",),
    ),
    Case(
        "too many ids to delete",
        "DELETE",
        f"{MESSAGES}?ids=" + ",".join("abcdefghijklmnopqrstu"),
        400,
        names=("20",),
    ),
]

# What can be answered without complaint is: a marker is a position, an id that cannot be is not
# there.
ODD = [
    Case("odd marker", "GET", f"{MESSAGES}?marker=%00%01", 200),
    Case("odd marker of letters", "GET", f"{MESSAGES}?marker=zzz", 200),
    Case("long marker", "GET", f"{MESSAGES}?marker={'9' * 500}", 200, differs="503"),
    Case("marker that is no UTF-8", "GET", f"{MESSAGES}?marker=%ff%fe", 200),
    Case("odd queue marker", "GET", "/v2/queues?marker=%00", 200),
    Case("odd message id", "GET", f"{MESSAGES}/%00", 404),
    Case("long message id", "GET", f"{MESSAGES}/{'a' * 500}", 404),
    Case("message id that is no UTF-8", "GET", f"{MESSAGES}/%ff%fe", 404),
    Case("odd ids", "GET", f"{MESSAGES}?ids=x,%00,{'y' * 500}", 404),
    Case("delete of an odd message id", "DELETE", f"{MESSAGES}/zzz", 204),
    Case("delete of odd ids", "DELETE", f"{MESSAGES}?ids=x,%00", 204),
    Case("odd claim id", "GET", f"{CLAIMS}/zzz", 404),
    Case("renewal of an odd claim", "PATCH", f"{CLAIMS}/zzz", 404, {"ttl": 60, "grace": 60}),
    Case("release of an odd claim", "DELETE", f"{CLAIMS}/zzz", 204),
]

NAMES = [
    Case("space", "PUT", "/v2/queues/a%20b", 400),
    Case("umlaut", "PUT", "/v2/queues/%C3%A4", 400),
    Case("no UTF-8", "PUT", "/v2/queues/%ff%fe", 400),
    Case("raw bytes", "PUT", b"/v2/queues/\xc3\xa4", 400),
    Case("null", "PUT", "/v2/queues/a%00", 400),
    Case(
        "line feed at the end",
        "PUT",
        "/v2/queues/a%0a",
        400,
        differs="its expression takes a line feed at the end",
    ),
    Case("percent without digits", "PUT", "/v2/queues/a%zz", 400),
    Case("65 characters", "PUT", f"/v2/queues/{'a' * 65}", 400),
    Case("65 characters on post", "POST", f"/v2/queues/{'a' * 65}/messages", 400, message()),
    Case("10000 characters", "PUT", f"/v2/queues/{'a' * 10_000}", 400, differs="uwsgi drops the connection"),
    Case("64 characters are right", "PUT", f"/v2/queues/{'a' * 64}", 201),
    Case("dots are right", "PUT", "/v2/queues/..a.b-c_D", 201),
]

HEADERS = [
    Case("no client id", "GET", QUEUE, 400, headers={"Client-ID": None}, names=("Client-I",)),
    Case("client id no UUID", "GET", QUEUE, 400, headers={"Client-ID": "me"}),
    Case("client id empty", "GET", QUEUE, 400, headers={"Client-ID": ""}),
    Case("client id no text", "GET", QUEUE, 400, headers={"Client-ID": b"\xff\xfe"}),
    Case("no project", "GET", QUEUE, 400, headers={"X-Project-ID": None}, names=("X-PROJECT-ID",)),
    Case("project empty", "GET", QUEUE, 400, headers={"X-Project-ID": ""}, names=("X-PROJECT-ID",)),
    Case("project of 257", "GET", QUEUE, 400, headers={"X-Project-ID": "p" * 257}),
    Case("project of 256 is right", "GET", QUEUE, 200, headers={"X-Project-ID": "p" * 256}),
    Case("client id without dashes is right", "GET", QUEUE, 200, headers={"Client-ID": uuid.uuid4().hex}),
    Case("accept of images", "GET", QUEUE, 406, headers={"Accept": "image/png"}),
    Case("accept of anything is right", "GET", QUEUE, 200, headers={"Accept": "text/html, */*;q=0.1"}),
    Case("accept that is nonsense", "GET", QUEUE, 406, headers={"Accept": ";;;"}),
    Case(
        "form content",
        "POST",
        MESSAGES,
        400,
        b"a=b",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        names=(JSON,),
    ),
    Case(
        "content type of no account", "POST", MESSAGES, 201, message(), headers={"Content-Type": "text/plain"}
    ),
    Case(
        "patch with plain JSON", "PATCH", QUEUE, 415, [], headers={"Content-Type": JSON}, names=(PATCH_JSON,)
    ),
    Case(
        "odd location header", "POST", MESSAGES, 201, message(), headers={"location": "Munch({'a': \"b\"})"}
    ),
]

METHODS = [
    Case("POST on a queue", "POST", QUEUE, 405),
    Case("PUT on messages", "PUT", MESSAGES, 405),
    Case("PATCH on messages", "PATCH", MESSAGES, 405),
    Case("DELETE on the queues", "DELETE", "/v2/queues", 405),
    Case("GET on claims", "GET", CLAIMS, 405),
    Case("PUT on a claim", "PUT", f"{CLAIMS}/x", 405),
    Case("GET on purge", "GET", f"{QUEUE}/purge", 405),
    Case("POST on stats", "POST", f"{QUEUE}/stats", 405),
]

PATHS = [
    Case("unknown path", "GET", "/v2/nonesuch", 404),
    Case("unknown version", "GET", "/v3/queues", 404),
    Case("deep path", "GET", f"{QUEUE}/messages/a/b/c", 404),
    Case("two slashes", "GET", "/v2//queues", 404),
    Case("parent", "GET", "/v2/queues/../queues", 404, differs="uwsgi resolves it"),
]


@pytest.mark.parametrize("case", parameters(BODIES))
def test_a_wrong_body(server, case):
    expect(server, case)


@pytest.mark.parametrize("case", parameters(PATCHES))
def test_a_wrong_patch(server, case):
    exchange(server.address, head("PUT", QUEUE), "PUT")
    expect(server, replace(case, headers={"Content-Type": PATCH_JSON}))


@pytest.mark.parametrize("case", parameters(QUERIES))
def test_a_wrong_query(server, case):
    expect(server, case)


@pytest.mark.parametrize("case", parameters(ODD))
def test_an_odd_marker_or_id(server, case):
    expect(server, case)


@pytest.mark.parametrize("case", parameters(NAMES))
def test_a_queue_name(server, case):
    expect(server, case)


@pytest.mark.parametrize("case", parameters(HEADERS))
def test_headers(server, case):
    expect(server, case)


@pytest.mark.parametrize("case", parameters(METHODS))
def test_a_method_that_is_not_allowed(server, case):
    answer = exchange(server.address, case.request(), case.method)
    assert answer.status == 405
    assert case.method not in answer.headers["allow"].split(", ")
    assert answer.headers["allow"]


@pytest.mark.differs("405")
def test_head_is_get_without_a_body(server):
    got = exchange(server.address, head("GET", QUEUE))
    answer = exchange(server.address, head("HEAD", QUEUE), "HEAD")
    assert answer.status == 200
    assert answer.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("case", parameters(PATHS))
def test_a_path_that_leads_nowhere(server, case):
    assert exchange(server.address, case.request(), case.method).status == 404


def test_a_refused_batch_leaves_nothing(api, queue):
    answer = api.call("POST", f"/v2/queues/{queue}/messages", json={"messages": [{"body": 1}, {"ttl": 300}]})
    assert answer.status_code == 400
    assert api.messages(queue) == []


LONE_SURROGATES = [r"\ud800", r"\udc00\ud800"]
ODD_JSON = [r"\u0000", r"\/", "\u00e4\u20ac\U0001f600", "1e400"]


@pytest.mark.parametrize(
    "text",
    [*(pytest.param(text, marks=pytest.mark.differs("503")) for text in LONE_SURROGATES), *ODD_JSON],
)
def test_odd_but_valid_json_leaves_a_readable_queue(api, queue, text):
    literal = text if text == "1e400" else f'"{text}"'
    answer = api.call(
        "POST",
        f"/v2/queues/{queue}/messages",
        content=f'{{"messages": [{{"ttl": 300, "body": {literal}}}]}}'.encode(),
    )
    assert answer.status_code in (201, 400)
    listed = api.messages(queue)
    assert [message["body"] for message in listed] == (
        [json.loads(literal)] if answer.status_code == 201 else []
    )
