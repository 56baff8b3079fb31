"""The example page in a real browser: it makes a queue, subscribes, posts, and shows what is pushed."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from support.api import Api
from support.browser import Browser, file_server
from support.server import REPOSITORY
from support.wait import wait_until

#: What the page shows of pushes, and of errors.
PUSHES = "Array.from(document.querySelectorAll('#log .push'), line => line.textContent)"
ERRORS = "Array.from(document.querySelectorAll('#log .error'), line => line.textContent)"
SUBSCRIBED = "document.getElementById('state').value === 'subscribed'"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    with file_server(REPOSITORY / "examples") as url:
        yield url


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    chromium.errors.clear()
    yield chromium
    assert chromium.errors == []
    chromium.open("about:blank")


def page(files: str, **query: str) -> str:
    return f"{files}subscribe.html?{urlencode(query)}"


def test_it_sends_subscribes_and_receives(both, browser: Browser, files: str, project: str) -> None:
    browser.open(page(files, url=both.websocket_url, project=project, queue="news"))
    browser.wait_for(SUBSCRIBED)
    browser.evaluate("""(() => {
        document.getElementById('message').value = 'from the page';
        document.querySelector('#post button').click();
    })()""")
    browser.wait_for(f"{PUSHES}.length === 1")
    with Api(both.url, project) as http:
        assert http.bodies("news") == ["from the page"]
        http.post("news", {"from": "elsewhere", "text": "<b>é</b>"})
        browser.wait_for(f"{PUSHES}.length === 2")
        assert browser.evaluate(PUSHES) == [
            'news: "from the page"',
            'news: {"from":"elsewhere","text":"<b>é</b>"}',
        ]
        assert browser.evaluate(ERRORS) == []
        assert len(http.subscriptions("queues/news")) == 1
        browser.open("about:blank")
        wait_until(lambda: not http.subscriptions("queues/news"), "the subscription ends with the page")


def test_it_shows_what_the_server_refuses(both, browser: Browser, files: str, project: str) -> None:
    browser.open(page(files, url=both.websocket_url, project=project, queue="no name"))
    browser.wait_for(f"{ERRORS}.length === 1")
    (error,) = browser.evaluate(ERRORS)
    assert error.startswith("queue_create: 400 Queue names may only contain")
    assert not browser.evaluate(SUBSCRIBED)


def test_it_shows_that_the_server_stopped(new_server, browser: Browser, files: str) -> None:
    server = new_server(websocket=True).start()
    browser.open(page(files, url=server.websocket_url, project="p", queue="news"))
    browser.wait_for(SUBSCRIBED)
    assert server.stop() == 0, server.log_tail()
    browser.wait_for("document.getElementById('state').value.startsWith('closed: 1001')")
    assert browser.evaluate("document.querySelector('#post button').disabled")
