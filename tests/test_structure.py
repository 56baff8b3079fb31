"""Rules of the source tree: which crate may use which, and no import cycles between files."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CRATES = sorted(path.parent for path in REPOSITORY.glob("crates/*/Cargo.toml"))

#: The crates of this project that each crate may use. Everything may use the core, and the testkit
#: and the server in tests.
EDGES: dict[str, set[str]] = {
    "zaqar-core": set(),
    "zaqar-api": set(),
    "zaqar-auth": {"zaqar-api"},
    "zaqar-notify": {"zaqar-api", "zaqar-auth"},
    "zaqar-pooling": set(),
    "zaqar-transport": set(),
    "zaqar-transport-http": {"zaqar-api", "zaqar-transport"},
    "zaqar-transport-ws": {"zaqar-api", "zaqar-transport"},
    "zaqar-storage-embedded": set(),
    "zaqar-storage-redis": {"zaqar-storage-batch"},
    "zaqar-storage-mongo": {"zaqar-storage-batch"},
    "zaqar-storage-batch": set(),
    "zaqar-storage-testkit": set(),
    "zaqar-client": set(),
    "zaqar-cli": {"zaqar-client"},
    "zaqar-bench": {"zaqar-client"},
    "zaqar-measure": set(),
}


def scripts() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    files = [REPOSITORY / name for name in listed.stdout.splitlines()]
    return [file for file in files if re.match(rb"#!.*sh\b", file.read_bytes()[:40])]


#: These end before they have read everything.
STOPS_READING = re.compile(r"\|\s*(grep\s+(-\S+\s+)*-\w*[qm]|head\b|sed\s.*\bq\b)")


def test_no_script_pipes_into_what_stops_reading():
    """With pipefail the writer's SIGPIPE makes the pipe fail now and then."""
    found = scripts()
    assert REPOSITORY / "tools/test" in found
    wrong = [
        f"{script.relative_to(REPOSITORY)}: {line.strip()}"
        for script in found
        for line in script.read_text().splitlines()
        if STOPS_READING.search(line) and not line.lstrip().startswith("#")
    ]
    assert wrong == []
    assert STOPS_READING.search("x | grep -q y")
    assert STOPS_READING.search("x | grep -F -m1 y")


def packages() -> list[dict]:
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    return json.loads(found.stdout)["packages"]


