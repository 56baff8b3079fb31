"""Embedded stores that are gone: they are not replaced by empty ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import EXTERNAL_URL
from support.api import Api
from support.server import Server
from support.wait import wait_until

pytestmark = pytest.mark.skipif(EXTERNAL_URL is not None, reason="needs servers of its own")

SECTION = "drivers:message_store:embedded"


def admin(server: Server) -> Api:
    api = Api(server.url)
    api.http.headers["X-Roles"] = "admin"
    return api


def bodies(api: Api) -> list[object]:
    return [message["body"] for message in api.messages("q")]


def test_a_pool_whose_store_is_gone_is_away(new_server: Callable[..., Server], tmp_path: Path):
    server = new_server(options={"DEFAULT": {"pooling": True}})
    server.start()
    pool, gone = tmp_path / "pool", tmp_path / "elsewhere"
    with admin(server) as api:
        document = {"uri": f"embedded:{pool}", "weight": 1}
        assert api.call("PUT", "/v2/pools/p", json=document).status_code == 201
        api.http.headers["X-Project-ID"] = "lost"
        api.post("q", "kept")
        assert server.stop() == 0
        pool.rename(gone)
        server.start()
        answer = api.call("GET", "/v2/queues/q/messages")
        assert answer.status_code == 503, answer.text
        assert api.call("POST", "/v2/queues/q/messages", json={"messages": [{"body": 1}]}).status_code == 503
        wait_until(lambda: "its store is gone" in server.log_tail(), "the log says so")
        assert not pool.exists()
        # Nor is it created by a change of an option.
        changed = api.call("PATCH", "/v2/pools/p", json={"options": {"sync": "interval"}})
        assert changed.status_code == 400, changed.text
        assert "its store is gone" in changed.text
        assert not pool.exists()
        # Back again, it is opened.
        gone.rename(pool)
        wait_until(lambda: api.call("GET", "/v2/queues/q/messages").status_code == 200, "the pool is back")
        assert bodies(api) == ["kept"]
        # Gone for good.
        assert server.stop() == 0
        shutil.rmtree(pool)
        server.start()
        options = {"options": {"accept_loss": True}}
        assert api.call("PATCH", "/v2/pools/p", json=options).status_code == 200
        wait_until(lambda: api.call("GET", "/v2/queues/q/messages").status_code == 200, "an empty pool")
        assert bodies(api) == []


@pytest.mark.parametrize("remains", [True, False])
def test_a_message_store_that_is_gone_is_an_error(
    new_server: Callable[..., Server], tmp_path: Path, remains: bool
):
    server = new_server(options={"drivers:management_store:embedded": {"path": tmp_path / "management"}})
    server.start()
    with admin(server) as api:
        api.http.headers["X-Project-ID"] = "lost"
        api.post("q", "kept")
        assert server.stop() == 0
        if remains:
            (server.data / "zaqar.db").unlink()
        else:
            shutil.rmtree(server.data)
        for _ in range(2):
            code, said = server.run_to_exit()
            assert code == 1
            assert "accept_loss" in said
            assert f"[{SECTION}]" in said
        server.sections[SECTION]["accept_loss"] = True
        server.start()
        assert bodies(api) == []
        api.post("q", "new")
        assert server.stop() == 0
        server.sections[SECTION]["accept_loss"] = False
        server.start()
        assert bodies(api) == ["new"]
