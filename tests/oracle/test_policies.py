"""The original's own rules are the defaults here: names, checks, scopes and old names."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from oracle.servers import our_binary, venv

#: Prints what the original registers.
DUMP = """
import json
from zaqar.common import policies
print(json.dumps({rule.name: [rule.check_str, rule.scope_types, rule.deprecated_rule is not None]
                  for rule in policies.list_rules()}))
"""


def originals() -> dict[str, list]:
    done = subprocess.run(
        [venv() / "bin/python", "-c", DUMP], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1])


def ours() -> dict[str, str]:
    """What `zaqar-policy sample` prints: every default as a comment."""
    program = our_binary().with_name("zaqar-policy")
    sample = subprocess.run(
        [program, "sample"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return dict(re.findall(r'^#"([^"]+)": "([^"]*)"$', sample, flags=re.MULTILINE))


# The first to use the original installs it, which takes minutes.
@pytest.mark.timeout(1200)
def test_defaults_are_the_originals():
    theirs = originals()
    own = {name: check for name, check in ours().items() if not name.startswith("quotas:")}
    assert {name: check for name, (check, _, _) in theirs.items()} == own
    # No rule there has scopes or an old name; ours have none either.
    assert not any(scopes or deprecated for _, scopes, deprecated in theirs.values()), theirs
