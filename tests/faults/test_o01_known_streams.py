"""Found by streams whose truth is known: rows with NaN at `check`, agreement that waited for labels, a forecast by a replay's
clock, a "positive class" of five classes, a graph of one column that cannot read the row that it is tried with.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.graphs import save
from tests.unit.rollout.world import folded, pair, policy
from understudy.domain import Phase, Variant
from understudy.errors import ConfigurationError
from understudy.inference.onnx import OnnxEngine
from understudy.rollout import comparison
from understudy.rollout.judge import judge
from understudy.rollout.policy import Tolerance
from understudy.rollout.reading import MetricReading, Standing
from understudy.rollout.scoring import Model, Scorer
from understudy.rollout.tail import Tail
from understudy.serving import noise_floor

NAN, LIVE, PAST = float("nan"), 1_795_806_504.0, 1_372_680_000.0


def test_a_row_with_nan_leaves_the_figures_and_the_noise_floor_finite() -> None:
    rows = np.array([[0.2, 0.8], [NAN, NAN]])
    summary, equal = comparison.probabilities(rows, rows.copy())
    assert equal.tolist() == [True, True]
    assert comparison.floor_of(summary) == {"probabilities": 0.0}
    assert comparison.figures(summary)["probabilities"]["mean"] == 0.0


def test_a_row_that_is_nan_in_one_model_is_as_far_as_can_be_and_never_equal() -> None:
    summary, equal = comparison.probabilities(
        np.array([[0.2, 0.8], [NAN, NAN]]), np.array([[0.3, 0.7], [0.5, 0.5]]), floor=2.0
    )
    assert equal.tolist() == [True, False]
    assert summary.sums["distance_sum"] == pytest.approx(1.1)
    assert summary.maxima["distance"] == pytest.approx(0.1)


def test_a_floor_of_nan_that_was_left_before_makes_no_row_differ(tmp_path: Path) -> None:
    (tmp_path / noise_floor.FILE).write_text(json.dumps({"digest": "d", "floor": {"probabilities": NAN, "x": 0.5}}))
    kept = noise_floor.read(tmp_path, "d")
    assert kept == {"x": 0.5}
    row = np.array([[0.2, 0.8]])
    assert comparison.close(row, row + 1e-9, Tolerance(), kept.get("probabilities", 0.0)).all()


def test_agreement_waits_for_requests() -> None:
    reading = MetricReading("disagreement", 0.0, 0.0, 0.06, 100, 0, 0.05, 1.0, 0.0, 0.05, 0.01)
    standing = Standing(elapsed_s=100.0, labels=100, step_labels=100, step_requests=100)
    verdict = judge(policy([{"shadow": 100}]), Phase.SHADOW, 0, [reading], standing)
    assert (verdict.waits_for, verdict.left.labels) == (("requests",), 0)
    assert f"about {verdict.left.requests:,} more requests, " in verdict.reason


def test_the_present_rate_is_by_the_clock_that_the_reader_has() -> None:
    """A replay beside live traffic, an hour of history each second: 60 requests a minute are not 60 in 60 hours."""
    rows = [pair(i, "worse", at=LIVE + i) for i in range(60)]
    rows += [pair(60 + i, "worse", at=PAST + i * 3600.0, replay="history", received_at=LIVE + i) for i in range(60)]
    evidence = folded(policy(), [(i, row, None) for i, row in enumerate(rows, 1)])
    assert evidence.standing(Tail()).elapsed_s == pytest.approx(59.0)


def test_of_five_classes_none_is_positive_and_an_answer_that_is_missing_says_nothing() -> None:
    five = Model([1, 2, 3, 4, 5], None)
    scorer = Scorer(policy(), dict.fromkeys(Variant, five))
    assert not any(scorer.says_positive(pair(1, "failed"), variant) for variant in Variant)


def test_a_column_that_was_nan_when_it_was_tried_is_not_called_a_logit(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Log", ["x"], ["l"]),
        helper.make_node("Mul", ["x", "l"], ["m"]),
        helper.make_node("Tanh", ["m"], ["p"]),
    ]
    columns = [("x", TensorProto.FLOAT, ["n", 1])], [("p", TensorProto.FLOAT, ["n", 1])]
    save(tmp_path / "m.onnx", nodes, *columns, [])
    with pytest.raises(ConfigurationError, match="was NaN on a row of zeros"):
        OnnxEngine(tmp_path / "m.onnx", device="cpu", warm_max_rows=1, classes=["no", "yes"])
