"""The installed package, in a folder whose own files have the names of ours: nothing of them is imported."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest

from models.data import Flight
from tests.support.service import ROOT, ready
from understudy.api import dashboard
from understudy.runtime.ports import free_port

pytestmark = pytest.mark.acceptance

HOSTILE = ("understudy.py", "service.py", "models/__init__.py", "loadtests/__init__.py")
HISTORY = """
import json, types

class History:
    fields = ()

    def moments(self, month, limit=None):
        return [types.SimpleNamespace(**one) for one in json.load(open("history.json"))][:limit]

HISTORY = History()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`understudy` in an environment of its own, which has this one's packages but not its checkout."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(venv / "bin/python"),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, "--force-reinstall", str(wheel)], check=True, capture_output=True, timeout=120)
    return venv / "bin/understudy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in HOSTILE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise SystemExit('the {name} of this folder was imported')\n")
    (tmp_path / "rollout.yaml").write_text((ROOT / "rollout.yaml").read_text().replace("models/", f"{ROOT}/models/"))
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "UNDERSTUDY_"))}
    return own | {"UNDERSTUDY_STATE_DIR": str(folder / "state"), "PYTHONDONTWRITEBYTECODE": "1"}


def run(program: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), *words]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=120, check=False
    )


def test_the_wheel_has_one_top_level_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        top = {name.partition("/")[0] for name in packed.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"understudy"}


def test_the_wheel_has_the_files_of_the_dashboard_and_the_report(wheel: Path) -> None:
    pages = {f"understudy/api/dashboard/{path.name}" for path in dashboard.FOLDER.iterdir() if path.is_file()}
    report = {f"understudy/offline/report/report.{kind}" for kind in ("html.j2", "css")}

    with zipfile.ZipFile(wheel) as packed:
        assert pages | report <= set(packed.namelist())


def test_commands_run_in_a_folder_with_files_of_our_names(program: Path, folder: Path) -> None:
    models = [str(ROOT / "models" / name / "model.onnx") for name in ("flight_poc", "flight_candidate")]
    for words in (["--help"], ["init", *models, "--output", "mine.yaml"], ["check"]):
        done = run(program, folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "was imported" not in done.stdout + done.stderr


def test_without_the_example_one_line_says_what_to_do(program: Path, folder: Path) -> None:
    done = run(program, folder, "replay", "--month", "7")

    assert done.returncode == 1
    assert "there is no data source `flights` here" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_it_serves_and_replays(program: Path, folder: Path, july: list[Flight]) -> None:
    history = [{name: getattr(f, name) for name in ("row", "scheduled_at", "label", "label_at")} for f in july[:50]]
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "history.py").write_text(HISTORY)
    url = f"http://127.0.0.1:{(port := free_port())}"
    with (folder / "log").open("wb") as log:
        command = [str(program), "serve", "--port", str(port)]
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True
        )
    try:
        with httpx.Client(base_url=url, timeout=10) as http:
            assert ready(http, process), (folder / "log").read_text()[-3000:]
            assert http.post("/predict", json={"rows": [july[0].row]}).status_code == 200
            assert http.get("/dashboard").status_code == 200, "its files are in the wheel"
        done = run(program, folder, "replay", "--month", "7", "--source", "history:HISTORY", "--url", url, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["sent"] == 50
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert "was imported" not in (folder / "log").read_text()
    left = {path.name for path in folder.iterdir()} - {"history.json", "history.py", "log", "state"}
    assert left == {"rollout.yaml", *(name.partition("/")[0] for name in HOSTILE)}
