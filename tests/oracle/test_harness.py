"""The suite's own parts: a difference is seen, named, or fails the run."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgpack
import pytest
import yaml
from websockets.sync.server import ServerConnection, serve

from . import document, frames
from .compare import ABSENT, Difference, Twins, compare
from .differences import Differences, Entry, Found, Group, Match, load
from .run import run
from .scenario import FormatError, body_bytes, parse, read_all
from .servers import Target
from .wire import Answer

Reply = tuple[int, dict[str, str], bytes]

#: Where nobody listens.
NOWHERE = ("127.0.0.1", 1)

#: Every operation over HTTP.
API = Path(__file__).resolve().parents[2] / "docs/api/openapi.yaml"


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    pairs = {"content-type": "application/json", **headers}
    return Answer(status, tuple(pairs.items()), json.dumps(body).encode())


def facets(original: Answer, ours: Answer, twins: Twins | None = None) -> list[str]:
    return [difference.facet for difference in compare(original, ours, twins or Twins())]


@contextmanager
def fake_server(reply: Callable[[str, str], Reply]) -> Iterator[Target]:
    """A server that answers each method and target as it is told."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = reply(self.command, self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Target(server.server_address[:2], NOWHERE)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class TestScenarioFiles:
    def test_every_file_can_be_read_and_there_is_enough_of_it(self) -> None:
        scenarios = read_all(Path(__file__).with_name("scenarios"))
        sockets = sum(scenario.sockets for scenario in scenarios)
        assert sum(len(scenario.requests) for scenario in scenarios) - sockets >= 1500
        assert sockets >= 1000
        assert len({scenario.project for scenario in scenarios}) == len(scenarios)

    def test_they_reach_every_operation_of_the_api(self) -> None:
        asked = {
            (request.method, request.target.partition("?")[0])
            for scenario in read_all(Path(__file__).with_name("scenarios"))
            for request in scenario.requests
        }
        paths = yaml.safe_load(API.read_text())["paths"]
        # The original has nothing of the kind: tests/test_delivery_log.py.
        deliveries = {path for path in paths if "/{subscription_id}/" in path} - {
            f"/v2/{kind}s/{{{kind}_name}}/subscriptions/{{subscription_id}}/confirm"
            for kind in ("queue", "topic")
        }
        assert len(deliveries) == 18
        # tests/test_pools.py and tests/test_quotas.py.
        moves = {"/v2/pools/{pool_name}/drain", "/v2/pools/{pool_name}/queues"}
        own = deliveries | moves | {"/v2/quotas", "/v2/quotas/{project}"}
        for path, item in ((path, paths[path]) for path in paths.keys() - own):
            like = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
            methods = {method for method, target in asked if like.fullmatch(target)}
            documented = {method.upper() for method in item if method != "parameters"}
            assert documented <= methods, path

    def test_tables_make_every_combination(self) -> None:
        (scenario,) = parse(
            "f", "=== t\n${m} /${p}\n    each m: GET PUT\n    each p\n        a b\n        ''\n"
        )
        assert [request.title for request in scenario.requests] == ["GET /a b", "GET /", "PUT /a b", "PUT /"]

    def test_websocket_scenarios_are_played_in_both_encodings(self) -> None:
        scenarios = parse(
            "f", "=== a\nWS x {}\n    on other\n    in text\n=== b [binary]\nWS x\n=== c\nGET /\n"
        )
        assert [(one.name, one.encoding, one.sockets) for one in scenarios] == [
            ("f/a.text", "text", 1),
            ("f/a.binary", "binary", 1),
            ("f/b.binary", "binary", 1),
            ("f/c", "text", 0),
        ]
        assert [(one.connection, one.encoding) for one in scenarios[1].requests] == [("other", "text")]

    def test_saved_values_stay_open_until_they_are_sent(self) -> None:
        (scenario,) = parse("f", "=== t\nGET /${id}\n    each x: ${id} b\n")
        assert [request.target for request in scenario.requests] == ["/${id}", "/${id}"]

    @pytest.mark.parametrize(
        "text", ["GET /", "=== t\nnonsense", "=== t\n    X: y", "=== t\nGET /\n    each a\nGET /", "=== T\n"]
    )
    def test_nonsense_is_refused_with_its_place(self, text: str) -> None:
        with pytest.raises(FormatError, match=r"f\.txt:\d"):
            parse("f", text)

    def test_made_bodies_have_the_size_they_say(self) -> None:
        assert [body_bytes(text) for text in (None, "<none>", "<empty>", "<hex ff 00>")] == [
            None,
            None,
            b"",
            b"\xff\x00",
        ]
        for text in ("<metadata 100>", "<message 100>"):
            body = body_bytes(text)
            assert body is not None
            assert len(body) == 100
            assert json.loads(body)


