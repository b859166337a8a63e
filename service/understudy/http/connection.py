"""One HTTP/1.1 connection to this service, and the requests on it: uvicorn's own, made lean.

uvicorn spends on a small request about as much as everything that this service does for it: a timer, an event, a pattern
search per header, two writes. Here the parsing, the keep-alive, the flow control, the upgrade to a WebSocket and the
shutdown stay uvicorn's; what becomes of one request is `Cycle`'s, which writes head and body at once and waits for nothing
that is there already. It is ASGI 3.0 as before (https://asgi.readthedocs.io/en/latest/specs/www.html), so every handler,
BentoML's own too, runs on it unchanged.

The application may have a `direct` table beside that (`understudy.http.asgi.Direct`): a request to one of its paths is given to
it once it is here whole, without a task, a scope and messages. What takes long to come goes on as above. `loadtests/results/` has
what both save.

uvicorn's access log is not written: this service's processes have it off.
"""

import asyncio
import contextlib
import functools
from typing import Any
from urllib.parse import unquote

import httptools
import structlog
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from understudy.http.asgi import Direct, Headers
from understudy.http.cycle import CompleteRequest, Cycle

log = structlog.get_logger(__name__)

URLS_MAX = 1_024
"""Request targets whose parts are remembered."""
READ_AHEAD = 2**20
"""Bytes of one request's body that are read before anyone has asked for them. uvicorn stops at 64 KiB, and an image of 600 KiB
then costs ten rounds of stopping, telling and going on."""
GATHER_S = 0.02
"""How long a request whose body comes in several reads is waited for without a task, which has a limit of its own for that."""


def install() -> None:
    """Let the uvicorn of this process use `Connection`: BentoML, which starts it, does not ask which protocol to use."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"


@functools.lru_cache(URLS_MAX)
def _parts(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, the path as it was sent, and the query string of a request's target."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


async def _unused(*_: Any) -> Any:
    """The application behind `_proxies`, and its messages."""


@functools.cache
def _proxies(trusted: str) -> ProxyHeadersMiddleware:
    """The middleware of uvicorn, so that a request has the same client whichever way it takes."""
    return ProxyHeadersMiddleware(_unused, trusted)


class Connection(HttpToolsProtocol):
    """See the module. The names of the callbacks are httptools'; what they get is the caller's, in pieces."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._direct: dict[bytes, Direct] = getattr(self.config.app, "direct", {})
        self._taker: Direct | None = None  # of the request whose body is being read
        self._pieces: list[bytes] = []  # of its body
        self._gathered = 0  # bytes in them
        self._late: asyncio.TimerHandle | None = None  # when it has taken long to come
        self._idle_since = 0.0
        self._defaults: tuple[object, bytes] = (None, b"")
        trusted = self.config.forwarded_allow_ips
        self._proxies = (
            _proxies(",".join(trusted) if isinstance(trusted, list) else trusted) if self.config.proxy_headers else None
        )

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Its headers are here: see whether it can be answered directly once its body is."""
        before: Any = self.cycle
        taker = self._direct.get(self.url)
        if (
            taker is not None
            and (before is None or before.response_complete)
            and self.parser.get_method() == b"POST"
            and not (self.expect_100_continue or self.parser.should_upgrade())
            and not (self.flow.write_paused or self.limit_concurrency)
        ):
            self._taker, self._pieces, self._gathered = taker, [], 0
        else:
            self._begin()

    def _begin(self) -> None:
        """Make the request a task, or let it wait for the one before it."""
        parser, root = self.parser, self.root_path
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        path, raw, query = _parts(self.url)
        scope: Any = {
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
        self.scope = scope
        if parser.should_upgrade() and self._should_upgrade():
            return
        app: Any = self.app
        limit = self.limit_concurrency
        if limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit):
            app = service_unavailable
        before: Any = self.cycle
        cycle: Any = Cycle(self, scope, keep_alive=self._keeps_alive())
        self.cycle = cycle
        if before is None or before.response_complete:
            cycle.start(app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        if self._taker is not None:
            self._pieces.append(body)
            self._gathered += len(body)
            if self._gathered > READ_AHEAD:
                self._go_on()
            return
        cycle: Any = self.cycle
        if cycle.response_complete or (self.parser.should_upgrade() and self._should_upgrade()):
            return
        cycle.pieces.append(body)
        cycle.waiting += len(body)
        if cycle.waiting > READ_AHEAD:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        """All of it is here."""
        if self._taker is not None:
            pieces = self._pieces
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            taker = self._taker
            self._let_go()
            self.cycle = whole = CompleteRequest(self, self.headers, body, keep_alive=self._keeps_alive())  # type: ignore[assignment]
            self._take(taker, whole)
            return
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or (self.parser.should_upgrade() and self._should_upgrade()):
            return
        cycle.more_body = False
        cycle.wake()

    def on_response_complete(self) -> None:
        """It has been answered: turn to the next one that is here, or note since when there is none."""
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
            self._look_again(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Bytes of one request or several."""
        self._idle_since = self.loop.time()  # in the middle of a request nobody is idle
        super().data_received(data)
        if self._taker is not None and self._late is None:
            self._late = self.loop.call_later(GATHER_S, self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone."""
        self._let_go()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def shutdown(self) -> None:
        """The server stops: what has begun to come is still answered."""
        if self._taker is not None:
            self._go_on()
        super().shutdown()

    def _unset_keepalive_if_required(self) -> None:
        """Nothing, where uvicorn cancels its timer: ours goes on, and looks at `_idle_since` when it is due."""

    def _take(self, taker: Direct, whole: CompleteRequest) -> None:
        try:
            taker(whole)
        except Exception:
            log.exception("a bug: please report it", path=self.url)
            whole.reply(500, [(b"content-type", b"text/plain")], b"Internal Server Error")

    def _go_on(self) -> None:
        """Make a task of a request that was to be taken directly."""
        pieces = self._let_go()
        self._begin()
        for piece in pieces:
            self.on_body(piece)

    def _let_go(self) -> list[bytes]:
        """Nothing is to be taken directly any more; returns what has come of its body."""
        pieces, self._pieces, self._taker = self._pieces, [], None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        return pieces

    def _keeps_alive(self) -> bool:
        return bool(self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive())

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for long enough."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if not cycle.response_complete:
            return  # a request is under way; its end sets the timer again
        if left > 0:
            self._look_again(left)
        else:
            self.transport.close()

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def caller(self, headers: Headers) -> tuple[str, int] | None:
        """The client's address: the connection's, or what a proxy says that uvicorn trusts (`FORWARDED_ALLOW_IPS`)."""
        if self._proxies is None or not any(name == b"x-forwarded-for" for name, _ in headers):
            return self.client
        scope: Any = {"type": "http", "client": self.client, "headers": headers}
        with contextlib.suppress(StopIteration):  # it awaits nothing
            self._proxies(scope, _unused, _unused).send(None)
        found: tuple[str, int] | None = scope["client"]
        return found

    def defaults(self) -> bytes:
        """The headers of every answer, as they are sent: uvicorn makes them anew each second."""
        headers = self.server_state.default_headers
        if self._defaults[0] is not headers:
            self._defaults = (
                headers,
                b"".join(part for name, value in headers for part in (name, b": ", value, b"\r\n")),
            )
        return self._defaults[1]
