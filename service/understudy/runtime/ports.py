"""Ports of loopback."""

import contextlib
import random
import socket

PORTS = range(20_000, 32_000)
"""Below Linux's range for outgoing connections (`ip_local_port_range`), which could take a free port."""


def free_port() -> int:
    """A random free port of loopback; random because several processes may look for one at the same time."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
