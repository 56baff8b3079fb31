"""Tokens of a real Keystone on both wires: good, expired, revoked, of other scopes; and a Keystone away."""

from __future__ import annotations

import contextlib
import inspect
import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import openstack as sdk
import pytest
from keystoneauth1 import access
from openstackclient import shell
from openstackclient.common.clientmanager import ClientManager
from zaqarclient import transport
from zaqarclient.queues import cli
from zaqarclient.queues import client as zaqarclient
from zaqarclient.transport.request import Request

from support.certificates import certificate
from support.identity import PASSWORD, REGION, Cloud, Keystone
from support.memcached import Memcached, middleware_cache
from support.server import Server, ServerFailed, free_port
from support.wait import wait_until
from support.websocket import WebSocket

# The first test of a run waits for Keystone to start: some 15 s, minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

#: The answer of the original's middleware to an unauthenticated request.
UNAUTHORIZED = {
    "error": {
        "code": 401,
        "title": "Unauthorized",
        "message": "The request you have made requires authentication.",
    }
}
CHALLENGE = 'Keystone uri="http://keystone.example.com/"'
QUEUES = "/v2/queues"
EXPIRED = "Authentication expired."


@pytest.fixture(scope="module")
def short(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keystone]:
    """The same Keystone, whose tokens live for 15 s."""
    other = Keystone(tmp_path_factory.mktemp("short"), data=cloud.data, expiration=15)
    try:
        yield other.start()
    finally:
        other.kill()


@pytest.fixture(scope="module")
def server(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = cloud.options() | {"signed_url": {"secret_key": "a signing key"}}
    made = Server(
        tmp_path_factory.mktemp("server"), options=options, port=cloud.messaging_port, websocket=True
    )
    made.start()
    yield made
    assert made.stop() == 0, made.log_tail()


@pytest.fixture
def queue() -> str:
    return f"q-{uuid.uuid4()}"


def ask(
    server: Server, method: str, path: str, token: str | None = None, document: object = None, **headers: str
) -> httpx.Response:
    sent = {"Client-ID": str(uuid.uuid4())}
    if token is not None:
        sent["X-Auth-Token"] = token
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, server.url + path, headers=sent, json=document, timeout=60)


def status(server: Server, token: str | None, method: str = "GET", path: str = QUEUES, **headers: str) -> int:
    return ask(server, method, path, token, **headers).status_code


def listed(server: Server, token: str) -> list[str]:
    answer = ask(server, "GET", QUEUES + "?limit=20", token)
    assert answer.status_code == 200, answer.text
    return [queue["name"] for queue in answer.json()["queues"]]


def authenticate(socket: WebSocket, token: str, project: str, **headers: str) -> int:
    sent = {**socket.headers, "X-Project-ID": project, "X-Auth-Token": token, **headers}
    return socket.call("authenticate", headers=sent).status


# --- Tokens


def test_a_token_gives_access_to_its_own_project_only(server, cloud, token, queue):
    assert status(server, token, "PUT", f"{QUEUES}/{queue}", X_Project_Id=cloud.other) == 201
    assert queue in listed(server, token)
    assert queue not in listed(server, cloud.token("ann", cloud.other))
    # An older header may bring it.
    assert status(server, None, X_Storage_Token=token) == 200


def test_identity_headers_of_clients_are_ignored(server, cloud, token):
    claims = {
        "X_Roles": "admin",
        "X_Role": "admin",
        "X_Is_Admin_Project": "True",
        "X_Identity_Status": "Confirmed",
        "X_Service_Roles": "service",
        "X_User_Id": "somebody",
        "OpenStack_System_Scope": "all",
    }
    assert status(server, token, path="/v2/health", **claims) == 403
    assert status(server, cloud.token("root", cloud.demo), path="/v2/health") == 200
    claims |= {"X_Project_Id": cloud.demo, "X_Tenant_Id": cloud.demo, "X_Tenant": cloud.demo}
    assert status(server, None, **claims) == 401
    for name in ("EXTRA_SPEC", "URL_Signature"):
        for value in ("", "x"):
            assert status(server, None, **claims, **{name: value}) in (401, 404), (name, value)


