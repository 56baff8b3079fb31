"""Starts what is compared: the original (its venv, SecantusDB, uwsgi) and ours, on free ports."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.server import free_port

from .wire import exchange

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

Address = tuple[str, int]


class Target(NamedTuple):
    """Where a server is asked."""

    http: Address
    websocket: Address
    #: The database that the original has, where scenarios may register pools.
    database: str = ""


#: Sections of a configuration: section name to option to value.
Sections = Mapping[str, Mapping[str, object]]

#: What both are told, so that they have the same things to say.
_COMMON: Sections = {
    "signed_url": {"secret_key": "test"},
    "storage": {"message_pipeline": "zaqar.notification.notifier"},
    # Without pooling it says nothing.
    "pooling:catalog": {"enable_virtual_pool": True},
}
#: Seconds until a server must answer. The first start of uwsgi imports all of the original.
_START = 60.0


class NotReady(Exception):
    """A server that ended, or did not answer in time: says which, and what it logged."""


def venv() -> Path:
    """The original's venv: ZAQAR_ORACLE_VENV, else one under target/, installed when it is missing."""
    folder = Path(os.environ.get("ZAQAR_ORACLE_VENV", REPOSITORY / "target/oracle/venv"))
    folder.mkdir(parents=True, exist_ok=True)
    installed = folder / ".installed"
    # Tests that run beside each other install it once, and none uses a part of it.
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [folder / "bin/pip", "install", "--quiet", "-r", REQUIREMENTS]
            subprocess.run(pip, check=True)
            installed.touch()
    return folder


def our_binary() -> Path:
    """The binary under test: ZAQAR_SERVER_BIN, else the debug build."""
    return Path(os.environ.get("ZAQAR_SERVER_BIN", REPOSITORY / "target/debug/zaqar-server")).resolve()


@contextmanager
def original(work: Path, *, pooling: bool = False) -> Iterator[Target]:
    """The original on its MongoDB driver, with a database of its own that is gone afterwards.

    It is two processes, as it has one transport a process.
    """
    bin_folder = venv() / "bin"
    database, wsgi, websocket = _free_address(), _free_address(), _free_address()
    home = work / "home"
    for_websocket = work / "websocket.conf"
    uri = {"uri": f"mongodb://{database[0]}:{database[1]}"}
    for transport, path in (("wsgi", home / "zaqar.conf"), ("websocket", for_websocket)):
        _write(
            path,
            {
                "DEFAULT": {"admin_mode": True, "unreliable": True, "auth_strategy": "", "pooling": pooling},
                "drivers": {
                    "transport": transport,
                    "message_store": "mongodb",
                    "management_store": "mongodb",
                },
                "drivers:transport:websocket": {
                    "bind": websocket[0],
                    "port": websocket[1],
                    "notification_bind": websocket[0],
                    "notification_port": _free_address()[1],
                },
                "drivers:message_store:mongodb": uri,
                "drivers:management_store:mongodb": uri,
                **_COMMON,
            },
        )
    database_command = [bin_folder / "secantusd-py", "--port", database[1], "--storage-path", ":memory:"]
    with _process("secantusd", database_command, work, {}, lambda: _listens(database)):
        # Sets print in the order of their hashes: the same in every run.
        environment = {"HOME": str(home), "PYTHONHASHSEED": "0"}
        websocket_command = [bin_folder / "zaqar-server", "--config-file", for_websocket]
        with (
            _process("uwsgi", _uwsgi(bin_folder, wsgi), work, environment, lambda: _answers(wsgi)),
            _process("websocket", websocket_command, work, environment, lambda: _listens(websocket)),
        ):
            yield Target(wsgi, websocket, uri["uri"])


@contextmanager
def original_on_redis(work: Path, uri: str) -> Iterator[Address]:
    """The original's HTTP transport on its Redis driver; the Redis is the caller's."""
    bin_folder, address, home = venv() / "bin", _free_address(), work / "home"
    _write(
        home / "zaqar.conf",
        {
            "DEFAULT": {"unreliable": True, "auth_strategy": "", "pooling": False},
            "drivers": {"transport": "wsgi", "message_store": "redis", "management_store": "redis"},
            "drivers:message_store:redis": {"uri": uri},
            "drivers:management_store:redis": {"uri": uri},
            **_COMMON,
            "storage": {"message_pipeline": ""},
        },
    )
    environment = {"HOME": str(home)}
    with _process("uwsgi", _uwsgi(bin_folder, address), work, environment, lambda: _answers(address)):
        yield address


def _uwsgi(bin_folder: Path, address: Address) -> list[object]:
    """One process, so that ids grow; bodies are read first, as an unread one costs the connection."""
    app = next((bin_folder.parent / "lib").glob("python3*/site-packages/zaqar/transport/wsgi/app.py"))
    return [
        bin_folder / "uwsgi",
        *("--http", f"{address[0]}:{address[1]}", "--http-timeout", "60"),
        *("--master", "--processes", "1", "--threads", "4", "--enable-threads", "--need-app"),
        *("--die-on-term", "--add-header", "Connection: close", "--disable-logging"),
        *("--post-buffering", "65536", "--buffer-size", "32768"),
        *("--callable", "app", "--wsgi-file", app),
    ]


@contextmanager
def ours(work: Path, *, pooling: bool = False) -> Iterator[Target]:
    """Our server on the embedded store, in a folder of its own."""
    address, websocket = _free_address(), _free_address()
    config = work / "zaqar.conf"
    store = {"path": work / "data"}
    _write(
        config,
        {
            "DEFAULT": {"admin_mode": True, "pooling": pooling},
            "drivers": {
                "transport": "wsgi, websocket",
                "message_store": "embedded",
                "management_store": "embedded",
            },
            "drivers:transport:wsgi": {"bind": address[0], "port": address[1]},
            "drivers:transport:websocket": {"bind": websocket[0], "port": websocket[1]},
            "drivers:message_store:embedded": store,
            **_COMMON,
        },
    )
    command = [our_binary(), "--config-file", config]
    with _process("zaqar-server", command, work, {}, lambda: _answers(address)):
        yield Target(address, websocket, "")


def _write(path: Path, sections: Sections) -> None:
    lines = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{option} = {value}" for option, value in options.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@contextmanager
def _process(
    name: str,
    command: list[object],
    work: Path,
    environment: Mapping[str, str],
    ready: Callable[[], bool],
) -> Iterator[None]:
    """A process that is ready inside the block and gone after it."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=work,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(name, process, log, ready)
        yield
    finally:
        _stop(process)


def _wait_until_ready(
    name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + _START
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            how = "does not answer" if process.poll() is None else f"ended with {process.returncode}"
            raise NotReady(f"{name} {how}:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_address() -> Address:
    return "127.0.0.1", free_port()


def _listens(address: Address) -> bool:
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


def _answers(address: Address) -> bool:
    """Whether the version list comes, soon: uwsgi listens before it answers, and forgets who came early."""
    try:
        return exchange(address, "GET", "/", {}, None, timeout=2).status == 300
    except OSError:
        return False
