"""What the HTTP API answers: filters by kind of value, media types, errors that explain themselves."""

from __future__ import annotations

import pytest

from support.connection import PATCH_TYPE
from support.rawhttp import exchange, head


@pytest.mark.differs("it finds no fraction and no boolean", sometimes=True)
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("n=7", ["number"]),
        ("n=%2B7", ["number"]),
        ("n=1.5", ["fraction"]),
        ("n=true", ["boolean"]),
        ("n=false", []),
        ("n=red", ["text"]),
        ("n=red&m=1", []),
        ("n=null", []),
        ("n=7&name=num", ["number"]),
        ("n=7&name=x", []),
    ],
)
def test_a_filter_matches_values_of_its_type(api, query, found):
    values = {"number": 7, "digits": "7", "fraction": 1.5, "boolean": True, "text": "red", "null": None}
    for name, value in values.items():
        api.call("PUT", f"/v2/queues/{name}", json={"n": value})
    listed = api.call("GET", f"/v2/queues?{query}").json()["queues"]
    assert [queue["name"] for queue in listed] == found


@pytest.mark.differs("415")
@pytest.mark.parametrize("kind", [f"{PATCH_TYPE}; charset=utf-8", PATCH_TYPE.upper()])
def test_a_patch_is_decoded_by_its_media_type(api, queue, kind):
    api.call("PUT", f"/v2/queues/{queue}")
    patch = [{"op": "add", "path": "/metadata/a", "value": 1}]
    answer = api.call("PATCH", f"/v2/queues/{queue}", json=patch, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["a"]) == (200, 1)


@pytest.mark.differs("some have no description, or do not name the rule", sometimes=True)
@pytest.mark.parametrize(
    ("method", "path", "status", "names"),
    [
        ("GET", "/v2/nothing", 404, "path"),
        ("DELETE", "/v2/queues", 405, "GET, HEAD, OPTIONS"),
        ("PUT", "/v2/queues/a%20b", 400, "underscores, dots and dashes"),
        ("PUT", f"/v2/topics/{'t' * 65}", 400, "at most 64 characters, this one has 65"),
        ("GET", "/v2/queues/q/messages?ids=" + ",".join("x" * 21), 400, "ids"),
        ("PATCH", "/v2/queues/q/subscriptions/x", 400, "subscriber, ttl or options"),
    ],
)
def test_an_error_says_which_rule_was_broken(server, method, path, status, names):
    answer = exchange(server.address, head(method, path), method)
    document = answer.json()
    assert answer.status == status
    assert document.keys() == {"title", "description"}
    assert names in document["description"], document


@pytest.mark.differs("the text is about metadata")
def test_the_error_of_a_large_claim_names_the_limit(api, queue):
    answer = api.call("POST", f"/v2/queues/{queue}/claims", json={"ttl": 60, "x": "y" * 65536})
    text = answer.json()["description"]
    assert answer.status_code == 400
    assert "65536" in text
    assert "metadata" not in text
