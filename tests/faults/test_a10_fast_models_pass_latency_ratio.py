"""Two models that both answer within a millisecond never met `latency.ratio`, and waited for ever: below the histogram's first
edge nothing is told apart. Answers faster than 1 ms count as 1 ms.
"""

import pytest

from understudy.domain import Attempt, Observation, Status, Variant
from understudy.rollout.policy import Policy
from understudy.rollout.serving_evidence import ServedEvidence
from understudy.testing import observation

POLICY = Policy.model_validate(
    {
        "model": "m",
        "task": "binary-classification",
        "primary": "a",
        "candidate": "b",
        "steps": [{"canary": 50}, "promote"],
        "goals": {"latency": {"p99_ms": 50, "ratio": {"p50": 1.2, "p99": 1.2}}},
    }
)


def answered(number: int, candidate_s: float) -> Observation:
    """A request at a canary of 50 %: every other one is the candidate's."""
    ours = number % 2 == 0
    seconds = {Variant.PRIMARY: 0.0002, Variant.CANDIDATE: candidate_s}
    found = observation(f"p-{number}", share=5000, point=number, variant=Variant.CANDIDATE if ours else Variant.PRIMARY)
    answers = {v.value: Attempt(Status.OK, 1, 0.8, None, seconds[v]) for v in Variant}
    return Observation(**({name: getattr(found, name) for name in found.__struct_fields__} | answers))


@pytest.mark.parametrize(("candidate_s", "within"), [(0.0002, True), (0.0009, True), (0.002, False)])
def test_models_faster_than_a_millisecond_are_as_fast_as_each_other(candidate_s: float, within: bool) -> None:
    """And one that takes twice a millisecond is not."""
    served = ServedEvidence(POLICY)
    for number in range(8_000):
        observation = answered(number, candidate_s)
        served.see(observation, observation.at, in_step=True)

    for reading in served.readings(0.025, serving=True):
        assert reading.log_e_advance is not None
        assert reading.log_e_harm is not None
        assert (reading.log_e_advance > 4.0) is within
        assert (reading.log_e_harm > 4.0) is not within
