"""Policy decisions are those of oslo.policy (PyPI), on generated rules, callers and targets."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_policy import policy

from support.server import server_binary

ROLES = ["admin", "member", "Reader", "compute:admin", "ümlaut", "ß", "", "\u212a"]
PROJECTS = ["p", "q", "None", "True", "1", ""]
#: What is left of the colon of a check: attributes, literals, and what is neither.
KINDS = [
    *("role", "rule", "project_id", "user_id", "roles", "is_admin", "user.domain.id", "groups.name", "é"),
    *("'p'", '"p"', "'admin'", "True", "False", "None", "1", "-1", "0", "-0", "1.5", "0.50", "1.0", "-2.50"),
    *("n", "m", "project-id", "roles.name", "user", "user.domain", "system_scope", "system", "none", "Role"),
    *("a..b", "1a", "01", "is", "'a'b", "''", "Ellipsis", "a.1", "'a", "p'", "not", "'%(project_id)s'"),
    *("missing", "$", "''''"),
]
#: What is right of it; `%(…)s` is filled in from the target.
VALUES = [
    *("p", "q", "admin", "member", "MEMBER", "reader", "True", "False", "None", "1", "1.5", "0.5", "-1", "0"),
    *("%(project_id)s", "%(user_id)s", "%(role)s", "%(n)s", "%(none)s", "%(yes)s", "%(a.b)s", "%(missing)s"),
    *("x%(project_id)sx", "%(project_id)s%(user_id)s", "%%", "100%%", "%(project_id)s%%", "", "ÜMLAUT", "SS"),
    *("K", "d", "g", "compute:admin", "[]", "{}", "%(list)s", "%(map)s", "%(f)s", "%(big)s", "%()s"),
    *("%(a(b)c)s", "%", "%(project_id)", "%(project_id", "x%y", "%(", "%()", "%(project_id)%", "%-%"),
]
#: What oslo.policy reads and this server does not: it denies, also below `not`, and names the check
#: when it reads the rules. Python's other formats, which fail on a value of another type, ...
FORMATS = [
    *("%s", "%.s", "%(n)d", "%(n)i", "%(n)05d", "%(n)ls", "%(n)#x", "%(n)c", "%(f)f", "%(f).1f"),
    *("%(role)r", "%(role)a", "%(role)5s", "%(role)-5s", "%(role)+s", "%(role).1s"),
]
#: ... and its literals other than texts, True, False, None and plain numbers.
LITERALS = ["[1]", "{}", "b'p'", "1e3", "0x10", "1_000", "+1", "...", ".5", "5.", "1j", "1+1"]


class Generator:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def check(self, names: list[str]) -> str:
        chosen = self.random.random()
        if chosen < 0.06:
            return self.random.choice(["@", "!", "nothing", "'quoted'", '"x"'])
        if chosen < 0.2 and names:
            return f"rule:{self.random.choice([*names, 'undefined'])}"
        if chosen < 0.4:
            return f"role:{self.random.choice([*ROLES, *VALUES])}"
        return f"{self.random.choice(KINDS)}:{self.random.choice(VALUES)}"

    def text(self, names: list[str], depth: int = 0) -> str:
        chosen = self.random.random()
        if depth > 3 or chosen < 0.4:
            return self.check(names)
        if chosen < 0.55:
            return f"{self.random.choice(['not', 'NOT', 'Not'])} {self.text(names, depth + 1)}"
        if chosen < 0.7:
            return f"({self.text(names, depth + 1)})"
        word = self.random.choice(["and", "or", "AND", "Or", " and ", "\tor\n"])
        return f"{self.text(names, depth + 1)} {word} {self.text(names, depth + 1)}"

    def part(self, names: list[str]) -> object:
        """Of a rule in the form of lists."""
        checks = [self.check(names) for _ in range(self.random.randrange(3))]
        return self.random.choice([checks, self.check(names), ""])

    def rule(self, names: list[str]) -> object:
        chosen = self.random.random()
        if chosen < 0.1:
            return [self.part(names) for _ in range(self.random.randrange(4))]
        text = self.text(names)
        if chosen < 0.2:
            # A word is added, removed, or moved.
            words = text.split(" ")
            at = self.random.randrange(len(words) + 1)
            words[at:at] = [self.random.choice(["and", "or", "not", "(", ")", "()", "@", "", "x:y", "'q'"])]
            if self.random.random() < 0.5:
                del words[self.random.randrange(len(words))]
            text = " ".join(words)
        return text

    def rules(self, count: int) -> dict[str, object]:
        made: dict[str, object] = {}
        for n in range(count):
            # A rule refers only to those before it: a circle is another matter.
            made[f"r{n:04}"] = self.rule(list(made)[-20:])
        return made

    def caller(self) -> dict:
        pick = self.random.choice
        caller = {
            "roles": self.random.sample(ROLES, self.random.randrange(4)),
            "project_id": pick([*PROJECTS, None]),
            "user_id": pick(["u", "p", None]),
            "is_admin": pick([True, False]),
            "user": pick(["u", {"domain": {"id": "d"}}, {"domain": [{"id": "d"}, {"id": "p"}]}]),
            "groups": pick([[], [{"name": "g"}, {"name": "p"}], [["g"], "p"]]),
            "n": pick([1, 0, -1, 1.5, True, 10**15, 1e20, 1e-7]),
            "m": pick([{}, [], {"a": 1}, [1, "p"], "admin"]),
            "none": None,
            "system_scope": pick([None, "all"]),
            "project-id": "p",
            "é": "q",
        }
        return {name: value for name, value in caller.items() if self.random.random() < 0.9}

    def target(self) -> dict:
        pick = self.random.choice
        target = {
            "project_id": pick(PROJECTS),
            "user_id": pick(["u", "p", None]),
            "role": pick(ROLES),
            "n": pick([1, 0, 7, -1]),
            "none": None,
            "yes": pick([True, False]),
            "a.b": pick(["p", "x"]),
            "list": [1, "p"],
            "map": {"a": None},
            "f": pick([1.5, 1.0, 1e20, 1e-7, 0.5]),
            "big": 10**15,
            "": "p",
            "a(b)c": "q",
        }
        return {name: value for name, value in target.items() if self.random.random() < 0.9}


def theirs(rules: dict[str, object], caller: dict, target: dict) -> dict[str, bool]:
    enforcer = policy.Enforcer(cfg.ConfigOpts(), use_conf=False)
    enforcer.conf([])
    enforcer.set_rules(policy.Rules.from_dict(rules), use_conf=False)

    def decide(name: str) -> bool:
        try:
            return bool(enforcer.enforce(name, target, dict(caller)))
        except Exception:  # a request that fails is not allowed
            return False

    return {name: decide(name) for name in rules}


def ours(root: Path, rules: dict[str, object], caller: dict, target: dict) -> tuple[dict[str, bool], str]:
    """The decisions, and the output about the rules."""
    for name, document in (("rules", rules), ("caller", caller), ("target", target)):
        (root / f"{name}.json").write_text(json.dumps(document))
    ran = subprocess.run(
        [
            *(server_binary().with_name("zaqar-policy"), "--policy-file", root / "rules.json", "check"),
            *("--credentials", root / "caller.json", "--target", root / "target.json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode in (0, 1), ran.stderr
    decided = (line.split(": ", 1) for line in ran.stdout.splitlines())
    return {name: said == "passed" for said, name in decided if name in rules}, ran.stderr


@pytest.fixture(autouse=True)
def quiet():
    """oslo.policy logs each rule that it cannot read, with where it was."""
    logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("oslo_policy").setLevel(logging.NOTSET)


def test_decisions_are_those_of_oslo_policy(tmp_path):
    seed = int(os.environ.get("ZAQAR_TEST_SEED", "15"))
    made = Generator(seed)
    differ, allowed, total = [], 0, 0
    for _ in range(16):
        rules, caller, target = made.rules(300), made.caller(), made.target()
        one, (other, _) = theirs(rules, caller, target), ours(tmp_path, rules, caller, target)
        assert one.keys() == other.keys()
        differ += [(rules[name], caller, target, one[name]) for name in rules if one[name] != other[name]]
        allowed += sum(one.values())
        total += len(one)
    print(f"seed {seed}: {total} decisions, {allowed} allowed")
    assert 0.1 * total < allowed < 0.9 * total, "both decisions are compared"
    assert differ == []


def test_each_kind_with_each_value(tmp_path):
    made = Generator(1)
    checks = [f"{kind}:{value}" for kind in KINDS for value in VALUES]
    rules = {f"{word}{n}": word + check for n, check in enumerate(checks) for word in ("", "not ")}
    for _ in range(3):
        caller, target = made.caller(), made.target()
        one, (other, _) = theirs(rules, caller, target), ours(tmp_path, rules, caller, target)
        assert [(rules[name], caller, target, one[name]) for name in rules if one[name] != other[name]] == []


def test_an_unsupported_check_denies_and_is_named(tmp_path):
    checks = [f"role:{text}" for text in FORMATS] + [f"{literal}:x" for literal in LITERALS]
    rules = {check: check for check in checks} | {f"not {check}": f"not {check}" for check in checks}
    decided, said = ours(tmp_path, rules, {"roles": ["p"]}, {"role": "p", "n": 1, "f": 1.5})
    assert decided == dict.fromkeys(rules, False)
    for check in checks:
        assert f"rule {check} has a check that is not supported ({check})" in said
