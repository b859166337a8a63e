"""What a page needs to draw the steps and to make a form: from the rollout file and the cards."""

import msgspec

from understudy.domain import Variant
from understudy.inference.cards import InputSpec
from understudy.inference.decoding import Field
from understudy.inference.profile import CategoricalProfile, NumericProfile
from understudy.rollout.policy import parse
from understudy.serving.policy_document import CHOICES_MAX, about
from understudy.testing import card

POLICY = parse(
    "model: m\ntask: binary-classification\nprimary: a\ncandidate: b\nunit: user\nsteps:\n"
    "  - {shadow: 12.5, until: {labels: 500}}\n  - {canary: 5, require: [loadtest]}\n  - promote\n"
)


def numeric(edges: list[float]) -> NumericProfile:
    return NumericProfile(
        missing=0, minimum=0, maximum=9, mean=4.5, std=1, edges=edges, shares=[1.0] * (len(edges) + 1)
    )


def test_steps_are_in_percent_with_what_they_ask_for() -> None:
    """As the rollout file says them."""
    found = msgspec.to_builtins(about(POLICY, [], ["user"], {Variant.PRIMARY: card()}))

    assert found["steps"] == [
        {"kind": "shadow", "share": 12.5, "until": {"labels": 500}, "require": []},
        {"kind": "canary", "share": 5.0, "until": {}, "require": ["loadtest"]},
        {"kind": "promote", "share": 100.0, "until": {}, "require": []},
    ]
    assert found["goals"]["latency"]["p99_ms"] == 50
    assert (found["labels"]["wait_s"], found["unit"], found["context"]) == (72 * 3600, "user", ["user"])


def test_an_example_is_the_middle_or_the_most_frequent_value_of_the_training() -> None:
    """Without a profile there is none; the primary's card goes before the candidate's."""
    many = {f"c{i:03}": 1.0 + i for i in range(CHOICES_MAX + 30)}
    primary = card(
        inputs=[
            InputSpec(name="x", dtype="float32", shape=[None, 1], profile=numeric([1.0, 5.0, 8.0]), description="an x"),
            InputSpec(name="flat", dtype="float32", shape=[None, 1], profile=numeric([])),
            InputSpec(name="bare", dtype="string", shape=[None, 1]),
        ]
    )
    candidate = card(
        inputs=[
            InputSpec(name="x", dtype="float32", shape=[None, 1], profile=numeric([7.0])),
            InputSpec(name="word", dtype="string", shape=[None, 1], profile=CategoricalProfile(missing=0, shares=many)),
        ]
    )
    fields = [
        Field("x", "float32"),
        Field("flat", "float32"),
        Field("bare", "string"),
        Field("word", "string", required=False),
    ]
    document = about(POLICY, fields, [], {Variant.PRIMARY: primary, Variant.CANDIDATE: candidate})
    x, flat, bare, word = msgspec.to_builtins(document.fields)

    assert (x["example"], x["minimum"], x["maximum"], x["description"]) == (5.0, 0.0, 9.0, "an x")
    assert flat["example"] == 4.5
    assert "example" not in bare
    assert (word["example"], word["required"], len(word["choices"])) == (f"c{CHOICES_MAX + 29:03}", False, CHOICES_MAX)
    assert word["choices"] == sorted(word["choices"])
