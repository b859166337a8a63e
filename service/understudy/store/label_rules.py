"""The rules about labels that all stores share: which report is kept, what it is joined to, and what it counts."""

import dataclasses
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field

from understudy.domain import Fate, Label, LabelReceipt, LabelReport, Observation, Outcome
from understudy.store.port import Tally

BATCHES_KEPT = 4_096
"""How many batches of labels have their receipt stored. Retries come within seconds, and a service writes a few hundred batches
per second."""


def same_label(one: Label, other: Label) -> bool:
    """Whether two labels are equal, as in Python: 1, 1.0 and True are equal, "1" differs. NaN equals NaN."""
    return one == other or (one != one and other != other)


def received(reports: Iterable[LabelReport], received_at: float) -> list[LabelReport]:
    """Reports as they are stored. A report without its own time gets `received_at`, and is recognised by that when read."""
    return [
        dataclasses.replace(each, at=received_at, timed=False) if not each.timed or each.at == received_at else each
        for each in reports
    ]


def outcome(observation: Observation, report: LabelReport) -> Outcome:
    """Join them. The delay is on the request's time base; if the label came without a time, on the service's clock."""
    if report.timed:
        return Outcome(observation, report.label, delay=report.at - observation.at)
    return Outcome(observation, report.label, delay=max(0.0, report.at - observation.arrived_at))


@dataclass(slots=True)
class SortedReports:
    """A batch of reports, compared with the stored labels.

    Attributes:
        fresh: the first report of each prediction that has no stored label.
        corrected: reports with the stored label and an earlier time.
        conflicts: reports with another label than the stored one.
        order: in the order of the batch, the prediction id of each fresh report and the fate of each other report.
    """

    fresh: dict[str, LabelReport] = field(default_factory=dict)
    corrected: list[LabelReport] = field(default_factory=list)
    conflicts: list[LabelReport] = field(default_factory=list)
    order: list[str | Fate] = field(default_factory=list)

    def receipt(self, outcomes: Sequence[Outcome]) -> LabelReceipt:
        """The receipt of the batch. `outcomes` are those of fresh reports whose observation is stored."""
        matched = {outcome.observation.prediction_id for outcome in outcomes}
        fates = [
            each if isinstance(each, Fate) else Fate.MATCHED if each in matched else Fate.PENDING for each in self.order
        ]
        return LabelReceipt(fates, tuple(outcomes))


def fates(receipt: LabelReceipt) -> Iterator[tuple[str, float]]:
    """What a batch of labels adds to the counters: the number of labels by fate."""
    return ((f"label_fates/{fate.value}", float(n)) for fate, n in receipt.counts.items() if n)


def joined(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, float]]:
    """What labels that were waiting for their observation add to the counters."""
    return iter([("label_fates/joined", float(len(outcomes)))] if outcomes else [])


@dataclass(frozen=True, slots=True)
class Standing:
    """A stored label. `corrected` means that its time was corrected, which happens at most once."""

    report: LabelReport
    corrected: bool = False

    def corrects(self, report: LabelReport) -> bool:
        """Whether a report of the same label corrects the time: both times were reported, and the new one is earlier."""
        return report.timed and self.report.timed and not self.corrected and report.at < self.report.at


def sort_reports(reports: Iterable[LabelReport], known: MutableMapping[str, Standing]) -> SortedReports:
    """Compare each report with the stored labels in `known`, to which fresh ones are added."""
    batch = SortedReports()
    for report in reports:
        own = report.prediction_id
        standing = known.get(own)
        if standing is None:
            known[own] = Standing(report)
            batch.fresh[own] = report
            batch.order.append(own)
        elif not same_label(standing.report.label, report.label):
            batch.conflicts.append(report)
            batch.order.append(Fate.CONFLICT)
        elif standing.corrects(report):
            if own in batch.fresh:  # both are in this batch: nothing was stored with the later time
                batch.fresh[own] = report
            else:
                batch.corrected.append(report)
            known[own] = Standing(report, corrected=own not in batch.fresh)
            batch.order.append(Fate.CORRECTED)
        else:
            batch.order.append(Fate.DUPLICATE)
    return batch


def stored_before(batch_id: str) -> str:
    """The message for a sender whose batch was stored by another attempt."""
    return f"the batch of labels {batch_id} was already stored by another attempt"


def total(tally: Tally, outcomes: Iterable[Outcome], start: Iterable[tuple[str, float]] = ()) -> dict[str, float]:
    """What the outcomes add to the counters, added to `start`."""
    sums: dict[str, float] = {}
    for name, value in _additions(tally, outcomes, start):
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _additions(
    tally: Tally, outcomes: Iterable[Outcome], start: Iterable[tuple[str, float]]
) -> Iterator[tuple[str, float]]:
    yield from start
    for each in outcomes:
        yield from tally(each).items()
