"""The report of a real rollout: the same from the service and from its store, and it reads and prints well in a real browser."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.acceptance.conftest import ROOT, Running
from tests.browser.conftest import SCRIPTS, barriers

pytestmark = pytest.mark.acceptance


def written(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "service.cli", "report", *options, "-o", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return file.read_text(encoding="utf-8")


def body(page: str) -> str:
    """Without what says when and from where it was made."""
    return re.sub(r"<footer>.*</footer>", "", page, flags=re.DOTALL)


def test_the_service_and_its_store_say_the_same(served: Running, tmp_path: Path) -> None:
    """Offline, by the rollout file and the models, as people have them when the service is gone."""
    rollout, store = served.state_dir / "rollout.yaml", f"sqlite:///{served.state_dir / 'understudy.db'}"
    online = written(tmp_path / "a.html", "--url", served.url)
    offline = written(tmp_path / "b.html", str(rollout), "--store", store)
    state = served.rollout()

    assert body(online) == body(offline)
    assert state["metrics"][0]["reason"][1:] in online.replace("&#39;", "'")
    assert f"{state['labels']['matched']:,}" in online
    for month in ("2013-07", "2013-12"):
        assert month in online


def test_another_rollout_s_file_is_said_in_words(served: Running, tmp_path: Path) -> None:
    """The store has no rollout by other goals; the way out is named."""
    other = tmp_path / "rollout.yaml"
    other.write_text((served.state_dir / "rollout.yaml").read_text().replace("margin: 0.005", "margin: 0.05"))
    store = f"sqlite:///{served.state_dir / 'understudy.db'}"
    command = [sys.executable, "-m", "service.cli", "report", str(other), "--store", store]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "understudy verify --list" in done.stderr.replace("\n", " ")


def test_it_reads_and_prints_well(browser: Browser, served: Running, tmp_path: Path) -> None:
    """No request, no error, nothing that runs out of a phone's or a sheet's width; A4, at most eight pages."""
    written(tmp_path / "report.html", "--url", served.url)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    wrong, asked = list[str](), list[str]()
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate((SCRIPTS / "contrast.js").read_text()) == []
    assert page.evaluate((SCRIPTS / "names.js").read_text()) == []
    for width in (390, 900):
        page.set_viewport_size({"width": width, "height": 800})
        assert barriers(page) == "", width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure svg path.area").count() >= 3
    sheets = page.pdf(prefer_css_page_size=True)
    page.close()
    pages = re.findall(rb"/Type\s*/Page\b", sheets)
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[([^\]]+)\]", sheets)}

    assert (wrong, [url for url in asked if not url.startswith("file:")]) == ([], [])
    assert 3 <= len(pages) <= 8
    assert all(abs(width - 595) < 2 and abs(height - 842) < 2 for _, _, width, height in boxes)
