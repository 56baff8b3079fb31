"""Fixtures of the tests that need identity: one Keystone for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.identity import Cloud
from support.server import free_port


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A Keystone with users; its catalog names a port that one server may listen on."""
    made = Cloud(tmp_path_factory.mktemp("keystone"), free_port())
    try:
        yield made.start()
    finally:
        made.kill()


@pytest.fixture(scope="session")
def token(cloud: Cloud) -> str:
    """A member's, of the project `demo`."""
    return cloud.token("ann", cloud.demo)


@pytest.fixture(scope="session")
def other_token(cloud: Cloud) -> str:
    """The same user's, of the project `other`."""
    return cloud.token("ann", cloud.other)
