"""The page's files: small, whole, cached by their content, and nothing in them that the Content-Security-Policy would refuse."""

import asyncio
import gzip
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from understudy.api import dashboard
from understudy.http.asgi import Handler

ROOT = Path(__file__).parents[3]
FILES = {path.name: path for path in dashboard.FOLDER.iterdir() if path.suffix in dashboard.MEDIA_TYPES}


def call(handler: Handler, **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a GET has no body")

    scope = {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(handler(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, sent[1]["body"]


def test_the_page_is_small() -> None:
    """All files together, uncompressed."""
    assert sum(path.stat().st_size for path in FILES.values()) < dashboard.SIZE_MAX_BYTES == 150_000


def test_every_file_is_answered_and_changes_its_tag_with_its_content(tmp_path: Path) -> None:
    """By its path, with its type; 304 to whoever has it; compressed for whoever takes that."""
    routes = dashboard.assets()
    for name, path in FILES.items():
        status, headers, body = call(routes[f"/dashboard/{name}"]["GET"])
        assert (status, body) == (200, path.read_bytes())
        assert headers["content-type"].startswith(dashboard.MEDIA_TYPES[path.suffix])
        status, again, nothing = call(routes[f"/dashboard/{name}"]["GET"], if_none_match=f'"x", W/{headers["etag"]}')
        assert (status, again["etag"], nothing) == (304, headers["etag"], b"")
        status, packed, small = call(routes[f"/dashboard/{name}"]["GET"], accept_encoding="br, gzip")
        assert (status, packed["content-encoding"], gzip.decompress(small)) == (200, "gzip", body)
    one, two = tmp_path / "a.js", tmp_path / "b.js"
    one.write_text("1")
    two.write_text("2")
    assert dashboard.read(one).etag != dashboard.read(two).etag
    assert call(routes["/dashboard"]["GET"])[2] == FILES["index.html"].read_bytes()
    assert call(routes["/dashboard/"]["GET"])[:2][0] == 308


def test_the_policy_allows_own_files_and_nothing_else() -> None:
    """No inline script or style, no evaluation, no other host, no frame around it."""
    _, headers, _ = call(dashboard.assets()["/dashboard"]["GET"])
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


def test_the_wheel_carries_the_page(tmp_path: Path) -> None:
    """As it is built for users; the Bento takes all of `service/`."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert {f"understudy/api/dashboard/{name}" for name in FILES} <= set(wheel.namelist())
        assert {"understudy/offline/report/report.html.j2", "understudy/offline/report/report.css"} <= set(
            wheel.namelist()
        )
    bento = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["bentoml"]["build"]
    assert "service/**" in bento["include"]
