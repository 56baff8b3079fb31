"""The programs beside the server, and the server's subcommands: what deployment tools call."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from support.certificates import certificate
from support.operated import Operated
from support.server import Server, free_port, server_binary
from support.wait import wait_until


def run(program: str, *arguments: str | Path, cwd: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a program that is built beside the server."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    ran = subprocess.run(
        [server_binary().with_name(program), *arguments],
        capture_output=True,
        cwd=cwd,
        env={**own, "HOME": str(cwd)},
        text=True,
        timeout=60,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file without anything odd."""
    path = tmp_path / "zaqar.conf"
    path.write_text("[transport]\nmax_message_ttl = 7200\n[signed_url]\nsecret_key = hidden\n")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["upgrade", "head"],
        ["upgrade", "--delta", "1"],
        ["downgrade", "-1"],
        ["stamp", "head"],
        ["revision", "-m", "text", "--autogenerate"],
        ["current", "--verbose"],
        ["history"],
        ["branches"],
        ["check_migration"],
    ],
    ids=" ".join,
)
def test_sql_migrations_are_a_no_op(arguments: list[str], config: Path):
    code, out, _ = run("zaqar-sql-db-manage", "--config-file", config, *arguments, cwd=config.parent)
    assert (code, out.split(":")[0]) == (0, "Nothing to migrate")


def test_an_unknown_migration_is_an_error(config: Path):
    code, _, err = run("zaqar-sql-db-manage", "sidegrade", cwd=config.parent)
    assert code == 2
    assert "sidegrade" in err


def test_garbage_collection_is_a_no_op(config: Path):
    code, out, _ = run("zaqar-gc", "--config-file", config, "--debug", cwd=config.parent)
    assert (code, out.split(":")[0]) == (0, "Nothing to collect")


