"""memcached servers of the tests' own, and keystonemiddleware's cache of tokens in them."""

from __future__ import annotations

import getpass
import logging
import socket
import subprocess

from keystonemiddleware.auth_token import _cache

from support.server import free_port
from support.wait import wait_until


class Memcached:
    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Memcached:
        self.process = subprocess.Popen(
            ["memcached", "-u", getpass.getuser(), "-l", "127.0.0.1", "-p", str(self.port), "-t", "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.answers, "memcached answers")
        return self

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def middleware_cache(servers: list[Memcached], strategy: str | None, secret: str) -> _cache.TokenCache:
    """The cache of a service in Python."""
    log = logging.getLogger("keystonemiddleware")
    options = {
        "cache_time": 300,
        "memcached_servers": [server.address for server in servers],
        "use_advanced_pool": False,
    }
    if strategy is None:
        cache = _cache.TokenCache(log, **options)
    else:
        cache = _cache.SecureTokenCache(log, strategy, secret, **options)
    cache.initialize({})
    return cache
