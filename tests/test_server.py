"""The process: starts, refused starts and their reasons, stops, restarts."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from support.api import Api
from support.history import check
from support.http2 import END_HEADERS, END_STREAM, HEADERS, Connection, block, frame
from support.load import Load
from support.rawhttp import RawConnection, exchange, head
from support.server import Sections, Server
from support.unread import open_websocket, send, text_frame
from support.wait import wait_until

NewServer = Callable[..., Server]


def refused(server: Server, *words: str) -> None:
    """The process does not start, and says why in words, not in a panic."""
    code, said = server.run_to_exit()
    assert code > 0, said
    assert "panicked" not in said
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not in: {said}"


def test_a_restart_keeps_the_data(new_server: NewServer):
    server = new_server().start()
    with Api(server.url) as api:
        api.call("PUT", "/v2/queues/kept", json={"colour": "red"})
        ids = api.post("kept", *range(25))
        claim, _ = api.claim("kept", limit=2)
        api.call("DELETE", f"/v2/queues/kept/messages/{ids[24]}")
        assert server.stop() == 0
        server.start()
        assert api.call("GET", "/v2/queues/kept").json()["colour"] == "red"
        assert api.bodies("kept") == list(range(24))
        held = api.call("GET", f"/v2/queues/kept/claims/{claim}").json()["messages"]
        assert [message["body"] for message in held] == [0, 1]
        # The next message comes after all that ever were.
        api.post("kept", "new")
        assert api.bodies("kept")[-1] == "new"


def test_a_second_process_on_the_same_directory_is_refused(new_server: NewServer):
    first = new_server().start()
    second = new_server(options={"drivers:message_store:embedded": {"path": first.data}})
    refused(second, str(first.data))
    assert exchange(first.address, head("GET", "/")).status == 300


def test_the_directory_is_free_again_after_a_kill(new_server: NewServer):
    server = new_server().start()
    server.kill()
    server.start()
    assert exchange(server.address, head("GET", "/")).status == 300


def test_a_port_in_use_is_refused(new_server: NewServer):
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        refused(new_server(port=port), str(port))


WRONG_VALUES: dict[str, tuple[str, str, object]] = {
    "a port of letters": ("drivers:transport:wsgi", "port", "eighty"),
    "a port too large": ("drivers:transport:wsgi", "port", 65536),
    "an address that is none": ("drivers:transport:wsgi", "bind", "not an address"),
    "a limit of letters": ("transport", "max_messages_per_page", "many"),
    "a switch that is neither": ("DEFAULT", "admin_mode", "perhaps"),
    "an unknown choice": ("transport", "client_id_uuid_safe", "sometimes"),
    "an unknown way to sync": ("drivers:message_store:embedded", "sync", "sometimes"),
    "an unknown store": ("drivers", "message_store", "nonesuch"),
    "an unknown transport": ("drivers", "transport", "pigeon"),
}


@pytest.mark.parametrize(("section", "option", "value"), WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_a_wrong_value_names_its_place(new_server: NewServer, section: str, option: str, value: object):
    server = new_server(options={section: {option: value}})
    refused(server, str(server.config), section, option, str(value))


@pytest.mark.parametrize("store", ["swift", "sqlalchemy"])
def test_a_store_that_is_not_offered_names_what_to_use(new_server: NewServer, store: str):
    refused(new_server(options={"drivers": {"message_store": store}}), store, "embedded")


def test_a_missing_configuration_file_is_named(new_server: NewServer, tmp_path: Path):
    server = new_server()
    server.config = tmp_path / "nonesuch" / "zaqar.conf"
    server.write_config = lambda: None  # type: ignore[method-assign]
    refused(server, str(server.config))


def test_a_broken_configuration_file_names_the_line(new_server: NewServer):
    server = new_server()

    def write() -> None:
        server.config.write_text("[DEFAULT]\nadmin_mode = True\nwhat is this\n")

    server.write_config = write  # type: ignore[method-assign]
    refused(server, str(server.config), "3")


def test_a_store_section_without_a_driver_is_refused(new_server: NewServer):
    """Such a file was written for that store; coming up on another, empty one would hide its messages."""
    server = new_server(options={"drivers:message_store:mongodb": {"uri": "mongodb://127.0.0.1"}})
    del server.sections["drivers"]
    refused(server, "[drivers:message_store:mongodb]", "[drivers]", "message_store = ", "management_store = ")


def test_an_unknown_option_is_a_warning(new_server: NewServer):
    server = new_server(options={"DEFAULT": {"no_such_option": "x"}}).start()
    assert exchange(server.address, head("GET", "/")).status == 300
    assert "no_such_option" in server.log_tail()


def test_options_of_the_original_are_accepted(new_server: NewServer):
    options: Sections = {
        "DEFAULT": {"unreliable": True, "auth_strategy": "", "debug": False},
        "cache": {"enabled": True},
        "transport": {"max_messages_per_page": 5, "default_message_ttl": 600},
    }
    server = new_server(options=options).start()
    with Api(server.url) as api:
        assert api.call("GET", "/v2/queues/q/messages?limit=6").status_code == 400
        assert api.call("GET", "/v2/queues/q").json()["_default_message_ttl"] == 600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_answers_requests_in_progress(new_server: NewServer, number: signal.Signals):
    server = new_server().start()
    assert server.process is not None
    body = b'{"messages": [{"ttl": 300, "body": "last"}]}'
    fields = {"Content-Length": str(len(body)), "Expect": "100-continue"}
    with Api(server.url, "stopping") as api:
        api.call("PUT", "/v2/queues/open")
    waiting = [RawConnection(server.address) for _ in range(30)]
    for connection in waiting:
        connection.send(head("POST", "/v2/queues/open/messages", fields, project="stopping"))
        # The server asks for the body: it has accepted the request.
        assert connection.answer("POST").status == 100

    server.process.send_signal(number)
    time.sleep(0.5)
    for connection in waiting:
        connection.send(body)
    assert [connection.answer("POST").status for connection in waiting] == [201] * 30
    assert server.process.wait(30) == 0

    server.start()
    with Api(server.url, "stopping") as api:
        assert api.bodies("open") == ["last"] * 30


def test_a_stop_accepts_no_new_connection(new_server: NewServer):
    server = new_server().start()
    assert server.process is not None
    with RawConnection(server.address) as waiting:
        fields = {"Content-Length": "5", "Expect": "100-continue"}
        waiting.send(head("POST", "/v2/queues/q/messages", fields))
        assert waiting.answer("POST").status == 100
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(OSError, match=r"refused|reset"):
            exchange(server.address, head("GET", "/"))
        waiting.send(b"wrong")
        assert waiting.answer("POST").status == 400
    assert server.process.wait(30) == 0


def test_idle_connections_do_not_delay_a_stop(new_server: NewServer):
    server = new_server().start()
    idle = [RawConnection(server.address) for _ in range(20)]
    for connection in idle:
        connection.send(head("GET", "/"))
        assert connection.answer().status == 300
    assert server.stop(timeout=10) == 0
    assert all(connection.closed_by_server() for connection in idle)


def test_an_unfinished_request_delays_a_stop_for_a_bounded_time(held_up_stop):
    stopped = held_up_stop.wait()
    assert stopped.code == 0
    assert stopped.seconds < 40


#: Seconds that a stop may take in the test below.
STOP = 6


def test_clients_that_read_nothing_do_not_delay_a_stop(new_server: NewServer):
    """Lists of 5 MB that nobody reads, over HTTP/1.1, HTTP/2 and WebSocket, when the server stops."""
    options: Sections = {"DEFAULT": {"graceful_shutdown_timeout": STOP}}
    server = new_server(options=options, websocket=True, sync="never").start()
    assert server.process is not None
    with Api(server.url, "stopping") as api:
        for _ in range(20):
            api.post("q", "x" * 255_000)
    path = "/v2/queues/q/messages?limit=20&echo=true"
    fields = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "stopping"}
    http1 = send(server.address, head("GET", path, project="stopping"))
    assert http1.recv(12) == b"HTTP/1.1 200"
    http2 = Connection(server.address, window=0)
    http2.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block("GET", path, fields)))
    wait_until(lambda: http2.read(0.1) or http2.statuses.get(1) == 200, "the list begins")
    websocket = open_websocket(server.websocket_port)
    body = {"queue_name": "q", "limit": 20, "echo": True}
    request = {"action": "message_list", "headers": fields, "body": body}
    websocket.sendall(2 * text_frame(json.dumps(request).encode()))
    assert websocket.recv(1) == b"\x81"
    start = time.monotonic()
    assert server.stop(timeout=60) == 0, server.log_tail()
    took = time.monotonic() - start
    # Unbounded they wait for a minute.
    assert took < STOP + 12
    for connection in (http1, http2, websocket):
        connection.close()


def test_a_stop_under_load_loses_nothing(new_server: NewServer, seed: int):
    load = Load(random=random.Random(seed))
    server = new_server(options={"transport": {"max_messages_per_page": 200}}).start()
    codes = []

    async def stop() -> None:
        await asyncio.sleep(1)
        codes.append(await asyncio.to_thread(server.stop))

    asyncio.run(load.run(server.address, stop))
    assert codes == [0]
    assert load.acknowledged("post") > 0
    assert load.server_errors() == {}

    server.start()
    load.list_all(server.url)
    assert check(load.history) == []


def test_many_connections_are_served_at_once(new_server: NewServer):
    server = new_server().start()
    statuses: list[int] = []

    def ask() -> None:
        with Api(server.url, "crowd") as api:
            for _ in range(5):
                statuses.append(api.call("GET", "/v2/queues").status_code)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 250
