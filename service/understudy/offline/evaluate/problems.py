"""Problems of the data: rows that would be rejected, days that differ from training, and training/serving skew."""

from collections.abc import Mapping, Sequence

import numpy as np

from understudy.domain import Mode, Observation, Variant
from understudy.drift import SLOT_S
from understudy.drift.alarms import AlarmState, Limits, look, read, sentence
from understudy.drift.bins import Counts
from understudy.drift.gather import columns_of, watched_by
from understudy.drift.sketch import Layout
from understudy.inference.decoding import Array
from understudy.offline.evaluate.by_row import Judged
from understudy.offline.evaluate.data import REASONS_SHOWN, Sample, day_of
from understudy.offline.evaluate.figures import BLOCKS_FEW, BLOCKS_MIN, blocks_of

FEATURES_MAX = 1_000
SKEW_TOLERANCE = 1e-6
"""Relative difference of a number below which serving and training agree: float32 keeps about seven digits."""
PREDICTED_TOLERANCE = 1e-4
"""Difference of a prediction below which the served graph and the training pipeline agree."""


def found_in(
    sample: Sample, models: Sequence[Judged], positions: Mapping[str, int], limits: Limits
) -> tuple[list[str], list[str]]:
    """Problems of the data, and days that differ from training, in sentences."""
    problems = []
    if sample.rejected:
        reasons = "; ".join(sample.reasons) + ("; …" if sample.rejected > REASONS_SHOWN else "")
        problems.append(f"the service would reject {sample.rejected:,} rows: {reasons}")
    unlabelled = sum(label is None for label in sample.labels)
    if unlabelled:
        problems.append(
            f"{unlabelled:,} of {len(sample.rows):,} rows have no label ({unlabelled / len(sample.rows):.1%})"
        )
    problems += [f"{model.name} gave no answer to {model.failed:,} rows" for model in models if model.failed]
    return problems + few_days(sample), drift_in(sample, models[: len(Variant)], positions, limits)


def few_days(sample: Sample) -> list[str]:
    """A warning if the sample has too few days for reliable intervals."""
    if sample.at is None:
        return []
    days = int(blocks_of(sample.at, len(sample.rows)).max()) + 1
    if days < BLOCKS_MIN:
        return [f"the rows are of {days} days: intervals, which need at least {BLOCKS_MIN} days, are not shown"]
    if days < BLOCKS_FEW:
        return [
            f"the rows are of {days} days; with fewer than {BLOCKS_FEW} days intervals are unreliable: evaluate on more"
        ]
    return []


def drift_in(sample: Sample, models: Sequence[Judged], positions: Mapping[str, int], limits: Limits) -> list[str]:
    """The drift alarms that the service would have raised, and on how many days."""
    cards = {variant: model.card for variant, model in zip(Variant, models, strict=False)}
    layout = Layout(watched_by(cards, FEATURES_MAX))
    if not layout.watched:
        return ["drift cannot be measured: no model's card has a reference profile (`understudy profile` makes one)"]
    if sample.at is None:
        counts = layout.count(_columns(sample, layout, positions), _observed(sample, models, 0.0))
        named = {each.key: each for each in layout.watched}
        return [sentence(r, named[r.key]) for r in read(layout, counts, limits) if r.crossed and not _calendar(r.worst)]
    return _days(layout, by_hour(sample, layout, models, positions), limits, [model.name for model in models])


def _calendar(worst: float | None) -> bool:
    """Whether days of this feature always differ much from all of training, such as the month: then a whole file says nothing."""
    return worst is not None and worst > 1.0


def by_hour(
    sample: Sample, layout: Layout, models: Sequence[Judged], positions: Mapping[str, int]
) -> dict[int, Counts]:
    """The counts of each hour."""
    assert sample.at is not None
    columns = _columns(sample, layout, positions)
    observations = _observed(sample, models, sample.at)
    hours = np.floor_divide(sample.at, SLOT_S).astype(np.int64)  # in order, as the sample is
    starts = np.flatnonzero(np.diff(hours, prepend=hours[0] - 1))
    found = {}
    for start, end in zip(starts, [*starts[1:], len(hours)], strict=True):
        mine = {name: values[start:end] for name, values in columns.items()}
        found[int(hours[start])] = layout.count(mine, observations[start:end])
    return found


