"""One HTTP/1.1 connection and the requests on it: uvicorn's protocol, with less work per request.

For a small request, uvicorn takes about as long as everything else this service does for it: a timer, an event, a pattern search
per header, two writes. Here parsing, keep-alive, flow control, upgrades to WebSocket and shutdown are still uvicorn's. A request
is a `Cycle`, which writes head and body at once and does not wait for data that has already arrived. It speaks ASGI 3.0
(https://asgi.readthedocs.io/en/latest/specs/www.html), so every handler, BentoML's included, runs on it unchanged.

The application may also have a `direct` table (`understudy.http.asgi.DirectHandler`). A request to one of its paths goes to that
handler once it is complete, without task, scope and messages. A request that arrives slowly goes through ASGI.
`loadtests/results/` has what both save.

uvicorn's access log is not written: it is off in the processes of this service.
"""

import asyncio
import contextlib
import functools
from urllib.parse import unquote

import httptools
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from understudy.http.asgi import (
    ASGIApp,
    DirectHandler,
    ErrorReply,
    Headers,
    Message,
    Scope,
    unexpected_error_reply,
)
from understudy.http.cycle import CompleteRequest, Cycle

URLS_MAX = 1_024
"""Request targets whose parsed parts are cached."""
READ_AHEAD = 2**20
"""Bytes of one request's body that are read before the application receives them. uvicorn pauses at 64 KiB, so an image of
600 KiB costs ten rounds of pausing and resuming."""
GATHER_S = 0.02
"""How long a body that arrives in several reads may take before the request becomes a task, which has its own time limit."""


def install() -> None:
    """Make uvicorn use `Connection` in this process. BentoML starts uvicorn and has no setting for its protocol."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"


@functools.lru_cache(URLS_MAX)
def _parts(url: bytes) -> tuple[str, bytes, bytes]:
    """Decoded path, raw path and query string of a request target."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


async def _unused(*_: object) -> Message:
    """Stands for application, receive and send behind `_proxies`."""
    return {}


@functools.cache
def _proxies(trusted: str) -> ProxyHeadersMiddleware:
    """Uvicorn's middleware, so that a request has the same client with and without ASGI."""
    return ProxyHeadersMiddleware(_unused, trusted)  # type: ignore[arg-type]  # a stand-in that is never called


