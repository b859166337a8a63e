"""Frozen values: rows, attempts, observations, labels, plans and events.

Nothing here does I/O, reads a clock or draws a random number. Times are Unix seconds (UTC), durations are seconds,
shares of traffic are whole numbers of hundredths of a percent (`SHARE_ONE` is 100 %), so that a weight of 0.01 % is
exact.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

SHARE_ONE = 10_000
"""Shares are counted in hundredths of a percent: 10,000 is everything."""

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object whose members are free: the details of an event, a stored state, a document that is only passed on."""

Scalar: TypeAlias = bool | int | float | str
Label: TypeAlias = Scalar | tuple[Scalar, ...]
"""What happened: a class as the model names it, a number, a vector of numbers, or the set of classes that are true.

A set of classes is a tuple in the order of the model's classes, so that equal sets are equal labels.
"""
GIVEN_UP = "lost/given_up"
"""Counter of the store: rows that were answered but never stored."""
DRIFT_STATE = "drift"
"""Name in the store of the state of the drift monitor."""


class Variant(enum.StrEnum):
    """One of the two models: the primary answers by default, the candidate is on trial."""

    PRIMARY = "primary"
    CANDIDATE = "candidate"

    @property
    def other(self) -> "Variant":
        """The variant that rehearses when this one answers."""
        return Variant.CANDIDATE if self is Variant.PRIMARY else Variant.PRIMARY


class Mode(enum.StrEnum):
    """Why a model was run: to answer, to rehearse, because the caller chose it by name, or for a load test.

    Requests of a load test are routed, rehearsed and recorded like others, but are no evidence.
    """

    LIVE = "live"
    SHADOW = "shadow"
    PINNED = "pinned"
    LOAD = "load"


class Phase(enum.StrEnum):
    """The phase of a rollout."""

    SERVING = "serving"  # there is no candidate: the primary answers every request
    SHADOW = "shadow"
    CANARY = "canary"
    WAITING = "waiting"  # the next step requires approval
    PAUSED = "paused"
    PROMOTED = "promoted"
    ABORTED = "aborted"


