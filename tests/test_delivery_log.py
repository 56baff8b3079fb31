"""The log of deliveries: the result of each one, and how failed ones are repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from support.api import Api
from support.mongodb import REAL_URI, MongoDB, drop, new_name, on_mongodb
from support.receiver import Receiver
from support.redis import Redis, on_redis
from support.server import Sections, Server, free_port
from support.wait import wait_until

LOCAL: Sections = {"notification": {"allow_networks": "127.0.0.0/8"}}

#: A policy whose retries are far away.
LATER = {
    "retries_with_no_delay": 0,
    "minimum_delay_retries": 10,
    "minimum_delay": 300,
    "maximum_delay": 600,
    "maximum_delay_retries": 10,
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


class Subscription:
    """A subscription of `q`, and what is known of its deliveries."""

    def __init__(self, api: Api, subscriber: str, **options) -> None:
        self.api = api
        document = {"subscriber": subscriber, "ttl": 3600, "options": options}
        answer = api.call("POST", "/v2/queues/q/subscriptions", json=document)
        assert answer.status_code == 201, answer.text
        self.path = f"/v2/queues/q/subscriptions/{answer.json()['subscription_id']}"

    def get(self, path: str) -> dict:
        answer = self.api.call("GET", self.path + path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def listed(self, query: str = "?limit=20") -> list[tuple[str, int]]:
        found = self.get(f"/deliveries{query}")["deliveries"]
        return [(one["status"], one["attempt_count"]) for one in found]

    def becomes(self, *expected: tuple[str, int]) -> list[str]:
        """Waits for the list to be so; the ids."""
        wait_until(lambda: self.listed() == list(expected), f"the log has {expected}")
        return [one["id"] for one in self.get("/deliveries?limit=20")["deliveries"]]


def tells_retries_and_resumes(server: Server, receiver: Receiver) -> None:
    with Api(server.url) as api:
        good = Subscription(api, receiver.url("/ok"))
        bad = Subscription(api, receiver.url("/then/404/204"))
        slow = Subscription(api, receiver.url("/then/500/200"), _retry_policy=LATER)
        gone = Subscription(api, receiver.url("/then/410/410/200"))
        dead = Subscription(api, f"http://127.0.0.1:{free_port()}/", _retry_policy=LATER)
        api.post("q", {"a": 1})
        [id_] = good.becomes(("delivered", 1))
        for other, state in ((bad, "failed"), (slow, "pending"), (gone, "failed"), (dead, "pending")):
            assert other.becomes((state, 1)) == [id_]

        def attempts(of: Subscription) -> list[tuple]:
            found = of.get(f"/deliveries/{id_}")["attempts"]
            assert all(0 <= one["milliseconds"] < 60_000 for one in found)
            assert "Location" not in str(found)
            return [(one["status"], one["error"] is None, one["answer"]) for one in found]

        assert attempts(good) == [(204, True, "")]
        assert attempts(bad) == [(404, True, "")]
        assert attempts(dead) == [(None, False, "")]

        # What failed is delivered once more, what waits now; what was delivered is not.
        for of, status in ((bad, 202), (slow, 202), (good, 409)):
            answer = api.call("POST", f"{of.path}/deliveries/{id_}/retry")
            assert answer.status_code == status, answer.text
        bad.becomes(("delivered", 2))
        slow.becomes(("delivered", 2))
        assert len(receiver.of("/ok")) == 1

        # 410 suspends; resumed, it goes on.
        wait_until(lambda: gone.get("/health")["state"] == "suspended", "410 suspends")
        answer = api.call("POST", f"{gone.path}/test", json={"body": "knock"})
        assert answer.status_code == 202, answer.text
        test = answer.json()["delivery_id"]
        assert answer.headers["Location"] == f"{gone.path}/deliveries/{test}"
        assert gone.get("/health")["waiting"] == 1
        assert api.call("POST", f"{gone.path}/resume").status_code == 204
        wait_until(lambda: len(receiver.of("/then/410/410/200")) == 2, "the test arrives")
        assert receiver.of("/then/410/410/200")[1].json["body"] == "knock"
        health = good.get("/health")
        assert (health["state"], health["delivered"], health["failed"]) == ("ok", 1, 0)
        assert health["last_delivered"] is not None


def recovers(server: Server, receiver: Receiver) -> None:
    with Api(server.url) as api:
        one = Subscription(api, receiver.url("/then/404/204"))
        for number in range(18):
            api.post("q", number)
        one.becomes(*[("failed", 1)] * 18)
        answer = api.call("POST", f"{one.path}/recover", json={"since": "2020-01-01T00:00:00Z"})
        assert answer.status_code == 202, answer.text
        begun = answer.json()
        assert (begun["status"], begun["total"]) == ("running", 18)
        assert answer.headers["Location"] == f"{one.path}/recover/{begun['id']}"
        one.becomes(*[("delivered", 2)] * 18)
        path = f"/recover/{begun['id']}"
        wait_until(lambda: one.get(path)["status"] == "done", "the recovery is done")
        assert one.get(path)["remaining"] == 0
        assert api.call("DELETE", one.path + path).status_code == 204
        assert one.get(path)["status"] == "done"
        for method, unknown in (("GET", "0" * 32), ("DELETE", "0" * 32), ("GET", "x")):
            assert api.call(method, f"{one.path}/recover/{unknown}").status_code == 404
        for wrong in ({"since": 5}, {"until": "yesterday"}):
            assert api.call("POST", f"{one.path}/recover", json=wrong).status_code == 400


def sends_batches_and_posts_events(server: Server, receiver: Receiver) -> None:
    with Api(server.url) as api:
        paths = ["/ok?together", "/ok?slowly", "/then/404?never"]
        together, slowly, never = (receiver.url(path) for path in paths)
        batched = Subscription(api, together, batch=10, signing=True)
        limited = Subscription(api, slowly, max_rate=1000)
        failing = Subscription(api, never, batch=10, failure_queue="alerts")
        for other in (batched, failing):
            assert api.call("POST", f"{other.path}/test", json={"body": "alone"}).status_code == 202
        api.post("q", *range(7))
        wait_until(lambda: len(receiver.messages(paths[1])) == 7, "each comes alone")
        limited.becomes(*[("delivered", 1)] * 7)

        def received() -> list[object]:
            return [one["body"] for request in receiver.of(paths[0]) for one in json.loads(request.body)]

        wait_until(lambda: sorted(map(str, received())) == [*"0123456", "alone"], "arrays have them all")
        sent = [one for request in receiver.of(paths[0]) for one in json.loads(request.body)]
        ids = {one["message_id"] for one in sent}

        def known() -> set[str]:
            return {one["id"] for one in batched.get("/deliveries")["deliveries"]}

        # The log is written every half second.
        wait_until(lambda: known() == ids, "the log has them all")
        assert all(one["queue_name"] == "q" and one["Message_Type"] == "Notification" for one in sent)
        assert len(receiver.of(paths[0])) < 8, "some came together"
        assert "Webhook-Signature" in receiver.of(paths[0])[0].headers

        failing.becomes(*[("failed", 1)] * 8)
        (claimed,) = wait_for(lambda: api.claim("alerts", limit=10)[1], "an event is posted")
        event = claimed["body"]
        assert (event["zaqar_event"], event["queue_name"]) == ("exhausted", "q")
        assert event["subscription_id"] == failing.path.rsplit("/", 1)[1]
        assert event["subscriber"] == never
        assert event["reason"] == "the receiver answered 404"


def wait_for(answer: Callable[[], list], what: str) -> list:
    found: list = []

    def has_come() -> bool:
        found.extend(answer())
        return bool(found)

    wait_until(has_come, what)
    return found


@pytest.fixture(scope="module", params=["embedded", "redis", "mongodb"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on each store."""
    root = tmp_path_factory.mktemp(request.param)
    database: Redis | MongoDB | None = None
    options: Sections = {}
    name = new_name()
    if request.param == "redis":
        database = Redis(root / "redis").start()
        options = on_redis(database.uri)
    elif request.param == "mongodb":
        database = None if REAL_URI else MongoDB(root / "mongodb").start()
        options = on_mongodb(REAL_URI or database.uri, name)
    server = Server(root / "server", options={**options, **LOCAL})
    try:
        server.start()
        yield server
        assert server.stop() == 0, server.log_tail()
    finally:
        if request.param == "mongodb":
            drop(REAL_URI or database.uri, name)
        if database is not None:
            database.kill()


