"""python-zaqarclient, queues v2, unpatched: what its user sees."""

from __future__ import annotations

import hashlib
import time
import uuid

import pytest
from zaqarclient.queues.v2 import client as zaqarclient
from zaqarclient.transport import errors

from support.api import Api
from support.clients import bodies, connect, post


def test_ping(client):
    assert client.ping() is True


def test_home_document_names_the_queue_resource(client):
    assert "rel/queue" in client.homedoc()["resources"]


def test_the_home_document_names_each_resource(client):
    resources = client.homedoc()["resources"]
    for name in ("queues", "queue_stats", "messages", "post_messages", "claim", "subscription", "health"):
        assert {"href", "href-template"} & set(resources[f"rel/{name}"])


class Admin(zaqarclient.Client):
    """The client behind a proxy that says who asks: without Keystone it can not claim a role itself."""

    def _request_and_transport(self):
        request, transport = super()._request_and_transport()
        request.headers["X-Roles"] = "admin"
        return request, transport


def test_health_is_for_admins(client):
    with pytest.raises(errors.ForbiddenError):
        client.health()


def test_health_tells_how_each_operation_went(client, project):
    health = Admin(client.api_url, 2, client.conf).health()
    assert health["storage_reachable"] is True
    operations = health["operation_status"]
    for name in ("create_queue", "post_messages", "list_messages", "claim_messages", "delete_queue"):
        assert operations[name]["succeeded"] is True, operations
        assert operations[name]["seconds"] > 0
    assert list(client.queues()[0]) == []


def test_force_create_makes_an_empty_queue(client):
    client.queue("made", force_create=True)
    listed, _ = client.queues()
    assert [queue.name for queue in listed] == ["made"]


def test_exists(client):
    client.queue("here", force_create=True)
    assert client.queue("here").exists()


def test_metadata_is_set_replaced_and_removed(client):
    queue = client.queue("meta", force_create=True)
    queue.metadata(new_meta={"colour": "red", "size": 3})
    assert queue.metadata(force_reload=True)["colour"] == "red"

    queue.metadata(new_meta={"colour": "blue"})
    stored = queue.metadata(force_reload=True)
    assert stored["colour"] == "blue"
    assert "size" not in stored


def test_metadata_of_a_missing_queue_shows_the_defaults(client):
    assert client.queue("missing").metadata()["_default_message_ttl"] == 3600


def test_reserved_metadata_governs_posts(client):
    queue = client.queue("reserved", force_create=True)
    queue.metadata(new_meta={"_default_message_ttl": 120, "_max_messages_post_size": 1000})
    queue.post({"body": "no ttl given"})
    assert [message.ttl for message in queue.messages(echo=True)] == [120]
    with pytest.raises(errors.MalformedRequest):
        queue.post({"body": "x" * 1000})


#: The reserved attributes that a queue shows when nobody has set them.
DEFAULTS = {
    "_max_messages_post_size": 262144,
    "_default_message_ttl": 3600,
    "_default_message_delay": 0,
    "_dead_letter_queue": None,
    "_dead_letter_queue_messages_ttl": None,
    "_max_claim_count": None,
    "_enable_encrypt_messages": False,
}


def test_a_queue_shows_the_reserved_attributes(client):
    assert client.queue("reserved", force_create=True).metadata() == DEFAULTS


def test_reserved_metadata_is_set_and_falls_back_when_left_out(client):
    queue = client.queue("reserved", force_create=True)
    wanted = {
        "_max_messages_post_size": 1000,
        "_default_message_ttl": 120,
        "_default_message_delay": 30,
        "_retry_policy": {"retries_with_no_delay": 2, "minimum_delay": 5, "maximum_delay": 30},
        "colour": "red",
    }
    queue.metadata(new_meta=wanted)
    assert queue.metadata(force_reload=True) == {**DEFAULTS, **wanted}
    # The client asks to remove each attribute that the new metadata leave out.
    queue.metadata(new_meta={"_default_message_ttl": 90})
    assert queue.metadata(force_reload=True) == {**DEFAULTS, "_default_message_ttl": 90}
    queue.metadata(new_meta={})
    assert queue.metadata(force_reload=True) == DEFAULTS


