"""A port that another process has."""

import socket
from pathlib import Path

import pytest

from tests.support.commands import example, refused
from understudy.cli import start


@pytest.mark.parametrize("command", ["serve", "serve-candidate"])
def test_a_port_that_is_in_use_is_said_in_one_line(tmp_path: Path, command: str) -> None:
    """With the way out, and not as the server's stack trace."""
    example(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(command, "--port", str(port))
    assert (
        f"port {port} of 127.0.0.1 is in use: stop the process that listens there, or choose another port with --port"
        in said
    )
    assert not start.in_use("127.0.0.1", port)
