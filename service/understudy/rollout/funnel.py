"""The funnel: the stage that every prediction row and every label has reached, and why it is not further. Pure.

The unit is a prediction row. A row passes the stages in order. `Funnel` counts each row that the judge has read, by the last
stage that it reached and the reason why it is not further. `rows` and `labels` add what the judge never read. Sums are exact:
the count of a stage is the count of the next one plus what was lost in between (waiting is also a reason).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from understudy.domain import GIVEN_UP, Mode, Observation, Status
from understudy.rollout.scoring import TRIED, Pair, unknown

STAGES = ("answered", "rehearsed", "labelled", "settled", "counted")
ANSWERED, REHEARSED, LABELLED, SETTLED, COUNTED = range(5)

FATES = "label_fates/"
"""Prefix of the store's counters of labels by `domain.Fate` at arrival. `joined` counts those that waited and were joined later."""
WAITS_FOR_EARLIER = "waits for an earlier label"

HINTS: Mapping[str, str] = {
    "pinned": "The caller chose the model by name. Such requests do not count as evidence.",
    "load test": "Requests of a load test do not count as evidence.",
    "not drawn for rehearsal": "This step rehearses only a share of the requests. For more pairs, raise `shadow` or `rehearse`.",
    "queue full": "Rehearsals came faster than the other model could run them. Give it more threads, or rehearse a smaller share.",
    "rehearsal late": "The primary's rehearsal was too slow, so its answer is unknown. The caller had the candidate's answer.",
    "model unavailable": "The other model did not answer, so it was not called. See `understudy status` and its log.",
    "not routed by chance": "`evidence: served` needs a canary step: no variant was drawn by chance for this request.",
    "records lost": "The store was unavailable or slow for too long, so these rows were never stored. See `records_max_rows`.",
    "not read yet": "The judge reads new rows about once a second, but not while the rollout is aborted or finished.",
    "waits for its turn": "Rows stored after one that waits for its label are read in parts.",
    "pruned": "Retention removed these rows before they were settled. Keep rows longer, or send labels sooner.",
    "waiting for its label": "No label has come, and `labels.wait` is not over. Until then the row counts as the worst case.",
    "expired": "No label came within `labels.wait`, so the row counts as the worst case.",
    "late": "The label came after `labels.wait`. Raise `labels.wait`, or send labels sooner.",
    "not in the audit": "`labels.audit` needs the labels of a sample only, and this row is not in it.",
    WAITS_FOR_EARLIER: "Rows count in the order of their requests, and an earlier row still waits for its label.",
    "request already counted": "Rows of one request are not independent, so only the first row of a request counts.",
    "unit already counted": "Requests of one unit are not independent, so a unit counts once a day (`unit` in the rollout file).",
    "no loss for this label": "The goal's loss cannot be computed from this label, so the row counts as the worst case.",
    "no goal asks for it": "The rollout file has no quality goal, so labels are not used.",
    "duplicate": "The same label had been received before.",
    "conflict": "Another label had been received before. The first one counts.",
    "forgotten": "The label waited for its prediction longer than the retention, and was removed.",
    "waits for its prediction": "No prediction with this id is stored yet. Records are stored within about a second.",
    "label matches nothing": "No prediction has this id. Send the `prediction_id` of the response, to the service that gave it.",
    "late, or not read yet": "The label came after its row was settled without it, or the judge has not read the row yet.",
}
_LABELS_ON: Mapping[str, str] = {
    "pinned": "on pinned requests",
    "load test": "of load tests",
    "not drawn for rehearsal": "on rows that were not rehearsed",
    "queue full": "on rows whose rehearsal was dropped",
    "rehearsal late": "on rows whose rehearsal was late",
    "model unavailable": "on rows for which the other model was unavailable",
    "not routed by chance": "on rows that were not routed by chance",
    "late": "came too late",
    "not in the audit": "outside the audit's sample",
    "request already counted": "on further rows of a request that counts already",
    "unit already counted": "on further requests of a unit that counts already",
    "no loss for this label": "of which no loss can be computed",
    "no goal asks for it": "not needed by any goal",
}
_FORMER_REASONS = {"model away": "model unavailable"}
"""Reasons in stored states that have another name now."""


