"""The history checker itself: it finds every kind of violation, and none in a correct history."""

from __future__ import annotations

import pytest

from support.history import (
    Claim,
    DeadLetters,
    Delete,
    Event,
    Glimpse,
    History,
    Listing,
    LostClaim,
    Pop,
    Post,
    Read,
    Release,
    Renew,
    Write,
    check,
)

A, B, C = ("p", 1), ("p", 2), ("p", 3)


#: What is claimed twice in `q` goes to `dead`.
RULE = DeadLetters("q", "dead", 2)


def verdict(*events: Event, rules: tuple[DeadLetters, ...] = ()) -> list[str]:
    return check(History(list(events), list(rules)))


def post(*keys, start=0.0, end: float | None = 1.0, ids=(), delay: float | None = None) -> Post:
    return Post("q", start, end, keys, ids, () if delay is None else (delay,) * len(keys))


def listing(*keys, start=100.0, ids=(), queue="q", includes_delayed=True) -> Listing:
    return Listing(queue, start, start + 1, keys, ids, includes_delayed)


def claim(name: str, *keys, start: float, ttl=60.0, queue="q") -> Claim:
    return Claim(queue, start, start + 1, name, ttl, keys)


def failed(*keys, start=2.0, times=2) -> list[Event]:
    """Claims and releases the messages so many times."""
    return [
        event
        for number in range(times)
        for event in (
            claim(f"failed-{number}", *keys, start=start + 4 * number),
            Release("q", start + 4 * number + 2, start + 4 * number + 3, f"failed-{number}"),
        )
    ]


def both(source: tuple = (), dead: tuple = (), start=100.0, ids=()) -> list[Event]:
    """The listings of a queue and of its dead letters."""
    return [listing(*source, start=start), listing(*dead, start=start + 2, ids=ids, queue="dead")]


def write(thing: str, value: object, start: float, end: float | None = -1) -> Write:
    return Write("things", start, start + 1 if end == -1 else end, thing, value)


def read(start: float, **values: object) -> Read:
    return Read("things", start, start + 1, values)


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


POSSIBLE_DELAYS = {
    "hidden until its time": [
        post(A, delay=5),
        listing(start=3, includes_delayed=False),
        listing(A, start=4.5),
    ],
    "seen at its time": [post(A, delay=5), Glimpse("q", 4, 5.1, (A,)), claim("x", A, start=5)],
    "listed although delayed": [post(A, delay=5), listing(A, start=2)],
    "hidden while it may be delayed": [post(A, end=3, delay=5), listing(start=7.9, includes_delayed=False)],
    "the rest of a batch is hidden": [
        Post("q", 0, 1, (A, B), (), (0, 60)),
        listing(A, start=3, includes_delayed=False),
    ],
    "an unanswered batch is half hidden": [
        Post("q", 0, None, (A, B), (), (0, 60)),
        listing(A, start=3, includes_delayed=False),
    ],
    "popped at its time": [post(A, delay=5), Pop("q", 5, 6, 1, (A,)), listing()],
}

IMPOSSIBLE_DELAYS = {
    "claimed before its time": ([post(A, delay=5), claim("x", A, start=3)], "claimed before its delay"),
    "seen before its time": ([post(A, delay=5), Glimpse("q", 3, 4, (A,))], "seen before its delay"),
    "popped before its time": ([post(A, delay=5), Pop("q", 3, 4, 1, (A,))], "popped before its delay"),
    "listed before its time": (
        [post(A, delay=5), listing(A, start=3, includes_delayed=False)],
        "listed before its delay",
    ),
    "hidden after its time": (
        [post(A, delay=5), listing(start=6.1, includes_delayed=False)],
        "is missing",
    ),
    "lost while delayed": ([post(A, delay=500), listing()], "is missing"),
    "seen after its deletion": (
        [post(A), Delete("q", 2, 3, (A,)), Glimpse("q", 4, 5, (A,))],
        "seen after its deletion",
    ),
    "popped twice": (
        [post(A), Pop("q", 2, 3, 1, (A,)), Pop("q", 4, 5, 1, (A,))],
        "popped after its deletion",
    ),
}

POSSIBLE_LETTERS = {
    "not claimed": [post(A), *both((A,))],
    "claimed often enough": [post(A), *failed(A), *both((A,))],
    "a dead letter": [post(A), *failed(A), *both((), (A,))],
    "a dead letter among others": [post(A, B, C), *failed(A), *both((B, C), (A,))],
    "a dead letter after an unanswered claim": [
        post(A),
        *failed(A, times=1),
        LostClaim("q", 20, None),
        *both((), (A,)),
    ],
    "a dead letter of an unanswered post": [post(A, end=None), *failed(A), *both((), (A,))],
    "a dead letter with a new id": [
        post(A, ids=("i",)),
        *failed(A),
        *both((), (A,), ids=("j",)),
        *both((), (A,), start=110, ids=("j",)),
    ],
    "a dead letter claimed and deleted": [
        post(A),
        *failed(A),
        claim("y", A, start=20, queue="dead"),
        Delete("dead", 22, 23, (A,)),
        *both(),
    ],
    "deleted by the id of before": [post(A), *failed(A), Delete("q", 22, 23, (A,)), *both((), (A,))],
    "a dead letter in an order of its own": [post(A, B), *failed(A, B), *both((), (B, A))],
    "a dead letter seen while it moved": [
        post(A),
        *failed(A),
        Glimpse("q", 20, 23, (A,)),
        Glimpse("dead", 21, 22, (A,)),
        *both((), (A,)),
    ],
}

