"""A server with the listener for operators, and its page of metrics."""

from __future__ import annotations

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from support.server import Server, free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Operated(Server):
    """A server with a listener for operators."""

    def __init__(self, root: Path, **arguments) -> None:
        super().__init__(root, **arguments)
        self.admin_port = free_port()
        self.sections["admin"] = {"port": self.admin_port}

    def ask(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=30)

    def metrics(self, page: str = "/metrics") -> Samples:
        """Every sample by name and labels; whatever is not as the format has it fails."""
        answer = self.ask(page)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        samples: Samples = {}
        for family in text_string_to_metric_families(answer.text):
            assert family.documentation, family.name
            assert family.type in ("counter", "gauge", "histogram"), family.name
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in samples, key
                samples[key] = sample.value
        return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)
