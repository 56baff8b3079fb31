"""MongoDB for the tests: a server of their own, or the one that `ZAQAR_TEST_MONGODB_URI` names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pymongo

from support.server import Sections, free_port
from support.wait import wait_until

#: A mongod, a replica set or a mongos. Without it a compatible server is started, which is not all
#: of that.
REAL_URI = os.environ.get("ZAQAR_TEST_MONGODB_URI")


class MongoDB:
    """A compatible server, SecantusDB, as a process of its own; what it holds outlives a restart."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str:
        # The longer its list of retryable writes, the longer it searches it.
        return f"mongodb://127.0.0.1:{self.port}/?retryWrites=false"

    def start(self) -> MongoDB:
        program = Path(sys.executable).parent / "secantusd-py"
        # What it has acknowledged survives that it is killed.
        arguments = ["--port", str(self.port), "--storage-path", str(self.root / "data")]
        arguments += ["--sync-on-commit"]
        self.process = subprocess.Popen(
            [program, *arguments],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=(self.root / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        wait_until(self._answers, "the MongoDB-compatible server starts")
        return self

    def stop(self) -> None:
        """Ends it in order; it is killed if it does not end, as this server sometimes does not."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                print("the MongoDB-compatible server did not end, it is killed")
                self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.root / "log").read_text()[-2000:]
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def new_name() -> str:
    """A name for the `database` option that nobody else uses."""
    return f"test_{uuid.uuid4().hex}"


def on_mongodb(uri: str, database: str, **options: object) -> Sections:
    """The sections of a server's configuration that put both stores into one database."""
    section = {"uri": uri, "database": database, **options}
    return {
        "drivers": {"message_store": "mongodb", "management_store": "mongodb"},
        "drivers:message_store:mongodb": section,
        "drivers:management_store:mongodb": section,
        "transport": {"max_messages_per_page": 200},
    }


def drop(uri: str, database: str) -> None:
    """Removes what a server has kept under a name."""
    with pymongo.MongoClient(uri) as client:
        client.drop_database(f"{database}_server")
