"""A service that answers from a table, on a free port of this process."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One request that a stub has seen."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Stub:
    """A service that answers from a table.

    Attributes:
        answers: "METHOD /path" → (status, body); a body that is no bytes is sent as JSON, None hangs up.
        asked: what it was asked, in order.
    """

    answers: dict[str, tuple[int, Any]]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)


@contextlib.contextmanager
def serving(**answers: tuple[int, Any]) -> Iterator[Stub]:
    """A stub on a free port; `GET_rollout_events=(200, {...})` answers `GET /rollout/events`."""
    stub = Stub(
        {f"{name.partition('_')[0]} /{name.partition('_')[2].replace('_', '/')}": a for name, a in answers.items()}
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            stub.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, answer = stub.answers.get(f"{self.command} {self.path.partition('?')[0]}", (404, b"nothing here"))
            self.close_connection = answer is None
            if answer is None:
                return
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = reply  # noqa: N815 - the library's names

        def log_message(self, *arguments: Any) -> None:
            """Not into the tests' output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        stub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


def nowhere() -> str:
    """The address of a port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"
