"""TLS on both wires: versions, renewed certificates, client certificates; sockets in the file system."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from conftest import EXTERNAL_URL
from support.certificates import certificate
from support.server import Sections, Server
from support.wait import wait_until

pytestmark = pytest.mark.skipif(EXTERNAL_URL is not None, reason="needs servers of its own")

WIRES = ("drivers:transport:wsgi", "drivers:transport:websocket")


def on_both(**options: object) -> Sections:
    return {wire: dict(options) for wire in WIRES}


def trusting(*files: Path, shows: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for file in files:
        context.load_verify_locations(file)
    if shows:
        context.load_cert_chain(*shows)
    return context


def https(server: Server) -> str:
    return f"https://localhost:{server.port}/"


def answers(server: Server, context: ssl.SSLContext) -> bool:
    try:
        return httpx.get(https(server), verify=context, timeout=10).status_code == 300
    except httpx.TransportError:
        return False


def begin(server: Server, context: ssl.SSLContext) -> Server:
    server.spawn()
    wait_until(lambda: answers(server, context), "the server answers within TLS")
    server.wait_for_websocket()
    return server


@pytest.fixture
def secured(tmp_path: Path, new_server: Callable[..., Server]) -> tuple[Server, Path]:
    """A server with TLS on both wires, and the certificate to trust."""
    _, trusted = certificate(tmp_path, "localhost")
    options = on_both(cert_file=trusted, key_file=trusted.with_suffix(".key"))
    return new_server(options=options, websocket=True), trusted


def test_both_wires_serve_tls(secured: tuple[Server, Path]):
    server, trusted = secured
    context = trusting(trusted)
    begin(server, context)
    for http2, version in [(True, "HTTP/2"), (False, "HTTP/1.1")]:
        with httpx.Client(verify=trusting(trusted), http2=http2) as client:
            answer = client.get(https(server))
            assert (answer.status_code, answer.http_version) == (300, version)
    url = f"wss://localhost:{server.websocket_port}/"
    with connect(url, ssl=context, proxy=None) as socket:
        socket.send('{"action": "ping_node", "headers": {}, "body": {}}')
        assert '"status": 204' in socket.recv(timeout=30).replace(":", ": ").replace("  ", " ")
    # Neither without TLS, nor with a certificate that nobody trusts.
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url + "/")
    assert not answers(server, ssl.create_default_context())


def test_a_certificate_is_used_once_it_is_renewed(secured: tuple[Server, Path], tmp_path: Path):
    server, trusted = secured
    old = shutil.copy(trusted, tmp_path / "old.pem")
    begin(server, trusting(trusted))
    key = trusted.with_suffix(".key")
    key.write_text("half a key")
    wait_until(lambda: "the old certificate stays in use" in server.log.read_text(), "it says so")
    assert answers(server, trusting(old))
    certificate(tmp_path, "localhost")
    wait_until(lambda: answers(server, trusting(trusted)), "the new certificate is used")
    assert not answers(server, trusting(old))


def test_clients_need_certificates_when_authorities_are_configured(
    tmp_path: Path, new_server: Callable[..., Server]
):
    _, trusted = certificate(tmp_path, "localhost")
    _, known = certificate(tmp_path, "client.example.org")
    _, unknown = certificate(tmp_path, "stranger.example.org")
    options = on_both(cert_file=trusted, key_file=trusted.with_suffix(".key"), ca_file=known)
    server = new_server(options=options, websocket=True)
    begin(server, trusting(trusted, shows=(known, known.with_suffix(".key"))))
    assert not answers(server, trusting(trusted))
    assert not answers(server, trusting(trusted, shows=(unknown, unknown.with_suffix(".key"))))


def test_http_is_served_on_a_unix_socket(tmp_path: Path, new_server: Callable[..., Server]):
    path = tmp_path / "zaqar.sock"
    server = new_server(options={WIRES[0]: {"unix_socket": path}})

    def status() -> int:
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
                return client.get("http://zaqar/").status_code
        except httpx.TransportError:
            return 0

    for _ in range(2):
        server.spawn()
        wait_until(lambda: status() == 300, "the socket answers")
        # What it leaves behind does not keep the next one from starting.
        server.kill()
    server.spawn()
    wait_until(lambda: status() == 300, "the socket answers")
    assert server.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cert_file": "none.pem"}, "[drivers:transport:wsgi] key_file"),
        ({"key_file": "none.pem"}, "[drivers:transport:wsgi] cert_file"),
        ({"ca_file": "none.pem"}, "[drivers:transport:wsgi] cert_file"),
        ({"cert_file": "none.pem", "key_file": "none.key"}, "none.pem cannot be used as a certificate"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    options: dict[str, str], told: str, new_server: Callable[..., Server]
):
    code, said = new_server(options={WIRES[0]: options}).run_to_exit()
    assert code != 0
    assert told in said
