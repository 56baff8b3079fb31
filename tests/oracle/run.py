"""Plays scenarios to both servers and collects where their answers differ."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from .compare import Twins, compare
from .differences import Found
from .frames import Sockets
from .scenario import NO_BODY, WEBSOCKET, Request, Save, Scenario, Wait, body_bytes, fill
from .servers import Target
from .wire import Answer, exchange

#: The client that scenarios speak as when they say nothing else, and another one for echoes.
CLIENT = "3381af92-2b9e-11e3-b191-71861300734c"
OTHER_CLIENT = "3381af92-2b9e-11e3-b191-71861300734d"

#: Scenarios that wait run at the same time, so that the whole run waits once. Not one thread each:
#: the original serves four requests at a time.
_SLOW_AT_ONCE = 16


@dataclass
class Result:
    """What a run saw."""

    scenarios: int = 0
    requests: int = 0
    #: How many of the requests went over WebSocket.
    sockets: int = 0
    found: list[Found] = field(default_factory=list)

    def add(self, more: Result) -> None:
        """Takes what another run saw."""
        self.scenarios += more.scenarios
        self.requests += more.requests
        self.sockets += more.sockets
        self.found += more.found


@dataclass
class _Side:
    """One of the two servers, and what it has shown so far in a scenario."""

    target: Target
    sockets: Sockets
    values: dict[str, str]

    def ask(self, request: Request, headers: dict[str, str]) -> Answer:
        filled = {name: fill(value, self.values) for name, value in headers.items()}
        body = None if request.body is None else fill(request.body, self.values)
        target = fill(request.target, self.values)
        if request.method == WEBSOCKET:
            answer = self.sockets.ask(request, filled, target, None if body == NO_BODY else body)
        else:
            answer = exchange(self.target.http, request.method, target, filled, body_bytes(body))
        for save in request.saves:
            self.values[save.name] = _saved(save, answer)
        return answer


def run(scenarios: Iterable[Scenario], original: Target, ours: Target) -> Result:
    """Plays every scenario; those that wait go on in the background meanwhile."""
    scenarios = list(scenarios)
    result = Result()
    with ThreadPoolExecutor(_SLOW_AT_ONCE) as pool:
        slow = [pool.submit(play, one, original, ours) for one in scenarios if one.slow]
        for scenario in (one for one in scenarios if not one.slow):
            result.found += play(scenario, original, ours)
        for waiting in slow:
            result.found += waiting.result()
    result.scenarios = len(scenarios)
    result.requests = sum(len(one.requests) for one in scenarios)
    result.sockets = sum(one.sockets for one in scenarios)
    return result


def play(scenario: Scenario, original: Target, ours: Target) -> list[Found]:
    """Sends each request of a scenario to the original, then to ours."""
    known = {
        "project": scenario.project,
        "client": CLIENT,
        "other_client": OTHER_CLIENT,
        "database": original.database,
    }
    with ExitStack() as stack:
        sides = []
        for target in (original, ours):
            sockets = Sockets(target.websocket, scenario.encoding)
            stack.callback(sockets.close)
            sides.append(_Side(target, sockets, dict(known)))
        return _play(scenario, sides)


def _play(scenario: Scenario, sides: list[_Side]) -> list[Found]:
    twins = Twins()
    found = []
    for step in scenario.steps:
        match step:
            case Wait(seconds):
                time.sleep(seconds)
            case Request():
                headers = _headers(scenario, step)
                differences = compare(*(side.ask(step, headers) for side in sides), twins)
                found += [Found(scenario.name, step, difference) for difference in differences]
    return found


def _headers(scenario: Scenario, request: Request) -> dict[str, str]:
    """The usual headers, with what the request adds, replaces and leaves out."""
    headers = {} if "bare" in scenario.flags else {"Client-ID": CLIENT, "X-Project-ID": scenario.project}
    if "admin" in scenario.flags:
        headers["X-Roles"] = "admin"
    if request.method != WEBSOCKET and request.body not in (None, NO_BODY):
        headers["Content-Type"] = "application/json"
    for name, value in request.headers.items():
        for known in [known for known in headers if known.lower() == name.lower()]:
            del headers[known]
        if value is not None:
            headers[name] = value
    return headers


def _saved(save: Save, answer: Answer) -> str:
    """The value to keep; a name that no server knows when the answer has none."""
    missing = f"no-{save.name}"
    if save.source == "location":
        location = answer.header("location")
        return missing if location is None else re.split("[/=]", location)[-1]
    try:
        value = json.loads(answer.body)
        for part in (save.path or "").split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (ValueError, LookupError, TypeError):
        return missing
    return str(value)
