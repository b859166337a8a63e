"""Takes the documentation's pictures of the dashboard: the three demo stories, played for real. `make screenshots`."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).parent
SIZE_MAX_BYTES = 150_000
SHOTS = (
    ("july", "july", 1280, 1100, "light"),
    ("broken", "broken", 1280, 1100, "light"),
    ("october", "october", 1280, 1100, "dark"),
    ("july", "july-phone", 390, 1400, "light"),
)
"""Story, file, width and height in CSS pixels, colour scheme."""
SECTIONS = (("july", "over-time", "#traffic", 1280),)
"""Story, file, which part of the page, width."""
REPORT = ("july", "report", 980, 1180)
"""The story that the report is of, its picture's file, width and height."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The story's store, served again where it ended."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = os.environ | {"UNDERSTUDY_STATE_DIR": str(folder)}
    command = [sys.executable, "-m", "understudy.cli", "serve", str(folder / "rollout.yaml"), "--port", str(port)]
    with (folder / "again.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(f"{url}/readyz") as answer:  # noqa: S310 - a URL of ours
                if answer.status == 200:
                    break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


TO_WEBP = """async (png) => {
  const image = new Image();
  image.src = png;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").drawImage(image, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.86 });
  return await new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(blob);
  });
}"""
"""A third of the PNG, and sharp enough to read."""


def shoot(browser: Browser, url: str, name: str, width: int, height: int, scheme: str) -> None:
    """One picture into docs/img."""
    dark = "dark" if scheme == "dark" else "light"
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=dark, reduced_motion="reduce")  # type: ignore[arg-type]
    page.goto(f"{url}/dashboard")
    page.wait_for_selector("#evidence svg .end")
    page.wait_for_timeout(4000)
    keep(page, name)


def shoot_part(browser: Browser, url: str, name: str, selector: str, width: int) -> None:
    """A picture of one part of the page."""
    page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page.goto(f"{url}/dashboard")
    page.wait_for_selector(f"{selector} svg path.line")
    page.wait_for_timeout(2000)
    keep(page, name, selector)


def keep(page: Page, name: str, selector: str | None = None) -> None:
    """What a page shows, or a part of it, into docs/img; ends the page."""
    picture = base64.b64encode(page.locator(selector).screenshot() if selector else page.screenshot()).decode()
    page.goto("about:blank")  # the dashboard's own policy allows no data: picture
    file = HERE / "img" / f"{name}.webp"
    file.write_bytes(base64.b64decode(page.evaluate(TO_WEBP, f"data:image/png;base64,{picture}").partition(",")[2]))
    page.close()
    size = file.stat().st_size
    print(f"{file.relative_to(HERE.parent)}: {size:,} bytes")
    if size > SIZE_MAX_BYTES:
        sys.exit(f"{file} is larger than {SIZE_MAX_BYTES:,} bytes")


def report(browser: Browser, folder: Path) -> None:
    """The top of the report of a story's store."""
    _, name, width, height = REPORT
    file, store = folder / "report.html", f"sqlite:///{(folder / 'understudy.db').absolute()}"
    command = [
        sys.executable,
        "-m",
        "understudy.cli",
        "report",
        str(folder / "rollout.yaml"),
        "--store",
        store,
        "-o",
        str(file),
    ]
    subprocess.run(command, check=True, cwd=HERE.parent)
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(file.as_uri())
    keep(page, name)


def main() -> None:
    """Play the stories, serve each again where it ended, and take its pictures."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        sys.exit("no Chromium is installed (Debian: apt-get install chromium)")
    (HERE / "img").mkdir(exist_ok=True)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with tempfile.TemporaryDirectory() as kept, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--disable-gpu", *sandbox])
        for story in dict.fromkeys(shot[0] for shot in SHOTS):
            command = [sys.executable, "-m", "understudy.cli", "demo", "--story", story, "--state-dir", kept]
            subprocess.run(command, check=True, cwd=HERE.parent)
            with served(next(Path(kept).glob(f"{story}-*"))) as url:
                for _, *rest in (shot for shot in SHOTS if shot[0] == story):
                    shoot(browser, url, *rest)
                for _, *part in (section for section in SECTIONS if section[0] == story):
                    shoot_part(browser, url, *part)
            if story == REPORT[0]:
                report(browser, next(Path(kept).glob(f"{story}-*")))
        browser.close()


if __name__ == "__main__":
    main()
