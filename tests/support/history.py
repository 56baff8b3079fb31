"""What clients did and saw, and whether a server that keeps its promises can have answered so.

Each message carries a key of its own in its body: the producer's name and a number that grows. A
request that got no answer is recorded too, with `end` None: it happened or it did not, and both are
allowed. All times are of one monotonic clock, in seconds, taken by the client before it sends and
after it has read the answer.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

#: A message, by what its producer wrote into it.
Key = tuple[str, int]


@dataclass(frozen=True)
class Event:
    """A request on one queue; `end` is None when no answer came."""

    queue: str
    start: float
    end: float | None


@dataclass(frozen=True)
class Post(Event):
    """A batch of messages; `ids` are known when it was answered."""

    keys: tuple[Key, ...]
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim(Event):
    """An answered claim and what it handed out."""

    claim: str
    ttl: float
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Renew(Event):
    claim: str
    ttl: float


@dataclass(frozen=True)
class Release(Event):
    claim: str


@dataclass(frozen=True)
class Delete(Event):
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Pop(Event):
    """A pop; without an answer any `limit` messages may be gone."""

    limit: int
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Listing(Event):
    """A whole queue, claimed and delayed messages included, read while nobody wrote."""

    keys: tuple[Key, ...]
    ids: tuple[str, ...] = ()


@dataclass
class History:
    """Events in no particular order."""

    events: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


def check(history: History) -> list[str]:
    """Every violation found, as a sentence; an empty list when the history is possible."""
    found: list[str] = []
    for queue in sorted({event.queue for event in history.events}):
        events = History([event for event in history.events if event.queue == queue])
        found += _Queue(queue, events).violations()
    return found


class _Queue:
    """The history of one queue, indexed by message."""

    def __init__(self, name: str, history: History) -> None:
        self.name = name
        self.posts: list[Post] = history.of(Post)
        self.claims: list[Claim] = history.of(Claim)
        self.listings: list[Listing] = history.of(Listing)
        self.lost_pops = [pop for pop in history.of(Pop) if pop.end is None]
        self.posted: dict[Key, Post] = {key: post for post in self.posts for key in post.keys}
        self.ids = {key: id_ for post in self.posts for key, id_ in zip(post.keys, post.ids, strict=False)}
        self.removals: dict[Key, list[Event]] = defaultdict(list)
        for removal in [*history.of(Delete), *history.of(Pop)]:
            for key in removal.keys:
                self.removals[key].append(removal)
        self.claim_ends = self._claim_ends(history)

    def violations(self) -> list[str]:
        found = [
            *self._phantoms(),
            *self._returned(),
            *self._claimed_twice(),
        ]
        for listing in self.listings:
            found += self._missing(listing)
            found += self._torn_batches(listing)
            found += self._wrong_order(listing)
            found += self._wrong_ids(listing)
        return [f"queue {self.name}: {what}" for what in found]

    def _shown(self) -> Iterable[tuple[str, Event, tuple[Key, ...]]]:
        for listing in self.listings:
            yield "listed", listing, listing.keys
        for claim in self.claims:
            yield "claimed", claim, claim.keys

    def _phantoms(self) -> Iterable[str]:
        for how, _, keys in self._shown():
            for key in keys:
                if key not in self.posted:
                    yield f"{key} was {how} but never posted"

    def _returned(self) -> Iterable[str]:
        for how, event, keys in self._shown():
            for key in keys:
                if any(
                    removal.end is not None and removal.end < event.start for removal in self.removals[key]
                ):
                    yield f"{key} was {how} after its deletion had been acknowledged"

    def _missing(self, listing: Listing) -> Iterable[str]:
        shown = set(listing.keys)
        missing = [
            key
            for key, post in self.posted.items()
            if post.end is not None
            and post.end < listing.start
            and key not in shown
            and not self._removed_before(key, listing)
        ]
        if len(missing) > self._lost_to_pops(listing):
            for key in missing:
                yield f"{key} was acknowledged, never deleted, and is missing"

    def _torn_batches(self, listing: Listing) -> Iterable[str]:
        if self._lost_to_pops(listing):
            return
        shown = set(listing.keys)
        for post in self.posts:
            left = [key for key in post.keys if not self._removed_before(key, listing)]
            present = [key for key in left if key in shown]
            if post.end is None and 0 < len(present) < len(left):
                yield f"of the unacknowledged batch {left} only {present} are there"

    def _wrong_order(self, listing: Listing) -> Iterable[str]:
        for key, count in Counter(listing.keys).items():
            if count > 1:
                yield f"{key} is listed {count} times"
        last: dict[str, int] = {}
        for producer, number in listing.keys:
            if number < last.get(producer, number):
                yield f"{(producer, number)} is listed after {(producer, last[producer])}"
            last[producer] = number

    def _wrong_ids(self, listing: Listing) -> Iterable[str]:
        for key, id_ in zip(listing.keys, listing.ids, strict=False):
            if self.ids.get(key, id_) != id_:
                yield f"{key} was acknowledged as {self.ids[key]} and is listed as {id_}"

    def _claimed_twice(self) -> Iterable[str]:
        """Two claims on one message that both were certainly alive at one moment."""
        by_key: dict[Key, list[Claim]] = defaultdict(list)
        for claim in self.claims:
            for key in claim.keys:
                by_key[key].append(claim)
        for key, claims in by_key.items():
            claims.sort(key=_answered)
            for number, second in enumerate(claims):
                for first in claims[:number]:
                    if _answered(second) < min(self.claim_ends[first.claim], self.claim_ends[second.claim]):
                        yield f"{key} is in the live claims {first.claim} and {second.claim} at once"

    def _claim_ends(self, history: History) -> dict[str, float]:
        """Until when each claim certainly lives: nobody sent a release, its ttl had not run out."""
        ends = {claim.claim: claim.start + claim.ttl for claim in self.claims}
        for renew in sorted(history.of(Renew), key=lambda event: event.start):
            if renew.end is not None and renew.end < ends.get(renew.claim, -math.inf):
                ends[renew.claim] = max(ends[renew.claim], renew.start + renew.ttl)
        for release in history.of(Release):
            ends[release.claim] = min(ends.get(release.claim, math.inf), release.start)
        return ends

    def _removed_before(self, key: Key, listing: Listing) -> bool:
        """Whether anybody tried to remove the message before the listing ended, answered or not."""
        return any(removal.start < _answered(listing) for removal in self.removals[key])

    def _lost_to_pops(self, listing: Listing) -> int:
        return sum(pop.limit for pop in self.lost_pops if pop.start < _answered(listing))


def _answered(event: Event) -> float:
    """When the answer came; of events that are only recorded with one."""
    return math.inf if event.end is None else event.end
