"""The files in etc: alerts and dashboard name existing metrics, and systemd accepts the unit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from support.api import Api
from support.operated import Operated
from support.server import REPOSITORY

ETC = REPOSITORY / "etc"
NAME = re.compile(r"\b(?:zaqar|process)_[a-z_]+\b")
#: The rule file's own words that look like names of metrics.
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def exported(text: str) -> set[str]:
    """The names of all series that a page of metrics has, or will have."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M):
        names |= {name + suffix for suffix in SUFFIXES.get(kind, ("",))}
    return names


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    # What is absent unless it is configured, too; nobody listens at the collector's address.
    options = {"quotas": {"max_queues": 1000}, "traces": {"otlp_endpoint": "http://127.0.0.1:1"}}
    server = Operated(tmp_path_factory.mktemp("etc"), websocket=True, options=options)
    server.start()
    with Api(server.url) as api:
        api.post("q", 1)
    text = server.ask("/metrics").text
    assert server.stop() == 0
    return text


def expressions(found: object) -> list[str]:
    """All queries of a dashboard, whatever they are in."""
    if isinstance(found, dict):
        own = [found[key] for key in ("expr", "query") if isinstance(found.get(key), str)]
        return own + [text for value in found.values() for text in expressions(value)]
    if isinstance(found, list):
        return [text for value in found for text in expressions(value)]
    return []


def test_every_metric_of_the_dashboard_is_exported(page):
    dashboard = json.loads((ETC / "grafana/zaqar.json").read_text())
    queries = expressions(dashboard)
    named = {name for query in queries for name in NAME.findall(query)}
    assert len(named) > 20
    assert named <= exported(page)
    # Nothing shown twice, nothing on top of another.
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_every_metric_of_the_alerts_is_exported(page):
    text = (ETC / "prometheus/zaqar.rules.yml").read_text()
    rules = re.findall(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", text)
    assert len(rules) == text.count("- alert:") > 10
    for rule in rules:
        named = set(NAME.findall("".join(rule)))
        assert named - exported(page) <= set(), rule
        assert named or "up{" in rule[1], rule


def test_the_documentation_lists_every_metric_and_no_other(page):
    text = (REPOSITORY / "docs/operators/metrics.md").read_text()
    table = text[text.index("| metric | labels | |") :]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in NAME.findall(row)}
    assert listed == {name for name, _ in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M)}


def test_systemd_accepts_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for name in ("zaqar-server.service", "zaqar-server.socket"):
        text = (ETC / "systemd" / name).read_text()
        # The programs and the user are not here.
        text = text.replace("/usr/bin/zaqar-server", "/bin/true").replace("=zaqar\n", "=root\n")
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "zaqar-server.service")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    ours = [line for line in found.stderr.splitlines() if "zaqar" in line]
    assert ours == []


def test_the_unit_waits_until_the_server_is_ready():
    text = (ETC / "systemd/zaqar-server.service").read_text()
    assert re.search(r"^Type=notify$", text, re.M)
