"""CORS as a real browser enforces it: a page of one origin calls the server at another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from support.api import Api
from support.browser import Browser, file_server
from support.server import REPOSITORY, Server

#: What the original allows by default, and what oslo.middleware adds to it (`SIMPLE_HEADERS`).
ALLOWED = [
    *("X-Auth-Token", "X-Identity-Status", "X-Roles", "X-Service-Catalog", "X-User-Id", "X-Tenant-Id"),
    *("X-OpenStack-Request-ID", "X-Trace-Info", "X-Trace-HMAC", "Client-id"),
    *("Accept", "Accept-Language", "Content-Type", "Cache-Control", "Content-Language", "Expires"),
    *("Last-Modified", "Pragma"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """A page; all that matters of it is its origin."""
    with file_server(REPOSITORY / "examples") as url:
        yield f"{url}subscribe.html"


def origin(page: str) -> str:
    return page.rsplit("/", 1)[0]


def fetch(browser: Browser, method: str, url: str, headers: dict[str, str], body: object = None) -> object:
    """What a page's `fetch` gives: status, text and the request id that it may read, or "refused"."""
    options: dict[str, object] = {"method": method, "headers": headers}
    if body is not None:
        options["body"] = json.dumps(body)
    return browser.evaluate(f"""
        fetch({json.dumps(url)}, {json.dumps(options)}).then(
            async answer =>
                [answer.status, await answer.text(), answer.headers.get('X-OpenStack-Request-ID')],
            error => 'refused')
    """)


def test_a_page_of_an_allowed_origin_posts_and_lists(
    new_server: Callable[..., Server], chromium: Browser, page: str, project: str
) -> None:
    # Without Keystone a page has to name its project, which the defaults do not allow.
    cors = {"allowed_origin": origin(page), "allow_headers": "Client-ID,X-Project-ID"}
    server = new_server(options={"cors": cors}).start()
    headers = {"Client-ID": "b2d1dd2c-7d4d-4c1b-9a7b-5b3a3f2c1d10", "X-Project-ID": project}
    url = f"{server.url}/v2/queues/q/messages"
    chromium.open(page)
    # This type is what makes a browser ask first.
    typed = {**headers, "Content-Type": "application/json"}
    document = {"messages": [{"body": "from a page", "ttl": 300}]}
    status, text, request_id = fetch(chromium, "POST", url, typed, document)
    assert (status, request_id[:4]) == (201, "req-"), text
    status, text, _ = fetch(chromium, "GET", f"{url}?echo=true", headers)
    assert status == 200
    assert json.loads(text)["messages"][0]["body"] == "from a page"
    # Errors can be read, too, and each method must be allowed.
    status, text, _ = fetch(chromium, "DELETE", f"{server.url}/v2/queues/q/claims/none", headers)
    assert status == 204
    status, text, _ = fetch(chromium, "GET", f"{server.url}/v2/queues/n%20o/messages", headers)
    assert status == 400
    assert "title" in json.loads(text)


def test_a_page_cannot_send_headers_that_are_not_allowed(
    new_server: Callable[..., Server], chromium: Browser, page: str, project: str
) -> None:
    server = new_server(options={"cors": {"allowed_origin": origin(page)}}).start()
    chromium.open(page)
    url = f"{server.url}/v2/queues/q"
    assert fetch(chromium, "PUT", url, {"X-Project-ID": project}) == "refused"
    with Api(server.url, project) as api:
        assert api.call("GET", "/v2/queues").json()["queues"] == []


def test_a_page_of_another_origin_cannot_read_answers(
    new_server: Callable[..., Server], chromium: Browser, page: str
) -> None:
    server = new_server(options={"cors": {"allowed_origin": "https://console.example.org"}}).start()
    chromium.open(page)
    assert fetch(chromium, "GET", f"{server.url}/", {}) == "refused"


def test_a_preflight_allows_what_the_original_allows(new_server: Callable[..., Server]) -> None:
    server = new_server(options={"cors": {"allowed_origin": "https://console.example.org"}}).start()
    asked = {
        "Origin": "https://console.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ",".join(ALLOWED),
    }
    answer = httpx.options(f"{server.url}/v2/queues/q/messages", headers=asked, trust_env=False)
    assert answer.status_code == 200
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {name.lower() for name in ALLOWED} <= allowed
