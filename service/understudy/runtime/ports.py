"""Ports of loopback."""

import contextlib
import random
import socket

PORTS = range(20_000, 32_000)
"""Below those that Linux gives to outgoing connections (`ip_local_port_range`), of which one might take a port that was free."""


def free_port() -> int:
    """A port of loopback that nobody listens on just now, drawn by chance: several processes may look for one at the same time."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
