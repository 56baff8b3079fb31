"""Attacks with a foreign token or none, on each store and both wires: no access, and no leak."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from support.collector import Collector
from support.identity import PASSWORD, Cloud
from support.mongodb import MongoDB, new_name, on_mongodb
from support.operated import Operated
from support.rawhttp import RawConnection
from support.redis import Redis, on_redis
from support.server import Server, free_port
from support.wait import wait_until
from support.websocket import WebSocket
from support.written import fail, use

# The first test of a run waits for Keystone to start: some 15 s, minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

#: In the body of the victim's message: no answer to anybody else may have it.
SECRET = "the-secret-of-the-victim"
QUEUE = "vault"
CLIENT = str(uuid.uuid4())

CLAIMS = (
    *("X-Roles", "X-Role", "X-User", "X-User-Id", "X-User-Name", "X-Tenant", "X-Tenant-Id", "X-Tenant-Name"),
    *(
        "X-Project-Id",
        "X-Project-Name",
        "X-Project-Domain-Id",
        "X-Domain-Id",
        "X-Domain-Name",
        "X-User-Domain-Id",
    ),
    *("X-Identity-Status", "X-Service-Identity-Status", "X-Service-Catalog", "X-Is-Admin-Project"),
    *("X-Service-Roles", "X-Service-User-Id", "X-Service-Project-Id", "OpenStack-System-Scope"),
)


@dataclass
class Scene:
    """A server with Keystone, a victim's queue with messages, and a thief with a token of another project."""

    server: Server
    cloud: Cloud
    victim: str
    thief: str
    message: str
    claim: str
    signed: dict[str, str]

    def http(
        self, method: str, path: str, headers: dict[str, str], document: object = None
    ) -> tuple[int, str]:
        """Bytes of the path as they are: a library would tidy it up."""
        body = b"" if document is None else json.dumps(document).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: z",
            f"Client-ID: {CLIENT}",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body, method)

    def raw(self, data: bytes, method: str = "GET") -> tuple[int, str]:
        with RawConnection(self.server.address, timeout=60) as connection:
            connection.send(data)
            answer = connection.answer(method)
        return answer.status, str(answer.headers) + answer.body.decode(errors="replace")


