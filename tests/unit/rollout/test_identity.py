"""What a rollout's evidence is kept under, in words: what differs is named, and what was judged by comes back."""

import dataclasses

import pytest

from tests.unit.rollout.world import MODELS, policy
from understudy.domain import Variant
from understudy.errors import ConfigurationError
from understudy.rollout.identity import differences, identity, models_of, policy_of
from understudy.testing import card

CARDS = {Variant.PRIMARY: card("poc", digest="sha256:1"), Variant.CANDIDATE: card("next", digest="sha256:2")}


def test_the_same_policy_and_models_do_not_differ():
    assert differences(identity(policy(), CARDS), identity(policy([{"shadow": 5}]), CARDS)) == []


def test_each_key_that_differs_is_named():
    now = policy(quality={"margin": 0.01, "poc_target": 0.2}, labels={"wait": 60}, errors={"margin": 0.002})
    assert differences(identity(policy(), CARDS), identity(now, CARDS)) == [
        "goals.quality.margin was 0.5, is now 0.01",
        "labels.wait was 3600.0, is now 60.0",
        "goals.quality.poc_target was not set, is now 0.2",
        "goals.errors.margin was not set, is now 0.002",
    ]


def test_another_model_is_named_by_its_digest():
    """With its name and version beside it; a card that only says another name is the same model."""
    other = CARDS | {Variant.CANDIDATE: card("later", digest="sha256:3", version="2")}
    assert differences(identity(policy(), CARDS), identity(policy(), other)) == [
        "candidate.name was next, is now later",
        "candidate.version was 1, is now 2",
        "candidate.digest was sha256:2, is now sha256:3",
    ]
    renamed = CARDS | {Variant.CANDIDATE: card("later", digest="sha256:2")}
    assert differences(identity(policy(), CARDS), identity(policy(), renamed)) == []
    alone = {Variant.PRIMARY: CARDS[Variant.PRIMARY]}
    assert "candidate.digest was sha256:2, is now not set" in differences(
        identity(policy(), CARDS), identity(policy(), alone)
    )


def test_what_was_judged_by_comes_back():
    kept = identity(policy(), CARDS)
    found = policy_of(kept)
    assert (found.goals, found.labels, found.unit) == (policy().goals, policy().labels, "user")
    assert found.key("sha256:1", "sha256:2") == policy().key("sha256:1", "sha256:2")
    assert models_of(kept) == {v: dataclasses.replace(m) for v, m in MODELS.items()}


def test_a_policy_with_keys_that_this_version_does_not_know_is_refused():
    kept = identity(policy(), CARDS)
    kept["policy"]["goals"]["speed"] = {"margin": 1}
    with pytest.raises(ConfigurationError, match=r"another version.*goals\.speed"):
        policy_of(kept)
