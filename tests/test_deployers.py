"""The files that deployment tools write start the server: see deployers/README.md."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.redis import Redis
from support.server import REPOSITORY, free_port, server_binary

FILES = REPOSITORY / "tests/deployers"

#: Directory, files in the order that the service is started with, what must be said, by whom it
#: listens.
DEPLOYERS = [
    ("openstack-helm", ["zaqar.conf"], "the SQL database is not read", "http"),
    ("puppet", ["zaqar.conf"], "", "ws"),
    ("rdo", ["zaqar-dist.conf", "zaqar.conf"], "", "http"),
    ("debian", ["zaqar.conf"], "", None),
    ("devstack-redis", ["zaqar.conf"], "the SQL database is not read", "http"),
    ("devstack-mongodb", ["zaqar.conf"], "", None),
    ("tripleo", ["zaqar.conf", "1.conf"], "the SQL database is not read", "ws"),
]


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"), "--save", "").start()
    yield server
    server.kill()


def laid_out(root: Path, deployer: str, files: list[str]) -> list[str]:
    """The files as the tool lays them out under the home of the service; the arguments that name them."""
    directory = root / ".zaqar"
    for source in (FILES / deployer).rglob("*.conf"):
        target = directory / source.relative_to(FILES / deployer)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace("LOG_DIR", str(root)))
    return [word for name in files for word in ("--config-file", str(directory / name))]


def environment(root: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return own | {"HOME": str(root)} | more


@pytest.mark.parametrize(("deployer", "files", "said", "_"), DEPLOYERS, ids=[one[0] for one in DEPLOYERS])
def test_the_files_are_valid(tmp_path: Path, deployer: str, files: list[str], said: str, _: object):
    arguments = laid_out(tmp_path, deployer, files)
    checked = subprocess.run(
        [server_binary(), *arguments, "config", "check"],
        capture_output=True,
        env=environment(tmp_path),
        text=True,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert said in checked.stdout
    # What is read from the directory beside the files is read with --config-file, too.
    if (FILES / deployer / "zaqar.conf.d").is_dir():
        assert "zaqar_keystone_authtoken.conf" in checked.stdout


#: Those on MongoDB hold, as the test above says; what a server does there is for the tests of that
#: store.
STARTED = [one for one in DEPLOYERS if one[3]]


@pytest.mark.parametrize(("deployer", "files", "_", "wire"), STARTED, ids=[one[0] for one in STARTED])
def test_the_files_start_the_server(
    tmp_path: Path, redis: Redis, deployer: str, files: list[str], _: str, wire: str
):
    port = str(free_port())
    transport = {"http": "WSGI", "ws": "WEBSOCKET"}[wire]
    ours = {
        "OS_DRIVERS_MESSAGE_STORE_REDIS__URI": redis.uri,
        f"OS_DRIVERS_TRANSPORT_{transport}__PORT": port,
        f"OS_DRIVERS_TRANSPORT_{transport}__BIND": "127.0.0.1",
    }
    if "[drivers:management_store:redis]" in (FILES / deployer / "zaqar.conf").read_text():
        ours["OS_DRIVERS_MANAGEMENT_STORE_REDIS__URI"] = redis.uri
    arguments = laid_out(tmp_path, deployer, files)
    log = tmp_path / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [server_binary(), *arguments],
            cwd=tmp_path,
            env=environment(tmp_path, **ours),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        logs = [log, *(tmp_path / name for name in ("zaqar-server.log", "zaqar.log"))]
        deadline = time.monotonic() + 60
        while True:
            text = "".join(one.read_text() for one in logs if one.exists())
            if f'serving address="{wire}://127.0.0.1:{port}"' in text:
                break
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0, text
