"""Exit codes, messages, flags of old start scripts, the log and its file, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.rawhttp import RawConnection, exchange, head
from support.server import Sections, Server, free_port, server_binary
from support.wait import wait_until

NewServer = Callable[..., Server]

#: Exit codes.
FAILED, USAGE = 1, 2

#: Values that the table of options lets pass, and a driver or the wiring does not.
JUDGED_LATER: dict[str, tuple[Sections, str]] = {
    "a Keystone without an address": (
        {"DEFAULT": {"auth_strategy": "keystone"}},
        "[keystone_authtoken] auth_url must be set",
    ),
    "an address that is no Redis": (
        {
            "drivers": {"message_store": "redis"},
            "drivers:message_store:redis": {"uri": "http://secret"},
        },
        "[drivers:message_store:redis] uri",
    ),
    "an address that is no MongoDB": (
        {
            "drivers": {"message_store": "mongodb"},
            "drivers:message_store:mongodb": {"uri": "http://secret"},
        },
        "[drivers:message_store:mongodb] uri",
    ),
    "a MongoDB without an address": (
        {"drivers": {"message_store": "mongodb"}},
        "[drivers:message_store:mongodb] uri must be set",
    ),
    "frames shorter than posts": (
        {
            "drivers": {"transport": "websocket"},
            "drivers:transport:websocket": {"port": 0, "max_message_size": 7},
        },
        "[drivers:transport:websocket] max_message_size",
    ),
    "gone before asked": (
        {
            "drivers": {"transport": "websocket"},
            "drivers:transport:websocket": {"port": 0, "ping_interval": 300},
        },
        "[drivers:transport:websocket] ping_interval",
    ),
}


@pytest.mark.parametrize(("options", "words"), JUDGED_LATER.values(), ids=JUDGED_LATER.keys())
def test_a_value_that_only_a_driver_can_judge_names_its_place(
    new_server: NewServer, options: Sections, words: str
):
    server = new_server(options=options)
    code, said = server.run_to_exit()
    assert code == USAGE, said
    assert f"{server.config}:" in said
    assert words in said
    assert "secret" not in said


def test_missing_files_and_directories_are_no_configuration_errors(new_server: NewServer, tmp_path: Path):
    (tmp_path / "file").write_text("")
    server = new_server(options={"drivers:message_store:embedded": {"path": tmp_path / "file"}})
    code, said = server.run_to_exit()
    assert code == FAILED, said
    assert f"[drivers:message_store:embedded] {tmp_path}/file is not a directory" in said

    server = new_server(options={"DEFAULT": {"log_file": tmp_path / "none" / "log"}})
    code, said = server.run_to_exit()
    assert code == FAILED, said
    assert f"[DEFAULT] log_file: cannot open {tmp_path}/none/log" in said


def test_an_unknown_flag_is_a_usage_error(new_server: NewServer):
    code, said = new_server(arguments=["--colour"]).run_to_exit()
    assert (code, "--colour" in said) == (USAGE, True)


def test_flags_of_old_start_scripts_are_accepted(new_server: NewServer):
    server = new_server(options={"DEFAULT": {"admin_mode": False}})
    log = server.root / "flag.log"
    server.arguments = ["--log-file", log, "--admin_mode", "--use-syslog", "--nodebug"]
    server.start()
    health = head("GET", "/v2/health", {"X-Roles": "admin"})
    assert exchange(server.address, health).status == 200
    said = log.read_text()
    assert "command line --use-syslog: [DEFAULT] use_syslog has no effect" in said
    assert server.log_tail() == ""


def test_a_log_line_is_one_message_with_fields(new_server: NewServer):
    options = {"DEFAULT": {"use_json": True, "no_such_option": 1}, "admin": {"port": free_port()}}
    server = new_server(options=options).start()
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    by_message = {line["message"]: line for line in lines}
    assert f"{server.config}:" in by_message["problem in the configuration"]["warning"]
    assert by_message["configuration read"]["file"] == str(server.config)
    assert by_message["embedded store open"]["path"] == str(server.data)
    assert by_message["serving"]["address"] == server.url
    assert "stopping" in by_message
    closed = [line["transport"] for line in lines if line["message"] == "stopped accepting connections"]
    assert len(closed) == 2
    assert lines[-1]["message"] == "stopped", "the listener for operators closes before"


def test_a_hangup_opens_the_log_file_again(new_server: NewServer):
    """logrotate renames the file first: later lines belong to a new one."""
    server = new_server()
    log = server.root / "rotated.log"
    server.sections["DEFAULT"]["log_file"] = log
    server.start()
    assert server.process is not None
    log.rename(log.with_suffix(".1"))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: log.exists() and "log file reopened" in log.read_text(), "a new log file")
    assert exchange(server.address, head("GET", "/")).status == 300
    assert server.stop() == 0
    assert "stopped" in log.read_text()
    assert "serving" in log.with_suffix(".1").read_text()


def test_a_second_signal_drops_no_request(new_server: NewServer):
    server = new_server().start()
    assert server.process is not None
    body = b'{"messages": [{"ttl": 300, "body": "last"}]}'
    fields = {"Content-Length": str(len(body)), "Expect": "100-continue"}
    with RawConnection(server.address) as open_request:
        open_request.send(head("POST", "/v2/queues/open/messages", fields, project="p"))
        assert open_request.answer("POST").status == 100
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            server.process.send_signal(number)
            time.sleep(0.2)
        open_request.send(body)
        assert open_request.answer("POST").status == 201
    assert server.process.wait(30) == 0


def test_a_store_that_is_away_does_not_delay_a_stop(new_server: NewServer):
    uri = f"redis://127.0.0.1:{free_port()}"
    section = {"uri": uri, "max_reconnect_attempts": 1_000_000, "reconnect_sleep": 86_400}
    server = new_server(
        options={
            "drivers": {"message_store": "redis", "management_store": "redis"},
            "drivers:message_store:redis": section,
            "drivers:management_store:redis": section,
        }
    )
    process = server.spawn()
    wait_until(lambda: "configuration read" in server.log_tail(), "it starts")
    # The signal is waited for a moment after that line.
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, server.log_tail()


@pytest.mark.parametrize("outputs", ["2>/dev/full >&2", "<&- >&- 2>&-"], ids=["full", "closed"])
def test_a_log_that_cannot_be_written_blocks_nothing(new_server: NewServer, outputs: str):
    """Started as a service manager does it: no variables, no home, in the root directory."""
    server = new_server()
    server.write_config()
    line = f'exec "$0" --debug --config-file "$1" {outputs}'
    server.process = subprocess.Popen(
        ["/bin/sh", "-c", line, server_binary(), server.config], cwd="/", env={}
    )
    server.wait_until_ready()
    assert exchange(server.address, head("GET", "/v2/queues", project="p")).status == 200
    assert server.stop() == 0


def test_without_a_configuration_it_says_where_the_data_is(tmp_path: Path):
    environment = {"OS_DRIVERS_TRANSPORT_WSGI__PORT": "0", "HOME": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [server_binary()], cwd=tmp_path, env={**environment, "PATH": os.environ["PATH"]}, stderr=output
        )
    wait_until(lambda: "serving" in log.read_text(), "it serves")
    process.terminate()
    assert process.wait(30) == 0
    assert str(tmp_path / "zaqar-data") in log.read_text()
    assert (tmp_path / "zaqar-data").is_dir()


def test_no_other_signal_ends_the_server(new_server: NewServer):
    server = new_server().start()
    assert server.process is not None
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: 'signal ignored signal="SIGUSR1"' in server.log_tail(), "it is ignored")
    assert exchange(server.address, head("GET", "/")).status == 300
    assert server.stop() == 0


def test_unused_keystone_settings_cause_a_warning(new_server: NewServer):
    filled = {"keystone_authtoken": {"www_authenticate_uri": "http://127.0.0.1:5000"}}
    server = new_server(options=filled).start()
    said = server.log_tail()
    assert "NO AUTHENTICATION: [keystone_authtoken] is configured" in said
    assert "auth_strategy = keystone" in said
