"""The page's files: small, whole, cached by their content, and nothing in them that the Content-Security-Policy would refuse."""

import asyncio
import gzip
import re
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy.api import dashboard

ROOT = Path(__file__).parents[3]
FILES = {path.name: path for path in dashboard.FOLDER.iterdir() if path.suffix in dashboard.MEDIA_TYPES}


def served() -> dict[str, Route]:
    """The page's routes by path."""
    return {each.path: each for each in dashboard.routes()}


def call(route: Route, **headers: str) -> tuple[int, dict[str, str], bytes]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    response: Response = asyncio.run(route.endpoint(Request({"type": "http", "headers": lines})))
    return response.status_code, dict(response.headers), bytes(response.body)


def test_the_page_is_small() -> None:
    """All files together, uncompressed."""
    assert sum(path.stat().st_size for path in FILES.values()) < dashboard.SIZE_MAX_BYTES == 150_000


def test_every_file_is_answered_and_changes_its_tag_with_its_content(tmp_path: Path) -> None:
    """By its path, with its type; 304 to whoever has it; compressed for whoever takes that."""
    routes = served()
    for name, path in FILES.items():
        status, headers, body = call(routes[f"/dashboard/{name}"])
        assert (status, body) == (200, path.read_bytes())
        assert headers["content-type"].startswith(dashboard.MEDIA_TYPES[path.suffix])
        status, again, nothing = call(routes[f"/dashboard/{name}"], if_none_match=f'"x", W/{headers["etag"]}')
        assert (status, again["etag"], nothing) == (304, headers["etag"], b"")
        status, packed, small = call(routes[f"/dashboard/{name}"], accept_encoding="br, gzip")
        assert (status, packed["content-encoding"], gzip.decompress(small)) == (200, "gzip", body)
    one, two = tmp_path / "a.js", tmp_path / "b.js"
    one.write_text("1")
    two.write_text("2")
    assert dashboard.read(one).etag != dashboard.read(two).etag
    assert call(routes["/dashboard"])[2] == FILES["index.html"].read_bytes()
    assert call(routes["/dashboard/"])[:2][0] == 308


def test_the_policy_allows_own_files_and_nothing_else() -> None:
    """No inline script or style, no evaluation, no other host, no frame around it."""
    _, headers, _ = call(served()["/dashboard"])
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))

    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_asks_nobody_else_for_anything(name: str) -> None:
    """No address of another host, no inline style or handler, no HTML made from text."""
    text = FILES[name].read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"')]*", text)) - {"http://www.w3.org/2000/svg"}

    assert addresses == set()
    assert not re.search(
        r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|<style|style=|\son\w+=\"", text
    )
    if name == "index.html":
        assert not re.search(r"<script(?![^>]*src=)", text)


def test_what_the_files_name_is_there() -> None:
    """Every import and every link leads to a file of the folder."""
    named = {
        m
        for path in FILES.values()
        for m in re.findall(r'"(?:\./|dashboard/)([\w.-]+)"', path.read_text(encoding="utf-8"))
    }

    assert named == set(FILES) - {"index.html"}
