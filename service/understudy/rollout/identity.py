"""The identity of a rollout: the judged part of its policy, and its two models. Pure.

`Policy.key` is a hash and cannot tell what differs. So the store keeps this document when a rollout starts. With it another policy
can be compared key by key, and decisions can be verified although the rollout file has changed since.
"""

from collections.abc import Iterator, Mapping
from typing import NotRequired, Protocol, TypedDict

from understudy.domain import JsonObject, Variant
from understudy.rollout.policy import UNITS, Policy, of_store
from understudy.rollout.scoring import Model

NOT_SET = "not set"


class ModelDocument(TypedDict):
    """What the identity has of a model's card."""

    name: str
    version: str
    digest: str
    classes: list[int | str]
    positive: int | str | None


class IdentityDocument(TypedDict):
    """The stored form: `policy` with all defaults written out, `models` by variant, and `units` of margins of clipped losses."""

    policy: JsonObject
    models: dict[str, ModelDocument]
    units: NotRequired[str]


class ModelIdentity(Protocol):
    """The part of `understudy.inference.cards.Card` that the identity needs."""

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


def identity(policy: Policy, models: Mapping[Variant, ModelIdentity]) -> IdentityDocument:
    """The identity of a rollout."""
    documents: dict[str, ModelDocument] = {
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
    document: IdentityDocument = {"policy": policy.judged(), "models": documents}
    if quality is not None and quality.scale.clip is not None:
        document["units"] = UNITS
    return document


def differences(was: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Differences between two identities, one sentence per key. A model's name and version count only if its digest differs.

    >>> differences({"policy": {"goals": {"error_budget": 0.05}}}, {"policy": {"goals": {"error_budget": 0.01}}})
    ['goals.error_budget was 0.05, is now 0.01']
    """
    old, new = dict(_flat(was)), dict(_flat(now))
    sentences = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key, NOT_SET), new.get(key, NOT_SET)
        same_model = key.endswith((".name", ".version")) and old.get(_digest(key)) == new.get(_digest(key))
        if a != b and not same_model:
            sentences.append(f"{key.removeprefix('policy.').removeprefix('models.')} was {a}, is now {b}")
    return sentences


def models_of(document: IdentityDocument) -> dict[Variant, Model]:
    """The models that were judged, as scoring needs them."""
    return {Variant(name): Model(m["classes"], m["positive"]) for name, m in document["models"].items()}


def policy_of(document: IdentityDocument) -> Policy:
    """The policy that the rollout was judged by, without steps: each decision has the steps that were in force.

    Raises:
        ConfigurationError: if a version with other keys wrote it.
    """
    models = document["models"]
    candidate = models["candidate"]["digest"] if "candidate" in models else None
    return of_store(document["policy"], models["primary"]["digest"], candidate, document.get("units", ""))


def _digest(key: str) -> str:
    return key.rpartition(".")[0] + ".digest"


def _flat(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        elif inner is not None:
            yield prefix + name, inner
