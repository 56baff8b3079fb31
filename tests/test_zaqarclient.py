"""python-zaqarclient, queues v2, unpatched: what its user sees."""

from __future__ import annotations

import uuid

import pytest
from zaqarclient.queues import client as zaqarclient
from zaqarclient.transport import errors


def connect(url: str, project: str):
    auth = {"backend": "noauth", "options": {"os_project_id": project}}
    return zaqarclient.Client(url, version=2, conf={"auth_opts": auth})


@pytest.fixture
def project() -> str:
    return f"project-{uuid.uuid4()}"


@pytest.fixture
def client(server, project):
    return connect(server.url, project)


@pytest.fixture
def other_client(server, project):
    """Another client of the same project: it sees what `client` posts without asking for an echo."""
    return connect(server.url, project)


def post(queue, *bodies: object, ttl: int = 300) -> list[str]:
    answer = queue.post([{"body": body, "ttl": ttl} for body in bodies])
    return [href.rsplit("/", 1)[1] for href in answer["resources"]]


def bodies(messages) -> list[object]:
    return [message.body for message in messages]


def test_ping(client):
    assert client.ping() is True


def test_home_document_names_the_queue_resource(client):
    assert "rel/queue" in client.homedoc()["resources"]


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


def test_a_patch_of_a_missing_queue_is_not_found(client):
    with pytest.raises(errors.ResourceNotFound):
        client.queue("missing").metadata(new_meta={"a": 1})


def test_one_message_or_many_can_be_posted(client):
    queue = client.queue("posts")
    assert len(queue.post({"body": {"n": 1}, "ttl": 300})["resources"]) == 1
    assert len(post(queue, 2, [3], "four", None)) == 4
    assert bodies(queue.messages(echo=True)) == [{"n": 1}, 2, [3], "four", None]


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
