"""Compares two models' outputs for the same rows: label flips, probability distances, errors of numbers. Pure.

`ComparisonSums` has named sums and maxima: its size does not depend on the number of rows, and two of them merge exactly. The
store's counters keep the sums under the same names, for the live comparison and for `understudy check`.

A model does not agree with itself to the last bit: batch sizes and threads change the order of additions. The largest
difference between the primary and itself is the noise floor (`floor`): smaller differences count as equal.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from understudy.domain import JsonObject, Label
from understudy.rollout.policy import Tolerance

Array: TypeAlias = npt.NDArray[Any]
Output: TypeAlias = Array | Sequence[object]
"""An output of a model: an array of shape [rows, …], or nested lists."""

DISTANCE_BUCKETS = (0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
"""Upper edges of the histogram of probability distances. The last bucket ends at 1."""
CONFUSED_CLASSES_MAX = 10
"""Further classes share the name "other" in the counts of flips."""
PROBABILITIES = "probabilities"
"""Name of the noise floor of probabilities. Other outputs have their own names."""


@dataclass(slots=True)
class ComparisonSums:
    """Named sums and maxima.

    >>> a, b = ComparisonSums({"rows": 2.0}, {"distance": 0.1}), ComparisonSums({"rows": 3.0}, {"distance": 0.4})
    >>> a.merge(b)
    >>> a
    ComparisonSums(sums={'rows': 5.0}, maxima={'distance': 0.4})
    """

    sums: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    def merge(self, other: "ComparisonSums") -> None:
        """Add another comparison."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, value in other.maxima.items():
            self.maxima[name] = max(self.maxima.get(name, value), value)


def labels(
    primary: Sequence[Label], candidate: Sequence[Label], classes: Sequence[Label], equal: Array | None = None
) -> ComparisonSums:
    """Counts flips: rows for which the two models predict different classes.

    Args:
        primary: the primary's labels.
        candidate: the candidate's labels.
        classes: known classes. Those after the first `CONFUSED_CLASSES_MAX`, and unknown ones, are counted as "other".
        equal: shape [rows], bool: rows whose probabilities are equal. There a flip is rounding and does not count.

    Returns:
        Sums `label_rows`, `label_flips`, and `flip/["from", "to"]` for each pair of classes.
    """
    alike = [False] * len(primary) if equal is None else equal.tolist()
    ways = Counter((a, b) for a, b, same in zip(primary, candidate, alike, strict=True) if a != b and not same)
    known = list(classes[:CONFUSED_CLASSES_MAX])
    named: Counter[tuple[Label, ...]] = Counter()
    for way, count in ways.items():
        named[tuple(each if each in known else "other" for each in way)] += count
    by_way = {f"flip/{json.dumps(way)}": float(count) for way, count in named.items()}
    return ComparisonSums({"label_rows": float(len(primary)), "label_flips": float(ways.total())} | by_way)