@pytest.mark.timeout(400)
def test_the_log_lists_deliveries_and_failed_ones_are_repeated(stored: Server, receiver: Receiver):
    tells_retries_and_resumes(stored, receiver)


@pytest.mark.timeout(400)
def test_batches_are_sent_and_events_are_posted(stored: Server, receiver: Receiver):
    sends_batches_and_posts_events(stored, receiver)


@pytest.mark.timeout(400)
def test_failed_deliveries_are_recovered(stored: Server, receiver: Receiver):
    recovers(stored, receiver)


def test_the_circuit_of_a_failing_destination_opens(new_server: Callable[..., Server], receiver: Receiver):
    with Api(new_server(options=LOCAL).start().url) as api:
        good = Subscription(api, receiver.url("/ok"))
        dead = Subscription(api, f"http://127.0.0.1:{free_port()}/", _retry_policy=LATER)
        assert (dead.get("/health")["state"], dead.get("/health")["next_attempt"]) == ("ok", None)
        # Five failures in a row.
        for number in range(5):
            api.post("q", number)
        wait_until(lambda: dead.get("/health")["state"] == "failing", "its circuit is open")
        assert dead.get("/health")["next_attempt"] is not None
        wait_until(lambda: good.get("/health")["delivered"] == 5, "the other is served")
        assert good.get("/health")["state"] == "ok"


