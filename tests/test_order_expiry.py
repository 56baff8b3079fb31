"""Eight producers and four readers who follow markers while messages expire before and under them.

`support/expiring.py` plays it in the background of the other tests.
"""

from __future__ import annotations

from itertools import combinations

import pytest

from support.expiring import PRODUCERS, READERS, Expiring

pytestmark = pytest.mark.differs("it shows expired messages until MongoDB has collected them", sometimes=True)


@pytest.fixture
def scene(expiring: Expiring) -> Expiring:
    return expiring.wait()


def test_enough_messages_expired_under_markers(scene: Expiring):
    assert {producer for producer, _ in scene.lasting} == {f"producer-{n}" for n in range(PRODUCERS)}
    assert min(len(scene.lasting), len(scene.short)) > 20 * PRODUCERS
    assert len(scene.readers) == len(READERS) == 4
    newest, *behind = scene.readers
    assert len(set(newest.seen) & set(scene.short)) > 10 * PRODUCERS
    # The other readers missed many expired messages, and continued from expired markers.
    for reader in behind:
        assert len(set(scene.short) - set(reader.seen)) > 10
    assert sum(reader.gone_markers for reader in behind) > 3


def test_every_reader_sees_every_lasting_message_once(scene: Expiring):
    for reader in scene.readers:
        assert len(reader.seen) == len(set(reader.seen))
        assert set(scene.lasting) <= set(reader.seen)


def test_every_reader_sees_each_producer_in_its_order(scene: Expiring):
    for reader in scene.readers:
        last: dict[str, int] = {}
        for producer, number in reader.seen:
            assert number > last.get(producer, -1)
            last[producer] = number


def test_all_readers_agree_on_one_order(scene: Expiring):
    for one, other in combinations([reader.seen for reader in scene.readers], 2):
        common = set(one) & set(other)
        assert [key for key in one if key in common] == [key for key in other if key in common]


def test_no_reader_sees_an_expired_message(scene: Expiring):
    assert [reader.ghosts for reader in scene.readers] == [[]] * 4


def test_only_lasting_messages_are_left_at_the_end(scene: Expiring):
    assert set(scene.left) >= set(scene.lasting)
    assert not set(scene.left) & set(scene.short)
    assert len(scene.left) == len(set(scene.left))
