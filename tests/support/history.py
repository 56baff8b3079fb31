"""What clients did and saw, and whether a correct server can have answered so.

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
    """A batch of messages; `ids` are known when it was answered, `delays` are none or one a message."""

    keys: tuple[Key, ...]
    ids: tuple[str, ...] = ()
    delays: tuple[float, ...] = ()


@dataclass(frozen=True)
class Claim(Event):
    """An answered claim and what it handed out."""

    claim: str
    ttl: float
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class LostClaim(Event):
    """A claim without an answer: it may have counted for any message, and moved any dead letter."""


@dataclass(frozen=True)
class Renew(Event):
    claim: str
    ttl: float


@dataclass(frozen=True)
class Release(Event):
    claim: str


@dataclass(frozen=True)
class Delete(Event):
    """Messages deleted by id. Answered with success too when they are gone, unless the client holds them."""

    keys: tuple[Key, ...]
    held: bool = False


@dataclass(frozen=True)
class Pop(Event):
    """A pop; without an answer any `limit` messages may be gone."""

    limit: int
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Glimpse(Event):
    """Some messages of a queue that are not delayed, as a page shows them while others write."""

    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Listing(Event):
    """A whole queue, claimed messages included, read while nobody wrote."""

    keys: tuple[Key, ...]
    ids: tuple[str, ...] = ()
    includes_delayed: bool = True


@dataclass(frozen=True)
class Write(Event):
    """Gives a thing that one writer owns a new value; None takes it away. `queue` names the set of things."""

    thing: str
    value: object


@dataclass(frozen=True)
class Read(Event):
    """All things of a set, read while nobody wrote."""

    values: dict[str, object]


@dataclass(frozen=True)
class DeadLetters:
    """Messages of `source` go to `target` when they would be claimed more than `max_claims` times."""

    source: str
    target: str
    max_claims: int


#: How much later than the server the client may see the same moment: milliseconds are cut off.
CLOCK_SLACK = 0.05


@dataclass
class History:
    """Events in no particular order, and the rules that queues were given before the first."""

    events: list[Event] = field(default_factory=list)
    dead_letters: list[DeadLetters] = field(default_factory=list)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def of_queues(self, *queues: str) -> History:
        return History([event for event in self.events if event.queue in queues])


def check(history: History) -> list[str]:
    """Every violation found, as a sentence; an empty list when the history is possible."""
    found: list[str] = []
    queues = {event.queue for event in history.events}
    for rule in history.dead_letters:
        found += _WithDeadLetters(rule, history).violations()
        queues -= {rule.source, rule.target}
    for queue in sorted(queues):
        events = history.of_queues(queue)
        found += _Queue(queue, events).violations()
        found += [f"{queue}: {what}" for what in _things(events)]
    return found


def _things(history: History) -> Iterable[str]:
    """Things that were read with a value that they can not have had."""
    possible: dict[str, set[object]] = defaultdict(lambda: {None})
    for event in sorted([*history.of(Write), *history.of(Read)], key=lambda event: event.start):
        if isinstance(event, Write):
            before = possible[event.thing] if event.end is None else set()
            possible[event.thing] = before | {event.value}
            continue
        for thing in {*possible, *event.values}:
            value = event.values.get(thing)
            if value not in possible[thing]:
                yield f"{thing} is {value} and can only be one of {sorted(map(str, possible[thing]))}"
            possible[thing] = {value}


class _Queue:
    """The history of one queue, or of one and its dead letters, indexed by message."""

    def __init__(self, name: str, history: History) -> None:
        self.name = name
        self.history = history
        self.posts: list[Post] = history.of(Post)
        self.claims: list[Claim] = history.of(Claim)
        self.listings: list[Listing] = history.of(Listing)
        self.lost_pops = [pop for pop in history.of(Pop) if pop.end is None]
        self.posted: dict[Key, Post] = {key: post for post in self.posts for key in post.keys}
        self.ids = {key: id_ for post in self.posts for key, id_ in zip(post.keys, post.ids, strict=False)}
        self.delays = {
            key: delay for post in self.posts for key, delay in zip(post.keys, post.delays, strict=False)
        }
        self.removals: dict[Key, list[Event]] = defaultdict(list)
        for removal in [*history.of(Delete), *history.of(Pop)]:
            for key in removal.keys:
                self.removals[key].append(removal)
        self.claim_ends = self._claim_ends(history)

    def violations(self) -> list[str]:
        found = [
            *self._phantoms(),
            *self._returned(),
            *self._early(),
            *self._claimed_twice(),
        ]
        for listing in self._views():
            found += self._missing(listing)
            found += self._torn_batches(listing)
        for listing in self._ordered():
            found += self._wrong_order(listing)
            found += self._wrong_ids(listing)
        return [f"queue {self.name}: {what}" for what in found]

    def _views(self) -> list[Listing]:
        """The listings that show all messages."""
        return self.listings

    def _ordered(self) -> list[Listing]:
        """The listings in which messages stand as they were posted, with the ids of then."""
        return self.listings

    def _shown(self) -> Iterable[tuple[str, Event, tuple[Key, ...]]]:
        for listing in self.listings:
            yield "listed", listing, listing.keys
        for claim in self.claims:
            yield "claimed", claim, claim.keys
        for glimpse in self.history.of(Glimpse):
            yield "seen", glimpse, glimpse.keys
        for pop in self.history.of(Pop):
            yield "popped", pop, pop.keys

    def _phantoms(self) -> Iterable[str]:
        for how, _, keys in self._shown():
            for key in keys:
                if key not in self.posted:
                    yield f"{key} was {how} but never posted"

    def _returned(self) -> Iterable[str]:
        for how, event, keys in self._shown():
            for key in keys:
                if any(
                    removal.end is not None and removal.end < event.start and self._removes(removal, event)
                    for removal in self.removals[key]
                ):
                    yield f"{key} was {how} after its deletion had been acknowledged"

    def _removes(self, removal: Event, shown: Event) -> bool:
        """Whether what was removed by the one can not be shown by the other, later."""
        return True

    def _early(self) -> Iterable[str]:
        for how, event, keys in self._shown():
            if isinstance(event, Listing) and event.includes_delayed:
                continue
            for key in keys:
                if key in self.delays and _answered(event) < self._due(key)[0] - CLOCK_SLACK:
                    yield f"{key} was {how} before its delay of {self.delays[key]} s was over"

    def _due(self, key: Key) -> tuple[float, float]:
        """When a message comes out of its delay, at the earliest and at the latest."""
        post, delay = self.posted[key], self.delays.get(key, 0)
        return post.start + delay, _answered(post) + delay

    def _missing(self, listing: Listing) -> Iterable[str]:
        shown = set(listing.keys)
        missing = [
            key
            for key, post in self.posted.items()
            if post.end is not None
            and post.end < listing.start
            and key not in shown
            and not self._removed_before(key, listing)
            and (listing.includes_delayed or self._due(key)[1] + CLOCK_SLACK < listing.start)
        ]
        if len(missing) > self._lost_to_pops(listing):
            for key in missing:
                yield f"{key} was acknowledged, never deleted, and is missing"

    def _torn_batches(self, listing: Listing) -> Iterable[str]:
        if self._lost_to_pops(listing) or not listing.includes_delayed:
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


class _WithDeadLetters(_Queue):
    """The history of a queue and of the one for its dead letters: together they hold each message once."""

    def __init__(self, rule: DeadLetters, history: History) -> None:
        self.rule = rule
        name = f"{rule.source} with {rule.target}"
        super().__init__(name, history.of_queues(rule.source, rule.target))
        self.claimed: dict[Key, list[Claim]] = defaultdict(list)
        for claim in self.claims:
            if claim.queue == rule.source:
                for key in claim.keys:
                    self.claimed[key].append(claim)
        self.dead: dict[Key, float] = {}
        for _, event, keys in self._shown():
            if event.queue == rule.target:
                for key in keys:
                    self.dead[key] = min(self.dead.get(key, math.inf), _answered(event))

    def violations(self) -> list[str]:
        found = [
            *self._claimed_too_often(),
            *self._dead_too_early(),
            *self._shown_again(),
            *self._in_both(),
        ]
        found += self._renamed()
        return [*super().violations(), *(f"queue {self.name}: {what}" for what in found)]

    def _views(self) -> list[Listing]:
        """What both queues hold together; they are listed one after the other while nobody writes."""
        return [
            Listing(self.name, source.start, target.end, source.keys + target.keys)
            for source, target in self._pairs()
        ]

    def _ordered(self) -> list[Listing]:
        return [listing for listing in self.listings if listing.queue == self.rule.source]

    def _removed_before(self, key: Key, listing: Listing) -> bool:
        if self.dead.get(key, math.inf) < listing.start:
            # It was moved, so no removal in the source queue can have succeeded.
            return any(
                removal.queue == self.rule.target and removal.start < _answered(listing)
                for removal in self.removals[key]
            )
        return super()._removed_before(key, listing)

    def _removes(self, removal: Event, shown: Event) -> bool:
        """A dead letter has a new id: a deletion by its old one says nothing of it, unless held then."""
        is_held = isinstance(removal, Delete) and removal.held
        return is_held or removal.queue == self.rule.target or shown.queue == self.rule.source

    def _pairs(self) -> Iterable[tuple[Listing, Listing]]:
        sources, targets = (
            sorted((one for one in self.listings if one.queue == queue), key=lambda one: one.start)
            for queue in (self.rule.source, self.rule.target)
        )
        return zip(sources, targets, strict=True)

    def _claimed_too_often(self) -> Iterable[str]:
        for key, claims in self.claimed.items():
            if len(claims) > self.rule.max_claims:
                yield f"{key} was claimed {len(claims)} times"

    def _dead_too_early(self) -> Iterable[str]:
        lost = [claim.start for claim in self.history.of(LostClaim) if claim.queue == self.rule.source]
        for key, seen in self.dead.items():
            claims = len(self.claimed[key]) + sum(start < seen for start in lost)
            if claims < self.rule.max_claims:
                yield f"{key} is a dead letter after {claims} claims"

    def _shown_again(self) -> Iterable[str]:
        for how, event, keys in self._shown():
            for key in keys:
                if event.queue == self.rule.source and self.dead.get(key, math.inf) < event.start:
                    yield f"{key} was {how} in {event.queue} after it was a dead letter"

    def _in_both(self) -> Iterable[str]:
        for source, target in self._pairs():
            for key in sorted({*source.keys} & {*target.keys}):
                yield f"{key} is in both queues"
            for key, count in Counter(target.keys).items():
                if count > 1:
                    yield f"{key} is a dead letter {count} times"

    def _renamed(self) -> Iterable[str]:
        ids: dict[Key, str] = {}
        for _, target in self._pairs():
            for key, id_ in zip(target.keys, target.ids, strict=False):
                if ids.setdefault(key, id_) != id_:
                    yield f"the dead letter {key} was {ids[key]} and is {id_}"
                if self.ids.get(key) == id_:
                    yield f"the dead letter {key} kept its id {id_}"


def _answered(event: Event) -> float:
    """When the answer came; of events that are only recorded with one."""
    return math.inf if event.end is None else event.end