@pytest.mark.parametrize("path", ["/v2/", "/v2/ping", "/v2/health", QUEUES, "/v2/nowhere", "/nowhere"])
def test_unauthenticated_requests_are_401_before_any_other_check(server, path):
    for method in ("GET", "HEAD", "OPTIONS", "PUT"):
        answer = ask(server, method, path, None)
        assert answer.status_code == 401, (method, answer.text)
        assert answer.headers["www-authenticate"] == CHALLENGE
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-openstack-request-id"].startswith("req-")
        if method != "HEAD":
            assert answer.json() == UNAUTHORIZED
    for sent in ("", "garbage", "a" * 5000):
        answer = ask(server, "GET", path, sent)
        assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED), sent
    # Neither Client-ID nor body is looked at before.
    assert httpx.put(server.url + path, timeout=60).status_code == 401


def test_the_version_list_needs_no_token(server):
    assert httpx.get(server.url + "/").status_code == 300
    assert httpx.get(server.url).status_code == 300


def test_a_revoked_token_is_401(server, cloud):
    never_used = cloud.token("ann", cloud.demo)
    cloud.revoke(never_used)
    assert status(server, never_used) == 401


def test_tokens_without_a_project_are_rejected(server, cloud):
    unscoped = cloud.token("ann")
    system = cloud.token("root", {"system": {"all": True}})
    for sent in (unscoped, system):
        answer = ask(server, "GET", QUEUES, sent, X_Project_Id=cloud.demo)
        assert (answer.status_code, answer.json()["title"]) == (400, "Project-Id Missing")
    with WebSocket(server.websocket_url, cloud.demo) as socket:
        assert authenticate(socket, unscoped, cloud.demo) == 403
        assert socket.call("queue_list", {}).status == 403


def test_an_expired_token_is_401_unless_a_service_sends_it(server, cloud, short):
    # Made first: it has expired when the other has.
    unused = short.token("ann", cloud.demo)
    token = short.token("ann", cloud.demo)
    assert status(server, token) == 200
    service = cloud.token("nova", cloud.service_project)
    wait_until(lambda: status(server, token) == 401, "the token expires")
    assert status(server, unused) == 401
    assert status(server, unused, X_Service_Token=service) == 200
    # What the service brought is not remembered as if the user could still bring it.
    assert status(server, unused) == 401


def test_service_tokens(server, cloud, token):
    service = cloud.token("nova", cloud.service_project)
    assert status(server, token, X_Service_Token=service) == 200
    for bad in ("garbage", token):
        answer = ask(server, "GET", QUEUES, token, X_Service_Token=bad)
        assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED), bad
    assert status(server, None, X_Service_Token=service) == 401


def test_access_rules_of_application_credentials_apply(server, cloud, token, queue):
    free = cloud.application_credential(token, cloud.users["ann"])
    assert status(server, cloud.credential_token(free), "PUT", f"{QUEUES}/{queue}") == 201
    rules = [
        {"service": "messaging", "method": "GET", "path": "/v2/queues/*/messages"},
        {"service": "compute", "method": "PUT", "path": "/v2/queues/*"},
    ]
    limited = cloud.credential_token(cloud.application_credential(token, cloud.users["ann"], rules))
    assert status(server, limited, path=f"{QUEUES}/{queue}/messages") == 200
    for method, path in [
        ("GET", QUEUES),
        ("GET", f"{QUEUES}/{queue}"),
        ("PUT", f"{QUEUES}/{queue}"),
        ("POST", f"{QUEUES}/{queue}/messages"),
        ("GET", f"{QUEUES}/{queue}%2Fclaims/messages"),
        ("GET", f"{QUEUES}/a/../{queue}/claims/messages"),
    ]:
        answer = ask(server, method, path, limited)
        assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED), path
    # Over WebSocket request by request.
    with WebSocket(server.websocket_url, cloud.demo) as socket:
        assert authenticate(socket, limited, cloud.demo) == 200
        assert socket.call("message_list", {"queue_name": queue}).status == 200
        assert socket.call("queue_get", {"queue_name": queue}).status == 403
        assert socket.call("queue_create", {"queue_name": queue}).status == 403