class Connection(HttpToolsProtocol):
    """See the module. The parser (httptools) calls the methods `on_…`."""

    cycle: Cycle | CompleteRequest | None  # type: ignore[assignment]  # uvicorn's own class has the attributes that it uses

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._direct: dict[bytes, DirectHandler] = getattr(self.config.app, "direct", {})
        self._error_reply: ErrorReply = getattr(self.config.app, "error_reply", unexpected_error_reply)
        self._handler: DirectHandler | None = None  # of the request whose body is being read
        self._pieces: list[bytes] = []  # of its body
        self._gathered = 0  # bytes in `_pieces`
        self._late: asyncio.TimerHandle | None = None  # turns it into a task if it arrives slowly
        self._idle_since = 0.0
        self._defaults: tuple[object, bytes] = (None, b"")
        trusted = self.config.forwarded_allow_ips
        self._proxies = (
            _proxies(",".join(trusted) if isinstance(trusted, list) else trusted) if self.config.proxy_headers else None
        )

    def on_message_begin(self) -> None:
        """Start to read a request."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Decide whether the request can skip ASGI once its body is complete."""
        before = self.cycle
        handler = self._direct.get(self.url)
        if (
            handler is not None
            and (before is None or before.response_complete)
            and self.parser.get_method() == b"POST"
            and not (self.expect_100_continue or self.parser.should_upgrade())
            and not (self.flow.write_paused or self.limit_concurrency)
        ):
            self._handler, self._pieces, self._gathered = handler, [], 0
        else:
            self._begin()

    def _begin(self) -> None:
        """Make the request a task, or queue it behind the one before it."""
        parser, root = self.parser, self.root_path
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        path, raw, query = _parts(self.url)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": root,
            "method": method,
            "path": root + path,
            "raw_path": root.encode("ascii") + raw,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.scope = scope  # type: ignore[assignment]  # a TypedDict to uvicorn
        if parser.should_upgrade() and self._should_upgrade():
            return
        app: ASGIApp = self.app
        limit = self.limit_concurrency
        if limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit):
            app = service_unavailable  # type: ignore[assignment]  # TypedDicts to uvicorn
        before = self.cycle
        cycle = Cycle(self, scope, keep_alive=self._keeps_alive())
        self.cycle = cycle
        if before is None or before.response_complete:
            cycle.start(app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._handler is not None:
            self._pieces.append(body)
            self._gathered += len(body)
            if self._gathered > READ_AHEAD:
                self._continue_as_task()
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (self.parser.should_upgrade() and self._should_upgrade()):
            return
        assert isinstance(cycle, Cycle)
        cycle.pieces.append(body)
        cycle.waiting += len(body)
        if cycle.waiting > READ_AHEAD:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        """Handle a request that is complete."""
        if self._handler is not None:
            pieces = self._pieces
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            handler = self._handler
            self._reset_direct()
            self.cycle = request = CompleteRequest(self, self.headers, body, keep_alive=self._keeps_alive())
            self._handle(handler, request)
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (self.parser.should_upgrade() and self._should_upgrade()):
            return
        assert isinstance(cycle, Cycle)
        cycle.more_body = False
        cycle.wake()

    def on_response_complete(self) -> None:
        """Start the next request that has arrived, or note since when the connection is idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            cycle.start(app)  # type: ignore[attr-defined]
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._check_idle_after(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of one or more requests."""
        self._idle_since = self.loop.time()  # a connection in the middle of a request is not idle
        super().data_received(data)
        if self._handler is not None and self._late is None:
            self._late = self.loop.call_later(GATHER_S, self._continue_as_task)

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the client has disconnected."""
        self._reset_direct()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def shutdown(self) -> None:
        """Stop with the server. A request that has begun to arrive is still answered."""
        if self._handler is not None:
            self._continue_as_task()
        super().shutdown()

    def _unset_keepalive_if_required(self) -> None:
        """Do nothing. uvicorn cancels its timer here; ours keeps running and checks `_idle_since` when it fires."""

    def _handle(self, handler: DirectHandler, request: CompleteRequest) -> None:
        try:
            handler(request)
        except Exception as error:  # noqa: BLE001 - as for ASGI, every error becomes a response
            request.reply(*self._error_reply(self.url.decode("latin-1"), error))

    def _continue_as_task(self) -> None:
        """Handle the request that is being read through ASGI after all."""
        pieces = self._reset_direct()
        self._begin()
        for piece in pieces:
            self.on_body(piece)

    def _reset_direct(self) -> list[bytes]:
        """Forget the direct handler of the request that is being read, and return the pieces of its body."""
        pieces, self._pieces, self._handler = self._pieces, [], None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        return pieces

    def _keeps_alive(self) -> bool:
        return bool(self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive())

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for the keep-alive time."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            return  # a request is in progress; its end sets the timer again
        if left > 0:
            self._check_idle_after(left)
        else:
            self.transport.close()

    def _check_idle_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def caller(self, headers: Headers) -> tuple[str, int] | None:
        """The client's address: the connection's, or the one forwarded by a proxy that uvicorn trusts (`FORWARDED_ALLOW_IPS`)."""
        if self._proxies is None or not any(name == b"x-forwarded-for" for name, _ in headers):
            return self.client
        scope: Scope = {"type": "http", "client": self.client, "headers": headers}
        with contextlib.suppress(StopIteration):  # the middleware awaits nothing
            self._proxies(scope, _unused, _unused).send(None)  # type: ignore[arg-type]
        client: tuple[str, int] | None = scope["client"]
        return client

    def defaults(self) -> bytes:
        """The headers of every response, encoded. uvicorn renews them each second."""
        headers = self.server_state.default_headers
        if self._defaults[0] is not headers:
            self._defaults = (
                headers,
                b"".join(part for name, value in headers for part in (name, b": ", value, b"\r\n")),
            )
        return self._defaults[1]
