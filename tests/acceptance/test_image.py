"""The image without an engine to build it: what k8s/Dockerfile says, done by hand, and started as Kubernetes would.

Its COPY lines make a tree, through .dockerignore; its ENV, WORKDIR, ENTRYPOINT and CMD start it in a mount namespace whose whole
file system is read-only but for /tmp and the state folder, under the paths that it will have.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pathspec
import pytest

from models.data import Flight
from tests.support.service import ROOT, ready
from understudy.http.auth import line_for, new_token
from understudy.runtime.ports import free_port

pytestmark = pytest.mark.acceptance

INSIDE = """
set -e
mount -t tmpfs none /srv && mkdir /srv/understudy
mount -t tmpfs none /opt && mkdir /opt/venv
mount -t tmpfs none /var/lib && mkdir /var/lib/understudy
mount --bind "$TREE/srv/understudy" /srv/understudy && mount -o remount,bind,ro /srv/understudy
mount --bind "$VENV" /opt/venv && mount -o remount,bind,ro /opt/venv
mount --bind "$SCRATCH" /tmp
mount -o remount,bind,ro /
cd "$WORKDIR"
if touch /srv/understudy/x /opt/venv/x "$HOME/x" 2>/dev/null; then echo "it can be written to"; exit 9; fi
exec "$@"
"""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's last stage: each instruction with what follows it, on one line."""
    text = (ROOT / "k8s/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    last = max(i for i, line in enumerate(lines) if line.startswith("FROM "))
    return [(kind, rest.strip()) for kind, _, rest in (line.partition(" ") for line in lines[last + 1 :])]


def said(kind: str) -> list[str]:
    return [rest for each, rest in instructions() if each == kind]


def copy(tree: Path) -> None:
    """What the COPY lines bring from the repository, less what .dockerignore keeps out."""
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / "k8s/Dockerfile.dockerignore").read_text().splitlines())
    for rest in said("COPY"):
        if "--from=" in rest:
            continue
        source, target = [word for word in rest.split() if not word.startswith("--")]
        files = [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*"))
        found = [p for p in files if p.is_file() and not ignored.match_file(p.relative_to(ROOT).as_posix())]
        assert found, f"COPY {source}: .dockerignore leaves nothing of it"
        for path in found:
            inside = path.relative_to(ROOT / source) if source.endswith("/") else Path(path.name)
            to = tree / target.lstrip("/") / inside
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


@pytest.fixture
def namespace() -> None:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/srv"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("NO MOUNT NAMESPACE: this user may not make one, and the image's file system cannot be laid out")


def started(tree: Path, tmp_path: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that the image starts with."""
    entry, default = (json.loads(said(kind)[0]) for kind in ("ENTRYPOINT", "CMD"))
    env = dict(re.findall(r"(\w+)=(\S+)", " ".join(said("ENV"))))
    env["PATH"] = env["PATH"].replace("$PATH", os.environ["PATH"])
    (workdir,) = said("WORKDIR")
    for name in ("scratch", "home"):
        (tmp_path / name).mkdir()
    # For a plain environment, as the Dockerfile's pip makes it: UNDERSTUDY_IMAGE_VENV=path.
    venv = os.environ.get("UNDERSTUDY_IMAGE_VENV", sys.prefix)
    env |= {"TREE": str(tree), "VENV": venv, "SCRATCH": str(tmp_path / "scratch"), "WORKDIR": workdir, "HOME": "/root"}
    return ["unshare", "--mount", "sh", "-c", INSIDE, "image", *entry, *(arguments or default)], env


@pytest.fixture
def tree(tmp_path: Path, namespace: None) -> Path:
    copy(tmp_path / "tree")
    return tmp_path / "tree"


def test_it_starts_and_answers_on_a_read_only_file_system(tree: Path, tmp_path: Path, july: list[Flight]) -> None:
    token, port = new_token(), free_port()
    command, env = started(tree, tmp_path, *json.loads(said("CMD")[0]), "--port", str(port))
    (tmp_path / "scratch" / "tokens").write_text(line_for("ada", "operator", token) + "\n")
    env["UNDERSTUDY_TOKENS_FILE"] = "/tmp/tokens"  # noqa: S108 - in the namespace, /tmp is the scratch folder
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            assert ready(http, process), (tmp_path / "log").read_text()[-3000:]
            answer = http.post("/predict", json={"rows": [july[0].row]})
            assert answer.status_code == 200, answer.text
            assert http.get("/rollout", headers={"authorization": f"Bearer {token}"}).json()["phase"] == "shadow"
            assert http.get("/rollout").status_code == 401
        serves_the_tree(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) in {0, -signal.SIGTERM}


def serves_the_tree(pid: int) -> None:
    """What runs is the image's copy, not what happens to be installed here."""
    ask = "import understudy; print(understudy.__file__)"
    env = {"PYTHONPATH": "/srv/understudy", "PATH": "/opt/venv/bin"}
    nsenter = shutil.which("nsenter")
    assert nsenter is not None, "it comes with unshare"
    where = [nsenter, f"--target={pid}", "--mount", "/opt/venv/bin/python", "-c", ask]
    done = subprocess.run(where, env=env, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "/srv/understudy/understudy/__init__.py"


def test_without_tokens_it_says_what_it_needs(tree: Path, tmp_path: Path) -> None:
    command, env = started(tree, tmp_path)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "without tokens the service listens on loopback only" in " ".join((done.stdout + done.stderr).split())