def test_refused_application_credentials_do_not_fill_the_log(server, cloud, token):
    rules = [{"service": "messaging", "method": "GET", "path": "/v2/queues"}]
    limited = cloud.credential_token(cloud.application_credential(token, cloud.users["ann"], rules))
    before, began, requests = len(server.log_tail(10**8)), time.monotonic(), 0

    def lines() -> list[str]:
        nonlocal requests
        for _ in range(20):
            assert status(server, limited, path=f"{QUEUES}/{'é' * 5000}") == 401
        requests += 20
        logged = server.log_tail(10**8)[before:].splitlines()
        return [line for line in logged if "application credential refused" in line]

    wait_until(lines, "a refusal is logged")
    found = lines()
    # One every 5 s, with the number of requests.
    assert len(found) <= min(requests - 1, 2 + (time.monotonic() - began) / 5)
    assert max(map(len, found)) < 1000


def test_a_signed_url_allows_only_what_it_signs(server, cloud, token, queue):
    shared = ask(
        server, "POST", f"{QUEUES}/{queue}/share", token, {"paths": ["messages"], "methods": ["GET"]}
    )
    assert shared.status_code == 200, shared.text
    signed = shared.json()
    headers = {
        "URL_Signature": signed["signature"],
        "URL_Expires": signed["expires"],
        "URL_Methods": ",".join(signed["methods"]),
        "URL_Paths": ",".join(signed["paths"]),
        "X_Project_Id": signed["project"],
    }
    messages = f"{QUEUES}/{queue}/messages"
    assert status(server, None, path=messages, **headers) == 200
    for method, path in [
        ("POST", messages),
        ("OPTIONS", messages),
        ("GET", f"{QUEUES}/{queue}"),
        ("GET", QUEUES),
        ("GET", "/v2/ping"),
        ("GET", "/v2/health"),
    ]:
        assert status(server, None, method, path, **headers, X_Roles="admin") == 404, (method, path)
    for name, value in [
        ("URL_Signature", ""),
        ("URL_Signature", "0" * 64),
        ("URL_Expires", "2099-01-01T00:00:00"),
        ("URL_Methods", "GET,POST"),
        ("URL_Paths", QUEUES),
        ("X_Project_Id", cloud.other),
    ]:
        assert status(server, None, path=messages, **(headers | {name: value})) == 404, (name, value)


# --- WebSocket


def test_a_connection_is_for_the_project_of_its_token(server, cloud, token, queue):
    other = cloud.token("ann", cloud.other)
    with WebSocket(server.websocket_url, cloud.demo) as socket:
        assert socket.call("queue_list", {}).status == 403
        assert authenticate(socket, "garbage", cloud.demo) == 401
        assert authenticate(socket, token, cloud.demo) == 200
        assert socket.call("queue_create", {"queue_name": queue}).status == 201
        socket.headers["X-Project-ID"] = cloud.other
        reply = socket.call("queue_list", {})
        assert (reply.status, reply.body) == (403, {"error": "Not authenticated."})
        # Somebody else takes the connection over.
        assert authenticate(socket, other, cloud.other) == 200
        assert socket.call("queue_list", {}).status == 200
        socket.headers["X-Project-ID"] = cloud.demo
        assert socket.call("queue_list", {}).status == 403
    assert queue in listed(server, token)
    with WebSocket(server.websocket_url, cloud.demo) as socket:
        assert authenticate(socket, token, cloud.demo, **{"X-Service-Token": "garbage"}) == 401


