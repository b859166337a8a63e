"""Evidence: observations, in the order in which they were stored, folded into sequential tests. Pure.

Theory of operation
-------------------
There are two passes over the same stream, each with its own cursor:

* **seen**: every observation at once, for evidence that needs no label: failures, latency, and how requests were split.
* **settled**: the quality comparison, in request order, only as far as every pair is settled. A pair is settled when its label has
  come within the policy's `wait`, or when the wait is over: then it counts as the worst case for the candidate. So a late bad
  label cannot be overtaken by an early good one, whatever the delays. The result depends on the labels alone, not on the
  moments at which the judge looked.

The rows after the settled prefix are the **tail**. It is read anew each time and not folded. Known pairs count with their value,
pending ones as the worst case (for an advance) or the best case (for harm). Both are equal if no label could change the
difference, for example if both models agree under 0/1 loss. The result is a lower bound of the e-value of the complete data,
so looking at it costs no error budget. `count: on_arrival` counts labelled pairs alone. That is valid only if neither the
delay nor the absence of a label depends on the outcome.

What counts: live requests that the draw for rehearsals chose, the first row of each, and the first request of a unit in its
window (`unit_dedup`). An answer that failed, timed out or was not finite has the largest loss and is never left out; one whose
rehearsal was dropped counts as the worst case (`drops`). If a request failed because of another of its rows (`withheld`), the
row keeps its own loss, and the request is a failure for the errors goal. While the candidate's process is unavailable it is not
called: that is a failure for the errors goal and does not count for quality. Failures with one cause count once for harm
(`incidents`). A row belongs to the step and the trial of the plan that routed it. Time is the time of the observations, each on
its time base (`timebase`), but incidents use the service's clock; nothing here reads a clock. A step has lasted as long as the
base that has advanced furthest.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from understudy.domain import LabelReport, Mode, Observation, Variant
from understudy.rollout.attempts import AttemptEvidence
from understudy.rollout.digest_chain import DigestChain
from understudy.rollout.drops import Drops
from understudy.rollout.evidence_state import VERSION, EvidenceState
from understudy.rollout.funnel import Funnel, PlacementRules, place
from understudy.rollout.policy import Policy
from understudy.rollout.reading import Clipped, Coverage, MetricReading, Standing
from understudy.rollout.scoring import AWAY, DROPPED, NO_LOSS, OWED, Model, Pair, Scorer, is_pair, largest_pair, unknown
from understudy.rollout.sequential import MeanEvidence, PairedGoal
from understudy.rollout.serving_evidence import ServedEvidence
from understudy.rollout.tail import Tail, views
from understudy.rollout.timebase import TimeBases
from understudy.rollout.unit_dedup import FirstRequests

WANTED_MAX = 1_000
"""Number of predictions of an audit that are listed as waiting for their label."""

EvidenceRow: TypeAlias = tuple[int, Observation, LabelReport | None]
"""Sequence number, observation and label of a stored row."""


class Evidence:
    """The evidence of a rollout. `see` and `settle` take rows in the order of their sequence numbers, each row once."""

    def __init__(self, policy: Policy, models: Mapping[Variant, Model]) -> None:
        self.policy = policy
        self._scorer = Scorer(policy, models)
        goals = policy.goals
        self._paired = goals.quality is not None and goals.quality.evidence == "paired"
        self._cuts = goals.quality is not None and goals.quality.scale.clip is not None
        self.quality = _paired_goal(policy) if self._paired else None
        self.attempts = AttemptEvidence(policy)
        self._drops = Drops(goals.quality.scale.bounded(goals.quality.margin) if goals.quality else 0.0)
        self.served = ServedEvidence(policy)
        self.poc = MeanEvidence(0.0, 1.0, 0.5)
        self._on_arrival = policy.labels.count == "on_arrival"
        self.coverage, self.clipped = Coverage(), Clipped()
        self.funnel = Funnel()
        # A rollout that is judged by agreement needs no labels.
        labelled = goals.quality is not None and goals.quality.scale.loss.labelled
        served = goals.quality is not None and not self._paired
        self._rules = {settled: PlacementRules(labelled, served, settled) for settled in (False, True)}
        self.no_loss = 0  # labels from which the loss cannot be computed
        self.seen = self.settled = 0
        # Where each step began: step, plan's revision, seen, settled, trial.
        self.marks: list[tuple[int, int, int, int, int]] = []
        self.chain = DigestChain()  # of all settled rows
        self.missing: list[tuple[int, int]] = []  # first and last sequence number of rows settled without a label
        self.step = self.revision = 0
        self.trial, self.trial_revision = 1, 0
        self.step_requests = self.step_labels = self.labels = 0
        self.latest_at = 0.0  # time of the last request seen, on its own time base
        self.bases, self._bases_settled = TimeBases(policy.labels.wait), TimeBases(policy.labels.wait)
        self._step_from: dict[str | None, float] = {}  # how far each time base had advanced when the step began
        self.promoted: int | None = None  # the revision of the plan that promoted the candidate
        self._baking: dict[str | None, float] = {}  # how far each base had advanced at its first request of this plan
        self._firsts_seen, self._firsts_settled = FirstRequests(), FirstRequests()

    def begin_step(self, step: int, revision: int, trial: int = 1) -> None:
        """Start new evidence for a step: an advance needs evidence from rows that the plan with this revision routed.

        In a new trial the evidence for harm also starts again, with those rows. Calling it again changes nothing.
        """
        if trial != self.trial:
            self._begin_trial(trial, revision)
        elif step == self.step:
            return
        self._begin_step(step, revision)

    def _begin_trial(self, trial: int, revision: int) -> None:
        self.trial, self.trial_revision = trial, revision
        if self.quality is not None:
            self.quality.begin_trial()
        self.attempts.begin_trial()
        self.served.begin_trial()

    def _begin_step(self, step: int, revision: int) -> None:
        self.step, self.revision = step, revision
        self.marks.append((step, revision, self.seen, self.settled, self.trial))
        self.step_requests = self.step_labels = 0
        self._step_from = self.bases.totals()
        if self.quality is not None:
            self.quality.begin_step()
        self.attempts.begin_step()
        self._drops.begin_step()
        self.served.begin_step()

    def stand(self, promoted: int | None) -> None:
        """Set the revision of the plan that promoted the candidate; None before a promotion, or after it was undone."""
        if promoted != self.promoted:
            self.promoted, self._baking = promoted, {}

    def baked(self, bake: float) -> bool:
        """Whether requests have come for `bake` seconds since the promotion, on each time base that had any and is not over."""
        totals, any_baked = self.bases.totals(), False
        for base, since in self._baking.items():
            if totals.get(base, since) - since >= bake:
                any_baked = True
            elif not self.bases.over(base):
                return False
        return any_baked

    def see(self, rows: Iterable[EvidenceRow]) -> None:
        """Count what needs no label."""
        for seq, observation, _ in rows:
            self.seen = seq
            self.funnel.read += 1
            if observation.mode is not Mode.LIVE:
                continue  # pinned requests and load tests do not count, nor does their time
            self.latest_at = observation.at
            self.bases.move(observation)
            if self.promoted is not None and observation.revision >= self.promoted:
                self._baking.setdefault(observation.replay, self.bases.total(observation.replay))
            in_step = observation.revision >= self.revision
            in_trial = observation.revision >= self.trial_revision
            harm = self.attempts.incidents.see(observation, self.bases.clock.total) and in_trial
            if observation.point is not None:
                self.served.see(observation, self.bases.time_of(observation), in_step=in_step, harm=harm)
            whose, paired = unknown(observation), is_pair(observation, OWED)
            if paired and in_trial and self.attempts.requests is not None:
                self.attempts.requests.see(observation, self.bases.clock.total)
            if (paired or whose) and self._firsts_seen.first(observation.unit, observation.at, observation.replay):
                self.step_requests += paired and in_step
                self.attempts.see(observation, whose, in_step=in_step, harm=harm)

    def settle(self, rows: Iterable[EvidenceRow]) -> int:
        """Count the prefix of `rows` that is settled; returns its length."""
        taken = 0
        for seq, observation, report in rows:
            arrived = self._bases_settled.move(observation) if observation.mode is Mode.LIVE else 0.0
            pair = self._scorer.pair(observation, report)
            first = True
            if pair is not None:
                if pair.waits:
                    if not self.bases.waited(observation, arrived):
                        break
                    self._miss(seq)
                first = pair.kind == AWAY or self._firsts_settled.first(
                    observation.unit, observation.at, observation.replay
                )
                if first:
                    self._fold(observation, report, pair)
            self._place(self.funnel, (observation, report, pair), first=first, settled=True)
            self.settled = seq
            taken += 1
            came = report is not None and pair is not None and pair.asked and (pair.labelled or pair.lost)
            self.chain.add(seq, observation, report.label if report is not None and came else None)
        return taken

    def _miss(self, seq: int) -> None:
        """Remember that a row was settled without a label, in case the label is stored later."""
        joins = bool(self.missing) and self.missing[-1][1] == self.settled
        first = self.missing.pop()[0] if joins else seq
        self.missing.append((first, seq))

    def tail(self, rows: Iterable[EvidenceRow]) -> Tail:
        """The pairs after the settled prefix. Changes nothing here."""
        tail, firsts = Tail(last=self.settled), self._firsts_settled.copy()
        drops = self._drops.copy()
        for seq, observation, report in rows:
            tail.last = seq
            pair = self._scorer.pair(observation, report)
            first = (
                pair is None or pair.kind == AWAY or firsts.first(observation.unit, observation.at, observation.replay)
            )
            self._place(tail.funnel, (observation, report, pair), first=first, settled=False)
            if pair is None or pair.kind == AWAY or not first:
                continue
            in_step = observation.revision >= self.revision
            if not drops.counts(dropped=pair.kind == DROPPED, in_step=in_step):
                continue
            if pair.lost is not None:
                tail.no_loss += pair.lost == NO_LOSS
                if self._on_arrival:
                    continue
            elif pair.known is None:
                tail.pending += 1
                if self.policy.labels.audit is not None and len(tail.wanted) < WANTED_MAX:
                    tail.wanted.append(observation.prediction_id)
                if self._on_arrival:
                    continue
            if pair.labelled:
                tail.clipped.add(self._measured(observation), pair.clipped)
            tail.labelled += pair.labelled
            tail.labelled_in_step += pair.labelled and in_step
            tail.worst.append(pair.worst)
            tail.best.append(pair.best)
            tail.in_step.append(in_step)
            counts = observation.revision >= self.trial_revision and pair.kind != DROPPED
            tail.harm.append(pair.best if counts else None)
        return tail

    def _place(
        self, funnel: Funnel, row: tuple[Observation, LabelReport | None, Pair | None], *, first: bool, settled: bool
    ) -> None:
        observation, report, pair = row
        label = None if report is None else self._scorer.in_time(observation, report)
        stage, reason = place(observation, pair, label=label, first=first, rules=self._rules[settled])
        funnel.add(stage, reason, label=report is not None)

    def standing(self, tail: Tail, met: frozenset[str] = frozenset()) -> Standing:
        """The progress of the rollout."""
        totals = self.bases.totals()
        return Standing(
            coverage=self.coverage,
            elapsed_s=self.bases.total(None),
            step_s=max(total - self._step_from.get(base, 0.0) for base, total in totals.items()),
            labels=self.labels + tail.labelled,
            step_labels=self.step_labels + tail.labelled_in_step,
            step_requests=self.step_requests,
            doubts=self.served.doubts(),
            met=met,
            clipped=self.clipped.plus(tail.clipped),
            no_loss=self.no_loss + tail.no_loss,
            trial=self.trial,
            drawn=self.attempts.drops["latency"].drawn[1],
            dropped=self.attempts.drops["latency"].dropped[1],
            incidents=self.attempts.incidents.count,
            away=self.attempts.incidents.away,
            labels_by_use=self.funnel.labels + tail.funnel.labels,
        )

    def readings(self, tail: Tail, *, serving: bool = False) -> list[MetricReading]:
        """Every metric. They are the same at every step, since they share the error budget for harm.

        Args:
            serving: whether the candidate answers callers at this step.
        """
        alpha = self.policy.goals.error_budget / 2
        readings = [self._quality(self.quality, tail, alpha)] if self.quality is not None else []
        readings += self.attempts.readings(alpha)
        readings += self.served.readings(alpha, serving=serving)
        quality = self.policy.goals.quality
        if quality is not None and quality.poc_target is not None and self.poc.n:
            low, high = self.poc.band(alpha)
            line = quality.scale.bounded(quality.poc_target)
            reading = MetricReading("poc_target", self.poc.mean, low, high, self.poc.n, 0, line, None, None)
            readings.append(reading.in_units_of(quality.scale, quality.poc_target))
        return readings

    def _quality(self, goal: PairedGoal, tail: Tail, alpha: float) -> MetricReading:
        quality = self.policy.goals.quality
        assert quality is not None
        margin = quality.scale.bounded(quality.margin)
        log_e, cut = max(views(goal, tail, margin), key=lambda view: view[0])
        harm, peak = goal.harm_peak(tail.harm)
        if harm > max(log_e, 0.0):
            cut = peak  # then the evidence for a rollback is shown
        shown = goal.with_tail(tail.worst[:cut], tail.best[:cut])
        whole, n = shown.whole, shown.n
        # The values of an audit have weights above 1, but what they estimate is a difference of losses.
        low, high, mean = (max(-1.0, min(1.0, x)) for x in (*shown.band(alpha), shown.estimate))
        gap, variance = (margin - whole.mean, whole.variance) if n else (margin, 0.0)
        numbers = (mean, low, high, n, tail.pending, margin, log_e, harm, gap, variance)
        reading = MetricReading(quality.loss, *numbers, largest=largest_pair(self.policy))
        return reading.in_units_of(quality.scale, quality.margin)

    def _fold(self, observation: Observation, report: LabelReport | None, pair: Pair) -> None:
        in_step = observation.revision >= self.revision
        in_trial = observation.revision >= self.trial_revision
        if observation.point is not None:
            at = self._bases_settled.time_of(observation)
            self.served.settle(observation, pair, at, in_step=in_step, harm=in_trial)
        if pair.kind == AWAY:
            return
        if not self._drops.counts(dropped=pair.kind == DROPPED, in_step=in_step):
            return
        self.labels += pair.labelled
        self.no_loss += pair.lost == NO_LOSS
        if pair.labelled:
            self.clipped.add(self._measured(observation), pair.clipped)
        self.step_labels += pair.labelled and in_step
        if self.quality is not None and (pair.known is not None or not self._on_arrival):
            # A missing label counts as the worst case for an advance and as the best case for harm.
            harm = in_trial and pair.kind != DROPPED
            self.quality.update(pair.worst, least=pair.best, in_step=in_step, harm=harm)
        if pair.labelled and report is not None and (self._paired or observation.drawn is Variant.PRIMARY):
            loss = self._scorer.loss(observation.primary, Variant.PRIMARY, report.label)
            if loss is not None:
                self.poc.update(loss)
        if pair.asked and pair.kind != DROPPED:
            positive = {variant.value: self._scorer.says_positive(observation, variant) for variant in Variant}
            self.coverage.add(labelled=pair.labelled, **positive)

    def _measured(self, observation: Observation) -> tuple[Variant, ...]:
        """The variants whose loss a labelled row gives, if the goal cuts losses."""
        if self._cuts:
            return tuple(Variant) if self._paired else (observation.drawn,)
        return ()

    def state(self) -> EvidenceState:
        """The stored form, as JSON values."""
        return {
            "quality": self.quality.state() if self.quality else None,
            "attempts": self.attempts.state(),
            "drops": self._drops.state(),
            "version": VERSION,
            "served": self.served.state(),
            "poc": self.poc.state(),
            "coverage": self.coverage.as_dict(),
            "clipped": self.clipped.as_dict(),
            "funnel": self.funnel.state(),
            "marks": self.marks,
            "chain": self.chain.state(),
            "bases": self.bases.state(),
            "bases_settled": self._bases_settled.state(),
            "step_from": list(self._step_from.items()),
            "baking": list(self._baking.items()),
            "missing": self.missing,
            "firsts_seen": self._firsts_seen.state(),
            "firsts_settled": self._firsts_settled.state(),
            "seen": self.seen,
            "settled": self.settled,
            "step_requests": self.step_requests,
            "step_labels": self.step_labels,
            "labels": self.labels,
            "no_loss": self.no_loss,
            "step": self.step,
            "revision": self.revision,
            "trial": self.trial,
            "trial_revision": self.trial_revision,
            "latest_at": self.latest_at,
            "promoted": self.promoted,
        }

    def take(self, state: EvidenceState) -> None:
        """Restore a state that this version has stored.

        Raises:
            ValueError: if it was made with other margins or bounds.
        """
        if self.quality is not None:
            assert state["quality"] is not None
            self.quality = self.quality.resume(state["quality"])
        self.attempts.take(state["attempts"])
        self._drops.take(state["drops"])
        self.funnel = Funnel.of(state["funnel"])
        self.served.take(state["served"])
        self.poc = self.poc.resume(state["poc"])
        self.coverage = Coverage(**state["coverage"])
        self.clipped = Clipped(**state["clipped"])
        self.marks = [(step, revision, seen, settled, trial) for step, revision, seen, settled, trial in state["marks"]]
        self.chain.take(state["chain"])
        self.missing = [(first, last) for first, last in state["missing"]]
        self.bases.take(state["bases"])
        self._bases_settled.take(state["bases_settled"])
        self._step_from, self._baking = dict(state["step_from"]), dict(state["baking"])
        self._firsts_seen.take(state["firsts_seen"])
        self._firsts_settled.take(state["firsts_settled"])
        self.seen, self.settled = state["seen"], state["settled"]
        self.step_requests, self.step_labels = state["step_requests"], state["step_labels"]
        self.labels, self.no_loss = state["labels"], state["no_loss"]
        self.step, self.revision = state["step"], state["revision"]
        self.trial, self.trial_revision = state["trial"], state["trial_revision"]
        self.latest_at, self.promoted = state["latest_at"], state["promoted"]


def _paired_goal(policy: Policy) -> PairedGoal:
    quality, bound = policy.goals.quality, largest_pair(policy)
    assert quality is not None
    return PairedGoal(quality.scale.bounded(quality.margin), quality.scale.bounded(quality.harm_line), -bound, bound)
