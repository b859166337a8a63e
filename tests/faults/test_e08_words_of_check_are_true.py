"""E8: `check` reported flips on made-up rows as a finding: where it showed none, real rows had 15.7 %."""

from pathlib import Path

from tests.faults.test_b11_check_keeps_to_a_budget import rollout
from tests.support.commands import alone, done
from tests.support.graphs import classifier

__all__ = ["alone"]


def test_flips_on_made_up_rows_are_no_finding(tmp_path: Path) -> None:
    classifier(tmp_path / "poc.onnx")
    classifier(tmp_path / "better.onnx")
    rollout(tmp_path, task="binary-classification")

    said = done("check")

    assert "how far their answers differ on made-up rows says nothing about real ones" in said
    assert "rows have different labels" not in said
    assert "probabilities: mean distance" not in said


def test_flips_on_real_rows_are_shown(tmp_path: Path) -> None:
    classifier(tmp_path / "poc.onnx")
    classifier(tmp_path / "better.onnx")
    rollout(tmp_path, task="binary-classification")
    (tmp_path / "rows.jsonl").write_text('{"x": [1, 2]}\n{"x": [3, 1]}\n', encoding="utf-8")

    assert "labels: 0 of 2 rows have different labels" in done("check", "--rows", tmp_path / "rows.jsonl")
