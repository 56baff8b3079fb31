"""Instructions per request, counted by callgrind, beside those of a baseline.

`tools/instructions` runs this; what is counted is in `crates/zaqar-server/examples/instructions.rs`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

BASELINE = Path(__file__).parent.parent / "instructions.json"

#: Requests of each kind.
ROUNDS = 64

#: How many times the baseline a kind of request may take.
FACTOR = 1.02

#: Functions that the baseline keeps of each kind, those with the most instructions of their own.
FUNCTIONS = 60

#: Rust's symbols end in a hash that differs from build to build.
HASH = re.compile(r"::h[0-9a-f]{16}$")


@dataclass
class Count:
    """Of one kind of request, per request."""

    instructions: int
    #: Of the functions themselves, without what they call.
    functions: dict[str, int]


def toolchain() -> str:
    """What the figures depend on: the compiler, and which functions libc chooses for the processor."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    known = set(Path("/proc/cpuinfo").read_text().split())
    return " ".join([rustc.stdout.strip(), *(flag for flag in ("avx2", "erms", "fsrm") if flag in known)])


def count(program: Path) -> dict[str, Count]:
    """Runs the program under callgrind."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "counts"
        ran = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"),
                # Both forms of a symbol.
                *("--toggle-collect=instructions::measured", "--toggle-collect=instructions::measured::h*"),
                *("--dump-before=instructions::counted", "--dump-before=instructions::counted::h*"),
                # Instructions of lines and of calls are not needed.
                *("--compress-strings=no", "--compress-pos=no"),
                *(str(program), str(ROUNDS)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        kinds = ran.stdout.splitlines()
        found = {kind: read(output.with_name(f"counts.{n}")) for n, kind in enumerate(kinds, 1)}
    assert all(one.instructions > 1000 for one in found.values()), f"nothing was counted: {found}"
    return found


def read(path: Path) -> Count:
    """A file of callgrind without compression."""
    functions: Counter[str] = Counter()
    name, is_of_call = "", False
    for line in path.read_text().splitlines():
        if line.startswith("fn="):
            name = HASH.sub("", line[3:])
        elif line.startswith("calls="):
            # The next line has what the callee took.
            is_of_call = True
        elif line[:1].isdigit():
            if not is_of_call:
                functions[name] += int(line.split()[1])
            is_of_call = False
    per_request = {name: total // ROUNDS for name, total in functions.most_common()}
    return Count(functions.total() // ROUNDS, per_request)


def least(one: dict[str, Count], other: dict[str, Count]) -> dict[str, Count]:
    """Of each kind the lower count: what one run adds by chance, as for new random numbers, is no growth."""
    return {kind: min(one[kind], other[kind], key=lambda count: count.instructions) for kind in one}


def write(found: dict[str, Count], path: Path = BASELINE) -> None:
    operations = {
        kind: {
            "instructions": one.instructions,
            "functions": dict(list(one.functions.items())[:FUNCTIONS]),
        }
        for kind, one in found.items()
    }
    text = json.dumps({"toolchain": toolchain(), "operations": operations}, indent=1)
    path.write_text(text + "\n")


def worse(found: dict[str, Count], baseline: dict[str, dict]) -> list[str]:
    """A line for each kind of request that takes more than it may, with the functions that took more."""
    assert found.keys() == baseline.keys(), "the baseline has other kinds of requests: write it anew"
    lines = []
    for kind, one in found.items():
        before = baseline[kind]
        if one.instructions <= FACTOR * before["instructions"]:
            continue
        least = min(before["functions"].values())
        more = {
            # One that the baseline does not name took less than those that it does.
            name: taken - before["functions"].get(name, min(taken, least))
            for name, taken in one.functions.items()
        }
        worst = sorted(more.items(), key=lambda item: -item[1])[:5]
        functions = ", ".join(f"{name} +{taken}" for name, taken in worst if taken > 0)
        lines.append(f"{kind}: {one.instructions}, before {before['instructions']}: {functions}")
    return lines


def main(program: Path, is_written: bool) -> int:
    found = least(count(program), count(program))
    for kind, one in found.items():
        print(f"{kind}: {one.instructions}")
    if is_written:
        write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--write" in sys.argv[2:]))