class FunnelState(TypedDict):
    """The stored form of a `Funnel`. A label or row counts under its reason, a row also under its stage: `2/expired`."""

    read: int
    rows: dict[str, int]
    labels: dict[str, int]


class ShownFunnel(FunnelState):
    """The funnel that the judge keeps for display. `complete`: whether every row that was read has a stage, or is pruned."""

    complete: bool


class LostRows(TypedDict):
    """Why rows or labels did not reach the next stage, and what to do."""

    reason: str
    count: int
    hint: str


class FunnelStage(TypedDict):
    """One stage of a funnel in `GET /rollout`."""

    stage: str
    count: int
    lost: list[LostRows]


def place(
    observation: Observation, pair: Pair | None, *, label: bool | None, first: bool, rules: "PlacementRules"
) -> tuple[int, str]:
    """The last stage that a row reached, and the reason why it is not further; an empty reason if it is counted.

    Args:
        pair: the row's value for the quality goal.
        label: whether its label came in time; None if none came.
        first: whether it is the first of its unit.
        rules: what the rollout file asks for, and whether the row is in the settled prefix.
    """
    if observation.mode is not Mode.LIVE:
        return ANSWERED, "pinned" if observation.mode is Mode.PINNED else "load test"
    if lost := _not_asked_of_both(observation, served=rules.served):
        return ANSWERED, lost
    repeated = "request already counted" if observation.prediction_id != observation.request_id else ""
    repeated = repeated or ("" if first else "unit already counted")
    if repeated:
        return (SETTLED if label or not rules.quality else REHEARSED), repeated
    return _of_quality(pair, label, settled=rules.settled) if rules.quality else (COUNTED, "")


def _of_quality(pair: Pair | None, label: bool | None, *, settled: bool) -> tuple[int, str]:
    """Stage and reason of a row that may count for quality."""
    if pair is None or (pair.lost is not None and label):
        return (SETTLED if label else REHEARSED), "no loss for this label"
    if not pair.asked:
        return REHEARSED, "not in the audit"
    if pair.known is not None:
        return (COUNTED, "") if settled else (LABELLED, WAITS_FOR_EARLIER)
    waiting = "expired" if settled else "waiting for its label"
    return REHEARSED, waiting if label is None else "late"


def _not_asked_of_both(observation: Observation, *, served: bool) -> str | None:
    if served:
        tried = observation.attempt(observation.drawn).status in TRIED
        return None if tried and observation.point is not None else "not routed by chance"
    primary, candidate = observation.primary.status, observation.candidate.status
    dropped = primary is Status.DROPPED or candidate is Status.DROPPED
    if observation.sampled:
        if primary is candidate is Status.OK:
            return None
        if not dropped and unknown(observation) is not None:
            return "rehearsal late"
        if primary in TRIED and candidate in TRIED:
            return None
        if not dropped and (primary is Status.DOWN or candidate is Status.DOWN):
            return "model unavailable"
    return "queue full" if dropped else "not drawn for rehearsal"


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """What decides the stage of a row, besides the row itself.

    Attributes:
        quality: whether there is a quality goal that needs labels.
        served: whether quality is judged by served evidence.
        settled: whether the row is in the settled prefix.
    """

    quality: bool
    served: bool
    settled: bool


@dataclass(slots=True)
class Funnel:
    """Rows and labels that the judge has read, by stage and reason.

    Attributes:
        read: number of rows that were read.
        rows: `stage/reason` → number of rows.
        labels: reason → number of labels.
    """

    read: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, stage: int, reason: str, *, label: bool) -> None:
        """Count a row, and its label if it has one."""
        self.rows[f"{stage}/{reason}"] += 1
        if label:
            self.labels[reason] += 1

    def plus(self, other: "Funnel") -> "Funnel":
        """The sum of both."""
        return Funnel(self.read + other.read, self.rows + other.rows, self.labels + other.labels)

    def state(self) -> FunnelState:
        """The stored form, as JSON values."""
        return {"read": self.read, "rows": dict(self.rows), "labels": dict(self.labels)}

    @classmethod
    def of(cls, state: FunnelState) -> "Funnel":
        """Restore a stored state."""
        funnel = cls(state["read"])
        for key, n in state["rows"].items():
            stage, _, reason = key.partition("/")
            funnel.rows[f"{stage}/{_FORMER_REASONS.get(reason, reason)}"] += n
        for reason, n in state["labels"].items():
            funnel.labels[_FORMER_REASONS.get(reason, reason)] += n
        return funnel


