"""The funnel: where every prediction row and every label is, or under which reason it was lost. Pure.

The unit is a prediction row. A row passes the stages in order; `Funnel` places each row that the judge has read in the last
stage that it reached, with the reason why it is not further. `rows` and `labels` add what the judge never read. Sums
are exact: the count of a stage is the count of the next one plus what was lost in between (waiting is a reason too).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.domain import GIVEN_UP, Mode, Observation, Status
from understudy.rollout.scoring import TRIED, Pair, unknown

STAGES = ("answered", "rehearsed", "labelled", "settled", "counted")
ANSWERED, REHEARSED, LABELLED, SETTLED, COUNTED = range(5)

FATES = "label_fates/"
"""Counters of the store: labels by what became of them when they came (`domain.Fate`), and those that waited and `joined`."""
WAITS_FOR_EARLIER = "waits for an earlier label"

HINTS: Mapping[str, str] = {
    "pinned": "The caller chose the model by name: such requests are no evidence.",
    "load test": "Requests of a load test are no evidence.",
    "not drawn for rehearsal": "The step rehearses a share of the requests: raise `shadow` or `rehearse` for more pairs.",
    "queue full": "The other model could not keep up with its rehearsals: give it more threads, or rehearse a smaller share.",
    "rehearsal late": "The primary was too slow in the background, so its answer is unknown; its caller had the candidate's.",
    "model away": "The other model was known to be away, so it was not asked: see `understudy status` and its log.",
    "not routed by chance": "Evidence by what was served needs a canary step: nobody was drawn for this request.",
    "records given up": "The store was away or too slow for so long that these rows were never stored: see `records_max_rows`.",
    "not read yet": "The judge reads new rows about once a second, and none while the rollout is aborted or over.",
    "waits for its turn": "The judge reads rows behind those that wait for their label a part at a time.",
    "pruned": "Retention removed these rows before they were settled: keep rows longer, or send labels sooner.",
    "waiting for its label": "No label has come, and `labels.wait` is not over: until then the row counts at its worst.",
    "expired": "No label came within `labels.wait`: the row counts as the worst that it could have been.",
    "late": "The label came after `labels.wait` was over: raise `labels.wait`, or send labels sooner.",
    "not in the audit": "`labels.audit` asks for the labels of a sample alone: no label of this row is needed.",
    WAITS_FOR_EARLIER: "Rows are counted in the order of their requests: an earlier row still waits for its label.",
    "request already counted": "Rows of one request are not independent, so a request counts once, by its first row.",
    "unit already counted": "Requests of one unit are not independent, so a unit counts once a day (`unit` in the rollout file).",
    "no loss for this label": "No loss can be computed from this label and these answers: the row counts at its worst.",
    "no goal asks for it": "The rollout file has no quality goal, so labels are not used.",
    "duplicate": "The same label was known already.",
    "conflict": "Another label is known already: the first one stands.",
    "forgotten": "The label waited for its prediction longer than rows are kept.",
    "waits for its prediction": "No prediction of this id is stored yet; records are stored within about a second.",
    "label matches nothing": "No prediction has this id: send `prediction_id` back as it was answered, and to this service.",
    "late, or not read yet": "The label came after its row was settled without it, or its row is not read yet (see above).",
}
_LABELS_ON: Mapping[str, str] = {
    "pinned": "on pinned requests",
    "load test": "of load tests",
    "not drawn for rehearsal": "on rows that were not rehearsed",
    "queue full": "on rows whose rehearsal was dropped",
    "rehearsal late": "on rows whose rehearsal was late",
    "model away": "on rows for which the other model was away",
    "not routed by chance": "on rows that were not routed by chance",
    "late": "came too late",
    "not in the audit": "outside of the audit's sample",
    "request already counted": "on further rows of a request that counts already",
    "unit already counted": "on further requests of a unit that counts already",
    "no loss for this label": "give no loss",
    "no goal asks for it": "not asked for by any goal",
}


def place(
    observation: Observation, pair: Pair | None, *, label: bool | None, first: bool, how: "How"
) -> tuple[int, str]:
    """The last stage that a row reached, and why it is not further; empty where it is counted.

    Args:
        pair: what the row says about quality. first: whether it is the first of its unit.
        label: whether its label came in time; None where none came.
        how: what the rollout file asks for, and whether the row lies in the settled prefix.
    """
    if observation.mode is not Mode.LIVE:
        return ANSWERED, "pinned" if observation.mode is Mode.PINNED else "load test"
    if lost := _not_asked_of_both(observation, served=how.served):
        return ANSWERED, lost
    repeated = "request already counted" if observation.prediction_id != observation.request_id else ""
    repeated = repeated or ("" if first else "unit already counted")
    if repeated:
        return (SETTLED if label or not how.quality else REHEARSED), repeated
    return _of_quality(pair, label, settled=how.settled) if how.quality else (COUNTED, "")


def _of_quality(pair: Pair | None, label: bool | None, *, settled: bool) -> tuple[int, str]:
    """Where a row is that may count for quality."""
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
    if observation.sampled and observation.primary.status is observation.candidate.status is Status.OK:
        return None
    if unknown(observation) is not None and Status.DROPPED not in (
        observation.primary.status,
        observation.candidate.status,
    ):
        return "rehearsal late"
    statuses = {observation.primary.status, observation.candidate.status}
    if statuses <= TRIED and observation.sampled:
        return None
    if Status.DROPPED in statuses:
        return "queue full"
    return "model away" if Status.DOWN in statuses and observation.sampled else "not drawn for rehearsal"


@dataclass(frozen=True, slots=True)
class How:
    """How rows are placed.

    Attributes:
        quality: whether a goal asks for quality; served: whether it is judged by what was served.
        settled: whether the row lies in the settled prefix.
    """

    quality: bool
    served: bool
    settled: bool


@dataclass(slots=True)
class Funnel:
    """Rows and labels that the judge has read, by stage and reason.

    Attributes:
        read: rows that were read. rows: `stage/reason` → rows that were placed. labels: reason → their labels.
    """

    read: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, stage: int, reason: str, *, label: bool) -> None:
        """Count a row, and its label where it has one."""
        self.rows[f"{stage}/{reason}"] += 1
        if label:
            self.labels[reason] += 1

    def plus(self, other: "Funnel") -> "Funnel":
        """Both together."""
        return Funnel(self.read + other.read, self.rows + other.rows, self.labels + other.labels)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"read": self.read, "rows": dict(self.rows), "labels": dict(self.labels)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Funnel":
        """From a stored state."""
        return cls(state["read"], Counter(state["rows"]), Counter(state["labels"]))


def why_unused(labels_: Mapping[str, int], counted: int) -> str:
    """Why more labels came than `counted` of them count, in brackets and in words; empty where all of them do.

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


