"""Instructions per request do not grow unnoticed: they are the same on a busy machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from support.instructions import BASELINE, Count, count, least, toolchain, worse
from support.server import server_binary


@pytest.mark.timeout(900)
def test_no_request_takes_more_instructions_than_the_baseline() -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("needs valgrind")
    written = json.loads(BASELINE.read_text())
    if toolchain() != written["toolchain"]:
        pytest.skip(f"the baseline is of {written['toolchain']}, this is {toolchain()}")
    program = server_binary().parent / "examples" / "instructions"
    if not program.exists():
        pytest.skip(f"{program.name} is not built: tools/test builds it")
    found = count(program)
    for _ in range(2):
        if worse(found, written["operations"]):
            found = least(found, count(program))
    for kind, one in found.items():
        print(f"{kind}: {one.instructions}")
    assert worse(found, written["operations"]) == [], "tools/instructions --write, if it is on purpose"


def test_a_request_above_the_baseline_is_named() -> None:
    before = {"HTTP get": {"instructions": 1000, "functions": {"parse": 600, "answer": 300}}}
    one = Count(1019, {"parse": 610, "answer": 309})
    assert worse({"HTTP get": one}, before) == []
    one = replace(one, instructions=1021, functions={"parse": 600, "answer": 420, "copy": 320})
    assert worse({"HTTP get": one}, before) == [
        "HTTP get: 1021, before 1000: answer +120, copy +20",
    ]


def test_the_baseline_has_both_wires() -> None:
    kinds = json.loads(Path(BASELINE).read_text())["operations"]
    wires = {kind.partition(" ")[0] for kind in kinds}
    assert wires == {"HTTP", "WebSocket"}
    for wire in wires:
        assert {f"{wire} {name}" for name in ("post", "list 10", "get", "claim", "delete")} <= kinds.keys()