class Status(enum.StrEnum):
    """How one model's attempt at one request ended."""

    OK = "ok"
    FAILED = "failed"  # it raised
    TIMEOUT = "timeout"  # no answer within its time limit
    INVALID = "invalid"  # its answer was not finite, or had another shape than the card
    WITHHELD = "withheld"  # it answered this row, but the request failed because of another row
    DOWN = "down"  # its process was unavailable, or died before it answered
    DROPPED = "dropped"  # not called: too many rehearsals waited
    NONE = "none"  # not called: not part of the sample


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan that the router follows. A new plan has a higher revision; every worker uses it within a poll interval.

    Attributes:
        weight: the candidate's share of live answers, in hundredths of a percent.
        shadow: the share of requests on which the model that does not answer rehearses, in hundredths of a percent.
        salt: mixed into the routing hash, so that two rollouts do not pick the same callers.
        step: index into the rollout file's `steps`, or -1 when the weight was set by hand.
        trial: 1 at first. Each `retry` after a rollback or an abort begins the next one, with new evidence of harm.
    """

    phase: Phase
    weight: int
    shadow: int
    salt: int
    step: int = 0
    revision: int = 0
    updated_at: float = 0.0
    trial: int = 1

    @property
    def released(self) -> bool:
        """Whether the bake after a promotion is over: rehearsals have ended, and the old primary is released."""
        return self.phase is Phase.PROMOTED and not self.shadow

    def __post_init__(self) -> None:
        for name in ("weight", "shadow"):
            share = getattr(self, name)
            if not 0 <= share <= SHARE_ONE:
                raise ValueError(f"{name} is {share}; it is counted in hundredths of a percent, 0 to {SHARE_ONE}")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit log: who did what, when and why, and the numbers behind it."""

    at: float
    kind: str
    actor: str
    reason: str
    revision: int
    details: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One model's attempt at one row: how it ended, the model's answer and how long it took.

    Attributes:
        status: how it ended. Unless it is `Status.OK` or `Status.WITHHELD`, there is no answer in the other fields.
        label: the predicted class, as the model names it; for a multilabel classifier the tuple of the predicted classes; None
            for a regression.
        score: P(positive class) for a binary classifier, the value for a regression of one number, else None.
        probabilities: one per class in the card's order, for more than two classes or a multilabel classifier, else None.
        seconds: how long the caller of that model waited for the batch that held this row.
        vector: the values of a regression of several numbers, else None.
    """

    status: Status = Status.NONE
    label: Label | None = None
    score: float | None = None
    probabilities: Sequence[float] | None = None
    seconds: float = 0.0
    vector: Sequence[float] | None = None

    @property
    def given(self) -> bool:
        """Whether the model answered this row. The caller may not have got the answer (`Status.WITHHELD`)."""
        return self.status is Status.OK or self.status is Status.WITHHELD


class Observation(msgspec.Struct, frozen=True, gc=False):
    """One served row, with the attempts of both variants.

    It is complete when it is created: a request with a rehearsal is recorded when the rehearsal has ended, with whatever result.

    Attributes:
        request_id: the first `prediction_id` of its request; rows of one request are not independent.
        at: time of the request, Unix seconds: its arrival, or the time that a replay gave it.
        unit: the value of the policy's `unit`, whose repeated requests count once; or None.
        variant: the variant that answered the caller.
        share: the candidate's share of live answers that the router used, in hundredths of a percent.
        fallback: why the primary answered instead of the candidate ("failed", "timeout", ...), or None.
        point: the routing key's point in [0, 2^63) if chance decided the variant (a share above 0 and below 1), otherwise None.
            It represents the key, which is not stored.
        agrees: whether the two answers are equal within the policy's `compare` tolerances; None if they were not compared: one
            is missing, or the policy does not judge by agreement.
        sampled: whether the draw for rehearsals chose this request. Only such a request can be a pair. The draw depends on the
            request's id and the plan, never on the result of the request.
        replay: the time base of `at`: None for the service's clock, otherwise the id of a replay ("" if it has none).
        received_at: arrival of a replayed request, on the service's clock; None for others, which arrived at `at`.
    """

    prediction_id: str
    request_id: str
    at: float
    revision: int
    variant: Variant
    mode: Mode
    share: int
    primary: Attempt
    candidate: Attempt
    unit: str | None = None
    fallback: str | None = None
    point: int | None = None
    agrees: bool | None = None
    sampled: bool = True
    replay: str | None = None
    received_at: float | None = None

    @property
    def drawn(self) -> Variant:
        """The variant that the router chose, also if the primary answered instead of the candidate."""
        return Variant.CANDIDATE if self.fallback is not None else self.variant

    @property
    def arrived_at(self) -> float:
        """Its arrival on the service's clock."""
        return self.at if self.received_at is None else self.received_at

    def attempt(self, variant: Variant) -> Attempt:
        """The attempt of `variant` at this row."""
        return self.primary if variant is Variant.PRIMARY else self.candidate


@dataclass(frozen=True, slots=True)
class LabelReport:
    """A label as it was reported: which prediction, what happened, and when that became known (`at`).

    Attributes:
        timed: whether the caller gave the time. Otherwise `at` is the arrival of the label, on the service's clock.
    """

    prediction_id: str
    label: Label
    at: float
    timed: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An observation with its label.

    Attributes:
        delay: seconds from the request to its label, on the time base of the request; negative if the label's time is earlier.
    """

    observation: Observation
    label: Label
    delay: float


class Fate(enum.StrEnum):
    """The result of reporting a label."""

    MATCHED = "matched"  # joined with its stored prediction
    DUPLICATE = "duplicate"  # the same label had been received before
    CONFLICT = (
        "conflict"  # another label is known already; the first one stands and this one is kept for people to look at
    )
    PENDING = "pending"  # its prediction is not stored yet; the label waits for it
    CORRECTED = "corrected"  # the same label had been received with a later time; now this time counts


@dataclass(frozen=True, slots=True)
class LabelReceipt:
    """The result of storing a batch of labels.

    Attributes:
        fates: the fate of each label, in the order of the batch.
        outcomes: the labelled observations of those that are `matched`.
        repeated: whether an earlier try had stored the batch and returned its outcomes.
    """

    fates: Sequence[Fate]
    outcomes: Sequence[Outcome] = ()
    repeated: bool = False

    @property
    def counts(self) -> dict[Fate, int]:
        """Fate → number of labels, for all fates."""
        return {fate: self.fates.count(fate) for fate in Fate}
