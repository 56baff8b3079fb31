"""The book in `docs`: every command does what its page prints, and every link has a target."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import EXTERNAL_URL
from support import reference
from support.server import REPOSITORY, Server, server_binary

BOOK = REPOSITORY / "docs"
PAGES = [
    BOOK / name
    for name in re.findall(r"\]\(([^)#]+\.md)\)", (BOOK / "SUMMARY.md").read_text())
    if not name.startswith("..")
]

#: A block of commands and their output. A block is skipped if a comment above it says "not run";
#: the comment says why.
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n\n?)?```(?P<language>\w+)\n(?P<text>.*?)```", re.S
)
#: The languages of blocks that are not run.
SHOWN = {"ini", "json", "text", "toml", "python", "javascript", "rust", "yaml", "html"}

#: A command, with the lines behind it that begin with a space, and what it prints.
COMMAND = re.compile(r"^\$ (?P<command>.*(?:\n .*)*)\n(?P<printed>(?:(?!\$ ).*\n)*)", re.M)
MARK = "--end of a command--"


def commands(page: Path) -> list[tuple[str, str]]:
    """The commands of a page in order, each with what it prints."""
    found = []
    for block in BLOCK.finditer(page.read_text()):
        if block["language"] == "console" and block["reason"] is None:
            blocks = list(COMMAND.finditer(block["text"]))
            assert blocks, f"a console block without a `$ ` in {page.name}"
            found += [(one["command"], one["printed"]) for one in blocks]
    return found


def programs(page: Path) -> list[tuple[str, str]]:
    """The Python and JavaScript programs of a page that can be run."""
    return [
        (block["language"], block["text"])
        for block in BLOCK.finditer(page.read_text())
        if block["language"] in ("python", "javascript") and block["reason"] is None
    ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if EXTERNAL_URL:
        pytest.skip("needs a server process of its own, and ZAQAR_TEST_URL names a running one")
    options = {"signed_url": {"secret_key": "a secret of the tests"}}
    server = Server(tmp_path, websocket=True, options=options)
    server.start()
    yield server
    assert server.stop() == 0, server.log_tail()


def localized(text: str, server: Server) -> str:
    """The text with the addresses of the tests' server in place of the defaults."""
    return text.replace(":8888", f":{server.port}").replace(":9000", f":{server.websocket_port}")


def matches(expected: str, printed: str) -> bool:
    """Whether a line is as expected, where an ellipsis stands for any text."""
    pieces = expected.strip().replace('"age":0', '"age":…').split("…")
    return re.search(rf"^{'.+'.join(map(re.escape, pieces))}\r?$", printed, re.M) is not None


def test_every_page_is_in_the_summary():
    listed = {page.resolve() for page in PAGES} | {(BOOK / "SUMMARY.md").resolve()}
    found = {page.resolve() for page in BOOK.rglob("*.md")}
    assert found == listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(BOOK)))
def test_every_block_names_its_language(page: Path):
    for block in BLOCK.finditer(page.read_text()):
        assert block["language"] in SHOWN | {"console"}, block.group()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if commands(page) or programs(page)],
    ids=lambda page: str(page.relative_to(BOOK)),
)
def test_the_commands_print_what_the_page_shows(page: Path, server: Server):
    examples = commands(page)
    script = f"echo '{MARK}'\n".join(localized(command, server) + "\n" for command, _ in examples)
    environment = {**os.environ, "no_proxy": "*", "LC_ALL": "C.UTF-8"}
    # The command line and the benchmark are built beside the server.
    programs_of_ours = f"{REPOSITORY / '.venv' / 'bin'}:{server_binary().resolve().parent}"
    environment["PATH"] = f"{programs_of_ours}:{environment['PATH']}"
    if examples:
        ran = subprocess.run(
            ["bash", "-ec", script],
            capture_output=True,
            cwd=server.root,
            env=environment,
            text=True,
            timeout=120,
        )
        outputs = ran.stdout.split(MARK + "\n")
        shown = list(zip(examples, outputs, strict=False))
        for (command, expected), printed in shown:
            for line in expected.splitlines():
                wanted = localized(line, server)
                assert matches(wanted, printed), (command, line, printed, ran.stderr)
        assert ran.returncode == 0, (ran.stderr, examples[len(outputs) - 1])
        assert len(outputs) == len(examples), ran.stderr
    for language, text in programs(page):
        program = ["python3", "-c"] if language == "python" else ["node", "-e"]
        ran = subprocess.run(
            [*program, localized(text, server)],
            capture_output=True,
            cwd=server.root,
            env=environment,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, (text, ran.stdout, ran.stderr)


def test_the_references_are_those_of_the_code():
    hint = "run: cd tests && ../.venv/bin/python -m support.reference"
    assert reference.API.read_text() == reference.api(), hint
    assert reference.CONFIGURATION.read_text() == reference.configuration(), hint


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mdBook make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        BOOK / "SUMMARY.md",
        *(REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
        *sorted(REPOSITORY.glob("crates/*/README.md")),
    ],
    ids=lambda page: str(page.relative_to(REPOSITORY)),
)
def test_links_have_a_target(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+[:@]|zaqar_", target) or "::" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), target
