"""What is known before a rollout starts, and what is wrong with it. Plain values; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of one model.

    Attributes:
        name: what messages call it. roles: of its outputs: "label", "probabilities", "value", "other".
        classes: in the order of the probabilities; empty where nothing names them.
        values: how many different values an input had in training, by name, where that is known.
        seconds: that one row takes, measured; None where it was not run.
        task: what its card says that it does.
    """

    name: str
    classes: Sequence[int | str] = ()
    roles: frozenset[str] = frozenset()
    values: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    task: str = "other"


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the service that bear on a rollout; None is not known.

    Attributes:
        retention_s: how long rows are kept. candidate_share: of the deadline, what the candidate may use.
    """

    retention_s: float | None = None
    candidate_share: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        key: of the rollout file, as its errors name keys: `steps.0.until.labels`.
        says: what is wrong, what it means, and what to write.
        refused: whether the rollout must not start; otherwise it is a warning.
    """

    key: str
    says: str
    refused: bool = True
