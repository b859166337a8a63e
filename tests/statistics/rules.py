"""The usual ways to judge, on the same streams: what the tables put beside ours."""

import numpy as np
from numpy.typing import NDArray

Z95 = 1.6448536269514722
Z99 = 2.3263478740408408  # for a two-sided 98 % interval


def z_test(candidate_only: NDArray, primary_only: NDArray, line: float, side: str, *, length: int = 100) -> NDArray:
    """A one-sided paired z-test at nominal 5 % after every interval: the first significant one, or 0."""
    return z_of_sums(candidate_only - primary_only, candidate_only + primary_only, line, side, length=length)


def z_of_sums(sums: NDArray, squares: NDArray, line: float, side: str, *, length: int = 100) -> NDArray:
    """The same from the sums of the differences and of their squares per interval."""
    n = length * np.arange(1, len(sums) + 1)[:, None]
    mean = np.cumsum(sums, axis=0) / n
    error = np.sqrt(np.maximum(np.cumsum(squares, axis=0) / n - mean**2, 1e-12) / n)
    z = (mean - line) / error
    return _first(z > Z95 if side == "above" else z < -Z95)


def _first(crossed: NDArray) -> NDArray:
    """Row number, from 1, of the first True in each column; 0 for none."""
    return np.where(crossed.any(axis=0), crossed.argmax(axis=0) + 1, 0)


def pooled_z_test(seen: NDArray, line: float, side: str) -> NDArray:
    """Two proportions after every interval, all traffic in one pot: blind to shares that change meanwhile."""
    ours, theirs, our_errors, their_errors = (seen[:, i].astype(float) for i in range(4))
    ours, theirs = np.maximum(ours, 1), np.maximum(theirs, 1)
    p, q = our_errors / ours, their_errors / theirs
    error = np.sqrt(np.maximum(p * (1 - p) / ours + q * (1 - q) / theirs, 1e-9))
    z = (p - q - line) / error
    return _first(z > Z95 if side == "above" else z < -Z95)


def flagger(errors: NDArray, labels: int, limit: float, checks: int, threshold: int = 5) -> tuple[NDArray, NDArray]:
    """Flagger's scheduler: every check that fails counts and is never forgotten; `threshold` of them roll back.

    `errors`: the candidate's errors per check of `labels`. A check fails above `limit`; so many passes promote.
    """
    failed = errors / labels > limit
    failures, passes = np.cumsum(failed, axis=0), np.cumsum(~failed, axis=0)
    never = len(errors) + 1
    back = np.where((failures >= threshold).any(axis=0), (failures >= threshold).argmax(axis=0), never)
    on = np.where((passes >= checks).any(axis=0), (passes >= checks).argmax(axis=0), never)
    return back < on, on < back


def kayenta(candidate: NDArray, primary: NDArray, every: int = 10, tolerance: float = 0.25) -> tuple[NDArray, NDArray]:
    """Kayenta's `MannWhitneyClassifier` at every `every`-th point, over all points so far.

    High (fails) when the lower end of the 98 % Mann-Whitney interval of the shift is above 0.25 x |Hodges-Lehmann|.
    The interval is the usual normal approximation, by order statistics of all pairwise differences. Anything else
    passes, so a canary that was never High is promoted at the end.
    """
    points = len(candidate)
    high = np.zeros(candidate.shape[1], dtype=bool)
    for n in range(every, points + 1, every):
        rank = max(0, int(n * n / 2 - Z99 * np.sqrt(n * n * (2 * n + 1) / 12)))
        for start in range(0, candidate.shape[1], 1000):
            part = slice(start, start + 1000)
            shifts = (candidate[:n, None, part] - primary[None, :n, part]).reshape(n * n, -1)
            shifts = np.partition(shifts, (rank, n * n // 2), axis=0)
            high[part] |= shifts[rank] > tolerance * np.abs(shifts[n * n // 2])
    return high, ~high


def per_point(counts: NDArray, intervals: int) -> NDArray:
    """Sums over so many intervals each; what is left over at the end is dropped."""
    usable = len(counts) // intervals * intervals
    return counts[:usable].reshape(-1, intervals, counts.shape[1]).sum(axis=1)
