"""Routing: predictions go straight to their handlers, the other calls to Starlette's router, the rest to BentoML.

BentoML's own application comes last because it costs a request about 25 times as much.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from understudy.errors import NotFound, UnderstudyError, WrongMethod, unexpected_error
from understudy.http import asgi
from understudy.http.asgi import Receive, Scope, Send

log = structlog.get_logger(__name__)


class AppRouter:
    """The ASGI application of a process. It also renders every error as a response, in one place.

    Attributes:
        direct: handlers of complete POST requests by request target; see `understudy.http.connection`.
        draining: whether the process is about to stop.
    """

    def __init__(self, bento: Any) -> None:
        self._bento: asgi.ASGIApp = bento
        self._bento_paths = {getattr(route, "path", "") for route in bento.routes} - {""}
        self._mounts = tuple(path + "/" for path in self._bento_paths)
        self.direct: dict[bytes, asgi.DirectHandler] = {}
        self.draining = False
        self.open([])

    def drain(self) -> None:
        """Close each connection after its next response, so that none is left when the process stops."""
        self.draining = True
        self.direct.clear()

    def open(
        self,
        routes: Sequence[Route],
        predictions: Mapping[str, asgi.ASGIApp] | None = None,
        direct: Mapping[str, asgi.DirectHandler] | None = None,
        error_formats: Mapping[str, asgi.ErrorFormat] | None = None,
    ) -> None:
        """Start to serve these calls.

        Args:
            routes: a path that BentoML has too is answered by ours.
            predictions: path → handler of POST requests that skip Starlette.
            direct: path → handler of complete POST requests that skip ASGI.
            error_formats: first segment of a path (`/v2`) → its format of errors, where that is not problem details.
        """
        self._bento_paths -= {route.path for route in routes}
        self._predictions, self._error_formats = predictions or {}, error_formats or {}
        self.direct.update((path.encode(), handler) for path, handler in (direct or {}).items())
        self._routes = Router(routes, redirect_slashes=False, default=_nothing_here)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or BentoML's lifespan events."""
        path = scope.get("path", "")
        handler = self._predictions.get(path) if scope.get("method") == "POST" else None
        if handler is None:
            if scope["type"] != "http" or path in self._bento_paths or path.startswith(self._mounts):
                await self._bento(scope, receive, _closing(send) if self.draining else send)
                return
            handler, scope["app"] = self._routes, self  # without an app Starlette would answer 405 by itself
        send = _closing(send) if self.draining else send
        try:
            await handler(scope, receive, send)
        except asgi.ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - every error becomes a response; a bug is logged with its traceback
            await asgi.respond(send, *self.error_reply(path, error))

    def error_reply(self, path: str, error: Exception) -> asgi.Reply:
        """The response to a request for `path` that failed with `error`, in the format of that path."""
        if isinstance(error, HTTPException) and error.headers:
            allow = ", ".join(sorted(error.headers["Allow"].split(", ")))
            error = WrongMethod(f"{path} takes {allow}", headers={"Allow": allow})
        if not isinstance(error, UnderstudyError):
            log.error("a bug: please report it", path=path, exc_info=error)
            error = unexpected_error()
        prefix = "/" + path.split("/", 2)[1] if path.startswith("/") else path
        return self._error_formats.get(prefix, asgi.problem_details)(error)


def route(path: str, endpoint: Any, *methods: str) -> Route:
    """A Starlette route for exactly these methods: Starlette would add HEAD to GET."""
    made = Route(path, endpoint, methods=methods)
    made.methods = set(methods)
    return made


async def _nothing_here(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotFound(f"nothing is at {scope['path'][:200]!r}; / is the API page")


def _closing(send: Send) -> Send:
    """Add `connection: close` to the response."""

    async def send_and_close(message: asgi.Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return send_and_close
