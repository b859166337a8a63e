"""The page at `/dashboard`: files that are read once at start and served from memory with caching and security headers.

The page is plain HTML, CSS and ES modules; there is nothing to build. It reads the same calls that every other client has
(`GET /rollout`, ...), so it needs no state here and any worker may serve it.

Starlette's `StaticFiles` makes entity tags from time and size. The files of a wheel all have the same time, so a browser would
keep an old script that a new version replaced by one of the same size. Ours are made from the content.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from understudy.http.responses import has_tag, tag_of
from understudy.http.router import route

FOLDER = Path(__file__).parent
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SIZE_MAX_BYTES = 150_000
"""Limit of all files together, uncompressed. A test checks it."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy: own files and calls only, nothing inline, no evaluation, no frame of another site."""
HEADERS = {
    "cache-control": "no-cache",  # cached, and revalidated each time: a new version shows at the next load
    "vary": "accept-encoding",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page.

    Attributes:
        packed: the body, compressed with gzip.
    """

    body: bytes
    packed: bytes
    etag: str
    media_type: str

    async def serve(self, request: Request) -> Response:
        """Respond with the file, or 304 if the client has it (RFC 9110, section 13.1.2)."""
        headers = {"etag": self.etag, **HEADERS}
        if has_tag(request, self.etag):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            packed = headers | {"content-encoding": "gzip"}
            return Response(self.packed, headers=packed, media_type=self.media_type)
        return Response(self.body, headers=headers, media_type=self.media_type)


def read(path: Path) -> Asset:
    """Read one file of the page."""
    body = path.read_bytes()
    return Asset(body, gzip.compress(body, mtime=0), tag_of(body), MEDIA_TYPES[path.suffix])


def routes() -> Sequence[Route]:
    """Starlette's routes: `/dashboard` is the page, `/dashboard/<file>` one of its files."""
    files = {path.name: read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}
    return [
        route("/dashboard", files["index.html"].serve, "GET"),
        route("/dashboard/", _without_slash, "GET"),
        *(route(f"/dashboard/{name}", file.serve, "GET") for name, file in files.items()),
    ]


async def _without_slash(_request: Request) -> Response:
    return RedirectResponse("../dashboard", 308)