class TestComparison:
    def test_equal_answers_do_not_differ(self) -> None:
        assert facets(answer({"a": [1, None, "x"]}), answer({"a": [1, None, "x"]})) == []

    def test_a_status_is_compared_alone_and_says_the_error(self) -> None:
        found = compare(
            answer({"title": "T", "description": "D"}, 400, vary="Accept"), answer({}, 204), Twins()
        )
        assert found == [Difference("status", "400 T: D", "204")]

    @pytest.mark.parametrize(
        ("original", "ours", "facet"),
        [
            ({"a": 1}, {"a": 2}, "body.a"),
            ({"a": 1}, {"a": 1.0}, "body.a"),
            ({"a": 1}, {"a": True}, "body.a"),
            ({"a": 1}, {}, "body.a"),
            ({}, {"a": 1}, "body.a"),
            ({"a": [1, 2]}, {"a": [1]}, "body.a.length"),
            ({"a": [{"b": "x"}]}, {"a": [{"b": "y"}]}, "body.a.0.b"),
            ({"age": 1}, {"age": 9}, "body.age"),
            ({"created": "2026-01-01T00:00:00Z"}, {"created": "2026-01-01T00:00:00"}, "body.created"),
            ({"expires": "2040", "signature": "a"}, {"expires": "2040", "signature": "b"}, "body.signature"),
        ],
    )
    def test_other_values_types_and_keys_differ(self, original: object, ours: object, facet: str) -> None:
        assert facets(answer(original), answer(ours)) == [facet]

    def test_other_headers_differ(self) -> None:
        assert compare(answer(1, vary="Accept"), answer(1, server="x"), Twins()) == [
            Difference("header.vary", "Accept", ABSENT)
        ]
        assert facets(answer(1), answer(1, **{"content-type": "text/plain"})) == ["header.content-type"]

    def test_what_no_two_servers_agree_on_is_compared_by_form(self) -> None:
        original = {
            "age": 1,
            "created": "2026-01-01T00:00:00Z",
            "seconds": 0.5,
            "id": "a",
            "href": "/claims/a",
        }
        ours = {"age": 2, "created": "2026-01-01T00:00:01Z", "seconds": 2.5, "id": "b", "href": "/claims/b"}
        assert facets(answer(original), answer(ours)) == []

    def test_a_claimed_message_may_live_a_moment_longer(self) -> None:
        def shown(ttl: int, href: str = "/v2/queues/q/messages/a?claim_id=b") -> Answer:
            return answer({"messages": [{"href": href, "age": 1, "ttl": ttl}]})

        assert facets(shown(600), shown(602)) == []
        assert facets(shown(600), shown(599)) == ["body.messages.0.ttl"]
        assert facets(shown(600), shown(609)) == ["body.messages.0.ttl"]
        plain = "/v2/queues/q/messages/a"
        assert facets(shown(600, plain), shown(601, plain)) == ["body.messages.0.ttl"]

    def test_counts_of_the_whole_store_are_compared_by_kind(self) -> None:
        original = {"message_volume": {"free": 1, "total": 2}}
        assert facets(answer(original), answer({"message_volume": {"free": 7, "total": 9}})) == []
        ours = {"message_volume": {"free": "1", "total": 2}}
        assert facets(answer(original), answer(ours)) == ["body.message_volume.free"]

    def test_an_id_must_stay_the_same(self) -> None:
        twins = Twins()
        first, second = answer({"id": "a" * 24}), answer({"id": "B" * 30})
        assert facets(first, second, twins) == []
        assert facets(answer({"id": "a" * 24}), answer({"id": "C" * 30}), twins) == ["body.id"]
        assert facets(answer({"id": "d" * 24}), answer({"id": "B" * 30}), twins) == ["body.id"]
        told = answer({"description": f"no {'a' * 24} here"}), answer({"description": f"no {'B' * 30} here"})
        assert facets(*told, twins) == []

    def test_lists_of_ids_and_markers_in_links(self) -> None:
        ours = answer(1, location="/v2/queues/q/messages?ids=x,y")
        assert facets(answer(1, location="/v2/queues/q/messages?ids=a,b"), ours) == []
        assert facets(answer(1, location="/v2/queues/q/messages?ids=a"), ours) == ["header.location"]
        ours = answer({"href": "/m?marker=abc&limit=1"})
        assert facets(answer({"href": "/m?limit=1&marker=7"}), ours) == []
        twins = Twins()
        assert facets(answer({"id": "a" * 24}), answer({"id": "abc"}), twins) == []
        assert facets(answer({"href": "/m?marker=7"}), answer({"href": "/m?marker=abc"}), twins) == []
        assert facets(answer({"href": "/m?marker=7"}), answer({"href": "/m?marker=xyz"}), twins) == [
            "body.href"
        ]
        links = answer({"href": "/m?limit=1&marker=7"}), answer({"href": "/m?marker=abc"})
        assert facets(*links) == ["body.href"]


