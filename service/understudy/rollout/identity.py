"""What a rollout's evidence is kept under, in full: the judged part of the policy, and the two models. Pure.

`Policy.key` is a hash and cannot say what differs. So the store keeps this document once, when a rollout starts. From it another
policy can be compared key by key, and the decisions folded again although the rollout file has changed since.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from understudy.domain import Variant
from understudy.rollout.policy import UNITS, Policy, of_store
from understudy.rollout.scoring import Model

NOT_SAID = "not set"


class ModelIdentity(Protocol):
    """What the identity keeps of a model's card: see `understudy.inference.cards.Card`."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def version(self) -> str:
        """Its version."""
        ...

    @property
    def digest(self) -> str:
        """The digest of its file's bytes."""
        ...

    @property
    def classes(self) -> list[int | str]:
        """Class names in the order of the probabilities."""
        ...

    @property
    def positive(self) -> int | str | None:
        """The class whose probability is the score."""
        ...


def identity(policy: Policy, models: Mapping[Variant, ModelIdentity]) -> dict[str, Any]:
    """The document, as JSON: `policy` with every default written out, and `models` by variant."""
    told = {
        variant.value: {
            "name": model.name,
            "version": model.version,
            "digest": model.digest,
            "classes": list(model.classes),
            "positive": model.positive,
        }
        for variant, model in models.items()
    }
    quality = policy.goals.quality
    units = {"units": UNITS} if quality is not None and quality.scale.clip is not None else {}
    return {"policy": policy.judged(), "models": told, **units}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, one sentence a key; names and versions of models only beside another digest.

    >>> differences({"policy": {"goals": {"error_budget": 0.05}}}, {"policy": {"goals": {"error_budget": 0.01}}})
    ['goals.error_budget was 0.05, is now 0.01']
    """
    old, new = dict(_flat(was)), dict(_flat(now))
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key, NOT_SAID), new.get(key, NOT_SAID)
        same_model = key.endswith((".name", ".version")) and old.get(_digest(key)) == new.get(_digest(key))
        if a != b and not same_model:
            found.append(f"{key.removeprefix('policy.').removeprefix('models.')} was {a}, is now {b}")
    return found


def models_of(document: Mapping[str, Any]) -> dict[Variant, Model]:
    """What scoring needs of the models that were judged."""
    return {Variant(name): Model(m["classes"], m["positive"]) for name, m in document["models"].items()}


def policy_of(document: Mapping[str, Any]) -> Policy:
    """The policy that was judged by, without steps: each decision says which were in force.

    Raises:
        ConfigurationError: when a version with other keys wrote it.
    """
    models = document["models"]
    candidate = models.get("candidate", {}).get("digest")
    return of_store(document["policy"], models["primary"]["digest"], candidate, document.get("units", ""))


def _digest(key: str) -> str:
    return key.rpartition(".")[0] + ".digest"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        elif inner is not None:
            yield prefix + name, inner
