"""Compares two answers to one request and says, facet by facet, where they differ.

A facet is `status`, `header.NAME` or `body.PATH`. What no two servers can agree on is compared by
its form: ids (the same id must stay the same), ages, times, durations, request ids, signatures over
a time that the server chose. Where the statuses differ, nothing else is compared, and where lists differ
in length, nothing in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .wire import PUSHED, Answer

#: What a facet shows where a server has nothing.
ABSENT = "(absent)"

#: Seconds by which ages and times may differ between two servers asked one after the other: the
#: original sometimes takes five for an answer.
TOLERANCE = 7

#: Headers of the connection, the server's own or its clock: nobody's promise to a client.
_HOP_HEADERS = frozenset({"connection", "keep-alive", "date", "server", "transfer-encoding"})

_REQUEST_ID = re.compile(r"^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_SIGNATURE = re.compile(r"^[0-9a-f]{64}$")
_TIME_FORMATS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S")
#: Where ids and markers stand in links and locations. A queue's name after `marker=` is its own
#: twin.
_PLACES = re.compile(
    r"(?P<marker>(?<=marker=)[^&\"]+)"
    r"|(?<=/messages/)[^/?&\"]+|(?<=/claims/)[^/?&\"]+|(?<=/subscriptions/)[^/?&\"]+"
    r"|(?<=claim_id=)[^&\"]+|(?<=ids=)[^&\"]+"
)
#: Counts of a whole store, which every scenario before has a part in: compared by kind.
_VOLUME = "message_volume"
_ID_KEYS = frozenset({"id", "claim_id", "subscription_id", "message_ids"})
#: Where a WebSocket server of the original takes what it pushes to a connection.
_OWN_SUBSCRIBER = re.compile(r"^http://127\.0\.0\.1:\d+/[0-9a-f-]{36}$")


@dataclass(frozen=True)
class Difference:
    """One facet of one answer: what the original shows and what ours shows."""

    facet: str
    original: str
    ours: str

    def __str__(self) -> str:
        return f"{self.facet}: {self.original} -> {self.ours}"


class Twins:
    """Which id of ours stands for which of the original's, as far as answers have shown.

    Markers are apart from ids: the original's are positions, ours may be ids of messages.
    """

    def __init__(self) -> None:
        self._ids = _Pairs()
        self._markers = _Pairs()

    def same(self, original: str, ours: str) -> bool:
        """Whether the two are one id."""
        return self._ids.same(original, ours)

    def same_text(self, original: str, ours: str) -> bool:
        """Whether two texts are equal but for ids: in the places of ids, or known ones anywhere."""
        original, ours = _ordered(original), _ordered(ours)
        if original == ours:
            return True
        if _PLACES.sub("", original) == _PLACES.sub("", ours):
            found, answered = list(_PLACES.finditer(original)), list(_PLACES.finditer(ours))
            if len(found) == len(answered):
                return all(self._same_place(*pair) for pair in zip(found, answered, strict=True))
        return self._ids.translate(original) == ours

    def _same_place(self, original: re.Match[str], ours: re.Match[str]) -> bool:
        """A place may hold several ids, with commas between them."""
        pairs = self._markers if original["marker"] else self._ids
        many, few = original[0].split(","), ours[0].split(",")
        return len(many) == len(few) and all(pairs.same(*pair) for pair in zip(many, few, strict=True))


class _Pairs:
    """Names of the original and of ours, one to one."""

    def __init__(self) -> None:
        self._ours_of: dict[str, str] = {}
        self._original_of: dict[str, str] = {}

    def same(self, original: str, ours: str) -> bool:
        """Whether the two are a pair; two that were not seen before become one."""
        if original not in self._ours_of and ours not in self._original_of:
            self._ours_of[original] = ours
            self._original_of[ours] = original
        return self._ours_of.get(original) == ours

    def translate(self, text: str) -> str:
        """The text with our names for the original's."""
        for name, twin in self._ours_of.items():
            text = text.replace(name, twin)
        return text


def _ordered(text: str) -> str:
    """A link with its parameters by name, as their order means nothing; any other text as it is."""
    path, question, query = text.partition("?")
    if not question or not path.startswith("/"):
        return text
    return path + question + "&".join(sorted(query.split("&")))


def compare(original: Answer, ours: Answer, twins: Twins) -> list[Difference]:
    """Every facet in which `ours` is not what the original said."""
    if original.status != ours.status:
        return [Difference("status", _summary(original), _summary(ours))]
    return [*_headers(original, ours, twins), *_bodies(original, ours, twins)]


def _summary(answer: Answer) -> str:
    """Status and, of an error, what it says."""
    if answer.status == 0:
        return _text(answer.body) if answer.body else "no answer"
    if answer.status == PUSHED:
        return "a push"
    body = _json(answer.body)
    if isinstance(body, dict) and "title" in body:
        return ": ".join([f"{answer.status} {body['title']}", *filter(None, [body.get("description")])])
    if isinstance(body, dict) and isinstance(body.get("body"), dict):
        said = [body["body"].get(key) for key in ("exception", "error")]
        return " ".join([str(answer.status), ": ".join(filter(None, said))]).strip()
    return str(answer.status)


