"""The API's document: the server answers any request as it says, and the check of that can fail."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import requests
import schemathesis
import yaml
from hypothesis.configuration import set_hypothesis_home_dir

from conftest import EXTERNAL_URL
from support.api import Api
from support.server import REPOSITORY, RunningServer, Server

DOCUMENT = REPOSITORY / "docs/api/openapi.yaml"
PATCH_TYPE = "application/openstack-messaging-v2.0-json-patch"

#: Random requests an operation; more find more, in more time.
EXAMPLES = int(os.environ.get("ZAQAR_TEST_EXAMPLES", "8"))

#: What is asked of every answer.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]

set_hypothesis_home_dir(REPOSITORY / "target/hypothesis")


@schemathesis.serializer(PATCH_TYPE)
def patch_as_json(_: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@schemathesis.deserializer("application/json-home")
def home_as_json(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> object:
    return json.loads(response.content)


def configuration(examples: int, coverage: bool) -> schemathesis.Config:
    """The same requests in every run; `coverage` adds the bounds of each parameter and what is past them."""
    return schemathesis.Config.from_dict(
        {
            "generation": {
                "deterministic": True,
                "max-examples": examples,
                "database": "none",
                # Every invented signature is 404; `test_signed_headers_reach_what_was_signed` has a
                # real one.
                "with-security-parameters": False,
            },
            "phases": {"coverage": {"enabled": coverage}},
            "checks": {"enabled": False} | {check: {"enabled": True} for check in CHECKS},
        }
    )


def load(examples: int = EXAMPLES, coverage: bool = False) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_path(DOCUMENT, config=configuration(examples, coverage))


ANYTHING = load(coverage=True)
AIMED = load(2 * EXAMPLES).exclude(method=["HEAD", "OPTIONS"])
RAW = yaml.safe_load(DOCUMENT.read_text())


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | RunningServer]:
    """A server that serves all of the document: it signs URLs, encrypts, and shows checksums."""
    if EXTERNAL_URL:
        yield RunningServer(EXTERNAL_URL)
        return
    options = {
        "DEFAULT": {"enable_checksum": True, "pooling": True},
        "pooling:catalog": {"enable_virtual_pool": True},
        "quotas": {"managed": True},
        "signed_url": {"secret_key": "key-of-test-openapi"},
        "transport": {"message_encryption_key": "key-of-test-openapi"},
        "notification": {"allow_networks": "127.0.0.0/8"},
    }
    own = Server(tmp_path_factory.mktemp("documented"), options=options)
    own.start()
    yield own
    assert own.stop() == 0, own.log_tail()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


class Stored:
    """Creates queues and topics with contents of every kind."""

    def __init__(self, api: Api, root: Path) -> None:
        self.api = api
        self.root = root
        self.made = 0

    def headers(self) -> dict[str, str]:
        return {"Client-ID": self.api.client_id, "X-Project-ID": self.api.project, "X-Roles": "admin"}

    def make(self, path: str) -> dict[str, str | list[str]]:
        """A queue or topic for a path of the document; values for the path's variables and for `ids`."""
        self.made += 1
        if path.startswith("/v2/quotas"):
            return {"project": f"project-{self.made}", "claim_id": "", "ids": []}
        if path.startswith(("/v2/pools", "/v2/flavors")):
            return self.make_pool(path)
        kind = "topic" if path.startswith("/v2/topics") else "queue"
        base = f"/v2/{kind}s/{kind}-{self.made}"
        bodies = ["claimed", {"free": [1, -2.5, None]}, "ü\u0000\U0001f980", True]
        messages = self.made_in(f"{base}/messages", {"messages": [{"body": body} for body in bodies]})
        ids = [href.rsplit("/", 1)[1] for href in messages.json()["resources"]]
        subscriber = {"subscriber": "http://127.0.0.1:9/", "ttl": 60, "options": {"a": 1, "signing": True}}
        subscription = self.made_in(f"{base}/subscriptions", subscriber).json()["subscription_id"]
        delivery = ""
        if "{delivery_id}" in path:
            tested = self.api.call("POST", f"{base}/subscriptions/{subscription}/test", json={})
            assert tested.status_code == 202, tested.text
            delivery = tested.json()["delivery_id"]
        recovery = ""
        if "{recovery_id}" in path:
            begun = self.api.call("POST", f"{base}/subscriptions/{subscription}/recover", json={})
            assert begun.status_code == 202, begun.text
            recovery = begun.json()["id"]
        # The first message is claimed, the others are free.
        location = self.made_in(f"{base}/claims?limit=1", {}).headers["location"] if kind == "queue" else ""
        return {
            f"{kind}_name": f"{kind}-{self.made}",
            "claimed_id": ids[0],
            "message_id": ids[-1],
            "claim_id": location.rsplit("/", 1)[-1],
            "subscription_id": subscription,
            "delivery_id": delivery,
            "recovery_id": recovery,
            "ids": ids,
        }

    def make_pool(self, path: str) -> dict[str, str | list[str]]:
        """A pool, and where the path is about flavors one that has it."""
        pool, flavor = f"pool-{self.made}", f"flavor-{self.made}"
        documents = {f"/v2/pools/{pool}": {"uri": self.uri(), "weight": 1}}
        if path.startswith("/v2/flavors"):
            documents[f"/v2/flavors/{flavor}"] = {"pool_list": [pool]}
        for url, document in documents.items():
            answer = self.api.call("PUT", url, json=document, headers=self.headers())
            assert answer.status_code == 201, answer.text
        return {"pool_name": pool, "flavor_name": flavor, "claim_id": "", "ids": []}

    def uri(self) -> str:
        """Of a store that no pool has."""
        self.made += 1
        return f"embedded:{self.root}/{self.made}"

    def made_in(self, path: str, document: dict):
        answer = self.api.call("POST", path, json=document)
        assert answer.status_code == 201, answer.text
        return answer

    def aim(self, case: schemathesis.Case) -> None:
        """Puts names and ids that exist into a generated request."""
        if case.path_parameters:
            there = self.make(case.operation.path)
            case.path_parameters = {name: there[name] for name in case.path_parameters}
            if case.query and "claim_id" in case.query and there["claim_id"]:
                case.path_parameters["message_id"] = there["claimed_id"]
                case.query["claim_id"] = there["claim_id"]
            if case.query and "ids" in case.query:
                case.query["ids"] = there["ids"]