def test_a_connection_is_closed_when_its_token_expires_unless_it_gets_another(server, cloud, short, token):
    with (
        WebSocket(server.websocket_url, cloud.demo) as ends,
        WebSocket(server.websocket_url, cloud.demo) as goes_on,
    ):
        assert authenticate(ends, short.token("ann", cloud.demo), cloud.demo) == 200
        assert authenticate(goes_on, short.token("ann", cloud.demo), cloud.demo) == 200
        assert authenticate(goes_on, token, cloud.demo) == 200
        assert ends.closed() == (4003, EXPIRED)
        assert goes_on.call("queue_list", {}).status == 200


# --- Policies


def test_policies_apply_to_both_wires_and_reload(cloud, token, queue, new_server: Callable[..., Server]):
    server = new_server(options=cloud.options(), websocket=True)
    policies = server.root / "policy.yaml"
    policies.write_text('"queues:create": "role:nobody"\n"queues:get_all": "project_id:%(project_id)s"\n')
    server.start()
    with WebSocket(server.websocket_url, cloud.demo) as socket:
        assert authenticate(socket, token, cloud.demo) == 200

        def created() -> tuple[int, int]:
            over_http = status(server, token, "PUT", f"{QUEUES}/{queue}")
            return over_http, socket.call("queue_create", {"queue_name": queue}).status

        assert created() == (403, 403)
        assert status(server, token) == 200
        policies.write_text('"queues:create": [broken\n')
        wait_until(lambda: "policies cannot be read" in server.log.read_text(), "the file is looked at")
        assert created() == (403, 403)
        policies.write_text('"queues:create": "role:member"\n')
        wait_until(lambda: created()[0] in (201, 204), "the file is read again")
        assert created() == (204, 204)


# --- A Keystone that is away