IMPOSSIBLE_LETTERS = {
    "in both": ([post(A), *failed(A), *both((A,), (A,))], "in both"),
    "in neither": ([post(A), *failed(A), *both()], "is missing"),
    "lost, whatever was tried where it had been": (
        [post(A), *failed(A), Delete("q", 22, 23, (A,)), *both((), (A,)), *both(start=110)],
        "is missing",
    ),
    "twice": ([post(A), *failed(A), *both((), (A, A))], "2 times"),
    "out of order where it was posted": ([post(A), post(B, start=2, end=3), *both((B, A))], "listed after"),
    "too early": ([post(A), *failed(A, times=1), *both((), (A,))], "after 1 claims"),
    "too early, as the unanswered claim came later": (
        [post(A), *failed(A, times=1), Glimpse("dead", 20, 21, (A,)), LostClaim("q", 30, None)],
        "after 1 claims",
    ),
    "claimed once too often": ([post(A), *failed(A, times=3), *both((A,))], "claimed 3 times"),
    "back again": (
        [post(A), *failed(A), *both((), (A,)), *both((A,), start=110)],
        "after it was a dead letter",
    ),
    "claimed here and there": (
        [post(A), *failed(A, times=1), claim("y", A, start=20), claim("z", A, start=23, queue="dead")],
        "live claims y and z",
    ),
    "deleted and still there": (
        [post(A), *failed(A), Delete("dead", 22, 23, (A,)), *both((), (A,))],
        "listed after its deletion",
    ),
    "deleted while it was held, and dead": (
        [post(A), *failed(A), Delete("q", 22, 23, (A,), held=True), *both((), (A,))],
        "listed after its deletion",
    ),
    "deleted in the one and still there": (
        [post(A), *failed(A), Delete("q", 22, 23, (A,)), *both((A,))],
        "listed after its deletion",
    ),
    "never posted": ([*both((), (A,))], "never posted"),
    "with its old id": ([post(A, ids=("i",)), *failed(A), *both((), (A,), ids=("i",))], "kept its id"),
    "with two ids": (
        [post(A), *failed(A), *both((), (A,), ids=("i",)), *both((), (A,), start=110, ids=("j",))],
        "was i and is j",
    ),
    "half a batch": ([post(A, B, end=None), *failed(A), *both((), (A,))], "unacknowledged batch"),
}

POSSIBLE_THINGS = {
    "made": [write("a", 1, 0), read(5, a=1)],
    "made and changed": [write("a", 1, 0), write("a", 2, 3), read(5, a=2), read(8, a=2)],
    "created and deleted": [write("a", 1, 0), write("a", None, 3), read(5)],
    "an unanswered change, done": [write("a", 1, 0), write("a", 2, 3, None), read(5, a=2)],
    "an unanswered change, not done": [write("a", 1, 0), write("a", 2, 3, None), read(5, a=1)],
    "an unanswered end": [write("a", 1, 0), write("a", None, 3, None), read(5)],
    "two unanswered changes": [write("a", 1, 0, None), write("a", 2, 3, None), read(5)],
}

IMPOSSIBLE_THINGS = {
    "lost": ([write("a", 1, 0), read(5)], "a is None"),
    "of before": ([write("a", 1, 0), write("a", 2, 3), read(5, a=1)], "a is 1"),
    "back again": ([write("a", 1, 0), write("a", None, 3), read(5, a=1)], "a is 1"),
    "never made": ([read(5, a=1)], "a is 1"),
    "changed by nobody": ([write("a", 1, 0), read(5, a=1), read(8, a=2)], "a is 2"),
    "undecided": ([write("a", 1, 0, None), read(5, a=1), read(8)], "a is None"),
}


@pytest.mark.parametrize("events", POSSIBLE_DELAYS.values(), ids=POSSIBLE_DELAYS.keys())
def test_possible_delays_pass(events):
    assert verdict(*events) == []


@pytest.mark.parametrize(("events", "sentence"), IMPOSSIBLE_DELAYS.values(), ids=IMPOSSIBLE_DELAYS.keys())
def test_a_planted_violation_of_delays_is_caught(events, sentence):
    assert [one for one in verdict(*events) if sentence in one]


@pytest.mark.parametrize("events", POSSIBLE_LETTERS.values(), ids=POSSIBLE_LETTERS.keys())
def test_possible_dead_letters_pass(events):
    assert verdict(*events, rules=(RULE,)) == []


@pytest.mark.parametrize(("events", "sentence"), IMPOSSIBLE_LETTERS.values(), ids=IMPOSSIBLE_LETTERS.keys())
def test_a_planted_violation_of_dead_letters_is_caught(events, sentence):
    assert [one for one in verdict(*events, rules=(RULE,)) if sentence in one]


@pytest.mark.parametrize("events", POSSIBLE_THINGS.values(), ids=POSSIBLE_THINGS.keys())
def test_possible_values_pass(events):
    assert verdict(*events) == []


@pytest.mark.parametrize(("events", "sentence"), IMPOSSIBLE_THINGS.values(), ids=IMPOSSIBLE_THINGS.keys())
def test_a_planted_violation_of_values_is_caught(events, sentence):
    assert [one for one in verdict(*events) if sentence in one]


def test_queues_are_judged_separately():
    there = Post("other", 0, 1, (A,))
    assert verdict(there, Listing("other", 5, 6, (A,)), listing()) == []
