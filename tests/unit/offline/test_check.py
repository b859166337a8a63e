"""Both models on sample rows: which rows, how much noise the runtime makes, and what `check`, the store and people are told."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto, helper

from tests.support.commands import alone, done, refused
from tests.support.graphs import classifier, save, summing
from understudy.cli.compared import comparison_lines
from understudy.domain import Status, Variant
from understudy.errors import ConfigurationError
from understudy.inference import OutputReader, Scores
from understudy.inference.cards import InputSpec, OutputSpec
from understudy.inference.profile import CategoricalProfile, NumericProfile
from understudy.offline import check, samples
from understudy.records.pairs import Pairs, joined, tolerances
from understudy.rollout.policy import Policy, Tolerance
from understudy.serving import noise_floor
from understudy.settings import Settings, read_settings
from understudy.testing import card

__all__ = ["alone"]
BASE: dict[str, Any] = {
    "model": "m",
    "task": "binary-classification",
    "primary": "poc.onnx",
    "candidate": "better.onnx",
}
NUMERIC = NumericProfile(missing=0.25, minimum=1, maximum=31, mean=15, std=9, edges=[10, 20], shares=[0.5, 0.5, 0.0])
WORDS = CategoricalProfile(missing=0.0, shares={"EWR": 0.9, "JFK": 0.1})


def spec(name: str, dtype: Any = "float32", shape: Any = (None, 1), **more: Any) -> InputSpec:
    return InputSpec(name=name, dtype=dtype, shape=list(shape), **more)


def test_rows_are_drawn_as_the_profiles_say_and_the_same_ones_every_time() -> None:
    specs = [
        spec("day", profile=NUMERIC, nullable=True),
        spec("origin", "string", profile=WORDS),
        spec("v", shape=(None, 3)),
        spec("n", "int64"),
        spec("t", "string"),
        spec("b", "bool"),
    ]
    rows = samples.drawn(specs, 4_000)
    days = [row[0] for row in rows if row[0] is not None]

    assert rows == samples.drawn(specs, 4_000)
    assert 0.2 < 1 - len(days) / 4_000 < 0.3
    assert (min(days), max(days)) == (1, 20), "the third bin is empty"
    assert 0.45 < sum(day <= 10 for day in days) / len(days) < 0.55
    assert 0.85 < sum(row[1] == "EWR" for row in rows) / 4_000 < 0.95
    assert {len(row[2]) for row in rows} == {3}
    assert {type(row[3]) for row in rows} == {int}
    assert {row[4] for row in rows} == {""}
    assert {row[5] for row in rows} == {True, False}


def rollout(tmp_path: Path, **changes: Any) -> Settings:
    (tmp_path / "rollout.yaml").write_text(json.dumps(BASE | changes), encoding="utf-8")
    return read_settings(rollout_file=tmp_path / "rollout.yaml")


def test_two_copies_of_a_model_do_not_differ_and_the_floor_is_kept(tmp_path: Path) -> None:
    for name in ("poc", "better"):
        classifier(tmp_path / f"{name}.onnx")
    settings = rollout(tmp_path)
    found = check.run(settings)

    assert found.rows == check.ROWS_DRAWN
    assert found.comparison is not None
    assert found.comparison["labels"]["flips"] == 0
    assert found.comparison["probabilities"]["equal"] == 1.0
    assert found.signature == []
    assert 0 <= found.floor["probabilities"] < 1e-5
    digest = json.loads(found.floor_file.read_text())["digest"]
    assert noise_floor.read(settings.state_dir, digest) == found.floor
    assert noise_floor.read(settings.state_dir, "another") == {}
    found.floor_file.write_text("{]")
    assert noise_floor.read(settings.state_dir, digest) == {}


def noisy(path: Path) -> Path:
    """A model whose answer depends a little on how many rows came together: y = x + rows / 100 000."""
    floats = TensorProto.FLOAT
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Cast", ["size"], ["rows"], to=floats),
        helper.make_node("Constant", [], ["small"], value=helper.make_tensor("small", floats, [1], [0.00001])),
        helper.make_node("Mul", ["rows", "small"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    return save(path, nodes, [("x", floats, ["n", 1])], [("y", floats, ["n", 1])])


def test_what_the_runtime_does_by_itself_is_measured_and_called_equal(tmp_path: Path) -> None:
    """Rows one by one, in sevens and all at once: the largest difference is the floor, and below it models are equal."""
    noisy(tmp_path / "poc.onnx")
    noisy(tmp_path / "better.onnx")
    settings = rollout(tmp_path, task="regression", compare={"value": {"atol": 0, "rtol": 0}})
    found = check.run(settings)
    assert found.floor["value"] == pytest.approx((check.ROWS_DRAWN - 1) / 100_000, rel=1e-2)
    reader = OutputReader(
        card(outputs=[OutputSpec(name="y", dtype="float32", shape=[None, 1], role="value")], classes=[])
    )
    pairs = Pairs(dict.fromkeys(Variant, reader), {"value": Tolerance(atol=0, rtol=0)}, found.floor)
    summary = pairs.compare(Scores(2, values=[1.0, 1.0]), Scores(2, values=[1.005, 1.006]))
    assert summary.sums["rows_outside/value"] == 1


def test_check_compares_on_the_rows_of_a_file_and_names_a_line_that_does_not_fit(tmp_path: Path) -> None:
    classifier(tmp_path / "poc.onnx")
    classifier(tmp_path / "better.onnx")
    rollout(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"x": [1, 2]}\n\n{"x": [3, 1]}\n')
    said = done("check", "--rows", rows)
    assert f"compared on 2 rows ({rows}):" in said
    assert "labels: 0 of 2 rows have different labels, 0.00%" in said
    assert "noise floor (the primary's own differences across batch sizes and threads): probabilities " in said

    rows.write_text('{"x": [1, 2]}\n{"x": "no"}\n')
    assert "rows.jsonl, line 2: x takes an array" in refused_late("check", "--rows", rows)
    rows.write_text('{"x": [1, 2]\n')
    assert "rows.jsonl, line 1: the body is not JSON" in refused_late("check", "--rows", rows)
    rows.write_text("\n")
    assert "has no rows" in refused_late("check", "--rows", rows)


def refused_late(*arguments: Any) -> str:
    """As `refused`, for a command that has said something before."""
    from tests.support.commands import understudy

    result = understudy(*arguments)
    assert result.exit_code == 1
    return str(result.stderr)


def test_outputs_of_another_kind_are_said(tmp_path: Path) -> None:
    """Before anything is served: what only the candidate gives."""
    classifier(tmp_path / "poc.onnx")
    save(
        tmp_path / "better.onnx",
        [
            helper.make_node("Softmax", ["x"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
            helper.make_node("Neg", ["x"], ["extra"]),
        ],
        [("x", TensorProto.FLOAT, ["n", 2])],
        [
            ("label", TensorProto.INT64, ["n"]),
            ("probabilities", TensorProto.FLOAT, ["n", 2]),
            ("extra", TensorProto.FLOAT, ["n", 2]),
        ],
    )
    rollout(tmp_path)
    assert "  only the candidate gives extra" in done("check")


def test_a_tolerance_for_an_output_that_is_not_there_is_refused(tmp_path: Path) -> None:
    summing(tmp_path / "poc.onnx")
    summing(tmp_path / "better.onnx")
    rollout(tmp_path, task="regression", compare={"score": {"atol": 1}})
    assert "`compare` names score; outputs with a tolerance: value" in refused("check")
    with pytest.raises(ConfigurationError, match="none: labels have no tolerance, and probabilities only"):
        tolerances(Policy.model_validate(BASE | {"compare": {"p": {}}}), [card()])


def exchange(primary: Scores | None, candidate: Scores | None) -> Any:
    attempts = [
        SimpleNamespace(scores=scores, status=Status.NONE if scores is None else Status.OK)
        for scores in (primary, candidate)
    ]
    return SimpleNamespace(primary=attempts[0], candidate=attempts[1])


def test_only_exchanges_that_both_answered_are_compared() -> None:
    pairs = Pairs({v: OutputReader(card()) for v in Variant}, {}, {})
    one = Scores(1, labels=[1], probabilities=[[0.2, 0.8]])
    other = Scores(1, labels=[0], probabilities=[[0.7, 0.3]])
    assert pairs.counts([exchange(one, None), exchange(None, one), exchange(None, None)]) == {}
    counts = pairs.counts([exchange(one, other), exchange(one, None), exchange(one, one)])
    assert (counts["compare/rows"], counts["compare/label_flips"], counts["compare/flip/[1, 0]"]) == (2, 1, 1)
    assert counts["compare/distance_sum"] == pytest.approx(0.5)


def test_models_with_other_classes_or_outputs_are_compared_as_far_as_they_go() -> None:
    """Another order of classes; widths without names that differ; tensors by name."""
    readers = {
        Variant.PRIMARY: OutputReader(card(classes=["a", "b"])),
        Variant.CANDIDATE: OutputReader(card(classes=["b", "a", "c"])),
    }
    summary = Pairs(readers, {}, {}).compare(
        Scores(1, probabilities=[[0.2, 0.8]]), Scores(1, probabilities=[[0.8, 0.2, 0.0]])
    )
    assert summary.maxima["distance"] == 0.0

    unnamed = dict.fromkeys(Variant, OutputReader(card(classes=[], positive=None)))
    summary = Pairs(unnamed, {}, {}).compare(
        Scores(1, probabilities=[[0.2, 0.8]]), Scores(1, probabilities=[[0.5, 0.3, 0.2]])
    )
    assert summary.sums["misshapen/probabilities"] == 1
    summary = Pairs(unnamed, {}, {}).compare(
        Scores(1, others={"v": [[1.0, 2.0]], "w": [1]}), Scores(1, others={"v": [[1.0, 2.0]], "u": [1]})
    )
    assert summary.sums == {"rows": 1, "rows/v": 1, "elements/v": 2}


def test_batches_join_to_one() -> None:
    parts = [
        Scores(1, [1], [[0.1, 0.9]], None, {"v": [1.0]}),
        Scores(2, [0, 1], [[1, 0], [0, 1]], None, {"v": [2.0, 3.0]}),
    ]
    assert joined(parts) == Scores(3, [1, 0, 1], [[0.1, 0.9], [1, 0], [0, 1]], None, {"v": [1.0, 2.0, 3.0]})
    assert joined([Scores(1, values=[1.0]), Scores(1, values=[2.0])]) == Scores(2, values=[1.0, 2.0])


def test_a_comparison_is_told_in_a_line_per_part() -> None:
    ways = [{"primary": i, "candidate": i + 1, "rows": 2} for i in range(7)]
    output = {"rows": 4, "rows_outside": 1, "elements": 4, "outside": 1, "not_finite": 1, "misshapen": 2, "share": 0.25}
    lines = list(
        comparison_lines(
            {
                "rows": 100,
                "labels": {"rows": 100, "flips": 14, "share": 0.14, "ways": ways},
                "probabilities": {"rows": 100, "mean": 0.1, "p50": 0.05, "p95": 0.2, "p99": 0.3, "equal": 0.5},
                "outputs": {
                    "v": output | {"mean_abs": 0.5, "max_abs": 2.0, "max_rel": 0.1},
                    "w": output | {"mean_abs": None},
                },
            }
        )
    )
    assert lines[0].startswith("labels: 14 of 100 rows have different labels, 14.00% (0 → 1 2, ")
    assert lines[0].endswith(", and 2 more ways)")
    assert lines[1].startswith("probabilities: mean distance 0.1000")
    assert lines[2] == (
        "v: 1 of 4 rows outside the tolerance, 25.00%; mean difference 0.5, at most 2 (relative 0.1); "
        "1 numbers that are not finite; 2 rows with different shapes"
    )
    assert lines[3].startswith("w: 1 of 4 rows outside the tolerance, 25.00%; 1 numbers")
    assert list(comparison_lines({"rows": 0})) == []