def _days(layout: Layout, slots: Mapping[int, Counts], limits: Limits, names: Sequence[str]) -> list[str]:
    machine = AlarmState(layout.watched, limits)
    first: dict[str, tuple[float, str]] = {}
    alarm_days: dict[str, set[str]] = {}
    days = set()
    for slot in sorted(slots):
        days.add(day_of(slot * SLOT_S))
        found = look(layout, slots, slot, limits)
        for change in machine.step(slot, found.judged) if found is not None else ():
            if change.on:
                first.setdefault(change.reading.key, (change.at, change.reason))
        for key in machine.alarms():
            alarm_days.setdefault(key, set()).add(day_of(slot * SLOT_S))
    models = dict(zip(Variant, names, strict=False))
    lines = []
    for key, (at, reason) in sorted(first.items(), key=lambda item: item[1][0]):
        variant = Variant(key.partition("/")[0])
        text = reason.replace(f"the {variant.value}'s", f"{models[variant]}'s")
        lines.append(f"{day_of(at)}: {text} (on {len(alarm_days[key])} of {len(days)} days)")
    return lines


def _columns(sample: Sample, layout: Layout, positions: Mapping[str, int]) -> dict[str, Array]:
    return columns_of(layout.watched, positions).build(sample.rows)


def _observed(sample: Sample, models: Sequence[Judged], at: float | Array) -> list[Observation]:
    """Observations as the service would have recorded them. Without a second model, its answers are those of the first."""
    times = np.broadcast_to(np.asarray(at, dtype=np.float64), len(sample.rows)).tolist()
    second = models[1] if len(models) > 1 else models[0]
    return [
        Observation("", "", time, 0, Variant.PRIMARY, Mode.LIVE, 0, one, other)
        for time, one, other in zip(times, models[0].answers, second.answers, strict=True)
    ]


def skew(served: Mapping[str, Array], pipeline: Mapping[str, Array]) -> list[str]:
    """Features whose values differ between the serving path and the training pipeline, in sentences.

    Args:
        served: input → values of the serving path, shape [rows, …].
        pipeline: the same from the training pipeline, for the same rows in the same order.
    """
    lines = []
    for name in sorted(served.keys() | pipeline.keys()):
        if name not in served or name not in pipeline:
            where = "the training pipeline" if name in pipeline else "the serving path"
            lines.append(f"{name} exists only in {where}")
            continue
        ours, theirs = served[name].reshape(len(served[name]), -1), pipeline[name].reshape(len(pipeline[name]), -1)
        if ours.shape != theirs.shape:
            lines.append(
                f"{name} has shape {list(served[name].shape)} in serving and {list(pipeline[name].shape)} in training"
            )
            continue
        differ = np.flatnonzero(_differ(ours, theirs).any(axis=1))
        if differ.size:
            row = int(differ[0])
            lines.append(
                f"{name} differs in {differ.size:,} of {len(ours):,} rows; row {row + 1}: {ours[row].tolist()} in serving, "
                f"{theirs[row].tolist()} in training"
            )
    return lines


def _differ(ours: Array, theirs: Array) -> Array:
    if "O" in {ours.dtype.kind, theirs.dtype.kind}:
        return np.asarray(ours.astype(str) != theirs.astype(str))
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    return np.asarray(~np.isclose(one, other, rtol=SKEW_TOLERANCE, atol=0.0, equal_nan=True))


def skew_of_predictions(sample: Sample, model: Judged) -> list[str]:
    """Differences between the model's answers and the training pipeline's predictions in the file, in a sentence."""
    if sample.predicted is None:
        return []
    scores = np.array([np.nan if a.score is None else a.score for a in model.answers])
    apart = np.abs(scores - np.array(sample.predicted))
    differ = np.flatnonzero(~(apart <= PREDICTED_TOLERANCE))
    if not differ.size:
        return []
    row = int(differ[0])
    text = (
        f"{model.name} differs from the training pipeline in {differ.size:,} of {len(scores):,} rows, by up to "
        f"{np.nanmax(apart):.3g}; row {row + 1}: {scores[row]:.6g} in serving, {sample.predicted[row]:.6g} in training"
    )
    return [text]