def why_unused(labels_: Mapping[str, int], counted: int) -> str:
    """Explains in brackets why only `counted` of the labels that came count; empty if all of them do.

    >>> why_unused({"": 240, "request already counted": 11_760}, 240)
    ' (12,000 labels came; 11,760 of them on further rows of a request that counts already)'
    """
    came = sum(labels_.values())
    used = {"", WAITS_FOR_EARLIER}  # a step's labels include those that wait for an earlier row's label
    parts = [(n, _LABELS_ON.get(reason, reason)) for reason, n in labels_.items() if n and reason not in used]
    if (before := came - sum(n for n, _ in parts) - counted) > 0:
        parts.append((before, "counted before this step"))
    if came <= counted or not parts:
        return ""
    words = ", ".join(f"{n:,} of them {where}" for n, where in sorted(parts, reverse=True))
    return f" ({came:,} labels came; {words})"


def rows(shown: ShownFunnel | None, counters: Mapping[str, float]) -> list[FunnelStage]:
    """The funnel of rows in `GET /rollout`.

    Args:
        shown: the funnel that the judge kept.
        counters: the store's counters, read after `shown`.
    """
    funnel = Funnel.of(shown) if shown else Funnel()
    never_stored = int(counters.get(GIVEN_UP, 0))
    stored = max(int(sum(n for name, n in counters.items() if name.startswith("rows/"))), funnel.read)
    lost: list[Counter[str]] = [Counter() for _ in STAGES]
    for key, n in funnel.rows.items():
        stage, _, reason = key.partition("/")
        lost[int(stage)][reason] += n
    lost[COUNTED].clear()  # the last stage
    behind = funnel.read - sum(funnel.rows.values())
    lost[ANSWERED] += Counter(
        {
            "records lost": never_stored,
            "not read yet": stored - funnel.read,
            "pruned" if shown and shown.get("complete") else "waits for its turn": behind,
        }
    )
    return _stages(STAGES, stored + never_stored, lost)


def labels(shown: ShownFunnel | None, counters: Mapping[str, float], waiting: int, stray: int) -> list[FunnelStage]:
    """The funnel of labels: received → matched to a prediction → counted.

    Args:
        waiting: number of labels that wait for their prediction.
        stray: those of them that have waited too long.
    """
    funnel = Funnel.of(shown) if shown else Funnel()
    fates = {name.removeprefix(FATES): int(n) for name, n in counters.items() if name.startswith(FATES)}
    forgotten = fates.pop("pending", 0) - fates.pop("joined", 0) - waiting
    matched = max(int(counters.get("labels/matched", 0) + counters.get("labels/load", 0)), sum(funnel.labels.values()))
    fates.pop("matched", None)
    lost = Counter(fates) + Counter(
        {"forgotten": forgotten, "label matches nothing": stray, "waits for its prediction": waiting - stray}
    )
    unused = Counter({reason: n for reason, n in funnel.labels.items() if reason})
    unused["late, or not read yet"] = matched - sum(funnel.labels.values())
    received = matched + sum(lost.values())
    return _stages(("received", "matched", "counted"), received, [lost, unused, Counter()])


def _stages(names: tuple[str, ...], first: int, lost: list[Counter[str]]) -> list[FunnelStage]:
    count, stages = first, list[FunnelStage]()
    for name, reasons in zip(names, lost, strict=True):
        rows = [LostRows(reason=r, count=n, hint=HINTS.get(r, "")) for r, n in reasons.most_common() if n]
        stages.append(FunnelStage(stage=name, count=count, lost=rows))
        count -= sum(reasons.values())
    return stages
