"""zaqar-manage: copies of the embedded store, made while the server works, checked and put back."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from support.api import Api
from support.server import Server, server_binary


def manage(server: Server, *arguments: str | Path) -> tuple[int, str]:
    """Exit code, and what is said on both outputs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    ran = subprocess.run(
        [server_binary().with_name("zaqar-manage"), "--config-file", server.config, *arguments],
        capture_output=True,
        cwd=server.root,
        env=own,
        text=True,
        timeout=120,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_a_backup_under_load_has_what_was_posted_before_and_can_be_restored(new_server, tmp_path: Path):
    server = new_server()
    server.start()
    copy = tmp_path / "copy.db"
    stop = threading.Event()
    with Api(server.url, "p") as api, Api(server.url, "p") as other:
        before = api.post("q", *range(50))
        claim, claimed = api.claim("q", limit=5)
        assert len(claimed) == 5

        def post() -> None:
            while not stop.is_set():
                other.post("busy", 1)

        busy = threading.Thread(target=post)
        busy.start()
        try:
            code, said = manage(server, "backup", copy)
            assert code == 0, said
            assert said.startswith(f"{copy}: ")
            assert said.endswith(" messages, sound\n")
            code, said = manage(server, "check")
            assert code == 0, said
        finally:
            stop.set()
            busy.join()
        after = api.post("q", "later")
        # A file is neither overwritten nor left incomplete.
        code, said = manage(server, "backup", copy)
        assert (code, "exists" in said) == (1, True)
        # Nothing is restored under a running server.
        code, said = manage(server, "restore", copy, "--replace")
        assert (code, "in use" in said) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db"]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert server.stop() == 0

    code, said = manage(server, "restore", copy)
    assert (code, "exists" in said) == (1, True)
    code, said = manage(server, "restore", copy, "--replace")
    assert code == 0, said
    first = (server.data / "zaqar.db.replaced").read_bytes()
    # What was kept stays as it is.
    code, said = manage(server, "restore", copy, "--replace")
    assert code == 0, said
    assert (server.data / "zaqar.db.replaced").read_bytes() == first
    assert (server.data / "zaqar.db.replaced-2").exists()
    server.start()
    with Api(server.url, "p") as api:
        messages = {message["id"] for message in api.messages("q")}
        assert messages == set(before)
        # Claims are there as they were.
        assert api.call("GET", f"/v2/queues/q/claims/{claim}").status_code == 200
        # What was posted after the backup is gone, and its positions are not reused.
        (new,) = api.post("q", "new")
        assert new > after[0]
    assert server.stop() == 0
    assert "the store was not closed" not in server.log_tail(1_000_000)


def test_a_damaged_file_is_named_and_changes_nothing(new_server, tmp_path: Path):
    server = new_server()
    server.start()
    with Api(server.url) as api:
        api.post("q", *["x" * 2000] * 20)
    copy = tmp_path / "copy.db"
    assert manage(server, "backup", copy)[0] == 0
    assert server.stop() == 0
    whole = copy.read_bytes()
    size = len(whole)
    copy.write_bytes(whole[: size // 2] + b"\xff" * 8192 + whole[size // 2 + 8192 :])
    store = (server.data / "zaqar.db").read_bytes()
    code, said = manage(server, "restore", copy, "--replace")
    assert (code, str(copy) in said) == (1, True), said
    for text in (b"", b"not a database, but long enough to have a header" * 40):
        copy.write_bytes(text)
        code, said = manage(server, "restore", copy, "--replace")
        assert (code, str(copy) in said) == (1, True), said
    assert (server.data / "zaqar.db").read_bytes() == store
    code, said = manage(server, "check")
    assert (code, "20 messages, sound" in said) == (0, True), said


def test_a_backup_is_restored_into_an_empty_directory(new_server, tmp_path: Path):
    server = new_server()
    server.start()
    with Api(server.url, "p") as api:
        api.post("q", "one")
    copy = tmp_path / "copy.db"
    assert manage(server, "backup", copy)[0] == 0
    other = new_server()
    other.write_config()
    code, said = manage(other, "restore", copy)
    assert code == 0, said
    other.start()
    with Api(other.url, "p") as api:
        assert [message["body"] for message in api.messages("q")] == ["one"]


@pytest.mark.parametrize("command", [["backup", "x"], ["restore", "x"], ["check"]], ids=lambda one: one[0])
def test_a_backup_of_another_store_is_refused(new_server, command: list[str]):
    server = new_server(options={"drivers:message_store:redis": {"uri": "redis://127.0.0.1:1"}})
    server.sections["drivers"] |= {"message_store": "redis", "management_store": "redis"}
    server.write_config()
    code, said = manage(server, *command)
    assert (code, "message_store is not embedded" in said) == (1, True), said