class TestEntries:
    scenario = "=== t\nGET /a\nGET /b\n"

    def found(self) -> Found:
        (scenario,) = parse("f", self.scenario)
        return Found(scenario.name, scenario.requests[0], Difference("body.a", "1", "2"))

    def judge(self, *matches: Match):
        entry = Entry("e", "g", "one", "two", "why", matches)
        return Differences((Group("g", "G"),), (entry,)).judge([self.found()])

    def test_a_named_difference_passes(self) -> None:
        verdict = self.judge(Match(scenario="f/*", request="GET /a", facet="body.*", original="1", ours="2"))
        assert (verdict.unmatched, verdict.unused, verdict.matched) == ([], [], 1)

    @pytest.mark.parametrize(
        "match",
        [
            Match(scenario="g/*"),
            Match(request="GET /b"),
            Match(body="{*"),
            Match(facet="status"),
            Match(original="2"),
            Match(ours="1"),
        ],
    )
    def test_an_entry_about_something_else_names_nothing_and_is_unused(self, match: Match) -> None:
        verdict = self.judge(match)
        assert len(verdict.unmatched) == 1
        assert verdict.unused == ["e (match 1)"]

    @pytest.mark.parametrize(
        "text",
        [
            '[[difference]]\nid="a"\ngroup="g"\noriginal="x"\nhere="y"\nreason="z"\nmatch=[{}]',
            '[[group]]\nid="g"\ntitle="G"\n[[difference]]\nid="a"\ngroup="g"\noriginal="x"\nhere="y"\nreason=""\nmatch=[{}]',
            '[[group]]\nid="g"\ntitle="G"\n[[difference]]\nid="a"\ngroup="g"\noriginal="x"\nhere="y"\nreason="z"',
        ],
    )
    def test_an_entry_must_be_complete(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "differences.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match="difference a"):
            load(path)


class TestRun:
    """Two servers that answer alike, and then one that does not."""

    text = "=== t\nPUT /v2/queues/q {}\n    save name location\nGET /v2/queues/${name}\n"

    @staticmethod
    def reply(method: str, target: str) -> Reply:
        if method == "PUT":
            return 201, {"Location": "/v2/queues/q"}, b""
        return 200, {"Content-Type": "application/json"}, json.dumps({"target": target}).encode()

    def test_a_server_does_not_differ_from_its_twin(self) -> None:
        with fake_server(self.reply) as one, fake_server(self.reply) as two:
            result = run(parse("f", self.text), one, two)
        assert (result.scenarios, result.requests, result.found) == (1, 2, [])

    @pytest.mark.parametrize(
        ("planted", "facet"),
        [
            ((200, {"Content-Type": "application/json"}, b'{"target": "/v2/queues/Q"}'), "body.target"),
            ((200, {"Content-Type": "text/plain"}, b'{"target": "/v2/queues/q"}'), "header.content-type"),
            ((404, {"Content-Type": "application/json"}, b'{"title": "no"}'), "status"),
        ],
    )
    def test_a_planted_difference_is_found(self, planted: Reply, facet: str) -> None:
        def altered(method: str, target: str) -> Reply:
            return planted if method == "GET" else self.reply(method, target)

        with fake_server(self.reply) as one, fake_server(altered) as two:
            result = run(parse("f", self.text), one, two)
        assert [found.difference.facet for found in result.found] == [facet]
        assert len(Differences((), ()).judge(result.found).unmatched) == 1


@contextmanager
def fake_socket_server(reply: Callable[[dict], list[object]]) -> Iterator[Target]:
    """A WebSocket server that sends what it is told for each request: documents, or None to hang up."""

    def handler(connection: ServerConnection) -> None:
        for frame in connection:
            is_binary = isinstance(frame, bytes)
            for sent in reply(msgpack.unpackb(frame) if is_binary else json.loads(frame)):
                if sent is None:
                    return
                connection.send(msgpack.packb(sent) if is_binary else json.dumps(sent))

    with serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Target(NOWHERE, server.socket.getsockname()[:2])
        server.shutdown()
        thread.join()


def told(request: dict, body: object, status: int = 200) -> dict:
    return {"request": request, "body": body, "headers": {"status": status}}


class TestSocketRun:
    """Two WebSocket servers that answer alike, and then one that does not."""

    text = """\
=== t
WS post {"queue": "q"}
    save id json body.message_ids.0
WS get {"message_id": "${id}"}
WS push
"""

    @staticmethod
    def reply(request: dict, id: str = "a" * 24) -> list[object]:
        """The second answer comes after what is pushed."""
        if request["action"] == "post":
            return [told(request, {"message_ids": [id]}, 201)]
        return [{"body": "pushed"}, told(request, {"id": id, "text": f"{id} is there"})]

    def play(self, other: Callable[[dict], list[object]]) -> list[Found]:
        with fake_socket_server(self.reply) as one, fake_socket_server(other) as two:
            result = run(parse("f", self.text), one, two)
        assert (result.scenarios, result.requests, result.sockets) == (2, 6, 6)
        return result.found

    def test_a_server_does_not_differ_from_one_with_other_ids(self) -> None:
        assert self.play(lambda request: self.reply(request, "B" * 30)) == []

    @pytest.mark.parametrize(
        ("planted", "facet"),
        [
            (lambda request: [{"body": "pushed"}, told(request, {"id": "c", "text": "x"})], "body.body.id"),
            (lambda request: [{"body": "pushed"}, told(request, {"error": "no"}, 400)], "status"),
            (lambda request: [{"body": "pushed"}, told({}, {"id": "a" * 24})], "body.request.action"),
            (lambda request: [{"body": "else"}, TestSocketRun.reply(request)[1]], "body.body"),
            (lambda request: [None], "status"),
            (lambda request: [TestSocketRun.reply(request)[1]], "status"),
        ],
    )
    def test_a_planted_difference_is_found(self, monkeypatch, planted, facet: str) -> None:
        monkeypatch.setattr(frames, "_PATIENCE", 1.0)
        found = self.play(lambda request: (planted if request["action"] == "get" else self.reply)(request))
        assert {one.scenario for one in found} == {"f/t.text", "f/t.binary"}
        assert facet in {one.difference.facet for one in found}

    @pytest.mark.parametrize(("sent", "seen"), [([None], "closed 1000"), ([], "silence")])
    def test_what_is_no_answer_has_a_name(self, monkeypatch, sent: list[object], seen: str) -> None:
        monkeypatch.setattr(frames, "_PATIENCE", 1.0)
        found = self.play(lambda request: sent if request["action"] == "post" else self.reply(request))
        assert (found[0].difference.original, found[0].difference.ours) == ("201", seen)

    def test_the_kind_of_frame_counts(self) -> None:
        texts = [Answer(200, (("frame", kind),), b"{}") for kind in ("text", "binary")]
        assert facets(*texts) == ["header.frame"]


def test_the_compatibility_page_is_up_to_date() -> None:
    assert document.PAGE.read_text(encoding="utf-8") == document.page(load()), (
        "run `python3 -m oracle --document` in tests/"
    )