def set_metadata(client, queue: str, **attributes: object) -> None:
    """Sets what the client can not: an attribute that shows null it adds and removes in the same breath."""
    with Api(client.api_url, client.auth_opts["options"]["os_project_id"]) as api:
        api.set_metadata(queue, attributes)


def test_attributes_that_show_null_are_read_and_removed(client):
    queue = client.queue("reserved", force_create=True)
    wanted = {"_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 600, "_max_claim_count": 5}
    # The client adds each and then removes each whose default is null, in one patch.
    queue.metadata(new_meta=wanted)
    assert queue.metadata(force_reload=True) == {**DEFAULTS, **wanted}
    # Now they are there, so that the client can replace and remove them.
    queue.metadata(new_meta={**wanted, "_max_claim_count": 7})
    assert queue.metadata(force_reload=True) == {**DEFAULTS, **wanted, "_max_claim_count": 7}
    queue.metadata(new_meta={"_max_claim_count": 7})
    assert queue.metadata(force_reload=True) == {**DEFAULTS, "_max_claim_count": 7}


@pytest.mark.parametrize(
    "wrong",
    [
        {"_max_messages_post_size": 262145},
        {"_default_message_ttl": 59},
        {"_default_message_ttl": "long"},
        {"_default_message_delay": 901},
        {"_enable_encrypt_messages": "yes"},
        {"_retry_policy": {"minimum_delay": "soon"}},
    ],
    ids=str,
)
def test_bad_reserved_metadata_are_refused_and_change_nothing(client, wrong):
    queue = client.queue("reserved", force_create=True)
    queue.metadata(new_meta={"colour": "red"})
    with pytest.raises(errors.MalformedRequest):
        queue.metadata(new_meta={"colour": "blue", **wrong})
    assert queue.metadata(force_reload=True) == {**DEFAULTS, "colour": "red"}


def test_a_patch_of_a_missing_queue_is_not_found(client):
    with pytest.raises(errors.ResourceNotFound):
        client.queue("missing").metadata(new_meta={"a": 1})


def test_one_message_or_many_can_be_posted(client):
    queue = client.queue("posts")
    assert len(queue.post({"body": {"n": 1}, "ttl": 300})["resources"]) == 1
    assert len(post(queue, 2, [3], "four", None)) == 4
    assert bodies(queue.messages(echo=True)) == [{"n": 1}, 2, [3], "four", None]


@pytest.mark.differs("its header with all the ids is longer than the client reads", sometimes=True)
def test_the_answer_to_a_large_batch_can_be_read(client):
    queue = client.queue("posts")
    assert len(queue.post([{"body": number} for number in range(10_000)])["resources"]) == 10_000
    assert queue.stats["messages"]["total"] == 10_000


def test_a_message_too_short_lived_is_refused(client):
    with pytest.raises(errors.MalformedRequest, match="60"):
        client.queue("short").post({"body": 1, "ttl": 59})


def test_own_messages_are_listed_only_with_echo(client, other_client):
    queue = client.queue("echo")
    post(queue, "mine")
    assert bodies(queue.messages()) == []
    assert bodies(queue.messages(echo=True)) == ["mine"]
    assert bodies(other_client.queue("echo").messages()) == ["mine"]


def test_list_takes_a_limit(client):
    queue = client.queue("pages")
    post(queue, *range(7))
    assert bodies(queue.messages(echo=True, limit=3)) == [0, 1, 2]


@pytest.mark.differs("its markers are not ids")
def test_an_id_is_a_marker(client):
    queue = client.queue("pages")
    ids = post(queue, *range(7))
    assert bodies(queue.messages(echo=True, limit=3, marker=ids[2])) == [3, 4, 5]


def test_a_stream_follows_the_next_links_to_the_end(client):
    queue = client.queue("stream")
    post(queue, *range(25))
    first_page = queue.messages(echo=True, limit=10)
    assert bodies(first_page.stream()) == list(range(25))


def test_messages_are_got_by_id(client):
    queue = client.queue("by-id")
    ids = post(queue, "a", "b", "c")
    assert queue.message(ids[1]).body == "b"
    assert sorted(bodies(queue.messages(ids[0], ids[2]))) == ["a", "c"]


def test_a_missing_message_is_not_found(client):
    queue = client.queue("by-id", force_create=True)
    with pytest.raises(errors.ResourceNotFound):
        queue.message("5c6939a8f2b4d1e0a7c3b9d2")


def test_a_message_deletes_itself(client):
    queue = client.queue("deleting")
    ids = post(queue, "goes", "stays")
    queue.message(ids[0]).delete()
    assert bodies(queue.messages(echo=True)) == ["stays"]


def test_many_messages_are_deleted_by_id(client):
    queue = client.queue("deleting")
    ids = post(queue, "a", "b", "c")
    queue.delete_messages(ids[0], ids[2])
    assert bodies(queue.messages(echo=True)) == ["b"]


def test_a_claim_hands_out_the_oldest_messages(client):
    queue = client.queue("work")
    post(queue, *range(5))
    claim = queue.claim(ttl=600, grace=60, limit=3)
    assert bodies(claim) == [0, 1, 2]
    assert bodies(queue.messages(echo=True)) == [3, 4]
    assert bodies(queue.messages(echo=True, include_claimed=True)) == [0, 1, 2, 3, 4]


def test_a_claim_of_nothing_is_empty(client):
    queue = client.queue("idle", force_create=True)
    assert list(queue.claim(ttl=60, grace=60)) == []


def test_a_claim_without_arguments_is_refused(client):
    # The client sends nulls then, which are no integers.
    with pytest.raises(errors.MalformedRequest):
        client.queue("work").claim()


def test_a_claim_is_got_and_renewed(client):
    queue = client.queue("work")
    post(queue, "a", "b")
    claim = queue.claim(ttl=600, grace=60)
    claim.update(ttl=900, grace=120)

    again = queue.claim(id=claim.id)
    assert bodies(again) == ["a", "b"]
    assert again.ttl == 900
    assert again.age < 60


def test_a_released_claim_puts_messages_back_in_their_place(client):
    queue = client.queue("work")
    post(queue, *range(3))
    claim = queue.claim(ttl=60, grace=60, limit=2)
    claim.delete()
    assert bodies(queue.messages(echo=True)) == [0, 1, 2]
    with pytest.raises(errors.ResourceNotFound):
        list(queue.claim(id=claim.id))


def test_claimed_messages_delete_themselves_with_their_claim(client):
    queue = client.queue("work")
    post(queue, "a", "b")
    for message in queue.claim(ttl=60, grace=60):
        assert message.claim_id
        message.delete()
    assert bodies(queue.messages(echo=True, include_claimed=True)) == []


def test_a_claimed_message_needs_its_claim_to_be_deleted(client):
    queue = client.queue("work")
    ids = post(queue, "a")
    message = queue.message(ids[0])
    queue.claim(ttl=60, grace=60)
    with pytest.raises(errors.ForbiddenError):
        message.delete()


@pytest.mark.differs("there only claims that expire count, and a minute is the shortest")
def test_a_message_claimed_often_enough_is_a_dead_letter(client):
    queue = client.queue("source", force_create=True)
    rule = {"_max_claim_count": 2, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 900}
    set_metadata(client, "source", **rule)
    ids = post(queue, "poison", ttl=300)
    for _ in range(2):
        claim = queue.claim(ttl=60, grace=60)
        assert bodies(claim) == ["poison"]
        claim.delete()
    post(queue, "wholesome")
    assert bodies(queue.claim(ttl=60, grace=60)) == ["wholesome"]
    assert bodies(queue.messages(echo=True, include_claimed=True)) == ["wholesome"]

    (letter,) = client.queue("dead").messages(echo=True)
    assert (letter.body, letter.ttl) == ("poison", 900)
    assert letter.id not in ids
    (taken,) = client.queue("dead").claim(ttl=60, grace=60)
    taken.delete()
    assert bodies(client.queue("dead").messages(echo=True, include_claimed=True)) == []


def seen_within(seconds: float, queue, **params: object) -> list[object]:
    """The bodies of a queue once there are some."""
    deadline = time.monotonic() + seconds
    while not (found := bodies(queue.messages(echo=True, **params))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.mark.differs("there a delay counts only in a queue with a default delay")
def test_a_delayed_message_comes_when_its_time_has(client):
    queue = client.queue("delayed")
    start = time.monotonic()
    post(queue, "later", delay=2)
    assert bodies(queue.messages(echo=True)) == []
    assert bodies(queue.claim(ttl=60, grace=60)) == []
    assert bodies(queue.pop()) == []
    assert bodies(queue.messages(echo=True, include_delayed=True)) == ["later"]

    assert seen_within(10, queue) == ["later"]
    assert time.monotonic() - start >= 2
    assert bodies(queue.claim(ttl=60, grace=60)) == ["later"]


def test_a_delayed_queue_delays_what_does_not_say_otherwise(client):
    queue = client.queue("delayed", force_create=True)
    queue.metadata(new_meta={"_default_message_delay": 30})
    post(queue, "later")
    post(queue, "now", delay=0)
    assert bodies(queue.messages(echo=True)) == ["now"]
    assert bodies(queue.messages(echo=True, include_delayed=True)) == ["later", "now"]


@pytest.mark.differs("there a delay is checked only in a queue with a default delay")
def test_a_delay_out_of_bounds_is_refused(client):
    for delay in (-1, 901, "soon"):
        with pytest.raises(errors.MalformedRequest, match=r"(?i)delay"):
            post(client.queue("delayed"), "later", delay=delay)


def test_checksums_are_those_of_the_body(new_server):
    server = new_server(options={"DEFAULT": {"enable_checksum": True}}).start()
    queue = connect(server.url, "p").queue("summed")
    ids = post(queue, "hello")
    expected = "MD5:" + hashlib.md5(b'"hello"').hexdigest()
    assert queue.message(ids[0]).checksum == expected
    assert [one.checksum for one in queue.messages(echo=True)] == [expected]
    assert [one.checksum for one in queue.claim(ttl=60, grace=60)] == [expected]


def test_an_encrypted_queue_hands_out_plain_bodies(new_server):
    server = new_server(options={"transport": {"message_encryption_key": "a long enough key"}}).start()
    queue = connect(server.url, "p").queue("secret", force_create=True)
    queue.metadata(new_meta={"_enable_encrypt_messages": True})
    ids = post(queue, {"pin": "four-seven-one-one"}, "b", "c")
    assert queue.message(ids[0]).body == {"pin": "four-seven-one-one"}
    assert bodies(queue.messages(echo=True)) == [{"pin": "four-seven-one-one"}, "b", "c"]
    assert bodies(queue.claim(ttl=60, grace=60, limit=2)) == [{"pin": "four-seven-one-one"}, "b"]
    assert bodies(queue.pop()) == ["c"]
    assert server.stop() == 0
    for path in server.data.rglob("*"):
        assert b"four-seven-one-one" not in path.read_bytes(), path


@pytest.mark.differs("there is a key that everybody knows")
def test_without_a_key_a_queue_can_not_be_encrypted(client):
    queue = client.queue("secret", force_create=True)
    with pytest.raises(errors.MalformedRequest, match="message_encryption_key"):
        queue.metadata(new_meta={"_enable_encrypt_messages": True})


def test_pop_takes_messages_off_the_queue(client):
    queue = client.queue("popping")
    post(queue, *range(5))
    assert bodies(queue.pop(count=2)) == [0, 1]
    assert bodies(queue.pop()) == [2]
    assert bodies(queue.messages(echo=True)) == [3, 4]


def test_stats_count_free_and_claimed(client):
    queue = client.queue("counted")
    ids = post(queue, *range(5))
    queue.claim(ttl=60, grace=60, limit=2)
    stats = queue.stats["messages"]
    assert (stats["claimed"], stats["free"], stats["total"]) == (2, 3, 5)
    assert stats["oldest"]["href"].split("?")[0].endswith(ids[0])
    assert stats["newest"]["href"].split("?")[0].endswith(ids[4])


def test_stats_of_a_missing_queue_are_zeros(client):
    stats = client.queue("missing").stats["messages"]
    assert (stats["claimed"], stats["free"], stats["total"]) == (0, 0, 0)


def test_purge_empties_the_queue(client):
    queue = client.queue("purged")
    post(queue, *range(3))
    queue.purge(resource_types=["messages"])
    assert bodies(queue.messages(echo=True)) == []


@pytest.mark.differs("its purge leaves claimed messages")
def test_purge_without_types_takes_claimed_messages_too(client):
    queue = client.queue("purged")
    post(queue, *range(3))
    queue.claim(ttl=60, grace=60, limit=1)
    queue.purge()
    assert bodies(queue.messages(echo=True, include_claimed=True)) == []


def test_a_deleted_queue_takes_its_messages_along(client):
    queue = client.queue("deleted")
    post(queue, *range(3))
    queue.delete()
    listed, _ = client.queues()
    assert [one.name for one in listed] == []
    assert bodies(queue.messages(echo=True)) == []


def test_queues_are_listed_in_pages_and_counted(client):
    for number in range(5):
        client.queue(f"queue-{number}", force_create=True)
    listed, count = client.queues(limit=2, with_count=True)
    assert [queue.name for queue in listed] == ["queue-0", "queue-1"]
    assert count == 5
    listed, _ = client.queues(limit=2, marker="queue-1")
    assert [queue.name for queue in listed] == ["queue-2", "queue-3"]
    listed, _ = client.queues(limit=2)
    assert [queue.name for queue in listed.stream()] == [f"queue-{number}" for number in range(5)]


@pytest.mark.differs("there the second half of `a|b` finds queues of every project", sometimes=True)
def test_queues_are_found_by_name_and_by_metadata(client):
    for name, colour in (("apple", "red"), ("pear", "green"), ("cherry", "red")):
        client.queue(name, force_create=True).metadata(new_meta={"colour": colour, "size": 3})

    def found(**filters: object) -> list[str]:
        return [queue.name for queue in client.queues(**filters)[0]]

    assert found(name="pp|ea") == ["apple", "pear"]
    assert found(name="rr") == ["cherry"]
    assert found(colour="red") == ["apple", "cherry"]
    assert found(colour="red", size=3, name="e") == ["apple", "cherry"]
    assert found(colour="blue") == []


def test_a_detailed_list_carries_the_metadata(client):
    client.queue("detailed", force_create=True).metadata(new_meta={"colour": "red"})
    listed, _ = client.queues(detailed=True)
    (queue,) = listed
    assert queue.metadata()["colour"] == "red"
    assert queue.metadata()["_max_messages_post_size"] == 262144


def test_projects_do_not_see_each_other(client, server):
    post(client.queue("shared-name"), "mine")
    stranger = connect(server.url, f"project-{uuid.uuid4()}")
    assert [queue.name for queue in stranger.queues()[0]] == []
    assert bodies(stranger.queue("shared-name").messages(echo=True)) == []
