"""What an operation takes does not grow with the backlog, whatever the rules and whatever is at the head."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import pytest

from conftest import EXTERNAL_URL
from support.api import Api
from support.server import Server

SHORT, LONG = 1_000, 100_000
ROUNDS = 50

#: How many messages are posted or claimed at a time: few enough for the time limit of an operation.
STEP = 4_000

#: How many times as long it may take, and the seconds that a busy machine may add to a median.
FACTOR, NOISE = 2, 0.0005

PROJECT = "cost"


@dataclass
class Case:
    """The configuration and contents besides the backlog."""

    kind: str = "queues"
    metadata: dict[str, object] = field(default_factory=dict)
    subscribers: int = 0
    #: The members of each message of the backlog.
    message: dict[str, object] = field(default_factory=dict)
    #: Claims the backlog, so that it is before the free messages.
    is_claimed: bool = False

    @property
    def has_claims(self) -> bool:
        return self.kind == "queues"

    @property
    def hides(self) -> bool:
        """Whether the backlog is not free."""
        return self.is_claimed or "delay" in self.message


RULE = {"_max_claim_count": 1_000_000, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 600}

CASES = {
    "a plain queue": Case(),
    "dead letters and subscribers": Case(metadata=RULE, subscribers=10),
    "behind delayed messages": Case(metadata=RULE, subscribers=10, message={"delay": 900}),
    "behind claimed messages": Case(metadata=RULE, subscribers=10, is_claimed=True),
    "a topic with subscribers": Case(kind="topics", subscribers=10),
    "a topic behind delayed messages": Case(kind="topics", subscribers=10, message={"delay": 900}),
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if EXTERNAL_URL:
        pytest.skip("needs a server process of its own, and ZAQAR_TEST_URL names a running one")
    # Limits that let a backlog be posted and claimed in a few steps.
    options = {"transport": {"max_messages_post_size": 10_000_000, "max_messages_per_claim_or_pop": 100_000}}
    # The disk's share is the same at any backlog, and its noise hides the rest.
    server = Server(tmp_path_factory.mktemp("cost"), sync="never", options=options).start()
    with Api(server.url, PROJECT) as api:
        yield api
    assert server.stop() == 0, server.log_tail()


def prepare(api: Api, case: Case, path: str, backlog: int) -> None:
    assert api.call("PUT", f"/v2/{path}", json=case.metadata).status_code == 201
    for number in range(case.subscribers):
        subscription = {"subscriber": f"http://hooks.invalid/{number}", "ttl": 3600}
        assert api.call("POST", f"/v2/{path}/subscriptions", json=subscription).status_code == 201
    message = {"body": 1, "ttl": 3600, **case.message}
    for start in range(0, backlog, STEP):
        post(api, path, [message] * min(STEP, backlog - start))
    while case.is_claimed:
        answer = api.call("POST", f"/v2/{path}/claims?limit={STEP}", json={"ttl": 3600, "grace": 60})
        if answer.status_code == 204:
            break
        assert answer.status_code == 201, answer.text
    if case.hides:
        # Free messages after it.
        post(api, path, [{"body": "free", "ttl": 3600}] * SHORT)


def post(api: Api, path: str, messages: list[dict]) -> None:
    answer = api.call("POST", f"/v2/{path}/messages", content=json.dumps({"messages": messages}).encode())
    assert answer.status_code == 201, answer.text


Operation = Callable[[Api, str], float]


def seconds(api: Api, method: str, path: str, status: int, document: object = None) -> tuple[float, dict]:
    start = time.perf_counter()
    answer = api.call(method, f"/v2/{path}", json=document)
    taken = time.perf_counter() - start
    assert answer.status_code == status, answer.text
    return taken, answer.json() if answer.content else {}


def post_one(api: Api, path: str) -> float:
    return seconds(api, "POST", f"{path}/messages", 201, {"messages": [{"body": "new", "ttl": 3600}]})[0]


def list_ten(api: Api, path: str) -> float:
    taken, page = seconds(api, "GET", f"{path}/messages?echo=true", 200)
    assert len(page["messages"]) == 10
    return taken


def claim_ten(api: Api, path: str) -> float:
    """Claims and, not timed, releases, so that the next one finds the same."""
    taken, answer = seconds(api, "POST", f"{path}/claims", 201, {"ttl": 600, "grace": 60})
    assert len(answer["messages"]) == 10
    claim = answer["messages"][0]["href"].rsplit("=", 1)[1]
    seconds(api, "DELETE", f"{path}/claims/{claim}", 204)
    return taken


def delete_one(api: Api, path: str) -> float:
    """Deletes the first free message."""
    _, page = seconds(api, "GET", f"{path}/messages?echo=true&limit=1", 200)
    return seconds(api, "DELETE", f"{path}/messages/{page['messages'][0]['id']}", 204)[0]


def pop_one(api: Api, path: str) -> float:
    taken, page = seconds(api, "DELETE", f"{path}/messages?pop=1", 200)
    assert len(page["messages"]) == 1
    return taken


def stats(api: Api, path: str) -> float:
    return seconds(api, "GET", f"{path}/stats", 200)[0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_operation_takes_the_same_at_any_backlog(api: Api, case: Case, queue: str):
    paths = [f"{case.kind}/{queue}-{backlog}" for backlog in (SHORT, LONG)]
    for path, backlog in zip(paths, (SHORT, LONG), strict=True):
        prepare(api, case, path, backlog)
    operations: list[Operation] = [post_one, list_ten, delete_one, pop_one, stats]
    if case.has_claims:
        operations.append(claim_ten)
    for operation in operations:
        # What costs more does so each time; a machine that is busy with something else, seldom
        # thrice.
        assert any(is_the_same(api, operation, paths) for _ in range(3)), operation.__name__


def is_the_same(api: Api, operation: Operation, paths: list[str]) -> bool:
    """Whether an operation takes as long on both; they take turns, so that what slows one down slows both."""
    short, long = map(
        median, zip(*([operation(api, path) for path in paths] for _ in range(ROUNDS)), strict=True)
    )
    print(f"{operation.__name__}: {short * 1000:.2f} and {long * 1000:.2f} ms")
    return long < FACTOR * short + NOISE