def test_pages_and_filters_and_invalid_requests(new_server: Callable[..., Server], receiver: Receiver):
    server = new_server(options=LOCAL).start()
    with Api(server.url) as api:
        one = Subscription(api, receiver.url("/ok"))
        for number in range(7):
            api.post("q", number)
        ids = one.becomes(*[("delivered", 1)] * 7)
        assert ids == sorted(ids)
        paged, path = [], f"{one.path}/deliveries?limit=3&status=delivered&since=2020-01-01T00:00:00Z"
        while True:
            page = api.call("GET", path).json()
            if not page["deliveries"]:
                break
            assert len(page["deliveries"]) <= 3
            paged += [found["id"] for found in page["deliveries"]]
            path = page["links"][0]["href"]
        assert paged == ids
        assert one.listed("?status=failed") == []
        assert one.listed("?since=2999-01-01T00:00:00Z") == []
        for query in ("status=lost", "since=yesterday", "limit=0", "limit=x"):
            answer = api.call("GET", f"{one.path}/deliveries?{query}")
            assert answer.status_code == 400, (query, answer.text)
        unknown = "0" * 32
        for method, path in (
            ("GET", f"{one.path}/deliveries/{unknown}"),
            ("GET", f"{one.path}/deliveries/x"),
            ("POST", f"{one.path}/deliveries/{unknown}/retry"),
            ("GET", f"/v2/queues/q/subscriptions/{unknown}/deliveries"),
            ("GET", f"/v2/queues/q/subscriptions/{unknown}/health"),
            ("POST", f"/v2/queues/q/subscriptions/{unknown}/resume"),
            ("POST", f"/v2/queues/q/subscriptions/{unknown}/test"),
        ):
            answer = api.call(method, path)
            assert answer.status_code == 404, (path, answer.text)
    # Nothing of it is another project's.
    with Api(server.url) as stranger:
        assert stranger.call("GET", f"{one.path}/deliveries").status_code == 404