def rows(shown: Mapping[str, Any] | None, counters: Mapping[str, float]) -> list[dict[str, Any]]:
    """The funnel of rows, as `GET /rollout` has it.

    Args:
        shown: the `Funnel` that the judge kept, with `complete`: whether every row that was read is placed, or is gone.
        counters: the store's, read after `shown`.
    """
    funnel = Funnel.of(shown) if shown else Funnel()
    given_up = int(counters.get(GIVEN_UP, 0))
    stored = max(int(sum(n for name, n in counters.items() if name.startswith("rows/"))), funnel.read)
    lost: list[Counter[str]] = [Counter() for _ in STAGES]
    for key, n in funnel.rows.items():
        stage, _, reason = key.partition("/")
        lost[int(stage)][reason] += n
    lost[COUNTED].clear()  # nothing is lost behind it
    behind = funnel.read - sum(funnel.rows.values())
    lost[ANSWERED] += Counter(
        {
            "records given up": given_up,
            "not read yet": stored - funnel.read,
            "pruned" if shown and shown.get("complete") else "waits for its turn": behind,
        }
    )
    return _stages(STAGES, stored + given_up, lost)


def labels(
    shown: Mapping[str, Any] | None, counters: Mapping[str, float], waiting: int, stray: int
) -> list[dict[str, Any]]:
    """The funnel of labels: received → matched to a prediction → counted.

    Args:
        waiting: labels that wait for their prediction; stray: those of them that have waited for too long.
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


def _stages(names: tuple[str, ...], first: int, lost: list[Counter[str]]) -> list[dict[str, Any]]:
    count, found = first, []
    for name, reasons in zip(names, lost, strict=True):
        said = [{"reason": r, "count": n, "hint": HINTS.get(r, "")} for r, n in reasons.most_common() if n]
        found.append({"stage": name, "count": count, "lost": said})
        count -= sum(reasons.values())
    return found
