"""A1: both losses of a regression were cut at 5 label units, so a 15 times worse model was "0.0000 worse" and was promoted.

An error needs a clip in label units; where it cuts more than 5 % of either model's rows nothing advances; a loss that needs no unit
tells the models apart; and sentences and JSON are in raw units.
"""

from typing import Any

import numpy as np
import pytest

from tests.unit.rollout.world import START, policy, row
from understudy.domain import Attempt, Phase, Status, Variant
from understudy.errors import ConfigurationError
from understudy.rollout.evidence import Evidence
from understudy.rollout.judge import Verdict, judge
from understudy.rollout.policy import parse
from understudy.rollout.reading import CLIPPED_MAX, Standing
from understudy.rollout.scoring import Model

ROWS = 1_500


def houses(quality: dict[str, Any], *, swapped: bool = False, rows: int = ROWS) -> tuple[Verdict, Standing, Evidence]:
    """Prices of houses: the first model is off by some 19,600 on average, the second answers half the price."""
    random = np.random.default_rng(7)
    prices = random.uniform(2e5, 9e5, rows)
    good = (prices + random.normal(0, 24_500, rows)).tolist()
    half = (good + random.normal(0, 1_000, rows)).tolist()
    answers = [
        [Attempt(Status.OK, score=value) for value in good],
        [Attempt(Status.OK, score=value / 2) for value in half],
    ]
    primary, candidate = reversed(answers) if swapped else answers
    own = policy(quality=quality, steps=[{"shadow": 100, "until": {"labels": 100}}, "promote"])
    evidence = Evidence(own, {v: Model([], None) for v in Variant})
    made = [
        row(i, label=price, primary=primary[i - 1], candidate=candidate[i - 1], at=START + i)
        for i, price in enumerate(prices.tolist(), 1)
    ]
    evidence.see(made)
    evidence.settle(made)
    tail = evidence.tail([])
    standing = evidence.standing(tail)
    return judge(own, Phase.SHADOW, 0, evidence.readings(tail), standing), standing, evidence


def test_an_error_without_a_clip_is_refused() -> None:
    for loss in ("absolute_error", "squared_error"):
        with pytest.raises(ConfigurationError, match="`clip` is missing"):
            parse(f"model: m\ntask: regression\nprimary: a\ngoals: {{quality: {{loss: {loss}, margin: 0.1}}}}\n")


@pytest.mark.parametrize("loss", ["absolute_error", "squared_error"])
@pytest.mark.parametrize("swapped", [False, True])
def test_nothing_advances_on_saturated_losses(loss: str, swapped: bool) -> None:
    verdict, standing, _ = houses({"loss": loss, "clip": 5, "margin": 1}, swapped=swapped)

    assert verdict.answer == "hold"
    assert min(standing.as_dict()["clipped"].values()) > 0.99
    assert "labelled rows" in verdict.reason
    assert "all these rows count the same" in verdict.reason
    assert "Raise `goals.quality.clip`" in verdict.reason


@pytest.mark.parametrize(
    "quality",
    [
        {"loss": "absolute_error", "clip": 500_000, "margin": 20_000},
        {"loss": "squared_error", "clip": 500_000, "margin": 1e10},
        {"loss": "win_rate", "margin": 0.05},
    ],
    ids=lambda quality: quality["loss"],
)
def test_a_loss_with_a_meaning_tells_them_apart(quality: dict[str, Any]) -> None:
    assert houses(quality)[0].answer == "rollback"
    assert houses(quality, swapped=True)[0].answer == "advance"


def test_what_people_read_is_in_raw_units() -> None:
    verdict, _, evidence = houses({"loss": "absolute_error", "clip": 500_000, "margin": 20_000, "poc_target": 25_000})
    metrics = {metric.metric: metric.as_dict() for metric in verdict.metrics}

    assert metrics["absolute_error"]["line"] == 20_000
    shown = [metrics["absolute_error"][name] for name in ("low", "estimate", "high")]
    assert 200_000 < shown[0] < shown[1] < shown[2] < 300_000
    assert 19_000 < metrics["poc_target"]["estimate"] < 20_500
    assert "absolute error (clipped at 500,000) is 2" in verdict.reason
    assert "20,000 worse is allowed" in verdict.reason
    assert evidence.clipped.cut[Variant.CANDIDATE] == 0


def test_the_share_that_is_cut_is_evidence_and_survives_a_restart() -> None:
    _, standing, evidence = houses({"loss": "absolute_error", "clip": 40_000, "margin": 20_000}, rows=300)
    again = Evidence(evidence.policy, {v: Model([], None) for v in Variant})
    again.take(evidence.state())

    assert again.clipped == evidence.clipped
    share = standing.clipped.share(Variant.PRIMARY)
    assert share is not None
    assert 0 < share < 2 * CLIPPED_MAX
    assert standing.clipped.too_many
