"""A real headless Chromium. `make test` installs Debian's where it can; without one these tests are skipped, aloud."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.acceptance.conftest import models_built
from tests.support.service import Running, replay, rollout_file, start, up

__all__ = ["models_built"]

expect.set_options(timeout=20_000)  # ms: other tests run at the same time
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""A browser that asks nobody anything by itself."""


def chromium() -> str | None:
    """Where the browser is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Gone with this folder's tests: while it is open its event loop runs in this thread, and asyncio.run refuses a second."""
    path = chromium()
    if path is None:
        pytest.skip("NO CHROMIUM: the dashboard is not tested here. Install it (Debian: apt-get install chromium)")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses to sandbox itself as root
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=path, args=[*QUIET, *sandbox])
        yield found
        found.close()


@pytest.fixture(scope="package")
def served(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, after some flights of July, held in shadow by a step that asks for more labels than there are."""
    folder = tmp_path_factory.mktemp("dashboard")
    file = rollout_file(folder)
    file.write_text(file.read_text().replace("labels: 500", "labels: 100000"))
    service = start(folder, rollout=file, workers=2, tick_ms="150", drift_interval_s="0.3", traffic_interval_s="0.3")
    try:
        service.wait_for(lambda: up(service))
        replay(service, "--month", "7", "--limit", "1500", "--rate", "800")
        service.wait_for(lambda: any(metric["n"] > 300 for metric in service.rollout()["metrics"]))
        service.wait_for(lambda: service.http.get("/rollout/drift").json()["window"])
        yield service
    finally:
        service.stop()


class Look:
    """A page with everything that went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.wrong: list[str] = []
        page.on("console", lambda said: self.wrong.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def open(self) -> Page:
        self.page.goto(f"{self.url}/dashboard")
        self.page.wait_for_selector("#headline:not(:empty), #sign-in:not([hidden])")
        return self.page


SCRIPTS = Path(__file__).parent


def barriers(page: Page) -> str:
    """What axe-core finds wrong with the page as it stands: WCAG 2 A and AA, and good practice; empty when nothing is."""
    found = Axe().run(page)
    return found.generate_report() if found.violations_count else ""
