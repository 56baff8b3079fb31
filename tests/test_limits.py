"""Every option of `[transport]`: a request at its limit is accepted, and one past it rejected."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from conftest import EXTERNAL_URL
from support.api import Api
from support.connection import PATCH_TYPE
from support.server import REPOSITORY, Server

#: All different, and none the default, so that each request meets the option that it is about.
OPTIONS: dict[str, object] = {
    "default_message_ttl": 700,
    "default_message_delay": 40,
    "default_claim_ttl": 210,
    "default_claim_grace": 110,
    "default_subscription_ttl": 510,
    "max_queues_per_page": 5,
    "max_messages_per_page": 6,
    "max_subscriptions_per_page": 7,
    "max_messages_per_claim_or_pop": 8,
    "max_queue_metadata": 300,
    "max_messages_post_size": 1500,
    "max_message_ttl": 7000,
    "max_message_delay": 90,
    "max_claim_ttl": 1000,
    "max_claim_grace": 2000,
    "subscriber_types": "https,mailto",
    "client_id_uuid_safe": "off",
    "min_length_client_id": 5,
    "max_length_client_id": 40,
    "message_delete_with_claim_id": True,
    "message_encryption_algorithms": "AES256",
    "message_encryption_key": "a key of test_limits",
}

#: Nothing can be asked of these: pools and flavors are not served.
NOT_SERVED = {"max_flavors_per_page", "max_pools_per_page"}

#: How many of everything there is: more than any page holds.
PLENTY = 10

HOOK = "https://hooks.example.com"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if EXTERNAL_URL:
        pytest.skip("needs a server process of its own, and ZAQAR_TEST_URL names a running one")
    own = Server(tmp_path_factory.mktemp("limited"), options={"transport": OPTIONS})
    own.start()
    yield own
    assert own.stop() == 0, own.log_tail()


@pytest.fixture(scope="module")
def api(limited: Server) -> Iterator[Api]:
    """A client of a project with more queues, topics, messages and subscriptions than a page holds."""
    with Api(limited.url) as api:
        for kind in ("queues", "topics"):
            for number in range(PLENTY):
                assert api.call("PUT", f"/v2/{kind}/q{number}").status_code == 201
                subscription = {"subscriber": f"{HOOK}/{number}", "ttl": 3000}
                answer = api.call("POST", f"/v2/{kind}/q0/subscriptions", json=subscription)
                assert answer.status_code == 201, answer.text
            post(api, f"{kind}/q0")
        yield api


def post(api: Api, path: str) -> None:
    messages = [{"body": number, "delay": 0} for number in range(PLENTY)]
    answer = api.call("POST", f"/v2/{path}/messages", json={"messages": messages})
    assert answer.status_code == 201, answer.text


Ask = Callable[[Api, int], httpx.Response]


@dataclass
class Asked:
    """A request at the limit of an option or one past it, by what `ask` makes of the number."""

    option: str
    ask: Ask
    #: Which number is wrong: one more than the option says, or one less.
    wrong: int = 1
    #: How many things an answer at the limit shows, when that is what the option is about.
    shows: str = ""


def get(path: str, **parameters: object) -> Ask:
    return lambda api, number: api.call("GET", f"/v2/{path}", params={"limit": number, **parameters})


def ids(method: str, path: str) -> Ask:
    """A request for so many messages by their ids, of which one is there."""

    def ask(api: Api, number: int) -> httpx.Response:
        first = api.call("GET", f"/v2/{path}/messages?echo=true").json()["messages"][0]["id"]
        wanted = ",".join([first, *(f"{n:032x}" for n in range(number - 1))])
        return api.call(method, f"/v2/{path}/messages?ids={wanted}&claim_ids=none")

    return ask


def send(method: str, path: str, document: Callable[[int], object]) -> Ask:
    return lambda api, number: api.call(method, f"/v2/{path}", json=document(number))


def send_padded(method: str, path: str, document: object) -> Ask:
    """A request with a body of so many bytes."""

    def ask(api: Api, number: int) -> httpx.Response:
        content = json.dumps(document).encode().ljust(number)
        return api.call(method, f"/v2/{path}", content=content, headers={"Content-Type": "application/json"})

    return ask


def pop(path: str) -> Ask:
    def ask(api: Api, number: int) -> httpx.Response:
        post(api, path)
        return api.call("DELETE", f"/v2/{path}/messages?pop={number}")

    return ask


def claim(api: Api, number: int) -> httpx.Response:
    post(api, "queues/claimed")
    return api.call("POST", f"/v2/queues/claimed/claims?limit={number}", json={})


def grow(path: str) -> Ask:
    """A short patch after which the metadata are so many bytes of JSON."""

    def ask(api: Api, number: int) -> httpx.Response:
        assert api.call("PUT", f"/v2/{path}", json={"a": "x" * 150}).status_code < 300
        value = "y" * (number - len('{"a":"","b":""}') - 150)
        patch = [{"op": "add", "path": "/metadata/b", "value": value}]
        return api.call("PATCH", f"/v2/{path}", json=patch, headers={"Content-Type": PATCH_TYPE})

    return ask


def client_of(api: Api, length: int) -> httpx.Response:
    return api.call("GET", "/v2/queues", headers={"Client-ID": "c" * length})


def message(**fields: object) -> dict[str, object]:
    return {"messages": [{"body": 1, **fields}]}


def asked_of(kind: str) -> Iterator[Asked]:
    """What queues and topics have in common."""
    full, new = f"{kind}/q0", f"{kind}/new"
    yield Asked("max_queues_per_page", get(kind), shows=kind)
    yield Asked("max_messages_per_page", get(f"{full}/messages", echo=True), shows="messages")
    yield Asked("max_messages_per_page", ids("GET", full))
    yield Asked("max_messages_per_page", ids("DELETE", full))
    yield Asked("max_subscriptions_per_page", get(f"{full}/subscriptions"), shows="subscriptions")
    yield Asked("max_messages_per_claim_or_pop", pop(f"{kind}/popped"), shows="messages")
    yield Asked("max_messages_post_size", send_padded("POST", f"{new}/messages", message()))
    yield Asked("max_messages_post_size", send("PUT", new, lambda n: {"_max_messages_post_size": n}))
    yield Asked("max_message_ttl", send("POST", f"{new}/messages", lambda n: message(ttl=n)))
    yield Asked("max_message_ttl", send("PUT", new, lambda n: {"_default_message_ttl": n}))
    yield Asked("max_message_delay", send("POST", f"{new}/messages", lambda n: message(delay=n)))
    yield Asked("max_message_delay", send("PUT", new, lambda n: {"_default_message_delay": n}))
    yield Asked("max_queue_metadata", send_padded("PUT", new, {"a": 1}))
    yield Asked("max_queue_metadata", grow(f"{kind}/patched"))


ASKED = [
    *asked_of("queues"),
    *asked_of("topics"),
    Asked("max_message_ttl", send("PUT", "queues/new", lambda n: {"_dead_letter_queue_messages_ttl": n})),
    Asked("max_messages_per_claim_or_pop", claim, shows="messages"),
    Asked("max_claim_ttl", send("POST", "queues/q1/claims", lambda n: {"ttl": n, "grace": 60})),
    Asked("max_claim_grace", send("POST", "queues/q1/claims", lambda n: {"ttl": 60, "grace": n})),
    Asked("min_length_client_id", client_of, wrong=-1),
    Asked("max_length_client_id", client_of),
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.option)
def test_a_request_at_a_limit_is_accepted_and_one_past_it_is_400(api: Api, asked: Asked):
    limit = OPTIONS[asked.option]
    assert isinstance(limit, int)
    # The request past the limit comes first: if it changed anything, the next one would fail.
    refused = asked.ask(api, limit + asked.wrong)
    assert refused.status_code == 400, refused.text
    assert re.search(rf"\b{limit}\b", refused.text)
    taken = asked.ask(api, limit)
    assert taken.status_code < 300, taken.text
    if asked.shows:
        assert len(taken.json()[asked.shows]) == limit


def test_a_claim_is_renewed_with_the_longest_ttl(api: Api):
    path = f"/v2/queues/renewed/claims/{claim_one(api, 'renewed')[0]}"
    for ttl, status in ((1001, 400), (1000, 204)):
        assert api.call("PATCH", path, json={"ttl": ttl, "grace": 60}).status_code == status
    assert api.call("GET", path).json()["ttl"] == 1000


def claim_one(api: Api, queue: str) -> tuple[str, dict]:
    post(api, f"queues/{queue}")
    claim_id, (first,) = api.claim(queue, limit=1)
    return claim_id, first


@pytest.mark.parametrize(
    ("path", "shows", "limit"),
    [
        ("queues", "queues", 5),
        ("topics", "topics", 5),
        ("queues/q0/messages?echo=true", "messages", 6),
        ("queues/q0/subscriptions", "subscriptions", 7),
    ],
)
def test_a_page_without_a_limit_is_no_longer_than_the_longest(api: Api, path: str, shows: str, limit: int):
    assert len(api.call("GET", f"/v2/{path}").json()[shows]) == limit


def test_a_claim_without_a_limit_is_no_larger_than_the_largest(api: Api):
    post(api, "queues/whole")
    assert len(api.call("POST", "/v2/queues/whole/claims", json={}).json()["messages"]) == 8


def test_a_message_without_members_has_the_defaults(api: Api):
    answer = api.call("POST", "/v2/queues/plain/messages", json=message())
    assert answer.status_code == 201
    assert api.call("GET", "/v2/queues/plain/messages?echo=true").json()["messages"] == []
    (shown,) = api.call("GET", "/v2/queues/plain/messages?echo=true&include_delayed=true").json()["messages"]
    assert shown["ttl"] == 700
    metadata = api.call("GET", "/v2/queues/plain").json()
    assert (metadata["_default_message_ttl"], metadata["_default_message_delay"]) == (700, 40)
    assert metadata["_max_messages_post_size"] == 1500

    made = api.call("POST", "/v2/queues/plain/subscriptions", json={"subscriber": HOOK}).json()
    path = f"/v2/queues/plain/subscriptions/{made['subscription_id']}"
    assert api.call("GET", path).json()["ttl"] == 510


def test_a_claim_without_members_has_the_defaults(api: Api):
    answer = api.call("POST", "/v2/queues/brief/messages", json=message(ttl=60, delay=0))
    assert answer.status_code == 201
    answer = api.call("POST", "/v2/queues/brief/claims", json={})
    claim_id = answer.headers["location"].rsplit("/", 1)[1]
    assert api.call("GET", f"/v2/queues/brief/claims/{claim_id}").json()["ttl"] == 210
    # The claim extended the ttl to its own and the grace.
    listing = "/v2/queues/brief/messages?echo=true&include_claimed=true"
    (shown,) = api.call("GET", listing).json()["messages"]
    assert shown["ttl"] in range(210 + 110, 210 + 110 + 30)


@pytest.mark.parametrize("subscriber", ["http://hooks.example.com", "trust+https://hooks.example.com"])
def test_only_the_configured_subscriber_types_are_accepted(api: Api, subscriber: str):
    refused = api.call("POST", "/v2/queues/q0/subscriptions", json={"subscriber": subscriber})
    assert refused.status_code == 400
    assert "['https', 'mailto']" in refused.json()["description"]
    for taken in ("https://other.example.com", "mailto:somebody@example.com"):
        answer = api.call("POST", "/v2/queues/q0/subscriptions", json={"subscriber": taken})
        assert answer.status_code == 201, answer.text


def test_any_text_of_the_right_length_is_a_client_id(api: Api):
    assert api.call("GET", "/v2/queues", headers={"Client-ID": "who?!"}).status_code == 200


def test_a_deletion_must_name_its_claims(api: Api):
    claim_id, first = claim_one(api, "deleted")
    path = f"/v2/queues/deleted/messages?ids={first['id']}"
    refused = api.call("DELETE", path)
    assert refused.status_code == 400
    assert "claim_ids" in refused.json()["description"]
    for claims, left in ((str(uuid.uuid4()), 200), (claim_id, 404)):
        assert api.call("DELETE", f"{path}&claim_ids={claims}").status_code == 204
        assert api.call("GET", f"/v2/queues/deleted/messages/{first['id']}").status_code == left


def test_a_queue_can_be_encrypted_with_the_key(api: Api):
    assert api.call("PUT", "/v2/queues/secret", json={"_enable_encrypt_messages": True}).status_code == 201


def test_every_option_of_the_section_is_tested():
    section = re.search(
        r"^\[transport\]\n(.*?)^\[", (REPOSITORY / "crates/zaqar-server/zaqar.conf").read_text(), re.M | re.S
    )
    assert section is not None
    options = set(re.findall(r"^#(\w+) = ?", section[1], re.M))
    assert options == OPTIONS.keys() | NOT_SERVED
    limits = {option for option in options if option.startswith(("max_", "min_"))}
    assert limits == {asked.option for asked in ASKED} | NOT_SERVED