@pytest.fixture(scope="module", params=["embedded", "redis", "mongodb"])
def scene(
    request, cloud: Cloud, token: str, other_token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp(request.param)
    options, store = {}, None
    if request.param == "redis":
        store = Redis(root / "redis", "--save", "").start()
        options = on_redis(store.uri)
    if request.param == "mongodb":
        store = MongoDB(root / "mongodb").start()
        options = on_mongodb(store.uri, new_name())
    for section, values in cloud.options().items():
        options.setdefault(section, {}).update(values)
    options["signed_url"] = {"secret_key": "a signing key"}
    server = Server(root / "server", options=options, websocket=True).start()
    try:
        yield prepared(server, cloud, token, other_token)
        assert server.stop() == 0, server.log_tail()
    finally:
        server.kill()
        if store is not None:
            store.kill()


def prepared(server: Server, cloud: Cloud, victim: str, thief: str) -> Scene:
    headers = {"Client-ID": str(uuid.uuid4()), "X-Auth-Token": victim}
    with httpx.Client(base_url=server.url + "/v2/queues/" + QUEUE, headers=headers, timeout=60) as client:
        posted = client.post("/messages", json={"messages": [{"body": SECRET, "ttl": 3600}] * 2})
        assert posted.status_code == 201, posted.text
        claimed = client.post("/claims?limit=1", json={"ttl": 3600, "grace": 60})
        assert claimed.status_code == 201, claimed.text
        signed = client.post("/share", json={"paths": ["messages"], "methods": ["GET"]}).json()
    message = posted.json()["resources"][1].rsplit("/", 1)[1]
    # The thief has a queue of the same name.
    made = httpx.put(f"{server.url}/v2/queues/{QUEUE}", headers=headers | {"X-Auth-Token": thief}, timeout=60)
    assert made.status_code == 201, made.text
    return Scene(
        *(server, cloud, victim, thief, message, claimed.headers["location"].rsplit("/", 1)[1]),
        {
            "URL-Signature": signed["signature"],
            "URL-Expires": signed["expires"],
            "URL-Methods": ",".join(signed["methods"]),
            "URL-Paths": ",".join(signed["paths"]),
            "X-Project-ID": signed["project"],
        },
    )


def refused(scene: Scene, method: str, path: str, headers: dict[str, str], *, of: set[int]) -> None:
    status, text = scene.http(method, path, headers, {} if method in ("POST", "PUT", "PATCH") else None)
    assert status in of, (method, path, headers, status, text)
    assert SECRET not in text, (method, path, headers)


# --- HTTP


def test_forged_identity_headers_give_no_access(scene: Scene):
    for value in ("admin", scene.cloud.demo, "Confirmed", "True", "all"):
        every = dict.fromkeys(CLAIMS, value)
        refused(scene, "GET", f"/v2/queues/{QUEUE}/messages?echo=true", every, of={401})
        refused(scene, "GET", "/v2/health", every | {"X-Auth-Token": scene.thief}, of={403})
        # With a token these headers are dropped: the thief sees its own, empty queue.
        mine = every | {"X-Auth-Token": scene.thief}
        status, text = scene.http("GET", f"/v2/queues/{QUEUE}/messages?echo=true", mine)
        assert status == 200, text
        assert SECRET not in text
    for name in ("EXTRA-SPEC", "URL-Signature", "X-Auth-Token", "X-Storage-Token", "X-Service-Token"):
        for value in ("", " ", "x", "messagequeue"):
            headers = {name: value, "X-Project-ID": scene.cloud.demo, "X-Roles": "admin"}
            refused(scene, "GET", f"/v2/queues/{QUEUE}/messages?echo=true", headers, of={401, 404})


def test_ids_of_another_project_find_nothing(scene: Scene):
    thief = {"X-Auth-Token": scene.thief}
    queue = f"/v2/queues/{QUEUE}"
    for method, path, expected in [
        ("GET", f"{queue}/messages/{scene.message}", {404}),
        ("GET", f"{queue}/messages?ids={scene.message}", {404, 200}),
        ("GET", f"{queue}/claims/{scene.claim}", {404}),
        ("PATCH", f"{queue}/claims/{scene.claim}", {404}),
        ("DELETE", f"{queue}/claims/{scene.claim}", {204, 404}),
        ("DELETE", f"{queue}/messages/{scene.message}", {204, 404}),
        ("DELETE", f"{queue}/messages/{scene.message}?claim_id={scene.claim}", {204, 400, 404}),
        ("DELETE", f"{queue}/messages?ids={scene.message}", {204, 404}),
        ("DELETE", f"{queue}/messages?pop=10", {200, 204}),
        # Without resource_types nothing is done.
        ("POST", f"{queue}/purge", {400}),
        ("GET", f"{queue}/messages?echo=true&marker={scene.message}", {200, 204}),
    ]:
        refused(scene, method, path, thief, of=expected)
    # Nothing of it reached the victim.
    victim = {"X-Auth-Token": scene.victim}
    status, text = scene.http("GET", f"{queue}/messages?echo=true&include_claimed=true", victim)
    assert (status, text.count(SECRET)) == (200, 2), text
    assert scene.http("GET", f"{queue}/claims/{scene.claim}", victim)[0] == 200


def test_encoded_paths_reach_no_other_project(scene: Scene):
    demo = scene.cloud.demo
    for path in [
        f"/v2/queues/../{demo}/queues/{QUEUE}/messages",
        f"/v2/queues/other/../{QUEUE}/messages?echo=true",
        f"/v2/queues/other%2F..%2F{QUEUE}/messages?echo=true",
        f"/v2/queues/%2e%2e/queues/{QUEUE}",
        f"/v2/queues/{QUEUE}%00/messages",
        f"/v2/queues/{QUEUE}%252Fmessages",
        f"/v2/queues/{demo}%2F{QUEUE}/messages",
        f"/v2/queues/{demo}.{QUEUE}/messages?echo=true",
        f"//v2/queues/{QUEUE}/messages",
        f"/v2//queues/{QUEUE}/messages",
        f"/./v2/queues/{QUEUE}/messages",
        f"/V2/queues/{QUEUE}/messages",
        f"/v2/queues/{QUEUE};project={demo}/messages",
        "/v2/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v2/queues/" + "a" * 8000,
    ]:
        refused(scene, "GET", path, {"X-Auth-Token": scene.thief}, of={200, 204, 400, 404, 414})
        refused(scene, "GET", path, {}, of={400, 401, 414})
        refused(scene, "GET", path, scene.signed, of={400, 404, 414})


def changed(scene: Scene) -> list[tuple[str, str]]:
    """One field of a signed URL and what it is changed to."""
    signature = scene.signed["URL-Signature"]
    return [
        ("URL-Signature", ""),
        ("URL-Signature", signature[:-1]),
        ("URL-Signature", signature.upper()),
        ("URL-Signature", signature[::-1]),
        ("URL-Signature", f"{signature}, {signature}"),
        ("URL-Expires", "2099-01-01T00:00:00"),
        ("URL-Methods", "GET,DELETE"),
        ("URL-Methods", ""),
        ("URL-Paths", f"/v2/queues/{QUEUE}"),
        ("URL-Paths", scene.signed["URL-Paths"] + ",/v2/queues"),
        ("X-Project-ID", scene.cloud.other),
        ("X-Project-ID", ""),
    ]


def test_a_changed_signature_gives_no_access(scene: Scene):
    messages = f"/v2/queues/{QUEUE}/messages?echo=true"
    status, text = scene.http("GET", messages, scene.signed)
    assert status == 200, text
    assert SECRET in text, "the signed URL itself works"
    for name, value in changed(scene):
        refused(scene, "GET", messages, scene.signed | {name: value}, of={404})
    for method, path in [
        ("DELETE", f"/v2/queues/{QUEUE}/messages?ids={scene.message}"),
        ("POST", f"/v2/queues/{QUEUE}/messages"),
        ("GET", f"/v2/queues/{QUEUE}/claims/{scene.claim}"),
        ("GET", f"/v2/queues/{QUEUE}/messages/../stats"),
        ("GET", f"/v2/topics/{QUEUE}/messages"),
        ("GET", "/v2/queues/other/messages"),
        ("GET", f"/v2/queues/{QUEUE}.messages/messages"),
        ("GET", f"/v2/queues/{QUEUE}/messagesx"),
    ]:
        refused(scene, method, path, scene.signed, of={404})
        # A token beside it does not help: it is the signature that counts.
        refused(scene, method, path, scene.signed | {"X-Auth-Token": scene.victim}, of={404})


def test_repeated_and_folded_headers_give_no_access(scene: Scene):
    head = f"GET /v2/queues/{QUEUE}/messages?echo=true HTTP/1.1\r\nHost: z\r\nClient-ID: {CLIENT}\r\n"
    thief, victim = f"X-Auth-Token: {scene.thief}\r\n", f"X-Project-ID: {scene.cloud.demo}\r\n"
    for lines, expected in [
        # The same token twice says one thing.
        (thief + thief, {200, 400}),
        (thief + "X-Auth-Token: x\r\n", {400}),
        ("X-Auth-Token: x\r\n" + thief, {400}),
        (thief + f"X-Auth-Token : {scene.victim[:9]}\r\n", {400}),
        (f"X-Auth-Token:\r\n {scene.thief}\r\n", {400, 401}),
        (thief + "URL-Signature: a\r\nURL-Signature: b\r\n", {400, 404}),
        (victim + victim, {401}),
        ("X_Auth_Token: x\r\n" + victim, {401}),
        (thief + "Content-Length: 3\r\nContent-Length: 4\r\n", {400}),
        # The length is ignored, and the connection closed behind the answer (RFC 9112, 6.3).
        (thief + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", {200, 400}),
        (thief + "Transfer-Encoding: xchunked\r\n", {400}),
        (thief + "Transfer-Encoding: chunked, identity\r\n", {400}),
        (thief + "X-Roles: a\x00b\r\n", {400}),
        (thief + "X: y\nX-Project-ID: z\r\n", {200, 400}),
    ]:
        # What follows is a request of somebody else's on the same connection: it must not be
        # answered as part of this one, nor with this one's token.
        smuggled = f"GET /v2/queues/{QUEUE}/messages?echo=true HTTP/1.1\r\nHost: z\r\n\r\n"
        status, text = scene.raw((head + lines + "\r\n" + smuggled).encode())
        assert status in expected, (lines[-60:], status, text[-60:])
        assert SECRET not in text, lines


def test_pipelined_requests_are_identified_by_their_own_tokens(scene: Scene):
    path = f"/v2/queues/{QUEUE}/messages?echo=true&include_claimed=true"
    head = f"GET {path} HTTP/1.1\r\nHost: z\r\nClient-ID: {uuid.uuid4()}\r\n"
    with RawConnection(scene.server.address, timeout=60) as connection:
        connection.send(head, f"X-Auth-Token: {scene.victim}\r\n\r\n", head, "\r\n")
        connection.send(head, f"X-Auth-Token: {scene.thief}\r\n\r\n")
        first, second, third = connection.answer(), connection.answer(), connection.answer()
    assert (first.status, second.status, third.status) == (200, 401, 200)
    assert SECRET.encode() in first.body
    assert SECRET.encode() not in second.body + third.body


def test_oversized_headers_are_refused(scene: Scene):
    for size in (20_000, 200_000):
        refused(scene, "GET", "/v2/queues", {"X-Auth-Token": "t" * size}, of={401, 431})
        refused(scene, "GET", "/v2/queues", {"X-Filler": "t" * size, "X-Auth-Token": "t"}, of={401, 431})
    many = {f"X-Filler-{n}": "x" for n in range(500)}
    refused(scene, "GET", "/v2/queues", many, of={401, 431})


def test_a_check_takes_as_long_for_a_near_miss_as_for_nonsense(scene: Scene):
    """Coarse, and so safe on any machine: a comparison that stops at the first difference is in the unit
    tests' scope; here nothing may differ by more than the noise of a request."""
    signature = scene.signed["URL-Signature"]
    near = signature[:-1] + ("0" if signature[-1] != "0" else "1")
    path = f"/v2/queues/{QUEUE}/messages"

    def best(value: str) -> float:
        times = []
        for _ in range(30):
            begun = time.perf_counter()
            assert scene.http("GET", path, scene.signed | {"URL-Signature": value})[0] == 404
            times.append(time.perf_counter() - begun)
        return min(times)

    assert best(near) < 20 * best("0" * 64) + 0.1


# --- WebSocket


def test_a_connection_has_no_access_to_other_projects(scene: Scene):
    cloud = scene.cloud
    with WebSocket(scene.server.websocket_url, cloud.demo) as socket:

        def ask(action: str, **body: object) -> tuple[int, str]:
            reply = socket.call(action, body)
            return reply.status, json.dumps([reply.body, reply.request])

        spoofed = dict.fromkeys(CLAIMS, "admin") | {"EXTRA-SPEC": "x", **socket.headers}
        for headers in (
            socket.headers,
            spoofed,
            spoofed | {"URL-Signature": ""},
            spoofed | {"X-Auth-Token": "x"},
        ):
            reply = socket.call("message_list", {"queue_name": QUEUE, "echo": True}, headers=headers)
            assert reply.status == 403, headers
            assert SECRET not in json.dumps(reply.body)
        signed = {"Client-ID": CLIENT, **scene.signed}
        shown = socket.call("message_list", {"queue_name": QUEUE, "echo": True}, headers=signed)
        assert shown.status == 200, "the signed URL itself works"
        for action, body in [
            ("message_post", {"queue_name": QUEUE, "messages": [{"body": 1, "ttl": 60}]}),
            ("message_list", {"queue_name": "other"}),
            ("message_delete", {"queue_name": QUEUE, "message_id": scene.message}),
            ("claim_get", {"queue_name": QUEUE, "claim_id": scene.claim}),
            ("queue_list", {}),
            ("queue_delete", {"queue_name": QUEUE}),
            ("subscription_create", {"queue_name": QUEUE, "ttl": 600}),
            ("check_node_health", {}),
        ]:
            assert socket.call(action, body, headers=signed).status == 403, action
        for name, value in changed(scene):
            reply = socket.call("message_list", {"queue_name": QUEUE}, headers=signed | {name: value})
            assert reply.status == 403, (name, value)
            assert SECRET not in json.dumps(reply.body)

        # The thief's own token: the victim's project stays closed, whatever the headers say.
        theirs = {**socket.headers, "X-Project-ID": cloud.other, "X-Auth-Token": scene.thief}
        assert socket.call("authenticate", headers=theirs).status == 200
        status, text = ask("message_list", queue_name=QUEUE, echo=True)
        assert (status, SECRET in text) == (403, False)
        socket.headers["X-Project-ID"] = cloud.other
        for action, body in [
            ("message_list", {"echo": True, "include_claimed": True}),
            ("message_get", {"message_id": scene.message}),
            ("message_get_many", {"message_ids": [scene.message]}),
            ("message_delete", {"message_id": scene.message}),
            ("message_delete_many", {"message_ids": [scene.message]}),
            ("message_delete_many", {"pop": 10}),
            ("claim_get", {"claim_id": scene.claim}),
            ("claim_delete", {"claim_id": scene.claim}),
            ("claim_create", {}),
            ("queue_purge", {}),
        ]:
            status, text = ask(action, queue_name=QUEUE, **body)
            assert SECRET not in text, (action, status)
            assert scene.victim not in text
        assert (
            socket.call("check_node_health", {}, headers=spoofed | {"X-Project-ID": cloud.other}).status
            == 403
        )
    victim = {"X-Auth-Token": scene.victim}
    status, text = scene.http("GET", f"/v2/queues/{QUEUE}/messages?echo=true&include_claimed=true", victim)
    assert (status, text.count(SECRET)) == (200, 2), text


@pytest.fixture
def thief(scene: Scene) -> Iterator[WebSocket]:
    """A connection that the thief has authenticated, for its own project."""
    with WebSocket(scene.server.websocket_url, scene.cloud.other) as socket:
        headers = {**socket.headers, "X-Auth-Token": scene.thief}
        assert socket.call("authenticate", headers=headers).status == 200
        yield socket


def test_names_over_a_connection_reach_no_other_project(scene: Scene, thief: WebSocket):
    demo = scene.cloud.demo
    names: list[object] = [
        *("..", f"../{demo}/queues/{QUEUE}", f"../{QUEUE}", f"{QUEUE}/messages", f"{QUEUE}%2Fmessages"),
        *(f"%2e%2e/{QUEUE}", f"{QUEUE}%252Fmessages", f"{QUEUE}\0", f"{demo}/{QUEUE}", f"{demo}.{QUEUE}"),
        *(f"{QUEUE};project={demo}", QUEUE.upper(), f" {QUEUE}", f"{QUEUE}\r\nX-Project-ID: {demo}", "*"),
        *("", "a" * 8000, None, 7, [QUEUE], {"$ne": ""}, True),
    ]
    for name in names:
        for action in ("message_list", "queue_get", "claim_create"):
            reply = thief.call(action, {"queue_name": name, "echo": True})
            assert reply.status in (200, 201, 204, 400, 404), (action, name, reply)
            assert SECRET not in json.dumps(reply.body), (action, name)


def test_repeated_members_over_a_connection_give_no_access(scene: Scene, thief: WebSocket):
    client, mine, theirs = (
        f'"{name}":"{value}"'
        for name, value in [
            ("Client-ID", CLIENT),
            ("X-Project-ID", scene.cloud.other),
            ("X-Project-ID", scene.cloud.demo),
        ]
    )
    body = f'"body":{{"queue_name":"{QUEUE}","echo":true}}'
    action = '"action":"message_list"'
    for members in [
        f'{action},"headers":{{{client},{mine},{theirs}}},{body}',
        f'{action},"headers":{{{client},{theirs},{mine}}},{body}',
        f'{action},"headers":{{{client},{mine},{theirs.lower()}}},{body}',
        f'{action},"headers":{{{client},{theirs}}},"headers":{{{client},{mine}}},{body}',
        f'{action},"headers":{{{client},{mine}}},"headers":{{{client},{theirs}}},{body}',
        f'{action},"headers":{{{client},"X-Project-ID":["{scene.cloud.demo}"]}},{body}',
        f'{action},"headers":{{{client},{mine}}},{body},"body":{{"queue_name":"..","project":"x"}}',
        f'"action":"ping",{action},"headers":{{{client},{theirs}}},{body}',
    ]:
        reply = thief.exchange("{" + members + "}")
        assert reply.status in (200, 400, 403), (members, reply)
        assert SECRET not in json.dumps(reply.body), members


def test_a_handshake_gives_no_identity(scene: Scene):
    headers = dict.fromkeys(CLAIMS, scene.cloud.demo) | {"X-Roles": "admin", "X-Auth-Token": scene.victim}
    with connect(scene.server.websocket_url, additional_headers=headers, proxy=None) as connection:
        sent = {"Client-ID": CLIENT, "X-Project-ID": scene.cloud.demo}
        body = {"queue_name": QUEUE, "echo": True}
        connection.send(json.dumps({"action": "message_list", "headers": sent, "body": body}))
        answer = connection.recv(timeout=60)
        assert json.loads(answer)["headers"]["status"] == 403
        assert SECRET not in answer
        # A header past every bound ends the connection, or is refused.
        with contextlib.suppress(ConnectionClosed):
            connection.send(json.dumps({"action": "queue_list", "headers": sent | {"X": "t" * 2_000_000}}))
            assert json.loads(connection.recv(timeout=60))["headers"]["status"] in (400, 403)


def test_http_after_a_handshake_is_not_executed(scene: Scene):
    address = httpx.URL(scene.server.websocket_url)
    upgrade = "GET / HTTP/1.1\r\nHost: z\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    smuggled = f"GET /v2/queues/{QUEUE}/messages HTTP/1.1\r\nHost: z\r\nX-Auth-Token: {scene.victim}\r\n\r\n"
    with RawConnection((address.host, address.port), timeout=60) as connection:
        connection.send(upgrade + key, smuggled)
        assert connection.reader.readline().split()[1] == b"101"
        with contextlib.suppress(ConnectionResetError):
            assert SECRET.encode() not in connection.reader.read()


# --- What is written


#: Options of secrets, by what each is for.
NAMES = ("store", "memcached", "signing", "sealing", "smtp", "otlp", "hmac", "profiler")
#: What the trustee has of the service's options.
TRUSTEE = ("auth_url", "auth_type", "username", "user_domain_id")


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_no_secret_is_written_anywhere(cloud: Cloud, token: str, tmp_path, new_server, collector):
    """All output of a server with every secret option, at debug level, also for errors."""
    del new_server  # skips where a running server is tested
    secrets = {name: f"canary{n}{uuid.uuid4().hex}" for n, name in enumerate(NAMES)}
    store = Redis(tmp_path / "redis", "--save", "").start()
    store.cli("CONFIG", "SET", "requirepass", secrets["store"])
    away = f"127.0.0.1:{free_port()}"
    options = on_redis(f"redis://:{secrets['store']}@127.0.0.1:{store.port}")
    mine = cloud.options(
        memcached_servers=away,
        memcache_security_strategy="ENCRYPT",
        memcache_secret_key=secrets["memcached"],
    )
    mine["trustee"] = {name: mine["keystone_authtoken"][name] for name in TRUSTEE} | {"password": PASSWORD}
    mine["signed_url"] = {"secret_key": secrets["signing"]}
    mine["transport"] = {"message_encryption_key": f"one:{secrets['sealing']}"}
    mine["notification"] = {
        "smtp_mode": "self_local",
        "smtp_host": "127.0.0.1",
        "smtp_port": free_port(),
        "smtp_user_name": "mailer",
        "smtp_user_password": secrets["smtp"],
        "allow_networks": "127.0.0.0/8",
    }
    mine["traces"] = {"otlp_endpoint": collector.url, "otlp_headers": f"x-key={secrets['otlp']}"}
    mine["profiler"] = {
        "enabled": True,
        "hmac_keys": secrets["hmac"],
        "connection_string": f"redis://:{secrets['profiler']}@{away}",
    }
    for section, values in mine.items():
        options.setdefault(section, {}).update(values)
    server = Operated(tmp_path / "server", options=options, websocket=True)
    written: list[str] = []
    try:
        server.start()
        tokens = [token, cloud.token("ann"), f"nonsense{uuid.uuid4().hex}"]
        for one in tokens:
            written += use(server, cloud, one)
        written += fail(server, store, token)
        for path in ("/metrics", "/varz", "/report", "/report?format=json", "/ready", "/live"):
            written.append(server.ask(path).text)
        server.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "Recent Errors" in server.log.read_text(), "the report")
        wait_until(lambda: collector.named("post_messages"), "a span")
    finally:
        server.stop()
        store.kill()
    written += [
        path.read_text(errors="replace")
        for path in server.root.rglob("*")
        if path.is_file() and path.suffix != ".conf"
    ]
    written += [json.dumps(document) for document in collector.documents]
    text = "\n".join(written)
    assert "post_messages" in text, "the log is there"
    for name, secret in [*secrets.items(), ("password", PASSWORD), *((one[:9], one) for one in tokens)]:
        at = text.find(secret)
        assert at < 0, (name, text[max(0, at - 300) : at + 100])
