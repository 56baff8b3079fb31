"""Redis servers of the tests' own: `redis-server`, or the program that ZAQAR_TEST_REDIS_SERVER names."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from support.server import Sections, free_port
from support.wait import wait_until

#: How long a server may take to answer, in seconds, where a test is not about that.
SLOW = 15


class Redis:
    """One process of `redis-server`; it can be started again after it was killed."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *options: str) -> Redis:
        """Starts it with more options; returns when it answers, if only that it is loading."""
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.root)]
        self.process = subprocess.Popen(
            [os.environ.get("ZAQAR_TEST_REDIS_SERVER", "redis-server"), *self.options, *fixed, *options],
            stdin=subprocess.DEVNULL,
            stdout=(self.root / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: self.cli("PING").startswith(("PONG", "LOADING")), "Redis answers")
        return self

    def cli(self, *command: str) -> str:
        """What `redis-cli` prints, error or not."""
        ran = subprocess.run(
            ["redis-cli", "-p", str(self.port), *command], capture_output=True, text=True, check=False
        )
        return ran.stdout.strip()

    def info(self, field: str) -> str:
        lines = (line.partition(":") for line in self.cli("INFO", "everything").splitlines())
        return next((value for name, _, value in lines if name == field), "")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def suspend(self) -> None:
        """Keeps it from answering; connections stay."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Watched:
    """A master and a replica, watched by three Sentinels."""

    def __init__(self, root: Path) -> None:
        self.master = Redis(root / "master", "--save", "").start()
        of_master = f"127.0.0.1 {self.master.port}"
        self.replica = Redis(root / "replica", "--save", "", "--replicaof", of_master).start()
        self.sentinels = [self._sentinel(root / f"sentinel-{n}", of_master) for n in range(3)]
        wait_until(self._is_complete, "the Sentinels know each other and the replica")
        wait_until(lambda: self.replica.info("master_link_status") == "up", "the replica is in step")

    @property
    def uri(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis://{hosts}?master=zaqar"

    def kill(self) -> None:
        for process in (*self.sentinels, self.replica, self.master):
            process.kill()

    def _sentinel(self, root: Path, of_master: str) -> Redis:
        root.mkdir(parents=True)
        configuration = root / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor zaqar {of_master} 2\n"
            "sentinel down-after-milliseconds zaqar 3000\n"
            "sentinel failover-timeout zaqar 6000\n"
        )
        return Redis(root, str(configuration), "--sentinel").start()

    def _is_complete(self) -> bool:
        for sentinel in self.sentinels:
            words = sentinel.cli("SENTINEL", "MASTER", "zaqar").splitlines()
            known = dict(zip(words[::2], words[1::2], strict=True))
            if (known["num-other-sentinels"], known["num-slaves"]) != ("2", "1"):
                return False
        return True


def on_redis(uri: str, **options: object) -> Sections:
    """The sections of a server's configuration that put both stores on a Redis."""
    if "socket_timeout" not in uri:
        uri += f"{'&' if '?' in uri else '?'}socket_timeout={SLOW}"
    section = {"uri": uri, **options}
    return {
        "drivers": {"message_store": "redis", "management_store": "redis"},
        "drivers:message_store:redis": section,
        "drivers:management_store:redis": section,
        "transport": {"max_messages_per_page": 200},
    }