def test_a_link_to_the_server_is_the_program_of_its_name(tmp_path: Path):
    (tmp_path / "zaqar-gc").symlink_to(server_binary())
    ran = subprocess.run([tmp_path / "zaqar-gc"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("Nothing to collect")


def test_a_program_without_the_server_beside_it_says_so(tmp_path: Path):
    alone = shutil.copy(server_binary().with_name("zaqar-gc"), tmp_path)
    ran = subprocess.run([alone], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"zaqar-gc: {tmp_path}/zaqar-server: No such file")


def check(config: Path) -> tuple[int, str]:
    code, out, _ = run("zaqar-status", "--config-file", config, "upgrade", "check", cwd=config.parent)
    return code, out


def test_the_exit_code_of_an_upgrade_check_is_that_of_its_worst_result(config: Path):
    code, out = check(config)
    assert code == 0
    assert "Result: Success" in out
    assert "Upgrade Check Results" in out
    config.write_text("[transport]\nmax_mesage_ttl = 7200\n")
    code, out = check(config)
    assert code == 1
    assert "Result: Warning" in out
    assert "max_mesage_ttl" in out
    config.write_text("[transport]\nmax_message_ttl = soon\n")
    code, out = check(config)
    assert code == 2
    assert "Result: Failure" in out
    assert "max_message_ttl" in out


def test_config_check_names_every_problem_at_once(config: Path):
    code, out, err = run("zaqar-server", "config", "check", "--config-file", config, cwd=config.parent)
    assert (code, err) == (0, "")
    assert out == f"read: {config}\n0 errors, 0 warnings\n"
    config.write_text("[transport]\nmax_message_ttl = soon\nmax_claim_ttl = 0\n")
    code, out, err = run("zaqar-server", "--config-file", config, "config", "check", cwd=config.parent)
    assert (code, out) == (2, "")
    assert f"{config}:2" in err
    assert f"{config}:3" in err


def test_config_show_names_origins_and_masks_secrets(config: Path):
    code, out, _ = run(
        "zaqar-server", "config", "show", "--config-file", config, "--debug", cwd=config.parent
    )
    assert code == 0
    assert f'max_message_ttl = "7200"  # {config}:2' in out.splitlines()
    assert f"secret_key = ***  # {config}:4" in out.splitlines()
    assert 'debug = "true"  # command line --debug' in out.splitlines()
    assert "hidden" not in out


def test_config_sample_is_a_configuration_that_changes_nothing(config: Path, tmp_path: Path):
    code, sample, _ = run("zaqar-server", "config", "sample", cwd=tmp_path)
    assert code == 0
    config.write_text(sample)
    code, out, err = run("zaqar-server", "--config-file", config, "config", "check", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.endswith("0 errors, 0 warnings\n")
    uncommented = [line.removeprefix("#") if line[:2] != "# " else line for line in sample.splitlines()]
    config.write_text("\n".join(uncommented) + "\n")
    assert run("zaqar-server", "--config-file", config, "config", "check", cwd=tmp_path)[0] == 0
    assert "#max_message_ttl = 1209600" in sample.splitlines()


def health(server: Server) -> tuple[int, str]:
    code, out, err = run("zaqar-server", "--config-file", server.config, "health", cwd=server.root)
    return code, out + err


def test_health_asks_the_listeners_that_the_configuration_names(new_server, tmp_path: Path):
    server = new_server(websocket=True)
    server.start()
    code, said = health(server)
    assert (code, said) == (0, f"127.0.0.1 port {server.port}: GET /v2/ping is 204\n")
    # A listener on every address is asked on the loopback address.
    server.sections["drivers:transport:wsgi"]["bind"] = "0.0.0.0"
    server.write_config()
    assert health(server)[0] == 0
    # As an instance of the WebSocket transport alone.
    server.sections["drivers"]["transport"] = "websocket"
    server.write_config()
    code, said = health(server)
    assert code == 0
    assert said == f"127.0.0.1 port {server.websocket_port}: ping_node is 204\n"
    assert server.stop() == 0
    code, said = health(server)
    assert code == 1
    assert "does not answer" in said

    operated = Operated(tmp_path)
    operated.start()
    code, said = health(operated)
    assert (code, said) == (0, f"127.0.0.1 port {operated.admin_port}: GET /ready is 200\n")
    assert operated.stop() == 0


WIRES = {"wsgi": "GET /v2/ping", "websocket": "ping_node"}


def only(server: Server, transport: str) -> None:
    """Configures the health check as that of an instance with one transport."""
    server.sections["drivers"]["transport"] = transport
    server.write_config()


def test_health_speaks_tls_to_the_configured_certificate(new_server, tmp_path: Path):
    # Not the name or the address that is connected to.
    _, trusted = certificate(tmp_path, "zaqar.example.org")
    _, other = certificate(tmp_path, "other.example.org")
    tls = {"cert_file": trusted, "key_file": trusted.with_suffix(".key")}
    server = new_server(options={f"drivers:transport:{wire}": tls for wire in WIRES}, websocket=True)
    server.spawn()
    wait_until(lambda: health(server)[0] == 0, "the server is healthy", 60)
    for wire, asked in WIRES.items():
        only(server, wire)
        assert health(server) == (0, f"127.0.0.1 port {port_of(server, wire)}: {asked} is 204\n")
        section = server.sections[f"drivers:transport:{wire}"]
        # Another server's certificate, and none at all.
        section["cert_file"] = other
        server.write_config()
        code, said = health(server)
        assert (code, "its certificate is not the one in cert_file" in said) == (1, True), said
        section["cert_file"] = trusted


def test_health_tells_that_clients_need_certificates(new_server, tmp_path: Path):
    _, trusted = certificate(tmp_path, "localhost")
    tls = {"cert_file": trusted, "key_file": trusted.with_suffix(".key"), "ca_file": trusted}
    server = new_server(options={f"drivers:transport:{wire}": tls for wire in WIRES}, websocket=True)
    server.spawn()
    wait_until(lambda: health(server)[0] == 0, "the server is healthy", 60)
    server.wait_for_websocket()
    for wire in WIRES:
        only(server, wire)
        code, said = health(server)
        assert code == 0
        assert f"port {port_of(server, wire)}: TLS is served" in said
        assert "no store was asked" in said
    assert server.stop() == 0
    code, said = health(server)
    assert (code, "does not answer" in said) == (1, True)


def port_of(server: Server, wire: str) -> object:
    return server.sections[f"drivers:transport:{wire}"]["port"]


@pytest.mark.parametrize("wire", WIRES)
def test_health_asks_on_a_unix_socket(new_server, tmp_path: Path, wire: str):
    path = tmp_path / "zaqar.sock"
    server = new_server(options={f"drivers:transport:{wire}": {"unix_socket": path}})
    only(server, wire)
    server.spawn()
    wait_until(lambda: health(server)[0] == 0, "the server is healthy", 60)
    assert health(server) == (0, f"{path}: {WIRES[wire]} is 204\n")
    assert server.stop() == 0
    code, said = health(server)
    assert (code, f"{path} does not answer" in said) == (1, True), said


@pytest.mark.parametrize(("least", "most"), [(10, 20), (40, 200)])
def test_health_sends_a_client_id_that_is_accepted(new_server, least: int, most: int):
    limits = {"client_id_uuid_safe": "off", "min_length_client_id": least, "max_length_client_id": most}
    server = new_server(options={"transport": limits}, websocket=True)
    server.start()
    for wire, asked in WIRES.items():
        only(server, wire)
        assert health(server) == (0, f"127.0.0.1 port {port_of(server, wire)}: {asked} is 204\n")


def test_health_says_why_a_server_is_not_ready(tmp_path: Path):
    # The server waits for a store that is away.
    server = Operated(
        tmp_path, options={"drivers:message_store:redis": {"uri": f"redis://127.0.0.1:{free_port()}"}}
    )
    server.sections["drivers"] |= {"message_store": "redis", "management_store": "redis"}
    del server.sections["drivers:message_store:embedded"]
    server.sections["drivers:message_store:redis"]["max_reconnect_attempts"] = 1000
    process = server.spawn()
    try:
        deadline = time.monotonic() + 60
        while "the listener for operators is open" not in server.log_tail():
            assert time.monotonic() < deadline, server.log_tail()
            time.sleep(0.05)
        code, said = health(server)
        assert code == 1
        assert said.endswith("GET /ready is 503\nthe server is starting\n")
        assert server.ask("/live").status_code == 200
    finally:
        process.terminate()
        assert process.wait(60) == 0
