"""What the pairs add up to: observations in the order in which they were stored, folded into sequential tests. Pure.

Theory of operation
-------------------
Two passes over the same stream, each with a cursor of its own:

* **seen**: every observation at once, for what needs no label: failures and latency.
* **settled**: the quality comparison, in request order, only as far as every pair is settled. A pair is settled when its label has
  come within the policy's `wait`, or when the wait is over: then it counts as the worst that it could have been for the candidate.
  So bad news that comes late cannot be overtaken by good news that comes early, whatever the delays. What is folded
  depends on the labels alone, not on when somebody looked.

Behind the settled prefix lies the **tail**, read anew each time and not folded: its known pairs as they are, its pending ones
as the worst case (for advancing) or the best case (for harm); the two are one where no label could change the difference, as
where both models agree under 0/1 loss. The result bounds the e-value of the whole data from below,
so it may be looked at without spending error budget. `count: on_arrival` counts labelled pairs alone, and is right only where
delay and absence of a label say nothing about the outcome.

What counts: live requests, the first row of a request, and the first request of a unit in a window of `UNIT_WINDOW_S`. An
answer that failed, timed out or was not finite is a loss of 1, never left out. While the candidate's process is away it is
not asked: a failure for the errors goal, and nothing for quality. A rehearsal that was dropped or not sampled is no pair: the
drop does not depend on the answer. Time is the observations' own; nothing here reads a clock.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service import losses
from service.domain import Answer, Label, LabelReport, Mode, Observation, Status, Variant
from service.rollout.policy import Policy
from service.rollout.sequential import MeanEvidence, PairedGoal, RateEvidence

UNIT_WINDOW_S = 86_400.0
UNITS_MAX = 200_000
"""Units remembered per window; beyond that a request counts as a repeat, which does not depend on its outcome."""
BLOCK_ROWS = 256
TAIL_CUTS = 16
_TRIED = frozenset({Status.OK, Status.FAILED, Status.TIMEOUT, Status.INVALID})
_OWED = _TRIED | {Status.DOWN}  # an answer was owed, whether or not the process was there to be asked

Row = tuple[int, Observation, LabelReport | None]


@dataclass(frozen=True, slots=True)
class Model:
    """What scoring needs of a model's card."""

    classes: Sequence[int | str]
    positive: int | str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric as it stands.

    Attributes:
        estimate: candidate minus primary, or the rate; `low` and `high` its band at half the error budget on each side.
        n: pairs (or requests) counted; `pending`: pairs that wait for a label.
        log_e_advance: evidence that the goal is met; None where this metric does not gate promotion.
        log_e_harm: evidence of harm; None where this metric cannot roll back.
        labelled: pairs whose label is known.
        gap: how far the estimate is on the right side of the margin; variance: of one value. For the forecast.
    """

    metric: str
    estimate: float
    low: float
    high: float
    n: int
    pending: int
    line: float
    log_e_advance: float | None
    log_e_harm: float | None
    gap: float = 0.0
    variance: float = 0.0
    labelled: int = 0


class Firsts:
    """Which requests are the first of their unit in their window; remembers the current window and the one before."""

    def __init__(self) -> None:
        self._windows: dict[int, set[str]] = {}

    def first(self, unit: str | None, at: float) -> bool:
        """Whether this request counts. Without a unit every request does."""
        if unit is None:
            return True
        window = int(at // UNIT_WINDOW_S)
        seen = self._windows.setdefault(window, set())
        if unit in seen or len(seen) >= UNITS_MAX:
            return False
        seen.add(unit)
        for old in [w for w in self._windows if w < window - 1]:
            del self._windows[old]
        return True

    def state(self) -> dict[str, list[str]]:
        """As JSON."""
        return {str(window): sorted(units) for window, units in self._windows.items()}

    def take(self, state: Mapping[str, Sequence[str]]) -> None:
        """Take over a stored state."""
        self._windows = {int(window): set(units) for window, units in state.items()}


@dataclass(slots=True)
class Coverage:
    """How many labels of the settled pairs came, and on which side of a disagreement."""

    settled: int = 0
    labelled: int = 0
    only_candidate: int = 0  # only the candidate says "positive"
    only_candidate_labelled: int = 0
    only_primary: int = 0
    only_primary_labelled: int = 0

    def add(self, observation: Observation, labelled: bool, positive: int | str | None) -> None:
        """Count one settled pair."""
        self.settled += 1
        self.labelled += labelled
        says = (observation.primary.label == positive, observation.candidate.label == positive)
        if says == (False, True):
            self.only_candidate += 1
            self.only_candidate_labelled += labelled
        elif says == (True, False):
            self.only_primary += 1
            self.only_primary_labelled += labelled

    @property
    def share(self) -> float | None:
        """Labelled among settled."""
        return self.labelled / self.settled if self.settled else None

    def as_dict(self) -> dict[str, int]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class _Pair:
    known: float | None
    worst: float
    best: float


@dataclass(slots=True)
class Tail:
    """The pairs behind the settled prefix, in request order: what each may be at worst and at best (equal where it is known)."""

    worst: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    known: int = 0
    pending: int = 0
    last: int = 0


class Evidence:
    """The fold. `see` and `settle` take rows in the order of their sequence numbers, each row once."""

    def __init__(self, policy: Policy, models: Mapping[Variant, Model]) -> None:
        self.policy, self._models = policy, models
        goals = policy.goals
        self.quality = PairedGoal(goals.quality.margin, goals.quality.harm_line) if goals.quality else None
        self.errors = PairedGoal(goals.errors.margin, goals.errors.margin) if goals.errors else None
        self.latency = RateEvidence()
        self.poc = MeanEvidence(0.0, 1.0, 0.5)
        self._on_arrival = policy.labels.count == "on_arrival"
        self.coverage = Coverage()
        self.seen = self.settled = 0
        self.marks: list[tuple[int, int, int]] = []  # where each step began: step, seen, settled
        self.chain = ""  # digest of all settled rows so far
        self.blocks: list[tuple[int, str]] = []  # the chain at every `BLOCK_ROWS`th settled row: seq, digest
        self.missing: list[tuple[int, int]] = []  # first and last of the rows that were settled without their label
        self._in_block = 0
        self.step = 0
        self.watermark = self.started_at = 0.0
        self._firsts_seen, self._firsts_settled = Firsts(), Firsts()

    def begin_step(self, step: int) -> None:
        """The plan is at this step: advancing from it needs evidence of its own. Saying it twice changes nothing."""
        if step != self.step:
            self.step = step
            self.marks.append((step, self.seen, self.settled))
            for goal in (self.quality, self.errors):
                if goal is not None:
                    goal.begin_step()

    def see(self, rows: Iterable[Row]) -> None:
        """Fold what needs no label."""
        for seq, observation, _ in rows:
            self.seen = seq
            self.watermark = max(self.watermark, observation.at)
            self.started_at = self.started_at or observation.at
            candidate, primary = observation.candidate, observation.primary
            if not self._counts(observation, self._firsts_seen):
                continue
            if self.errors is not None:
                self.errors.update(float(candidate.status is not Status.OK) - float(primary.status is not Status.OK))
            if candidate.status in _TRIED:
                # What gave no answer was not fast, however soon it failed.
                slow = candidate.seconds * 1000 > self.policy.goals.latency.p99_ms
                self.latency.update(candidate.status is not Status.OK or slow)

    def settle(self, rows: Iterable[Row]) -> int:
        """Fold the prefix of `rows` that is settled; returns how many rows that was."""
        taken = 0
        for seq, observation, report in rows:
            pair = self._pair(observation, report) if self._is_pair(observation) else None
            if pair is not None:
                if pair.known is None:
                    if not self._expired(observation):
                        break
                    self._miss(seq)
                if self._firsts_settled.first(observation.unit, observation.at):
                    self._fold(observation, report, pair)
            self.settled = seq
            taken += 1
            self._link(seq, observation, report.label if report and pair and pair.known is not None else None)
        return taken

    def _miss(self, seq: int) -> None:
        """Remember that a row was settled without its label, should the label be stored after all."""
        joins = bool(self.missing) and self.missing[-1][1] == self.settled
        first = self.missing.pop()[0] if joins else seq
        self.missing.append((first, seq))

    def _link(self, seq: int, observation: Observation, label: Label | None) -> None:
        """Chain a settled row, so that a row which is changed later can be found."""
        o = observation
        parts = (self.chain, seq, o.prediction_id, o.request_id, o.at, o.unit, o.mode.value, label)
        text = "|".join([*map(repr, parts), _told(o.primary), _told(o.candidate)])
        self.chain = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self._in_block += 1
        if self._in_block == BLOCK_ROWS:
            self.blocks.append((seq, self.chain))
            self._in_block = 0

    def tail(self, rows: Iterable[Row]) -> Tail:
        """What lies behind the prefix; changes nothing."""
        tail, firsts = Tail(last=self.settled), Firsts()
        firsts.take(self._firsts_settled.state())
        for seq, observation, report in rows:
            tail.last = seq
            pair = self._pair(observation, report)
            if pair is None or not self._is_pair(observation) or not firsts.first(observation.unit, observation.at):
                continue
            if pair.known is None:
                tail.pending += 1
                if self._on_arrival:
                    continue
            else:
                tail.known += 1
            tail.worst.append(pair.worst)
            tail.best.append(pair.best)
        return tail

    def readings(self, tail: Tail) -> list[Reading]:
        """Every metric as it stands."""
        found = []
        alpha = self.policy.goals.error_budget / 2
        if self.quality is not None:
            found.append(self._quality(self.quality, tail, alpha))
        if self.errors is not None:
            whole = self.errors.whole
            low, high = whole.band(alpha)
            margin = self.policy.goals.errors.margin if self.policy.goals.errors else 0.0
            found.append(
                Reading("errors", whole.mean if whole.n else 0.0, low, high, whole.n, 0, margin, whole.log_e_below(margin),
                        self.errors.log_e_harm(), margin - (whole.mean if whole.n else 0.0), whole.variance if whole.n else 0.0)
            )  # fmt: skip
        low, high = self.latency.band(alpha)
        rate = self.latency.mean if self.latency.n else 0.0
        found.append(
            Reading("latency", rate, low, high, self.latency.n, 0, 0.01, self.latency.log_e_below(0.01),
                    self.latency.log_e_above(0.01), 0.01 - rate, rate * (1 - rate))
        )  # fmt: skip
        quality = self.policy.goals.quality
        if quality is not None and quality.poc_target is not None and self.poc.n:
            low, high = self.poc.band(alpha)
            found.append(Reading("poc_target", self.poc.mean, low, high, self.poc.n, 0, quality.poc_target, None, None))
        return found

    def _quality(self, goal: PairedGoal, tail: Tail, alpha: float) -> Reading:
        quality = self.policy.goals.quality
        assert quality is not None
        log_e, whole = max(_views(goal, tail.worst, quality.margin), key=lambda view: view[0])
        harm, peak = goal.harm_peak(tail.best)
        if harm > max(log_e, 0.0):
            whole = _extended(goal.whole, tail.best[:peak])  # what speaks for a rollback is what is shown then
        low, high = whole.band(alpha)
        mean, variance = (whole.mean, whole.variance) if whole.n else (0.0, 0.0)
        return Reading(
            quality.loss, mean, low, high, whole.n, tail.pending, quality.margin, log_e, harm,
            quality.margin - mean, variance, self.coverage.labelled + tail.known,
        )  # fmt: skip

    def _fold(self, observation: Observation, report: LabelReport | None, pair: _Pair) -> None:
        in_time = pair.known is not None and report is not None
        if self.quality is not None and (in_time or not self._on_arrival):
            # What never came speaks against an advance as the worst, and for a rollback as the best, that it could be.
            self.quality.update(pair.worst, least=pair.best)
        if in_time and report is not None:
            loss = self._loss(observation.primary, Variant.PRIMARY, report.label)
            if loss is not None:
                self.poc.update(loss)
        self.coverage.add(observation, in_time, self._models[Variant.PRIMARY].positive)

    def _counts(self, observation: Observation, firsts: Firsts) -> bool:
        return self._is_pair(observation, _OWED) and firsts.first(observation.unit, observation.at)

    def _is_pair(self, observation: Observation, tried: frozenset[Status] = _TRIED) -> bool:
        return (
            observation.mode is Mode.LIVE
            and observation.prediction_id == observation.request_id
            and observation.candidate.status in tried
            and observation.primary.status in _TRIED
        )

    def _expired(self, observation: Observation) -> bool:
        return self.watermark > observation.at + self.policy.labels.wait

    def _pair(self, observation: Observation, report: LabelReport | None) -> _Pair | None:
        """The difference of the losses, or its bounds while the label is not there."""
        if self.quality is None:
            return None
        if report is not None and report.at - observation.at <= self.policy.labels.wait:
            known = self._difference(observation, report.label)
            return None if known is None else _Pair(known, known, known)
        classes = self._models[Variant.PRIMARY].classes
        values = [d for label in classes if (d := self._difference(observation, label)) is not None]
        return _Pair(None, max(values), min(values)) if values else _Pair(None, 1.0, -1.0)

    def _difference(self, observation: Observation, label: Label) -> float | None:
        candidate = self._loss(observation.candidate, Variant.CANDIDATE, label)
        primary = self._loss(observation.primary, Variant.PRIMARY, label)
        return None if candidate is None or primary is None else candidate - primary

    def _loss(self, answer: Answer, variant: Variant, label: Label) -> float | None:
        """The bounded loss of one answer; 1 for an attempt that gave none."""
        quality = self.policy.goals.quality
        assert quality is not None
        if answer.status is not Status.OK:
            return 1.0
        model = self._models[variant]
        found = losses.losses(answer, label, model.classes, model.positive).get(quality.loss)
        # At most 1, also where a model's probabilities are not: logits, or a sum that rounding put above 1.
        return None if found is None else min(1.0, losses.bounded(quality.loss, found, quality.clip))

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "quality": self.quality.state() if self.quality else None,
            "errors": self.errors.state() if self.errors else None,
            "latency": self.latency.state(), "poc": self.poc.state(), "coverage": self.coverage.as_dict(),
            "marks": self.marks, "chain": self.chain, "blocks": self.blocks, "in_block": self._in_block, "missing": self.missing,
            "seen": self.seen, "settled": self.settled, "step": self.step, "watermark": self.watermark,
            "started_at": self.started_at, "firsts_seen": self._firsts_seen.state(), "firsts_settled": self._firsts_settled.state(),
        }  # fmt: skip

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state.

        Raises:
            ValueError: when it was made with other margins or bounds.
        """
        self.quality = self.quality.resume(state["quality"]) if self.quality else None
        self.errors = self.errors.resume(state["errors"]) if self.errors else None
        self.latency, self.poc = self.latency.resume(state["latency"]), self.poc.resume(state["poc"])
        self.coverage = Coverage(**state["coverage"])
        self.seen, self.settled, self.step = state["seen"], state["settled"], state["step"]
        self.watermark, self.started_at = state["watermark"], state["started_at"]
        self.marks = [tuple(mark) for mark in state["marks"]]
        self.blocks = [tuple(block) for block in state["blocks"]]
        self.missing = [tuple(rows) for rows in state["missing"]]
        self.chain, self._in_block = state["chain"], state["in_block"]
        self._firsts_seen.take(state["firsts_seen"])
        self._firsts_settled.take(state["firsts_settled"])


def _told(answer: Answer) -> str:
    return f"{answer.status.value},{answer.label!r},{answer.score!r},{answer.probabilities!r},{answer.seconds!r}"


def _views(goal: PairedGoal, worst: Sequence[float], margin: float) -> Iterator[tuple[float, MeanEvidence]]:
    """The evidence for an advance at some cuts through the tail, nearest first: any prefix may decide, at no extra risk."""
    whole, step, start = goal.whole, goal.step, 0
    for cut in sorted({round(len(worst) * part / TAIL_CUTS) for part in range(TAIL_CUTS + 1)}):
        whole, step, start = _extended(whole, worst[start:cut]), _extended(step, worst[start:cut]), cut
        yield min(whole.log_e_below(margin), step.log_e_below(margin)), whole


def _extended(evidence: MeanEvidence, values: Iterable[float]) -> MeanEvidence:
    """A copy of some evidence with more values in it."""
    copy = MeanEvidence.from_state(evidence.state())
    for value in values:
        copy.update(value)
    return copy
