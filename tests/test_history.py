"""The history checker itself: it must catch what it is there to catch, and nothing else."""

from __future__ import annotations

import pytest

from support.history import Claim, Delete, Event, History, Listing, Pop, Post, Release, Renew, check

A, B, C = ("p", 1), ("p", 2), ("p", 3)


def verdict(*events: Event) -> list[str]:
    return check(History(list(events)))


def post(*keys, start=0.0, end: float | None = 1.0, ids=()) -> Post:
    return Post("q", start, end, keys, ids)


def listing(*keys, start=100.0, ids=()) -> Listing:
    return Listing("q", start, start + 1, keys, ids)


def claim(name: str, *keys, start: float, ttl=60.0) -> Claim:
    return Claim("q", start, start + 1, name, ttl, keys)


POSSIBLE = {
    "all there": [post(A, B), listing(A, B)],
    "deleted and gone": [post(A, B), Delete("q", 2, 3, (A,)), listing(B)],
    "deletion unanswered, done": [post(A), Delete("q", 2, None, (A,)), listing()],
    "deletion unanswered, not done": [post(A), Delete("q", 2, None, (A,)), listing(A)],
    "post unanswered, done": [post(A, B, end=None), listing(A, B)],
    "post unanswered, not done": [post(A, B, end=None), listing()],
    "post unanswered, done, one deleted": [post(A, B, end=None), Delete("q", 2, 3, (A,)), listing(B)],
    "popped": [post(A, B), Pop("q", 2, 3, 1, (A,)), listing(B)],
    "pop unanswered": [post(A, B), Pop("q", 2, None, 1), listing(B)],
    "posted after the listing": [post(A, start=200, end=201), listing()],
    "deleted while listed": [post(A), Delete("q", 99, 100.5, (A,)), listing(A)],
    "claimed again after the release": [
        post(A),
        claim("x", A, start=2),
        Release("q", 4, 5, "x"),
        claim("y", A, start=6),
    ],
    "claimed again while the release is under way": [
        post(A),
        claim("x", A, start=2),
        Release("q", 4, 9, "x"),
        claim("y", A, start=5),
    ],
    "claimed again after its time": [post(A), claim("x", A, start=2), claim("y", A, start=63)],
    "other producers in between": [post(A, ("o", 1), B), listing(A, ("o", 1), B)],
    "the same id": [post(A, ids=("i",)), listing(A, ids=("i",))],
}

IMPOSSIBLE = {
    "a lost message": ([post(A, B), listing(B)], "is missing"),
    "a lost message of an earlier listing": ([post(A), listing(start=50), listing(A)], "is missing"),
    "more lost than pops explain": ([post(A, B), Pop("q", 2, None, 1), listing()], "is missing"),
    "a deleted message is back": (
        [post(A), Delete("q", 2, 3, (A,)), listing(A)],
        "listed after its deletion",
    ),
    "a popped message is back": ([post(A), Pop("q", 2, 3, 1, (A,)), listing(A)], "listed after its deletion"),
    "a deleted message is claimed": (
        [post(A), Delete("q", 2, 3, (A,)), claim("x", A, start=4)],
        "claimed after its deletion",
    ),
    "claimed twice at once": (
        [post(A), claim("x", A, start=2), claim("y", A, start=30)],
        "live claims x and y",
    ),
    "claimed twice by requests that overlap": (
        [post(A), claim("x", A, start=2), claim("y", A, start=2.5)],
        "live claims x and y",
    ),
    "claimed twice, of three claims": (
        [
            post(A),
            claim("x", A, start=2),
            Release("q", 4, 5, "x"),
            claim("y", A, start=6),
            claim("z", A, start=8),
        ],
        "live claims y and z",
    ),
    "claimed while a renewed claim lives": (
        [post(A), claim("x", A, start=2), Renew("q", 50, 51, "x", 60), claim("y", A, start=70)],
        "live claims x and y",
    ),
    "half of an unanswered batch": ([post(A, B, C, end=None), listing(A, C)], "unacknowledged batch"),
    "a message twice": ([post(A), listing(A, A)], "2 times"),
    "out of order": ([post(A), post(B, start=2, end=3), listing(B, A)], "listed after"),
    "never posted": ([listing(A)], "never posted"),
    "another id": ([post(A, ids=("i",)), listing(A, ids=("j",))], "listed as j"),
}


@pytest.mark.parametrize("events", POSSIBLE.values(), ids=POSSIBLE.keys())
def test_a_possible_history_passes(events):
    assert verdict(*events) == []


@pytest.mark.parametrize(("events", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_planted_violation_is_caught(events, sentence):
    found = verdict(*events)
    assert found
    assert all(sentence in one for one in found)


def test_queues_are_judged_apart():
    there = Post("other", 0, 1, (A,))
    assert verdict(there, Listing("other", 5, 6, (A,)), listing()) == []