def test_a_keystone_that_is_paused_or_dead_delays_no_cached_token(
    cloud: Cloud, token: str, new_server: Callable[..., Server], tmp_path: Path
):
    # One of its own, on the same data: the others go on.
    own = Keystone(tmp_path, data=cloud.data)
    own.start()
    try:
        server = new_server(options=cloud.options(auth_url=own.url, timeout=3, http_request_max_retries=0))
        server.start()
        # The catalog names the other Keystone; the one that validates is to be this one.
        cloud.request("PATCH", f"/endpoints/{identity_endpoint(cloud)}", {"endpoint": {"url": own.url}})
        # On a busy machine it may take longer than its time limit at first.
        wait_until(lambda: status(server, token) == 200, "Keystone knows the token")
        unknown = cloud.token("ann", cloud.other)
        own.pause()
        answers: list[httpx.Response] = []
        waiting = [
            threading.Thread(target=lambda: answers.append(ask(server, "GET", QUEUES, unknown)))
            for _ in range(4)
        ]
        for thread in waiting:
            thread.start()
        # Who is known goes on while they wait; without a token there is nothing to ask.
        while any(thread.is_alive() for thread in waiting):
            assert status(server, token) == 200
            assert status(server, None) == 401
        assert {answer.status_code for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        own.resume()
        wait_until(lambda: status(server, unknown) == 200, "Keystone answers again")
        own.kill()
        assert status(server, token) == 200
        assert status(server, cloud.token("ann", cloud.demo)) == 503
        assert status(server, "garbage") == 503
        own.start()
        wait_until(lambda: status(server, "garbage") == 401, "Keystone is back")
        assert PASSWORD not in server.log.read_text()
    finally:
        own.resume()
        own.kill()
        cloud.request("PATCH", f"/endpoints/{identity_endpoint(cloud)}", {"endpoint": {"url": cloud.url}})


def identity_endpoint(cloud: Cloud) -> str:
    services = cloud.request("GET", "/services?type=identity")["services"]
    found = cloud.request("GET", f"/endpoints?service_id={services[0]['id']}&interface=internal")
    return found["endpoints"][0]["id"]


def test_a_revocation_is_seen_when_the_cached_validation_ends(cloud, new_server: Callable[..., Server]):
    server = new_server(options=cloud.options(token_cache_time=3)).start()
    token = cloud.token("ann", cloud.demo)
    assert status(server, token) == 200
    cloud.revoke(token)
    wait_until(lambda: status(server, token) == 401, "the validation ends")


# --- memcached


@pytest.fixture(scope="module")
def memcacheds() -> Iterator[list[Memcached]]:
    """Two of them: which one has a token is decided as python-memcached does."""
    made = [Memcached().start() for _ in range(2)]
    yield made
    for one in made:
        one.kill()


@pytest.mark.parametrize("strategy", [None, "MAC", "ENCRYPT"])
def test_tokens_are_shared_with_services_in_python(
    cloud, token, new_server: Callable[..., Server], memcacheds: list[Memcached], strategy
):
    addresses = ",".join(one.address for one in memcacheds)
    secret = f"a secret of memcached's, {strategy}"
    shared = {"memcached_servers": addresses, "memcache_secret_key": secret}
    if strategy is not None:
        shared["memcache_security_strategy"] = strategy
    server = new_server(options=cloud.options(**shared)).start()
    cache = middleware_cache(memcacheds, strategy, secret)
    assert status(server, token) == 200
    wait_until(lambda: cache.get(token) is not None, "the token is shared")
    document = cache.get(token)
    assert access.create(body=document, auth_token=token).project_id == cloud.demo

    # Keystone knows none of these.
    made_up = [f"made-up-{strategy}-{n}" for n in range(8)]
    for one in made_up:
        cache.set(one, document)
    assert [status(server, one) for one in made_up] == [200] * 8
    cache.set("garbage", {"token": {"user": "nobody"}})
    assert status(server, "garbage") == 401
    if strategy is not None:
        other = middleware_cache(memcacheds, strategy, "another secret")
        other.set("forged", document)
        assert status(server, "forged") == 401
    assert secret not in server.log.read_text()


def test_a_memcached_that_is_away_is_logged_once(cloud, new_server: Callable[..., Server]):
    memcached = Memcached().start()
    options = cloud.options(memcached_servers=memcached.address, memcache_pool_dead_retry=0)
    server = new_server(options=options).start()
    tokens = [cloud.token("ann", cloud.demo) for _ in range(3)]
    cache = middleware_cache([memcached], None, "")
    assert status(server, tokens[0]) == 200
    wait_until(lambda: cache.get(tokens[0]) is not None, "the token is shared")
    memcached.kill()
    assert [status(server, one) for one in tokens] == [200] * 3
    assert status(server, "garbage") == 401
    told = "memcached does not answer: tokens are validated with Keystone"
    assert server.log.read_text().count(told) == 1
    memcached.start()
    assert status(server, "garbage") == 401
    wait_until(lambda: "memcached answers again" in server.log.read_text(), "it is told")


# --- TLS


@contextlib.contextmanager
def over_tls(cloud: Cloud, context: ssl.SSLContext) -> Iterator[str]:
    """The URL of a server on `localhost` that passes requests on to a Keystone."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url = f"http://127.0.0.1:{cloud.port}{self.path}"
            answer = httpx.request(self.command, url, headers=dict(self.headers), content=body, timeout=120)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", free_port()), Handler) as proxy:
        proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://localhost:{proxy.server_port}/v3"
        finally:
            proxy.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        ("localhost.pem", None, 200),
        (None, "localhost.pem", 200),
        ("localhost.pem", "other.pem", 200),
        (None, None, 503),
    ],
)
def test_authorities_are_those_of_cafile_else_of_requests_ca_bundle(
    cloud, token, tmp_path, new_server: Callable[..., Server], option, variable, expected
):
    context, _ = certificate(tmp_path, "localhost")
    certificate(tmp_path, "other")
    more = {"cafile": tmp_path / option} if option else {}
    environment = {"REQUESTS_CA_BUNDLE": str(tmp_path / variable) if variable else ""}
    with over_tls(cloud, context) as url:
        options = cloud.options(auth_url=url, **more)
        server = new_server(options=options, environment=environment).start()
        assert status(server, token) == expected


def test_a_bundle_that_cannot_be_used_is_named(cloud, tmp_path, new_server: Callable[..., Server]):
    missing = tmp_path / "missing.pem"
    server = new_server(options=cloud.options(), environment={"REQUESTS_CA_BUNDLE": str(missing)})
    with pytest.raises(ServerFailed, match=f"REQUESTS_CA_BUNDLE: {missing}: "):
        server.start()


# --- Clients


def test_python_zaqarclient(server, cloud, queue):
    options = {
        "os_auth_url": cloud.url,
        "os_username": "ann",
        "os_password": PASSWORD,
        "os_project_name": "demo",
        "os_user_domain_id": "default",
        "os_project_domain_id": "default",
        "insecure": True,
        "region_name": REGION,
    }
    client = zaqarclient.Client(
        server.url, version=2, conf={"auth_opts": {"backend": "keystone", "options": options}}
    )
    client.queue(queue, force_create=True).post({"body": 7, "ttl": 300})
    assert [message.body for message in client.queue(queue).messages(echo=True)] == [7]


def test_python_zaqarclient_over_websocket(server, cloud, token, queue):
    options = {"os_auth_token": token, "os_project_id": cloud.demo}
    conf = {"auth_opts": {"backend": "keystone", "options": options}}
    url = server.websocket_url
    with transport.get_transport_for(url, options=conf) as made:
        body = json.dumps({"queue_name": queue})
        created = made.send(Request(url, "queue_create", content=body))
        assert created.status_code == 201


def test_openstacksdk(server, cloud, queue):
    connection = sdk.connection.Connection(
        region_name=REGION,
        auth={
            "auth_url": cloud.url,
            "username": "ann",
            "password": PASSWORD,
            "project_name": "demo",
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
    )
    connection.message.create_queue(name=queue)
    connection.message.post_message(queue, [{"body": 1, "ttl": 300}])
    assert [message.body for message in connection.message.messages(queue)] == [1]
    connection.close()


def test_openstack_messaging(server, cloud, queue, capsys):
    login = [
        *("--os-auth-url", cloud.url, "--os-username", "ann", "--os-password", PASSWORD),
        *("--os-project-name", "demo", "--os-user-domain-id", "default", "--os-project-domain-id", "default"),
        *("--os-region-name", REGION, "messaging"),
    ]
    try:
        for words in (["queue", "create", queue], ["ping", "-f", "json"]):
            assert shell.OpenStackShell().run([*login, *words]) == 0, capsys.readouterr()
        assert '"Pingable": true' in capsys.readouterr().out
    finally:
        # A process of the command line has one login: it keeps the endpoint and the client of the
        # first.
        cli._MESSAGING_ENDPOINT = None
        inspect.getattr_static(ClientManager, "messaging")._handle = None
    assert queue in listed(server, cloud.token("ann", cloud.demo))


# --- Secrets


def test_no_secret_is_in_the_log(server, cloud, token):
    service = cloud.token("nova", cloud.service_project)
    garbage = "a-token-that-is-none-" + uuid.uuid4().hex
    status(server, token, X_Service_Token=service)
    status(server, garbage, X_Service_Token=service)
    status(server, None, URL_Signature="a-signature-" + garbage, X_Auth_Token=garbage)
    status(server, token, path=f"/v2/queues/{'q' * 70}")
    with WebSocket(server.websocket_url, cloud.demo) as socket:
        authenticate(socket, garbage, cloud.demo)
        reply = socket.call("queue_list", {}, headers={**socket.headers, "X-Auth-Token": token})
        assert token not in json.dumps(reply.request)
    time.sleep(0.1)
    written = server.log.read_text(errors="replace")
    assert "request" in written, "the log is on"
    for secret in (token, service, garbage, PASSWORD, "a signing key"):
        assert secret not in written, secret[:12]
