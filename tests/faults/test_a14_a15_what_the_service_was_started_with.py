"""A14, A15: a process that was started again read whatever was in the files by then: another model under the old digest and its
evidence, another policy beside that of its siblings. Every process has what its supervisor read, and says what changed.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.faults.models import TABLES, table_model, tables_rollout
from tests.support.service import Running, start
from understudy import loading
from understudy.domain import Phase, Plan, Variant
from understudy.errors import ConfigurationError, ModelChanged
from understudy.inference.onnx import OnnxEngine
from understudy.loading.changed_files import StartFiles
from understudy.loading.preflight import preflight
from understudy.runtime import started
from understudy.serving.slots import Promotion, Released
from understudy.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A rollout file beside its two models."""
    tables_rollout(tmp_path)
    table_model(tmp_path / "another.onnx", 3.0)
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> Settings:
    return Settings(rollout_file=folder / "rollout.yaml", state_dir=folder / "state")


@pytest.fixture
def child(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """This process as one that its supervisor started: it has what the supervisor read, and checked."""
    monkeypatch.setenv(started.VARIABLE, "")
    loading.start_policy(settings)
    loading.hand_on_models(settings, preflight(settings).cards)
    monkeypatch.setattr(os, "getppid", os.getpid)
    monkeypatch.setenv(started.CHILD, "{}")
    return settings


def edit(settings: Settings, **changes: Any) -> None:
    settings.rollout_file.write_text(yaml.safe_dump(TABLES | changes, sort_keys=False), encoding="utf-8")


def test_a_process_obeys_the_policy_that_its_supervisor_read(child: Settings) -> None:
    before = loading.load_policy(child)
    edit(child, goals={"error_budget": 0.2}, workers=3)
    assert loading.load_policy(child) == before
    child.rollout_file.unlink()
    assert loading.load_policy(child) == before
    key = loading.rollout_key(before, loading.read_cards(before, child))
    assert loading.rollout_key(loading.load_policy(child), loading.read_cards(before, child)) == key


def test_another_services_environment_is_not_obeyed(child: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is started by a process of another one has another supervisor."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    edit(child, workers=3)
    assert loading.load_policy(child).workers == 3


def test_a_rollout_file_that_changes_during_the_start_stops_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(started.VARIABLE, "")
    loading.start_policy(settings)
    edit(settings, workers=3)
    with pytest.raises(ConfigurationError, match="changed during the start"):
        loading.hand_on_models(settings, preflight(settings).cards)


def test_another_model_is_refused_and_the_cards_are_those_of_the_start(child: Settings, folder: Path) -> None:
    """A process that only needs a model's card goes on: what answers does not depend on the candidate's file."""
    policy = loading.load_policy(child)
    before = loading.read_cards(policy, child)
    shutil.copy(folder / "another.onnx", folder / "better.onnx")
    assert loading.read_cards(policy, child) == before
    with pytest.raises(ModelChanged, match="is not the model that this service was started with"):
        loading.open_candidate(child, policy)
    table_model(folder / "better.onnx", 2.0)
    assert loading.open_candidate(child, policy).card.digest == before[Variant.CANDIDATE].digest


def test_what_changed_is_told_until_it_is_restored(settings: Settings, folder: Path) -> None:
    policy = loading.load_policy(settings)
    text = settings.rollout_file.read_text(encoding="utf-8")
    cards = loading.read_cards(policy, settings)
    sources = {Variant.PRIMARY: str(folder / "poc.onnx"), Variant.CANDIDATE: str(folder / "better.onnx")}
    files = StartFiles(settings.rollout_file, text, sources, cards)
    assert files.look() == []

    edit(settings, workers=2)
    shutil.copy(folder / "another.onnx", folder / "better.onnx")
    (folder / "poc.onnx").rename(folder / "away.onnx")
    assert {each.role: each.problem.partition(".")[0] for each in files.look()} == {
        "rollout": "it was changed since the service was started",
        "primary": "it is not the model that this service was started with",
        "candidate": "it is not the model that this service was started with",
    }
    assert files.changed == files.look()

    settings.rollout_file.unlink()
    assert "cannot be read any more" in files.look()[0].problem
    settings.rollout_file.write_text(text, encoding="utf-8")
    (folder / "away.onnx").rename(folder / "poc.onnx")
    table_model(folder / "better.onnx", 2.0)
    assert files.look() == []


def seats(load: Callable[[Variant], Any]) -> tuple[Any, Promotion]:
    class Held:
        primary: Any = Released()
        candidate: Any = None

    async def nobody() -> None:
        """Nothing is under way."""

    held = Held()
    return held, Promotion(held, load, lambda variant, engine: engine, nobody, lambda task: task.close())


def test_undo_refuses_another_primary(settings: Settings, folder: Path) -> None:
    """The old primary was released; its file was overwritten meanwhile: the plan that needs it does not come into force."""
    policy = loading.load_policy(settings)
    cards = loading.read_cards(policy, settings)

    def load(variant: Variant) -> OnnxEngine:
        return loading.open_engine(str(policy.primary), settings, policy, expected=cards[variant].digest)

    held, promotion = seats(load)
    shutil.copy(folder / "another.onnx", folder / "poc.onnx")
    with pytest.raises(ModelChanged):
        asyncio.run(promotion.prepare(Plan(Phase.ABORTED, 0, 0, 1)))
    assert isinstance(held.primary, Released)


def killed(service: Running, name: str) -> None:
    """Kill a process of the service, and wait until the supervisor has started another."""
    [old] = service.children(name)
    old.kill()
    service.wait_for(lambda: [each for each in service.children(name) if each.pid != old.pid])


def events(service: Running) -> list[str]:
    return [each["kind"] for each in service.http.get("/rollout/events").json()["events"]]


def gauge(service: Running, name: str) -> dict[str, float]:
    lines = service.http.get("/metrics").text.splitlines()
    return {line.partition(" ")[0]: float(line.split()[-1]) for line in lines if line.startswith(name)}


def test_processes_that_are_killed_come_back_with_what_the_service_was_started_with(folder: Path) -> None:
    """The reproductions: overwrite the candidate, edit the rollout file, and `kill -9`."""
    service = start(folder / "state", rollout=folder / "rollout.yaml", files_interval_s="0.1")
    try:
        service.wait_for(lambda: service.rollout()["candidate"]["up"])
        before = service.http.get("/rollout/policy").json(), events(service)

        shutil.copy(folder / "another.onnx", folder / "better.onnx")
        edit(Settings(rollout_file=folder / "rollout.yaml"), goals={"error_budget": 0.2})
        found = service.wait_for(
            lambda: [f for f in service.rollout()["files"] if len(service.rollout()["files"]) == 2]
        )
        assert {each["role"] for each in found} == {"rollout", "candidate"}
        assert set(gauge(service, "understudy_file_changed{").values()) == {0.0, 1.0}

        killed(service, "Candidate")
        service.wait_for(lambda: "not the model" in str(service.rollout()["candidate"]["reason"]))
        assert service.rollout()["candidate"]["up"] is False
        assert "the candidate does not load" in service.log.read_text()

        killed(service, "Records")
        killed(service, "Understudy")
        service.wait_for(lambda: service.http.get("/readyz").status_code == httpx.codes.OK)
        assert (service.http.get("/rollout/policy").json(), events(service)) == before
        assert service.predict({"i": 1}).json()["predictions"][0]["value"] == 1.0

        table_model(folder / "better.onnx", 2.0)
        killed(service, "Candidate")
        service.wait_for(lambda: service.rollout()["candidate"]["up"])
        service.wait_for(lambda: [f["role"] for f in service.rollout()["files"]] == ["rollout"])
    finally:
        service.kill()
