"""`python -m oracle`: compares the original with our server; exit code 0 when every difference is named."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from . import differences, document, servers
from .run import Result, run
from .scenario import Scenario, read_all

SCENARIOS = Path(__file__).with_name("scenarios")


def main() -> int:
    """Reads the command line and does what it says."""
    arguments = _parser().parse_args()
    if arguments.document:
        document.write()
        return 0
    scenarios = [one for one in read_all(SCENARIOS) if one.name.startswith(arguments.only)]
    with tempfile.TemporaryDirectory(prefix="zaqar-oracle-") as work:
        result = _compare(scenarios, Path(work), against_itself=arguments.against_itself)
    named = differences.Differences((), ()) if arguments.against_itself else differences.load()
    return _report(result, named.judge(result.found), complete=not arguments.only)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="oracle", description=__doc__)
    parser.add_argument("--only", default="", metavar="PREFIX", help="scenarios whose name begins so")
    parser.add_argument(
        "--against-itself", action="store_true", help="a second original instead of ours: nothing may differ"
    )
    parser.add_argument("--document", action="store_true", help="only write docs/compatibility.md")
    return parser


def _compare(scenarios: list[Scenario], work: Path, *, against_itself: bool) -> Result:
    start = servers.original if against_itself else servers.ours
    result = Result()
    for pooling in (False, True):
        played = [one for one in scenarios if ("pooling" in one.flags) == pooling]
        if not played:
            continue
        folder = work / ("pooled" if pooling else "plain")
        with ExitStack() as stack:
            original = stack.enter_context(servers.original(folder / "original", pooling=pooling))
            other = stack.enter_context(start(folder / "other", pooling=pooling))
            result.add(run(played, original, other))
    return result


def _report(result: Result, verdict: differences.Verdict, *, complete: bool) -> int:
    """Prints the verdict. Entries that name nothing count only when every scenario was played."""
    for found in verdict.unmatched:
        print(found)
    unused = verdict.unused if complete else []
    for entry in unused:
        print(f"unused difference: {entry}")
    print(
        f"{result.requests} requests ({result.sockets} over WebSocket) in {result.scenarios} scenarios"
        f" compared: {verdict.matched} named differences, {len(verdict.unmatched)} unnamed,"
        f" {len(unused)} unused entries"
    )
    return 1 if verdict.unmatched or unused else 0


if __name__ == "__main__":
    sys.exit(main())