def probabilities(primary: Array, candidate: Array, floor: float = 0.0) -> tuple[ComparisonSums, Array]:
    """Total variation distance, max |P(A) − Q(A)| over sets of classes: half the sum of absolute differences, 0 to 1.

    Args:
        primary: shape [rows, classes]; `candidate`: the same, with the classes in the same order (see `aligned`).

    Returns:
        Sums `distance_rows`, `distance_sum`, `distance_equal` (at most the floor), `distance/<bucket>`; maxima `distance` and
        `probability` (of one class), of the rows that are finite, and `farthest`, the distance of all rows. And shape [rows],
        bool: which rows are equal. A row with NaN is as far as can be from any other, and equal to one that has NaN in the same
        places and the same numbers else.
    """
    a, b = np.asarray(primary, np.float64), np.asarray(candidate, np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    finite = np.isfinite(difference).all(axis=1)
    distance = np.where(finite, difference.sum(axis=1) / 2, 1.0)
    equal = finite & (distance <= floor)
    buckets = np.bincount(np.searchsorted(DISTANCE_BUCKETS, distance), minlength=len(DISTANCE_BUCKETS) + 1)
    sums = {
        "distance_rows": float(len(distance)),
        "distance_sum": float(distance.sum()),
        "distance_equal": float(equal.sum()),
    } | {f"distance/{i}": float(count) for i, count in enumerate(buckets) if count}
    most = {"distance": distance, "probability": difference}
    maxima = {name: float(found[finite].max(initial=0.0)) for name, found in most.items()} if difference.size else {}
    return ComparisonSums(sums, maxima | {"farthest": float(distance.max(initial=0.0))}), equal


def tensors(name: str, primary: Output, candidate: Output, tolerance: Tolerance, floor: float = 0.0) -> ComparisonSums:
    """Compares one output. An element is outside if |c − p| > atol + rtol·|p| (`numpy.allclose`), and above the floor.

    Args:
        primary: an array of shape [rows, …], or nested lists of that shape; `candidate`: the same.

    Returns:
        Sums by `<what>/<name>`: `rows`, `rows_outside`, `elements`, `outside`, `abs_sum`, `not_finite` (in either, unless both
        are the same infinity or both NaN), `misshapen` (rows whose shapes differ, or that are ragged); maxima `abs`, `rel`.
    """
    both, rows = _both(primary, candidate), len(primary)
    if both is None:
        if rows > 1:  # rows may have different shapes: compare each row by itself
            sums = ComparisonSums()
            for i in range(rows):
                sums.merge(tensors(name, primary[i : i + 1], candidate[i : i + 1], tolerance, floor))
            return sums
        return _named(name, {"rows": rows, "rows_outside": rows, "misshapen": rows}, {})
    a, b = both
    counts: dict[str, float] = {}
    maxima: dict[str, float] = {}
    if a.dtype.kind == "U":
        outside = np.asarray(a != b)
    else:
        outside, error, same = _outside(a, b, tolerance, floor)
        finite = np.isfinite(a) & np.isfinite(b)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            relative = np.where(finite & (error > 0), error / np.abs(a), 0.0)
        counts = {"abs_sum": float(error[finite].sum()), "not_finite": float((~finite & ~same).sum())}
        real = relative[np.isfinite(relative)]
        maxima = {"abs": float(error[finite].max(initial=0.0)), "rel": float(real.max(initial=0.0))}
    by_row = outside.reshape(rows, -1).any(axis=1) if outside.size else np.zeros(rows, bool)
    whole = {
        "rows": rows,
        "rows_outside": int(by_row.sum()),
        "elements": int(outside.size),
        "outside": int(outside.sum()),
    }
    return _named(name, whole | counts, maxima)


def close(primary: Output, candidate: Output, tolerance: Tolerance, floor: float = 0.0) -> Array:
    """Finds the rows of one output that are equal in both models: every element within the tolerance, or below the floor.

    Rows of different shapes are not equal, nor are a number and NaN. Two NaN are equal, and so are identical strings.

    Args:
        primary: an array of shape [rows, …], or nested lists, which may be of another shape in each row; `candidate`: the same.

    Returns:
        Shape [rows], bool.
    """
    both, rows = _both(primary, candidate), len(primary)
    if both is None:
        if rows == 1:
            return np.zeros(1, bool)
        return np.array(
            [close(primary[i : i + 1], candidate[i : i + 1], tolerance, floor)[0] for i in range(rows)], bool
        )
    a, b = both
    outside = np.asarray(a != b) if a.dtype.kind == "U" else _outside(a, b, tolerance, floor)[0]
    return np.asarray(~outside.reshape(rows, -1).any(axis=1)) if outside.size else np.ones(rows, bool)


def _both(primary: Output, candidate: Output) -> tuple[Array, Array] | None:
    """Both outputs as arrays that can be compared element by element; None if they cannot."""
    a, b = _array(primary), _array(candidate)
    if a is not None and b is not None and not a.size and not b.size and len(a) == len(b):
        return a, a  # rows without elements, such as no boxes: an empty list does not say its further sizes
    if a is None or b is None or a.shape != b.shape or (a.dtype.kind == "U") != (b.dtype.kind == "U"):
        return None
    return a, b


def _outside(a: Array, b: Array, tolerance: Tolerance, floor: float) -> tuple[Array, Array, Array]:
    """Which elements of two numeric arrays differ by more than allowed, by how much each differs, and which are the same."""
    with np.errstate(invalid="ignore", over="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        error = np.where(same, 0.0, np.abs(b - a))
        finite = np.isfinite(a) & np.isfinite(b)
        within = finite & (error <= np.maximum(tolerance.atol + tolerance.rtol * np.abs(a), floor))
    return ~same & ~within, error, same


def aligned(primary: Sequence[Label], candidate: Sequence[Label]) -> tuple[Array, Array, int] | None:
    """Positions of each model's classes in the union of both (two index arrays), and its size. None if the classes are equal."""
    if list(primary) == list(candidate):
        return None
    both = list(dict.fromkeys([*primary, *candidate]))
    return np.array([both.index(c) for c in primary]), np.array([both.index(c) for c in candidate]), len(both)


def widened(rows: Array, at: Array, width: int) -> Array:
    """Probabilities in the order of all classes; 0 for classes that a model does not have."""
    wide = np.zeros((len(rows), width))
    wide[:, at] = rows
    return wide


def floor_of(summary: ComparisonSums) -> dict[str, float]:
    """The noise floor from a comparison of a model with itself: output → largest difference."""
    floor = {PROBABILITIES: summary.maxima["distance"]} if "distance" in summary.maxima else {}
    return floor | {name.partition("/")[2]: value for name, value in summary.maxima.items() if name.startswith("abs/")}


def figures(summary: ComparisonSums) -> JsonObject:
    """The comparison as `GET /rollout` shows it."""
    sums, maxima = summary.sums, summary.maxima
    found: JsonObject = {"rows": int(sums.get("rows", 0))}
    if rows := sums.get("label_rows"):
        ways = [(json.loads(k.removeprefix("flip/")), int(v)) for k, v in sums.items() if k.startswith("flip/")]
        flips = sums.get("label_flips", 0.0)
        found["labels"] = {
            "rows": int(rows),
            "flips": int(flips),
            "share": flips / rows,
            "ways": [
                {"primary": a, "candidate": b, "rows": n}
                for (a, b), n in sorted(ways, key=lambda w: (-w[1], str(w[0])))
            ],
        }
    if rows := sums.get("distance_rows"):
        counts = [sums.get(f"distance/{i}", 0.0) for i in range(len(DISTANCE_BUCKETS) + 1)]
        most = maxima.get("farthest", 1.0)  # a histogram's edges may lie beyond the largest distance
        quantiles = {q: quantile_of(counts, (*DISTANCE_BUCKETS, 1.0), q / 100) for q in (50, 95, 99)}
        found["probabilities"] = {
            "rows": int(rows),
            "mean": sums["distance_sum"] / rows,
            "equal": sums.get("distance_equal", 0.0) / rows,
            **{f"p{q}": None if value is None else min(value, most) for q, value in quantiles.items()},
            **({"max": most} if "farthest" in maxima else {}),
        }
    outputs: dict[str, JsonObject] = {}
    for name in [k.partition("/")[2] for k in sums if k.startswith("rows/")]:
        counted = {what: int(sums.get(f"{what}/{name}", 0)) for what in _COUNTED}
        numbers = counted["elements"] - counted["not_finite"]
        outputs[name] = (
            counted
            | {
                "share": counted["rows_outside"] / counted["rows"],
                "mean_abs": sums.get(f"abs_sum/{name}", 0.0) / numbers if numbers else None,
            }
            | {f"max_{what}": maxima[f"{what}/{name}"] for what in ("abs", "rel") if f"{what}/{name}" in maxima}
        )
    if outputs:
        found["outputs"] = outputs
    return found


_COUNTED = ("rows", "rows_outside", "elements", "outside", "not_finite", "misshapen")


def quantile_of(counts: Sequence[float], edges: tuple[float, ...], quantile: float) -> float | None:
    """A quantile from a histogram: linear inside a bucket, the last edge for the open bucket. None if it is empty.

    >>> quantile_of([0, 10, 0], (1, 2), 0.5)
    1.5
    """
    total = sum(counts)
    if not total:
        return None
    rank, seen = quantile * total, 0.0
    for i, count in enumerate(counts):
        if count and seen + count >= rank:
            if i == len(edges):
                return float(edges[-1])
            low = edges[i - 1] if i else 0.0
            return low + (edges[i] - low) * (rank - seen) / count
        seen += count
    return float(edges[-1])


def _array(values: Output) -> Array | None:
    try:
        found = np.asarray(values)
    except ValueError:  # ragged
        return None
    if found.dtype.kind == "O" and all(isinstance(each, str) for each in found.flat):
        return found.astype(str)
    return found if found.dtype.kind == "U" else found.astype(np.float64) if found.dtype.kind in "biuf" else None


def _named(name: str, sums: Mapping[str, float], maxima: Mapping[str, float]) -> ComparisonSums:
    return ComparisonSums(
        {f"{what}/{name}": float(v) for what, v in sums.items() if v or what == "rows"},
        {f"{what}/{name}": float(v) for what, v in maxima.items()},
    )
