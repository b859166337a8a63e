"""The page at `/dashboard`: its files, read once at start and answered from memory with their caching and security headers.

The page is plain HTML, CSS and ES modules; there is nothing to build. What it shows it asks of the same calls that everybody
else has (`GET /rollout`, ...), so it needs no state here and any worker may answer it.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

from understudy.http.asgi import Handler, Headers, Receive, Scope, Send, answer, header
from understudy.http.etag import knows, tag_of, unchanged

FOLDER = Path(__file__).parent
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SIZE_MAX_BYTES = 150_000
"""What all files together may have, uncompressed: a test holds them to it."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy: own files, own calls, nothing inline, nothing evaluated, in nobody's frame."""
SECURITY: Headers = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, the same compressed, and its headers."""

    body: bytes
    packed: bytes
    etag: bytes
    media_type: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the file, or 304 to whoever has it (RFC 9110, section 13.1.2)."""
        # `no-cache` is "keep it, and ask whether it has changed": a new version is there with the next look.
        headers: Headers = [
            (b"etag", self.etag),
            (b"cache-control", b"no-cache"),
            (b"vary", b"accept-encoding"),
            *SECURITY,
        ]
        if knows(scope, self.etag):
            await unchanged(send, headers)
            return
        body = self.body
        if "gzip" in (header(scope, b"accept-encoding") or ""):
            body = self.packed
            headers.append((b"content-encoding", b"gzip"))
        await answer(send, 200, body, headers, content_type=self.media_type)


def read(path: Path) -> Asset:
    """One file of the page."""
    body = path.read_bytes()
    return Asset(body, gzip.compress(body, mtime=0), tag_of(body), MEDIA_TYPES[path.suffix].encode())


def assets() -> dict[str, dict[str, Handler]]:
    """Path → method → handler: `/dashboard` is the page, `/dashboard/<file>` what it is made of."""
    files = {path.name: read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}
    found: dict[str, dict[str, Handler]] = {f"/dashboard/{name}": {"GET": file} for name, file in files.items()}
    return found | {"/dashboard": {"GET": files["index.html"]}, "/dashboard/": {"GET": _without_slash}}


async def _without_slash(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    await answer(send, 308, b"", [(b"location", b"../dashboard")])
