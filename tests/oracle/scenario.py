"""Reads scenario files: plain text, one request a line. The format is described in README.md.

A scenario is a list of steps in one project of its own. A step with `each` stands for as many
requests as its table has values. Values that only an answer gives (ids) stay `${name}` until the
request is sent, as each server has its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TITLE = re.compile(r"^===\s+(?P<name>[a-z0-9-]+)(?P<flags>(?:\s+\[[a-z]+\])*)$")
_REQUEST = re.compile(r"^(?P<method>[A-Z]+|\$\{[a-z0-9_]+\}) (?P<target>\S+)(?: (?P<body>.+))?$")
_VARIABLE = re.compile(r"\$\{([a-z0-9_]+)\}")
_EACH = re.compile(r"^each (?P<name>[a-z0-9_]+)(?::\s*(?P<values>.*))?$")
_SAVE = re.compile(r"^save (?P<name>[a-z0-9_]+) (?P<source>location|json)(?: (?P<path>\S+))?$")
_ON = re.compile(r"^on (?P<connection>[a-z0-9]+)$")
_IN = re.compile(r"^in (?P<encoding>text|binary)$")
_WAIT = re.compile(r"^wait (?P<seconds>\d+)$")

#: The method of a line that is sent over WebSocket: its target is an action.
WEBSOCKET = "WS"
#: How a scenario with such lines is played: once each, unless it has one of them as a flag.
ENCODINGS = ("text", "binary")

#: What stands for a table value that is the empty string.
EMPTY = "''"
#: What stands for no body at all among the values of a table of bodies.
NO_BODY = "<none>"


class FormatError(Exception):
    """A scenario file that cannot be read: says file and line."""


@dataclass(frozen=True)
class Save:
    """A value of the answer that later requests use as `${name}`."""

    name: str
    source: str
    path: str | None


@dataclass(frozen=True)
class Request:
    """A request as written, tables expanded; `${name}` of saved values are still open."""

    line: int
    method: str
    target: str
    body: str | None
    headers: Mapping[str, str | None]
    saves: tuple[Save, ...]
    #: Which of the scenario's WebSocket connections to that server it goes over.
    connection: str = ""
    #: Of this WebSocket frame; that of the scenario when it is empty.
    encoding: str = ""

    @property
    def title(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True)
class Wait:
    """Seconds in which time passes for both servers."""

    seconds: int


@dataclass
class Scenario:
    """Steps in one project, in order. `name` is `file/title`, or `file/title.encoding`."""

    name: str
    flags: frozenset[str]
    steps: list[Request | Wait] = field(default_factory=list)
    #: Of WebSocket frames.
    encoding: str = "text"

    @property
    def project(self) -> str:
        return self.name.replace("/", "-")

    @property
    def sockets(self) -> int:
        """How many requests go over WebSocket."""
        return sum(request.method == WEBSOCKET for request in self.requests)

    def encoded(self) -> list[Scenario]:
        """The scenario in each of its encodings; itself when nothing in it has one."""
        if not self.sockets:
            return [self]
        wanted = [one for one in ENCODINGS if one in self.flags] or ENCODINGS
        return [Scenario(f"{self.name}.{one}", self.flags, self.steps, one) for one in wanted]

    @property
    def requests(self) -> list[Request]:
        return [step for step in self.steps if isinstance(step, Request)]

    @property
    def slow(self) -> bool:
        return any(isinstance(step, Wait) for step in self.steps)


@dataclass
class _Draft:
    """A request whose indented lines are still being read."""

    line: int
    method: str
    target: str
    body: str | None
    headers: dict[str, str | None] = field(default_factory=dict)
    saves: list[Save] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)
    connection: str = ""
    encoding: str = ""

    def requests(self) -> Iterator[Request]:
        rows: list[dict[str, str]] = [{}]
        for name, values in self.tables.items():
            rows = [{**row, name: value} for row in rows for value in values]
        for row in rows:
            yield Request(
                self.line,
                fill(self.method, row),
                fill(self.target, row),
                None if self.body is None else fill(self.body, row),
                {name: value if value is None else fill(value, row) for name, value in self.headers.items()},
                tuple(self.saves),
                self.connection,
                self.encoding,
            )


def fill(text: str, values: Mapping[str, str]) -> str:
    """Puts the known values in; names without a value stay as they are."""
    return _VARIABLE.sub(lambda match: values.get(match[1], match[0]), text)


def read_all(folder: Path) -> list[Scenario]:
    """Every scenario of every `.txt` file of a folder, files by name."""
    return [scenario for path in sorted(folder.glob("*.txt")) for scenario in read(path)]


def read(path: Path) -> list[Scenario]:
    """The scenarios of one file."""
    return parse(path.stem, path.read_text(encoding="utf-8"))


def parse(stem: str, text: str) -> list[Scenario]:
    """The scenarios of a file's text."""
    reader = _Reader(stem)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            reader.take(number, line)
        except ValueError as error:
            raise FormatError(f"{stem}.txt:{number}: {error}: {line.strip()!r}") from None
    reader.end_request()
    names = [scenario.name for scenario in reader.scenarios]
    if len(names) != len(set(names)):
        raise FormatError(f"{stem}.txt: two scenarios of one name")
    return [encoded for scenario in reader.scenarios for encoded in scenario.encoded()]


