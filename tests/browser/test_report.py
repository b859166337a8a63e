"""The report of a real rollout: the same from the service and from its store, and it reads and prints well in a real browser."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import SCRIPTS, barriers
from tests.support.service import ROOT, Running

pytestmark = pytest.mark.acceptance


def written(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "understudy.cli", "report", *options, "-o", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `understudy evaluate --json` writes of the example's models, of two months."""
    file = tmp_path_factory.mktemp("evaluation") / "evaluation.json"
    command = [sys.executable, "-m", "understudy.cli", "evaluate", "--json", "--month", "7", "--month", "10"]
    file.write_bytes(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return file


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


def test_the_evaluation_is_what_understudy_evaluate_said(served: Running, evaluation: Path, tmp_path: Path) -> None:
    """Its answers, its months, its segments; in the risks, where the candidate is worse. Of other models it is refused."""
    told = json.loads(evaluation.read_text())
    page = written(tmp_path / "a.html", "--url", served.url, "--evaluation", str(evaluation))
    said = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())

    assert f"{told['labelled']:,} labelled rows of {told['source']}" in said
    for each in told["answers"]:
        assert each["reason"][1:] in said
    for part in told["months"]:
        difference = part["difference"]
        assert f"{difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})" in said
    parts = [part for each in told["segments"].values() for part in each]
    worse = [part for part in parts if part["difference"]["low"] > 0]
    assert f"Of {len(parts)} segments by carrier, origin the candidate is certainly worse in {len(worse)}" in said
    october = next(part for part in told["months"] if part["name"] == "2013-10")
    assert f"higher than the primary's in 2013-10 ({october['difference']['mean']:+.4f})." in said

    other = tmp_path / "other.json"
    told["models"][1]["digest"] = "sha256:other"
    other.write_text(json.dumps(told))
    for file, words in (
        (other, "its candidate is flight_candidate (sha256:other"),
        (served.log, "understudy evaluate --json >"),
    ):
        command = [sys.executable, "-m", "understudy.cli", "report", "--url", served.url, "--evaluation", str(file)]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 1
        assert words in " ".join(done.stderr.split())
        assert not (tmp_path / "report.html").exists()


def test_another_rollout_s_file_is_said_in_words(served: Running, tmp_path: Path) -> None:
    """The store has no rollout by other goals; the way out is named."""
    other = tmp_path / "rollout.yaml"
    other.write_text((served.state_dir / "rollout.yaml").read_text().replace("margin: 0.005", "margin: 0.05"))
    store = f"sqlite:///{served.state_dir / 'understudy.db'}"
    command = [sys.executable, "-m", "understudy.cli", "report", str(other), "--store", store]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "understudy verify --list" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("evaluated", [False, True])
def test_it_reads_and_prints_well(
    browser: Browser, served: Running, evaluation: Path, tmp_path: Path, *, evaluated: bool
) -> None:
    """No request, no error, nothing that runs out of a phone's or a sheet's width; A4, at most eight pages."""
    written(tmp_path / "report.html", "--url", served.url, *(["--evaluation", str(evaluation)] if evaluated else []))
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
