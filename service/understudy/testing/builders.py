"""Builders: a card and an observation of a binary classifier."""

from msgspec.structs import replace

from understudy.domain import Attempt, JsonObject, Mode, Observation, Status, Variant
from understudy.inference.cards import Card, InputSpec, OutputSpec


def card(name: str = "fake", **changes: object) -> Card:
    """A binary classifier's card with one float input `x` and one string input `s`."""
    fields: JsonObject = {
        "name": name,
        "version": "1",
        "task": "binary-classification",
        "classes": [0, 1],
        "positive": 1,
        "digest": "sha256:0",
        "inputs": [
            InputSpec(name="x", dtype="float32", shape=[None, 1], nullable=True),
            InputSpec(name="s", dtype="string", shape=[None, 1]),
        ],
        "outputs": [
            OutputSpec(name="label", dtype="int64", shape=[None], role="label"),
            OutputSpec(name="probabilities", dtype="float32", shape=[None, 2], role="probabilities"),
        ],
    }
    return Card.model_validate(fields | changes)


def observation(
    name: str = "p-0", *, primary: float | None = 0.2, candidate: float | None = 0.3, **changes: object
) -> Observation:
    """An observation of a binary classifier; a score of None is an attempt that failed."""

    def answer(score: float | None) -> Attempt:
        return Attempt(Status.FAILED) if score is None else Attempt(Status.OK, int(score > 0.5), score, None, 0.001)

    base = Observation(
        prediction_id=name,
        request_id=name,
        at=1_000_000.0,
        revision=1,
        variant=Variant.PRIMARY,
        mode=Mode.LIVE,
        share=0,
        primary=answer(primary),
        candidate=answer(candidate),
    )
    return replace(base, **changes)
