"""Models that the rollout file names by URL: the real service from a real server on loopback, by HTTP and as S3."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.data import Flight
from tests.support.objects import credentials, serving
from tests.support.service import ROOT, start
from understudy.inference.cards import digest_of, read_card

pytestmark = pytest.mark.acceptance
POC, CANDIDATE = (ROOT / "models" / name for name in ("flight_poc", "flight_candidate"))


def rollout(folder: Path, **sources: str) -> Path:
    data: dict[str, Any] = yaml.safe_load((ROOT / "rollout.yaml").read_text()) | sources
    path = folder / "rollout.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def by_url(url: str, file: Path) -> str:
    return f"{url}#{digest_of(file).replace(':', '=')}"


def test_a_service_starts_on_models_that_are_fetched(
    tmp_path: Path, july: list[Flight], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says what was fetched, once, whatever the number of processes; the state folder has it afterwards."""
    with serving(ROOT) as web, serving(ROOT, signed=True) as s3:
        for name, value in credentials(s3).items():
            monkeypatch.setenv(name, value)
        file = rollout(
            tmp_path,
            primary=by_url(f"{web.url}/models/flight_poc/card.json", POC / "card.json"),
            candidate=by_url("s3://models/flight_candidate/card.json", CANDIDATE / "card.json"),
        )
        service = start(tmp_path / "state", rollout=file, workers=2)
        try:
            assert service.predict(july[0].row).status_code == 200
            state = service.rollout()
            assert state["primary"]["digest"] == read_card(POC).digest
            assert state["candidate"]["digest"] == read_card(CANDIDATE).digest
            service.wait_for(lambda: service.rollout()["candidate"]["up"])
            started = service.http.get("/rollout/events").json()["events"][0]["details"]["policy"]
            assert started["candidate"].startswith("s3://models/flight_candidate/card.json#sha256=")
        finally:
            service.stop()
        assert web.asked == ["/models/flight_poc/card.json", "/models/flight_poc/model.onnx"]
        assert len(s3.asked) == 2
        assert service.log.read_text().count("fetched ") == 4
    # What is kept needs no server: the dry run of the same file.
    done = command(tmp_path, file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_service_whose_model_is_another_does_not_start_and_says_why(tmp_path: Path) -> None:
    with serving(ROOT) as web:
        file = rollout(
            tmp_path,
            primary=by_url(f"{web.url}/models/flight_poc/model.onnx", CANDIDATE / "model.onnx"),
            candidate=str(CANDIDATE),
        )
        done = command(tmp_path, file)
    assert done.returncode == 1
    assert "is not what the rollout file" in " ".join((done.stdout + done.stderr).split())


def command(folder: Path, file: Path) -> subprocess.CompletedProcess[str]:
    env = {"UNDERSTUDY_STATE_DIR": str(folder / "state"), "PATH": "/usr/bin:/bin", "COLUMNS": "1000"}
    return subprocess.run(
        [sys.executable, "-m", "understudy.cli", "check", str(file)],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