@pytest.fixture(scope="module")
def stored(documented: Server | RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    with Api(documented.url) as api:
        yield Stored(api, tmp_path_factory.mktemp("pools"))


def check(
    case: schemathesis.Case,
    server: Server | RunningServer,
    session: requests.Session,
    headers: dict[str, str] | None = None,
) -> None:
    """Sends a request and checks its answer; what was created must show as documented too."""
    answer = case.call_and_validate(base_url=server.url, session=session, headers=headers)
    if answer.status_code == 201:
        [location] = answer.headers["location"]
        path = case.operation.path + ("/{claim_id}" if "/claims/" in location else "")
        caller = {name: answer.request.headers[name] for name in ("Client-ID", "X-Project-ID")}
        shown = session.get(server.url + location, headers=caller)
        ANYTHING[path]["GET"].validate_response(shown)


@ANYTHING.parametrize()
def test_any_request_is_answered_as_documented(
    case: schemathesis.Case, documented: Server | RunningServer, session: requests.Session
) -> None:
    check(case, documented, session)


@AIMED.parametrize()
def test_requests_to_existing_resources_are_answered_as_documented(
    case: schemathesis.Case, stored: Stored, documented: Server | RunningServer, session: requests.Session
) -> None:
    stored.aim(case)
    check(case, documented, session, stored.headers())


def operations() -> Iterator[tuple[str, str]]:
    """Methods and paths of the document, but HEAD and OPTIONS."""
    for path, item in RAW["paths"].items():
        for method in item:
            if method in ("get", "put", "post", "patch", "delete"):
                yield method.upper(), path


def example_of(operation: dict) -> tuple[bytes | None, dict[str, str]]:
    """The example of a request's body, and the header that goes with it."""
    body = operation.get("requestBody")
    if body is None:
        return None, {}
    if "$ref" in body:
        body = RAW["components"]["requestBodies"][body["$ref"].rsplit("/", 1)[1]]
    [(media_type, content)] = body["content"].items()
    return json.dumps(content["example"]).encode(), {"Content-Type": media_type}


@pytest.mark.parametrize(("method", "path"), operations())
def test_examples_of_the_document_succeed(method: str, path: str, stored: Stored) -> None:
    operation = RAW["paths"][path][method.lower()]
    body, headers = example_of(operation)
    # The operation that is invalid without a parameter.
    query = "?pop=1" if operation["operationId"] in ("deleteMessages", "deleteTopicMessages") else ""
    there = stored.make(path)
    if body and (pool := there.get("pool_name")):
        # The stores in the document do not exist.
        body = body.replace(b"redis://10.0.0.5:6379", stored.uri().encode()).replace(b"fast", pool.encode())
    url = path.format(**there) + query
    is_move = operation["operationId"] == "moveQueue"
    if is_move:
        assert stored.api.call("PUT", "/v2/queues/jobs", headers=stored.headers()).status_code < 400
    answer = stored.api.call(method, url, content=body, headers=stored.headers() | headers)
    # Where the queue is in that pool already, it is not moved.
    assert answer.status_code < 400 or (is_move and answer.status_code == 409), answer.text
    if operation["operationId"] == "drainPool":
        assert stored.api.call("DELETE", url, headers=stored.headers()).status_code == 204
    ANYTHING[path][method].validate_response(answer)


def test_options_and_405_list_the_documented_methods(stored: Stored) -> None:
    for path, item in RAW["paths"].items():
        documented = {method.upper() for method in item if method != "parameters"}
        url = path.format(**stored.make(path))
        other = next(method for method in ("POST", "PUT", "TRACE") if method not in documented)
        for method, status in (("OPTIONS", 200), (other, 405)):
            answer = stored.api.call(method, url)
            allowed = set(answer.headers["allow"].split(", ")) | {"OPTIONS"}
            assert (answer.status_code, allowed) == (status, documented), (method, path)


@pytest.mark.skipif(bool(EXTERNAL_URL), reason="the server of ZAQAR_TEST_URL may have no key to sign with")
def test_signed_headers_reach_what_was_signed(stored: Stored) -> None:
    queue = stored.make("/v2/queues")["queue_name"]
    answer = stored.api.call("POST", f"/v2/queues/{queue}/share", json={})
    assert answer.status_code == 200, answer.text
    signed = answer.json()
    names = {scheme["name"]: name for name, scheme in RAW["components"]["securitySchemes"].items()}
    assert set(names) - {"X-Auth-Token"} == {
        "URL-Signature",
        "URL-Expires",
        "URL-Methods",
        "URL-Paths",
    }
    headers = {
        "URL-Signature": signed["signature"],
        "URL-Expires": signed["expires"],
        "URL-Methods": ",".join(signed["methods"]),
        "URL-Paths": ",".join(signed["paths"]),
    }
    for path, status in (("messages", 200), ("stats", 404)):
        answer = stored.api.call("GET", f"/v2/queues/{queue}/{path}", headers=headers)
        assert answer.status_code == status, answer.text
        ANYTHING[f"/v2/queues/{{queue_name}}/{path}"]["GET"].validate_response(answer)


# --- The check itself can fail ------------------------------------------------------------------


def no_status(document: dict) -> None:
    del document["paths"]["/v2/queues"]["get"]["responses"]["200"]


def other_status(document: dict) -> None:
    del document["paths"]["/v2/queues"]["get"]["responses"]["400"]


def other_type(document: dict) -> None:
    document["components"]["schemas"]["Links"]["type"] = "object"


def one_more_member(document: dict) -> None:
    document["components"]["schemas"]["Error"]["required"].append("code")


def one_member_less(document: dict) -> None:
    listed = document["components"]["schemas"]["QueueList"]
    del listed["properties"]["links"]
    listed["required"].remove("links")


def other_media_type(document: dict) -> None:
    content = document["paths"]["/v2/queues"]["get"]["responses"]["200"]["content"]
    content["text/plain"] = content.pop("application/json")


def one_more_header(document: dict) -> None:
    response = document["paths"]["/v2/queues"]["get"]["responses"]["200"]
    response["headers"]["X-Never-Sent"] = {"required": True, "schema": {"type": "string"}}


WRONG: list[tuple[Callable[[dict], None], str]] = [
    (no_status, "Undocumented status code"),
    (other_status, "Undocumented status code"),
    (other_type, "Response violates schema"),
    (one_more_member, "Response violates schema"),
    (one_member_less, "Response violates schema"),
    (other_media_type, "Undocumented Content-Type"),
    (one_more_header, "Missing required response headers"),
]


@pytest.mark.parametrize(("mistake", "says"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_document_is_detected(
    mistake: Callable[[dict], None], says: str, documented: Server | RunningServer, session: requests.Session
) -> None:
    # Aliases of the file are one object in memory: a copy through JSON has no shared parts.
    document = json.loads(json.dumps(RAW))
    mistake(document)
    wrong = schemathesis.openapi.from_dict(document, config=configuration(EXAMPLES, False))
    operation = wrong["/v2/queues"]["GET"]
    right_and_wrong = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

    @hypothesis.settings(max_examples=20, derandomize=True, database=None, deadline=None)
    @hypothesis.given(case=hypothesis.strategies.one_of(right_and_wrong))
    def fuzz(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=documented.url, session=session)

    with pytest.raises(BaseExceptionGroup) as raised:
        fuzz()
    assert says in str(raised.value.exceptions), raised.value


def test_a_failure_of_the_server_is_detected(
    stored: Stored, documented: Server | RunningServer, session: requests.Session
) -> None:
    case = ANYTHING["/v2/queues"]["GET"].Case(headers=stored.headers())
    response = case.call(base_url=documented.url, session=session)
    case.validate_response(response)
    failed = copy.copy(response)
    failed.status_code = 503
    with pytest.raises(BaseExceptionGroup) as raised:
        case.validate_response(failed)
    assert "Server error" in str(raised.value.exceptions)