def _headers(original: Answer, ours: Answer, twins: Twins) -> Iterator[Difference]:
    names = {name for name, _ in original.headers + ours.headers} - _HOP_HEADERS
    for name in sorted(names):
        theirs, mine = original.header(name), ours.header(name)
        if theirs is None or mine is None:
            yield Difference(f"header.{name}", theirs or ABSENT, mine or ABSENT)
        elif not _same_header(name, theirs, mine, twins):
            yield Difference(f"header.{name}", theirs, mine)


def _same_header(name: str, original: str, ours: str, twins: Twins) -> bool:
    match name:
        case "x-openstack-request-id":
            return bool(_REQUEST_ID.match(original)) == bool(_REQUEST_ID.match(ours))
        case "content-length":
            return True  # The bodies are compared; ids and times differ in length.
        case "location":
            return twins.same_text(original, ours)
    return original == ours


def _bodies(original: Answer, ours: Answer, twins: Twins) -> Iterator[Difference]:
    theirs, mine = _json(original.body), _json(ours.body)
    if theirs is not None and mine is not None:
        yield from _values("body", theirs, mine, _Context(twins, theirs, mine))
    elif original.body != ours.body:
        yield Difference("body", _text(original.body), _text(ours.body))


@dataclass(frozen=True)
class _Context:
    """What the comparison of a value needs of its surroundings."""

    twins: Twins
    original: Any
    ours: Any

    def claimed(self) -> bool:
        """Whether the value is of a message that is shown with its claim."""
        named = "claim_id=" in str(self.ours.get("href")) or self.ours.get("claim_id") is not None
        return named and isinstance(self.ours.get("age"), int)

    def chosen_expiry(self) -> bool:
        """Whether each server chose the time that it signed."""
        return self.original.get("expires") != self.ours.get("expires")


def _values(path: str, original: Any, ours: Any, context: _Context) -> Iterator[Difference]:
    if isinstance(original, dict) and isinstance(ours, dict):
        yield from _objects(path, original, ours, _Context(context.twins, original, ours))
    elif isinstance(original, list) and isinstance(ours, list):
        if len(original) != len(ours):
            yield Difference(f"{path}.length", str(len(original)), str(len(ours)))
            return
        for index, pair in enumerate(zip(original, ours, strict=True)):
            yield from _values(f"{path}.{index}", *pair, context)
    elif not _same_value(_key(path), original, ours, context):
        yield Difference(path, json.dumps(original), json.dumps(ours))


def _objects(path: str, original: dict, ours: dict, context: _Context) -> Iterator[Difference]:
    for key in [*original, *(key for key in ours if key not in original)]:
        place = f"{path}.{key}"
        if key not in ours:
            yield Difference(place, json.dumps(original[key]), ABSENT)
        elif key not in original:
            yield Difference(place, ABSENT, json.dumps(ours[key]))
        elif key == _VOLUME:
            yield from _values(place, _kinds(original[key]), _kinds(ours[key]), context)
        else:
            yield from _values(place, original[key], ours[key], context)


def _key(path: str) -> str:
    """The last name in a path: that of the list when a value is in one."""
    return next(part for part in reversed(path.split(".")) if not part.isdigit())


def _kinds(value: Any) -> Any:
    """An object with the kinds of its values for the values."""
    return {key: type(one).__name__ for key, one in value.items()} if isinstance(value, dict) else value


def _same_value(key: str, original: Any, ours: Any, context: _Context) -> bool:
    if type(original) is not type(ours):
        return False
    if isinstance(original, str):
        return _same_string(key, original, ours, context)
    match key:
        case "age":
            return abs(original - ours) <= TOLERANCE
        case "seconds":
            return original >= 0 and ours >= 0
        # Ours is of the whole life, the original's of what a claim has left of it: a moment more,
        # when a moment has passed between the post and the claim.
        case "ttl" if context.claimed():
            return 0 <= ours - original <= TOLERANCE
    return original == ours or (original != original and ours != ours)  # NaN is NaN here.


def _same_string(key: str, original: str, ours: str, context: _Context) -> bool:
    if key in _ID_KEYS:
        return context.twins.same(original, ours)
    if key in ("created", "expires") and original != ours:
        return _close(original, ours)
    if key == "subscriber" and _OWN_SUBSCRIBER.match(original) and _OWN_SUBSCRIBER.match(ours):
        return True
    if key == "signature" and context.chosen_expiry():
        return bool(_SIGNATURE.match(original) and _SIGNATURE.match(ours))
    return context.twins.same_text(original, ours)


def _close(original: str, ours: str) -> bool:
    """Whether both are times of one form, a moment apart."""
    for form in _TIME_FORMATS:
        try:
            apart = datetime.strptime(original, form) - datetime.strptime(ours, form)
        except ValueError:
            continue
        return abs(apart.total_seconds()) <= TOLERANCE
    return False


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _text(body: bytes) -> str:
    text = body.decode(errors="replace")
    return (text if len(text) <= 300 else f"{text[:300]}… ({len(body)} bytes)") or "(empty)"