def resolved() -> dict:
    """All packages that are linked on Linux, with their dependencies."""
    command = ["cargo", "metadata", "--format-version", "1", "--offline", "--locked"]
    command += ["--filter-platform", "x86_64-unknown-linux-gnu"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    return json.loads(found.stdout)


def test_no_crate_uses_another_that_it_must_not():
    found = packages()
    names = {package["name"] for package in found}
    wrong = [
        f"{package['name']} uses {dependency['name']}"
        for package in found
        for dependency in package["dependencies"]
        if dependency["kind"] is None
        and dependency["name"] in names
        and package["name"] in EDGES
        and dependency["name"] not in EDGES[package["name"]] | {"zaqar-core"}
    ]
    assert wrong == []


#: What brings a runtime or a network: nothing of it may be below the core, which does no I/O.
RUNTIMES = {"async-std", "hyper", "mio", "reqwest", "rustls", "smol", "socket2", "tokio", "tower"}


def test_the_core_builds_no_runtime_and_no_network():
    metadata = resolved()
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    nodes = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    [core] = [one for one, name in names.items() if name == "zaqar-core"]
    below, waiting = set(), [core]
    while waiting:
        for dependency in nodes[waiting.pop()]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            if kinds != {"dev"} and dependency["pkg"] not in below:
                below.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    assert {names[one] for one in below} & {"serde", "thiserror"}, "the walk found nothing"
    assert {names[one] for one in below} & RUNTIMES == set()


def test_published_crates_have_metadata_and_explain_their_features():
    for package in packages():
        if package["publish"] == []:
            continue
        name = package["name"]
        for field in ("description", "documentation", "license", "readme", "repository", "rust_version"):
            assert package[field], f"{name} has no {field}"
        assert 1 <= len(package["keywords"]) <= 5, name
        assert all(len(keyword) <= 20 for keyword in package["keywords"]), name
        assert 1 <= len(package["categories"]) <= 5, name
        readme = Path(package["manifest_path"]).with_name("README.md").read_text()
        assert readme.startswith(f"# {name}"), name
        library = Path(package["manifest_path"]).with_name("src") / "lib.rs"
        if library.exists():
            first = library.read_text().splitlines()[0]
            assert first == '#![doc = include_str!("../README.md")]', name
        for feature in package["features"].keys() - {"default"}:
            assert f"`{feature}`" in readme, f"{name} does not explain its feature {feature}"


def is_allowed(licence: str, allowed: set[str]) -> bool:
    """Whether one of the alternatives of an SPDX expression is allowed as a whole."""
    terms = re.findall(r"[()]|[^\s()]+", licence.replace("/", " OR ").replace(" WITH ", "-WITH-"))
    words = {"OR": "or", "AND": "and", "(": "(", ")": ")"}
    known = [words.get(term) or str(term.split("-WITH-")[0] in allowed) for term in terms]
    return bool(eval(" ".join(known), {"__builtins__": {}}))


def test_licences_and_sources_are_those_that_deny_toml_allows():
    rules = tomllib.loads((REPOSITORY / "deny.toml").read_text())
    metadata = resolved()
    linked = {node["id"] for node in metadata["resolve"]["nodes"]}
    allowed = set(rules["licenses"]["allow"])
    packages = [one for one in metadata["packages"] if one["id"] in linked]
    assert len(packages) > 100
    wrong = [one["name"] for one in packages if not is_allowed(one["license"] or "", allowed)]
    assert wrong == []
    crates_io = "registry+https://github.com/rust-lang/crates.io-index"
    assert {one["source"] for one in packages} == {None, crates_io}
    assert not {one["name"] for one in packages} & set(rules["bans"]["deny"])


def test_a_licence_is_read_as_spdx_says():
    allowed = {"MIT", "Apache-2.0"}
    assert is_allowed("GPL-3.0 OR (MIT AND Apache-2.0 WITH LLVM-exception)", allowed)
    assert is_allowed("Unlicense/MIT", allowed)
    assert not is_allowed("MIT AND GPL-3.0", allowed)


def without_tests(text: str) -> str:
    """The text without line comments and without `#[cfg(test)]` modules and declarations."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"#\[cfg\(test\)\]\s*(pub(\([^)]*\))? )?(mod|use) [^;{]*;", "", text)
    return re.sub(r"#\[cfg\(test\)\]\s*mod \w+ \{.*?\n\}\n", "", text, flags=re.DOTALL)


def flatten(tree: str) -> list[list[str]]:
    """The paths of a use tree: `a::{b, c::d}` has two."""
    tree = tree.strip()
    at = tree.find("{")
    if at < 0:
        return [[part.strip() for part in tree.split(" as ")[0].split("::") if part.strip()]]
    prefix = [part.strip() for part in tree[:at].split("::") if part.strip()]
    inner, depth, parts = "", 0, []
    for char in tree[at + 1 : tree.rfind("}")]:
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append(inner)
            inner = ""
        else:
            inner += char
    parts.append(inner)
    return [prefix + path for part in parts if part.strip() for path in flatten(part)]


class Crate:
    """The modules of one crate, by their path, and the modules that each one imports."""

    def __init__(self, root: Path) -> None:
        self.texts: dict[tuple[str, ...], str] = {}
        for path in sorted(root.glob("src/**/*.rs")):
            parts = list(path.relative_to(root / "src").with_suffix("").parts)
            if parts[-1] in {"mod", "lib"}:
                parts.pop()
            if not any("tests" in part for part in parts) and parts != ["main"]:
                self.texts[tuple(parts)] = without_tests(path.read_text())

    def absolute(self, module: tuple[str, ...], path: list[str]) -> tuple[str, ...] | None:
        """A path from the root of the crate; None for one into another crate."""
        if path[0] == "crate":
            return tuple(path[1:])
        if path[0] in {"self", "super"}:
            base = list(module)
            while path and path[0] in {"self", "super"}:
                if path[0] == "super" and base:
                    base.pop()
                path = path[1:]
            return tuple(base + path)
        if (*module, path[0]) in self.texts:
            return module + tuple(path)
        return None

    def uses(self, module: tuple[str, ...]) -> list[tuple[str, ...]]:
        trees = re.findall(r"\buse ([^;]+);", self.texts[module])
        paths = [path for tree in trees for path in flatten(tree)]
        rest = re.sub(r"\buse [^;]+;", "", self.texts[module])
        paths += [found.split("::") for found in re.findall(r"\b(?:crate|super)(?:::\w+)+", rest)]
        found = (self.absolute(module, path) for path in paths if path)
        return [path for path in found if path is not None]

    def resolve(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The module that holds what a path names, through one re-export."""
        for length in range(len(path), -1, -1):
            module = path[:length]
            if module in self.texts:
                if length < len(path):
                    for used in self.uses(module):
                        if used and used[-1] == path[length] and used[: length + 1] != path[: length + 1]:
                            return self.resolve(used)
                return module
        return ()

    def graph(self) -> dict[tuple[str, ...], set[tuple[str, ...]]]:
        def is_related(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
            return one[: len(other)] == other or other[: len(one)] == one

        return {
            module: {
                target for path in self.uses(module) if not is_related(module, target := self.resolve(path))
            }
            for module in self.texts
        }


def cycles(graph: dict[tuple[str, ...], set[tuple[str, ...]]]) -> set[tuple[str, ...]]:
    """The strongly connected groups of more than one module."""

    def reachable(start: tuple[str, ...]) -> set[tuple[str, ...]]:
        seen, waiting = set(), [start]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    reach = {module: reachable(module) for module in graph}
    groups = set()
    for module in graph:
        group = {other for other in reach[module] if module in reach.get(other, ())}
        if len(group) > 1:
            groups.add(tuple(sorted("/".join(part) for part in group)))
    return groups


@pytest.mark.parametrize("root", CRATES, ids=lambda path: path.name)
def test_the_files_of_a_crate_import_each_other_in_one_direction(root: Path):
    assert cycles(Crate(root).graph()) == set()


def test_a_cycle_is_found():
    graph = {("a",): {("b",)}, ("b",): {("c",)}, ("c",): {("a",)}, ("d",): {("a",)}}
    assert cycles(graph) == {("a", "b", "c")}