class _Reader:
    """Reads line by line; indentation says what a line belongs to."""

    def __init__(self, stem: str) -> None:
        self.stem = stem
        self.scenarios: list[Scenario] = []
        self.draft: _Draft | None = None
        self.table: list[str] | None = None

    def take(self, number: int, line: str) -> None:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            return
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            self.top(number, stripped)
        elif self.draft is None:
            raise ValueError("an indented line belongs to a request")
        elif self.table is not None and indent >= 8:
            self.table.append("" if stripped == EMPTY else stripped)
        else:
            self.detail(self.draft, stripped)

    def top(self, number: int, line: str) -> None:
        self.end_request()
        if title := _TITLE.match(line):
            flags = frozenset(re.findall(r"\[([a-z]+)\]", title["flags"]))
            self.scenarios.append(Scenario(f"{self.stem}/{title['name']}", flags))
        elif not self.scenarios:
            raise ValueError("a request before the first `=== title`")
        elif wait := _WAIT.match(line):
            self.scenarios[-1].steps.append(Wait(int(wait["seconds"])))
        elif request := _REQUEST.match(line):
            self.draft = _Draft(number, request["method"], request["target"], request["body"])
        else:
            raise ValueError("neither a title, a request nor a wait")

    def detail(self, draft: _Draft, line: str) -> None:
        self.table = None
        if each := _EACH.match(line):
            if each["name"] in draft.tables:
                raise ValueError("two tables of one name")
            values = ["" if value == EMPTY else value for value in (each["values"] or "").split()]
            draft.tables[each["name"]] = values
            self.table = None if values else values
        elif save := _SAVE.match(line):
            draft.saves.append(Save(save["name"], save["source"], save["path"]))
        elif on := _ON.match(line):
            draft.connection = on["connection"]
        elif within := _IN.match(line):
            draft.encoding = within["encoding"]
        elif line.startswith("-"):
            draft.headers[line[1:].strip()] = None
        elif ":" in line:
            name, _, value = line.partition(":")
            draft.headers[name.strip()] = value.strip()
        else:
            raise ValueError("neither a header, a table nor a save")

    def end_request(self) -> None:
        if self.draft is not None:
            if any(not values for values in self.draft.tables.values()):
                raise ValueError("a table without values")
            self.scenarios[-1].steps.extend(self.draft.requests())
        self.draft = self.table = None


def body_bytes(text: str | None) -> bytes | None:
    """The bytes that a written body stands for; None when there is none."""
    if text is None or text == NO_BODY:
        return None
    match text.strip("<>").split() if text.startswith("<") and text.endswith(">") else []:
        case ["empty"]:
            return b""
        case ["hex", *digits]:
            return bytes.fromhex("".join(digits))
        case ["spaces", size]:
            return b" " * int(size)
        case ["metadata", size]:
            return _padded(int(size), b'{"a": "', b'"}')
        case ["message", size]:
            return _padded(int(size), b'{"messages": [{"ttl": 60, "body": "', b'"}]}')
        case ["messages", count]:
            messages = [{"ttl": 600, "body": number} for number in range(int(count))]
            return json.dumps({"messages": messages}).encode()
    return text.encode()


def _padded(size: int, before: bytes, after: bytes) -> bytes:
    """A JSON text of exactly `size` bytes."""
    return before + b"x" * (size - len(before) - len(after)) + after
