"""HTTP at its edges: sizes, chunks, pipelines, half requests, broken requests, HTTP/2."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator

import httpx
import pytest

from support.api import Api
from support.rawhttp import RawAnswer, RawConnection, exchange, head

MAX_POST = 262144
MAX_METADATA = 65536

#: The original's HTTP is uwsgi's: it drops connections and takes no chunks.
pytestmark = pytest.mark.skipif(
    os.environ.get("ZAQAR_TEST_ORIGINAL") == "1", reason="the original leaves HTTP to its front end"
)


@pytest.fixture(autouse=True)
def _still_serves(server) -> Iterator[None]:
    """After each request, whatever it was, the server answers the next."""
    yield
    assert exchange(server.address, head("GET", "/")).status == 300
    assert server.running()


@pytest.fixture
def project() -> str:
    return f"http-{uuid.uuid4()}"


def post_head(queue: str, project: str, **headers: str) -> bytes:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return head(
        "POST",
        f"/v2/queues/{queue}/messages",
        {"Content-Type": "application/json", **fields},
        project=project,
    )


def document_of(size: int) -> bytes:
    """A post of one message that is exactly so many bytes long."""
    frame = b'{"messages": [{"ttl": 300, "body": "%s"}]}'
    return frame % (b"x" * (size - len(frame) + 2))


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def refused(answer: RawAnswer, limit: int) -> None:
    assert answer.status == 400
    assert str(limit) in answer.json()["description"]


class TestSizes:
    def test_the_largest_post_is_accepted(self, server, queue, project):
        body = document_of(MAX_POST)
        request = post_head(queue, project, Content_Length=str(len(body))) + body
        assert exchange(server.address, request).status == 201

    def test_one_byte_more_is_refused(self, server, queue, project):
        body = document_of(MAX_POST + 1)
        request = post_head(queue, project, Content_Length=str(len(body))) + body
        refused(exchange(server.address, request), MAX_POST)

    @pytest.mark.parametrize("length", [MAX_POST + 1, 10**12, 2**63 - 1])
    def test_the_announced_length_is_enough_to_refuse(self, server, queue, project, length):
        refused(exchange(server.address, post_head(queue, project, Content_Length=str(length))), MAX_POST)

    def test_expect_continue_is_answered(self, server, queue, project):
        request = post_head(queue, project, Content_Length=str(MAX_POST + 1), Expect="100-continue")
        refused(exchange(server.address, request), MAX_POST)

    def test_a_queue_has_a_limit_of_its_own(self, server, queue, project):
        with Api(server.url, project) as api:
            api.call("PUT", f"/v2/queues/{queue}", json={"_max_messages_post_size": 100})
        request = post_head(queue, project, Content_Length="101") + document_of(101)
        refused(exchange(server.address, request), 100)

    def test_queue_metadata_has_a_limit(self, server, queue, project):
        body = json.dumps({"a": "x" * MAX_METADATA}).encode()
        request = head("PUT", f"/v2/queues/{queue}", {"Content-Length": str(len(body))}, project=project)
        refused(exchange(server.address, request + body), MAX_METADATA)

    def test_a_body_cut_short_is_not_posted(self, server, queue, project):
        body = document_of(1000)
        with RawConnection(server.address) as connection:
            connection.send(post_head(queue, project, Content_Length="1000"), body[:-1])
        with Api(server.url, project) as api:
            assert api.messages(queue) == []


class TestChunks:
    @pytest.mark.parametrize("size", [1, 7, 10_000])
    def test_a_chunked_post_is_accepted(self, server, queue, project, size):
        request = post_head(queue, project, Transfer_Encoding="chunked") + chunked(document_of(3000), size)
        assert exchange(server.address, request).status == 201
        with Api(server.url, project) as api:
            assert len(api.messages(queue)) == 1

    def test_too_many_chunks_are_refused(self, server, queue, project):
        body = chunked(document_of(MAX_POST + 1), 10_000)
        request = post_head(queue, project, Transfer_Encoding="chunked") + body
        refused(exchange(server.address, request), MAX_POST)

    def test_endless_chunks_are_refused_before_they_end(self, server, queue, project):
        # No last chunk: only a server that stops reading at its limit answers.
        body = chunked(b"x" * (4 * MAX_POST), 60_000)[: -len(b"0\r\n\r\n")]
        request = post_head(queue, project, Transfer_Encoding="chunked") + body
        refused(exchange(server.address, request), MAX_POST)

    def test_a_chunked_claim_is_accepted(self, server, queue, project):
        with Api(server.url, project) as api:
            api.post(queue, 1)
        fields = {"Transfer-Encoding": "chunked"}
        request = head("POST", f"/v2/queues/{queue}/claims", fields, project=project)
        answer = exchange(server.address, request + chunked(b'{"ttl": 100, "grace": 60}', 5))
        assert answer.status == 201

    def test_a_chunk_without_a_size_is_refused(self, server, queue, project):
        request = post_head(queue, project, Transfer_Encoding="chunked") + b"zz\r\nhello\r\n"
        assert 400 <= refused_or_closed(server, request) < 500


def refused_or_closed(server, request: bytes) -> int:
    """The status of the answer; 400 when the server hung up, as it may on what is not HTTP."""
    try:
        return exchange(server.address, request).status
    except (ConnectionError, ValueError):
        return 400


BROKEN = {
    "garbage": b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "only a method": b"GET\r\n\r\n",
    "unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "header name with a space": b"GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n",
    "header with a null": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "length is text": head("POST", "/v2/queues/q/messages", {"Content-Length": "ten"}),
    "length is negative": head("POST", "/v2/queues/q/messages", {"Content-Length": "-1"}),
    "length beyond 64 bits": head("POST", "/v2/queues/q/messages", {"Content-Length": "9" * 30}),
    "two lengths": head("POST", "/v2/queues/q/messages", {"Content-Length": "1\r\nContent-Length: 2"}),
    "unknown coding": head("POST", "/v2/queues/q/messages", {"Transfer-Encoding": "gzip"}),
    "a megabyte of headers": head("GET", "/v2/queues", {"X": "y" * 1_000_000}),
    "a thousand headers": head("GET", "/v2/queues", {f"X-{number}": "y" for number in range(1000)}),
    "a megabyte of path": head("GET", "/v2/queues/" + "a" * 1_000_000),
}


@pytest.mark.parametrize("request_bytes", BROKEN.values(), ids=BROKEN.keys())
def test_an_invalid_request_is_refused(server, request_bytes):
    assert 400 <= refused_or_closed(server, request_bytes) < 500


def test_a_length_and_chunks_smuggle_no_request(server, queue, project):
    """With both a length and chunks, the rest must not be read as a second request."""
    hidden = head("PUT", "/v2/queues/smuggled", {"Content-Length": "0"}, project=project)
    body = b"0\r\n\r\n" + hidden
    request = post_head(queue, project, Content_Length=str(len(body)), Transfer_Encoding="chunked") + body
    assert refused_or_closed(server, request) == 400
    with Api(server.url, project) as api:
        assert api.call("GET", "/v2/queues").json()["queues"] == []


def test_http_1_0_is_answered(server):
    answer = exchange(server.address, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.status == 300
    assert answer.headers.get("connection", "close") == "close"


class TestConnections:
    def test_pipelined_requests_are_answered_in_order(self, server, queue, project):
        count = 20
        with RawConnection(server.address) as connection:
            for number in range(count):
                body = b'{"messages": [{"ttl": 300, "body": %d}]}' % number
                connection.send(post_head(queue, project, Content_Length=str(len(body))), body)
            connection.send(
                head("GET", f"/v2/queues/{queue}/messages?echo=true&limit=20", project=project),
                head("GET", "/v2/nonesuch", project=project),
                head("GET", "/", project=project),
            )
            posts = [connection.answer() for _ in range(count)]
            listing, missing, versions = (connection.answer() for _ in range(3))
        assert {post.status for post in posts} == {201}
        assert [message["body"] for message in listing.json()["messages"]] == list(range(count))
        assert (listing.status, missing.status, versions.status) == (200, 404, 300)
        request_ids = {
            answer.headers["x-openstack-request-id"] for answer in [*posts, listing, missing, versions]
        }
        assert len(request_ids) == count + 3

    def test_a_refused_request_leaves_the_connection_usable(self, server, queue, project):
        with RawConnection(server.address) as connection:
            connection.send(post_head(queue, project, Content_Length="5"), b"wrong")
            assert connection.answer().status == 400
            connection.send(head("GET", "/v2/queues", project=project))
            assert connection.answer().status == 200

    def test_a_request_byte_by_byte_is_answered(self, server, project):
        with RawConnection(server.address) as connection:
            for byte in head("GET", "/v2/queues", project=project):
                connection.send(bytes([byte]))
            assert connection.answer().status == 200

    def test_unfinished_requests_delay_no_others_and_time_out(self, server, half_requests):
        # They have been under way since before the first test.
        assert exchange(server.address, head("GET", "/v2/queues")).status == 200
        # Each may be told first that it took too long.
        for connection in half_requests:
            assert connection.reader.read(1000)[:9] in (b"", b"HTTP/1.1 ")


class TestHttp2:
    """By prior knowledge, without TLS."""

    @pytest.fixture
    def http(self, server, project) -> Iterator[httpx.Client]:
        headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        with httpx.Client(
            base_url=server.url, http1=False, http2=True, headers=headers, timeout=15, trust_env=False
        ) as client:
            yield client

    def test_post_and_list(self, http, queue):
        posted = http.post(f"/v2/queues/{queue}/messages", json={"messages": [{"ttl": 300, "body": 1}]})
        assert (posted.status_code, posted.http_version) == (201, "HTTP/2")
        listed = http.get(f"/v2/queues/{queue}/messages", params={"echo": "true"})
        assert [message["body"] for message in listed.json()["messages"]] == [1]

    def test_a_body_without_a_length_is_accepted(self, http, queue):
        body = (piece for piece in (b'{"messages": [', b'{"ttl": 300, "body": 1}', b"]}"))
        assert http.post(f"/v2/queues/{queue}/messages", content=body).status_code == 201

    def test_an_oversized_body_is_refused(self, http, queue):
        answer = http.post(f"/v2/queues/{queue}/messages", content=document_of(MAX_POST + 1))
        assert answer.status_code == 400
        assert str(MAX_POST) in answer.json()["description"]

    def test_an_oversized_body_without_a_length_is_refused(self, http, queue):
        body = (b"x" * 10_000 for _ in range(30))
        answer = http.post(f"/v2/queues/{queue}/messages", content=body)
        assert answer.status_code == 400
        assert str(MAX_POST) in answer.json()["description"]

    def test_errors_look_the_same(self, http):
        answer = http.get("/v2/queues", params={"limit": "x"})
        assert answer.status_code == 400
        assert set(answer.json()) == {"title", "description"}
        assert http.put("/v2/queues").status_code == 405
