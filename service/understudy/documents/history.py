"""What the rollout has seen: evidence, traffic, audit log and drift."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType

from understudy.documents.base import Document
from understudy.domain import Event, JsonObject
from understudy.rollout.documents import BandPoint


class Evidence(Document):
    """The counters behind the figures, and the bands over time."""

    revision: int
    counters: dict[str, float]
    bands: Annotated[
        Sequence[BandPoint],
        Meta(description="each metric over time: estimate, band, and log e-values for an advance and of harm"),
    ]


class VariantTraffic(Document):
    """Traffic of one variant between two points in time."""

    requests: Annotated[int, Meta(description="live answers")]
    asked: Annotated[int, Meta(description="requests that it ran or owed an answer, rehearsals included")]
    failed: Annotated[int, Meta(description="requests that it gave no answer")]
    p50_ms: float | None
    p99_ms: float | None


class TrafficPoint(Document):
    """Traffic between two points in time, Unix seconds. A variant that was not called is absent."""

    start: float = msgspec.field(name="from")
    to: float
    primary: VariantTraffic | UnsetType = UNSET
    candidate: VariantTraffic | UnsetType = UNSET


class Traffic(Document):
    """Latency and failures over time."""

    span: str
    interval_s: Annotated[float | None, Meta(description="length of a point; null before the first one")]
    points_max: int | None
    points: list[TrafficPoint]


class Audit(Document):
    """The sample of predictions whose labels an audit of missing labels waits for."""

    share: Annotated[float | None, Meta(description="percent; null if there is no audit")]
    wait_s: float
    wanted: Annotated[list[str], Meta(description="prediction ids, the oldest first, at most 1,000")]


class Events(Document):
    """Events of the audit log, the oldest first."""

    events: list[Event]


class DriftAlarm(TypedDict):
    """A drift alarm that is raised. `since` is in the time of the requests, Unix seconds."""

    variant: str
    feature: str
    since: float
    reason: str


class DriftFeature(TypedDict):
    """One feature, or a model's predictions, in the last window beside training. `since` is null if no alarm is raised."""

    variant: str
    feature: str
    rows: int
    psi: float
    line: float
    worst: float | None
    missing: float
    missing_line: float
    missing_reference: float
    outside: float
    crossed: list[str]
    at_ease: bool
    since: float | None
    reason: str


class DriftEstimate(TypedDict):
    """Quality as the model's own probabilities claim it, without labels."""

    rows: int
    accuracy: float | None
    brier: float | None


class Drift(Document):
    """The last day of requests beside each model's training data."""

    window: Annotated[JsonObject | None, Meta(description="start, end and rows of the window; null before the first")]
    alarms: list[DriftAlarm]
    features: list[DriftFeature]
    estimates: Annotated[dict[str, DriftEstimate], Meta(description="by variant; they decide nothing")]
    notes: list[str]
