"""A server of files on loopback: over plain HTTP, and as S3, whose signatures it checks by its own reading of AWS's rules."""

import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY_ID, SECRET, REGION = "AKIAUNDERSTUDY", "the secret of the tests", "eu-north-1"


class ObjectServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        asked: the paths of all requests so far; signed: whether requests need a signature; cut_after: how many bytes of a body
            to send before the connection is closed, once.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, signed: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.signed = folder, signed
        self.asked: list[str] = []
        self.cut_after: int | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ObjectServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.signed and (why := _refused(self)):
            self._answer(403, f"<Error><Code>{why}</Code></Error>".encode())
            return
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        body, etag = file.read_bytes(), '"1"'
        start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("etag", etag)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("content-length", str(len(body) - start))
        self.send_header("last-modified", "Tue, 24 Nov 2026 20:00:00 GMT")
        self.end_headers()
        cut, self.server.cut_after = self.server.cut_after, None
        self.wfile.write(body[start : None if cut is None else start + cut])
        self.close_connection = cut is not None

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _refused(request: BaseHTTPRequestHandler) -> str | None:
    """Why a request's AWS signature (version 4) is not right; None when it is."""
    said = request.headers.get("authorization", "")
    if not said.startswith("AWS4-HMAC-SHA256 "):
        return "AccessDenied"
    parts = dict(part.strip().split("=", 1) for part in said.removeprefix("AWS4-HMAC-SHA256 ").split(","))
    key_id, date, region, service, last = parts["Credential"].split("/")
    if (key_id, region, service) != (KEY_ID, REGION, "s3"):
        return "InvalidAccessKeyId"
    names = parts["SignedHeaders"].split(";")
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
    path, _, query = request.path.partition("?")
    canonical = "\n".join(
        [request.command, path, query, headers, ";".join(names), request.headers["x-amz-content-sha256"]]
    )
    scope = f"{date}/{region}/{service}/{last}"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{SECRET}".encode()
    for part in (date, region, service, last):
        key = hmac.digest(key, part.encode(), "sha256")
    return None if hmac.digest(key, text.encode(), "sha256").hex() == parts["Signature"] else "SignatureDoesNotMatch"


@contextmanager
def serving(folder: Path, *, signed: bool = False) -> Iterator[ObjectServer]:
    """A server of a folder while the block runs."""
    server = ObjectServer(folder, signed=signed)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def credentials(server: ObjectServer) -> dict[str, str]:
    """The environment of somebody who may read from it."""
    return {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION,
    }
