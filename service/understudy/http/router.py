"""The front door: which handler answers a path, and who tells of errors.

The paths of the contract are answered here; every other one goes to BentoML's application behind it, which costs a request
some twenty-five times as much.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import structlog

from understudy.errors import NotFound, UnderstudyError, WrongMethod
from understudy.http.asgi import ASGIApp, ClientGone, Direct, Handler, Receive, Routes, Scope, Send, Teller, problem

log = structlog.get_logger(__name__)

PATHS_MAX = 1_024
"""Paths whose pattern is remembered."""


class FrontDoor:
    """Answers the contract's paths; everything that BentoML knows goes on to it; the rest is 404.

    Attributes:
        direct: who takes a request directly, by the request's target.
    """

    def __init__(self, bento: Any) -> None:
        self._bento: ASGIApp = bento
        self._known = {getattr(r, "path", "") for r in bento.routes}
        self._mounts = tuple(path + "/" for path in self._known if path)
        self._routes: Routes = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Handler]]] = []
        self._match = functools.lru_cache(PATHS_MAX)(self._search)
        self._tellers: dict[str, Teller] = {}
        self.direct: dict[bytes, Direct] = {}
        self.draining = False

    def drain(self) -> None:
        """From now on every answer closes its connection, so that none is left when the process goes."""
        self.draining = True
        self.direct.clear()

    def open(
        self, routes: Routes, tellers: Mapping[str, Teller] | None = None, direct: Mapping[str, Direct] | None = None
    ) -> None:
        """Begin to answer.

        Args:
            routes: path → method → handler. `{name}` in a path is any one part of it, and goes into `scope["path_params"]`.
            tellers: who tells of errors under a prefix, where that is not as problem details.
            direct: who may take a POST to a path directly off its connection; see `understudy.http.connection`.
        """
        self._routes = {path: methods for path, methods in routes.items() if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), methods)
            for path, methods in routes.items()
            if "{" in path
        ]
        self._tellers = dict(tellers or {})
        self.direct.update((path.encode(), taker) for path, taker in (direct or {}).items())
        self._match.cache_clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or BentoML's own lifespan."""
        if scope["type"] != "http":
            await self._bento(scope, receive, send)
            return
        if self.draining:
            send = _last(send)
        path = scope["path"]
        methods = self._routes.get(path) or self._matched(scope, path)
        if methods is None:
            if path in self._known or path.startswith(self._mounts):
                await self._bento(scope, receive, send)
            else:
                await self._tell(send, path, NotFound(f"nothing is at {path[:200]!r}; / is the API page"))
            return
        handler = methods.get(scope["method"])
        try:
            if handler is None:
                allow = ", ".join(methods)
                raise WrongMethod(f"{path} takes {allow}", headers={"Allow": allow})
            await handler(scope, receive, send)
        except ClientGone:
            return
        except UnderstudyError as error:
            await self._tell(send, path, error)
        except Exception:
            log.exception("a bug: please report it", path=path)
            await self._tell(send, path, UnderstudyError("an unexpected error; the log has the details"))

    def _matched(self, scope: Scope, path: str) -> dict[str, Handler] | None:
        found = self._match(path)
        if found is None:
            return None
        scope["path_params"], methods = found
        return methods

    def _search(self, path: str) -> tuple[dict[str, str], dict[str, Handler]] | None:
        for pattern, methods in self._patterns:
            if found := pattern.fullmatch(path):
                return found.groupdict(), methods
        return None

    async def _tell(self, send: Send, path: str, error: UnderstudyError) -> None:
        prefix = "/" + path.split("/", 2)[1] if path.startswith("/") else path
        await self._tellers.get(prefix, problem)(send, error)


def _last(send: Send) -> Send:
    """Answers go out as ever, and say that they are the last on their connection."""

    async def closing(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return closing
