"""B11: on a small network for images, `check` took minutes and gigabytes, and showed nothing meanwhile."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests.support.commands import alone, done
from tests.support.graphs import FLOAT, classifier, save
from understudy.inference.decoding import Row
from understudy.offline import check
from understudy.offline.budget import Budget
from understudy.settings import Settings, read_settings

__all__ = ["alone"]
IMAGE = [3, 224, 224]
ELEMENTS = 3 * 224 * 224 + 3


def images(path: Path) -> Path:
    """The mean of each channel of an image."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    return save(path, nodes, [("x", FLOAT, ["n", *IMAGE])], [("y", FLOAT, ["n", 3])])


def rollout(folder: Path, **changes: Any) -> Settings:
    base = {"model": "m", "task": "other", "primary": "poc.onnx", "candidate": "better.onnx"}
    (folder / "rollout.yaml").write_text(json.dumps(base | changes), encoding="utf-8")
    return read_settings(rollout_file=folder / "rollout.yaml")


def test_rows_of_images_are_as_many_as_fit_into_memory(tmp_path: Path) -> None:
    images(tmp_path / "poc.onnx")
    images(tmp_path / "better.onnx")

    found = check.run(rollout(tmp_path), budget=Budget(seconds=60, mib=512))

    assert found.rows == Budget(mib=512).rows_in_memory(ELEMENTS) < check.ROWS_DRAWN
    assert found.left_out == "more rows do not fit into 512 MiB; raise --memory"


def test_a_row_is_compared_even_if_there_is_no_time(tmp_path: Path) -> None:
    classifier(tmp_path / "poc.onnx")
    classifier(tmp_path / "better.onnx")
    rollout(tmp_path, task="binary-classification")

    said = done("check", "--budget", "0")

    assert "compared on 1 rows" in said
    assert "the other 511 of 512 rows did not fit into 0 s; raise --budget" in said


def test_a_cheap_model_is_compared_on_all_rows_at_once(tmp_path: Path) -> None:
    classifier(tmp_path / "poc.onnx")
    classifier(tmp_path / "better.onnx")
    seen: list[tuple[int, int]] = []

    found = check.run(
        rollout(tmp_path, task="binary-classification"), progress=lambda done, rows: seen.append((done, rows))
    )

    assert found.left_out == ""
    assert seen == [(check.ROWS_DRAWN, check.ROWS_DRAWN)]


class Clock:
    """Stands for `time.monotonic`: only runs take time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_slow_model_is_compared_on_what_fits_into_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row takes 0.1 s. The command ends within its 20 s, and says how far it is."""
    clock = Clock()
    monkeypatch.setattr("understudy.offline.budget.time", clock)
    monkeypatch.setattr("understudy.offline.check.time", clock)
    sizes: list[int] = []

    def compared(rows: Sequence[Row], alone: int) -> Any:
        clock.now += 0.1 * len(rows)
        sizes.append(len(rows))
        return len(rows)

    parts: Any = check._in_budget(compared, [(0.0,)] * 512, 1, Budget(20.0), lambda done, rows: None)

    assert clock.now <= 20
    assert 150 < sum(parts) < 200
    assert sizes[0] == 1, "the first row says what a row takes"


def test_a_model_never_runs_on_more_rows_at_once_than_memory_allows() -> None:
    most = Budget(mib=512).rows_at_once(ELEMENTS)
    sizes: list[int] = []

    def compared(rows: Sequence[Row], alone: int) -> Any:
        sizes.append(len(rows))
        return len(rows)

    check._in_budget(compared, [(0.0,)] * (3 * most), ELEMENTS, Budget(mib=512), lambda done, rows: None)

    assert max(sizes) == most
    assert sum(sizes[1:]) == 3 * most
