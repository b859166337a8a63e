"""The statistics of the rollout decision as tables: `python -m tests.statistics.table --out docs/explanation/statistics-table.md`.

Every rollout is judged after every label. The exit code is 1 if a share is over its budget or a median over its bound.
`--quick` runs a small version of everything in seconds; its bounds allow for luck.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy import stats

from tests.statistics import rules
from tests.statistics.page import written
from tests.statistics.simulate import (
    AttributionWalk,
    Delays,
    Intervals,
    LateWalk,
    MeanWalk,
    Ramp,
    Schedule,
    Walk,
    brier,
    codes,
    constant,
    day_and_night,
    delayed,
    first_then,
    in_order_of_arrival,
    judge,
    ramp,
    settled_crossing,
    shortcut,
)

OTHERS = ("flagger 10", "flagger 60", "kayenta", "kayenta few")
ALPHA = 0.05
MARGIN = 0.02
DIFFER = 0.1
BOTH = 0.05
LATE_BAD = Delays(worse=6000, better=600, same=600)
LATE_GOOD = Delays(worse=600, better=6000, same=600)
EVEN = Delays(worse=600, better=600, same=600)
AGES = (0, 600, 1_800, 6_000)
"""Settled evidence is read over the requests of at least these ages."""


@dataclass
class Size:
    """How much to simulate."""

    rollouts: int = 10_000
    labels: int = 20_000
    horizon: int = 80_000
    good: int = 100_000
    block: int = 5_000
    seed: int = 20_130_101

    def blocks(self, most: int) -> list[int]:
        """Rollouts per block, so that a block's state stays in the cache (and delays in memory)."""
        full, rest = divmod(self.rollouts, min(most, self.rollouts))
        return [min(most, self.rollouts)] * full + ([rest] if rest else [])


@dataclass
class Report:
    """Lines of the tables, and what broke its bound."""

    size: Size
    quick: bool
    wrong: list[str] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)

    def share(self, name: str, count: int, *, budget: bool = False) -> str:
        """A share with its 95 % interval; with a budget, it must not be above α (quick: by more than luck)."""
        n = self.size.rollouts
        low, high = stats.beta.ppf([0.025, 0.975], [max(count, 1e-9), count + 1], [n - count + 1, max(n - count, 1e-9)])
        most = stats.binom.isf(1e-7, n, ALPHA) if self.quick else ALPHA * n
        if budget and count > most:
            self.wrong.append(f"{name}: {count} of {n}")
        text = f"{100 * count / n:.2f} % ({100 * low:.2f}-{100 * min(1.0, high):.2f})"
        return f"**{text}**" if budget else text

    def add(self, table: str, *cells: str) -> None:
        self.lines.setdefault(table, []).append("| " + " | ".join(cells) + " |")


def joined(parts: Sequence[NDArray]) -> NDArray:
    return np.concatenate(parts)


Walks = Callable[[int], Sequence[Walk]]


def paired(size: Size, key: int, difference: Schedule, make: Walks, *, differ: float = DIFFER) -> tuple[list, list]:
    """First crossings of every walk, and counts per interval, over all rollouts."""
    firsts, counts = [], []
    for number, rollouts in enumerate(size.blocks(size.block)):
        rng = np.random.default_rng([size.seed, key, number])
        walks, intervals = make(rollouts), Intervals()
        judge(codes(rng, size.labels, rollouts, difference, differ=differ, both=BOTH), walks, intervals)
        firsts.append([walk.first for walk in walks])
        counts.append((*intervals.counts(), *intervals.few()))
    return [joined(parts) for parts in zip(*firsts, strict=True)], [
        np.concatenate(parts, axis=1) for parts in zip(*counts, strict=True)
    ]


def usual(counts: list[NDArray]) -> dict[str, tuple[int, int]]:
    """(rolled back, promoted) by each usual rule, of all rollouts."""
    candidate_only, primary_only, both, few_ours, few_theirs = counts
    ours, theirs = candidate_only + both, primary_only + both
    backs = rules.z_test(candidate_only, primary_only, 0.0, "above") > 0
    on = rules.z_test(candidate_only, primary_only, MARGIN, "below") > 0
    result = {"z": (int(backs.sum()), int(on.sum()))}
    limit = DIFFER / 2 + BOTH + MARGIN  # the primary's known error rate plus the margin
    for checks in (10, 60):
        back, through = rules.flagger(rules.per_point(ours, 2), 200, limit, checks)
        result[f"flagger {checks}"] = int(back.sum()), int(through.sum())
    back, through = rules.kayenta(rules.per_point(ours, 4) / 400, rules.per_point(theirs, 4) / 400)
    result["kayenta"] = int(back.sum()), int(through.sum())
    back, through = rules.kayenta(few_ours / Intervals.FEW, few_theirs / Intervals.FEW)
    result["kayenta few"] = int(back.sum()), int(through.sum())
    return result


def _ages(labels: int) -> tuple[int, ...]:
    return tuple(age for age in AGES if age < labels)


def hits(first: NDArray) -> int:
    return int((first > 0).sum())


# Table 1: wrong verdicts on paired labels


@dataclass(frozen=True)
class Wrong:
    """A world in which one verdict would be wrong."""

    name: str
    verdict: str
    difference: Callable[[Size], Schedule]
    judge: Callable[[int], Walk]
    line: float
    differ: float = DIFFER
    neighbours: bool = True


def harm(line: float = 0.0) -> Callable[[int], Walk]:
    return lambda n: LateWalk(n, ALPHA, line)


def plain_harm(n: int) -> Walk:
    return MeanWalk(n, ALPHA, 0.0, "above")


def promote(margin: float = MARGIN) -> Callable[[int], Walk]:
    return lambda n: MeanWalk(n, ALPHA, margin, "below")


WRONG = [
    Wrong("no difference", "rolled back", lambda _: constant(0.0), harm(), 0.0),
    Wrong("no difference, plain engine", "rolled back", lambda _: constant(0.0), plain_harm, 0.0, neighbours=False),
    Wrong(
        "2 points worse, which is the harm line",
        "rolled back",
        lambda _: constant(MARGIN),
        harm(MARGIN),
        MARGIN,
        neighbours=False,
    ),
    Wrong("2 points worse, which is the margin", "promoted", lambda _: constant(MARGIN), promote(), MARGIN),
    Wrong(
        "rare: differ on 0.2 %, margin 0.2 points",
        "promoted",
        lambda _: constant(0.002),
        promote(0.002),
        0.002,
        differ=0.002,
        neighbours=False,
    ),
    Wrong("day 2 points better, night equal", "rolled back", lambda _: day_and_night(-0.02, 0.0), harm(), 0.0),
    Wrong(
        "day 1 point better, night 1 worse (equal on average), plain engine",
        "rolled back",
        lambda _: day_and_night(-0.01, 0.01),
        plain_harm,
        0.0,
    ),
    Wrong(
        "day 5 points worse, night 1 better (margin on average)",
        "promoted",
        lambda _: day_and_night(0.05, -0.01),
        promote(),
        MARGIN,
    ),
    Wrong(
        "5 points better at first, then equal",
        "rolled back",
        lambda s: first_then(-0.05, 0.0, s.labels // 2),
        harm(),
        0.0,
    ),
    Wrong(
        "5 points worse at first, then 1 better (never under the margin on average)",
        "promoted",
        lambda s: first_then(0.05, -0.01, s.labels // 2),
        promote(),
        MARGIN,
    ),
]


def wrong_verdicts(report: Report, key: int, world: Wrong) -> None:
    firsts, counts = paired(
        report.size, key, world.difference(report.size), lambda n: [world.judge(n)], differ=world.differ
    )
    index = 0 if world.verdict == "rolled back" else 1
    side = "above" if index == 0 else "below"
    z = hits(rules.z_test(counts[0], counts[1], world.line, side))
    cells = [report.share(world.name, hits(firsts[0]), budget=True), report.share("", z)]
    if world.neighbours:
        others = usual(counts)
        cells += [report.share("", others[name][index]) for name in OTHERS]
    else:
        cells += ["-"] * len(OTHERS)
    report.add("wrong", world.name, world.verdict, *cells)


BRIER = {
    "Brier loss, equal models": ("rolled back", 0.0, harm()),
    "Brier loss, 0.5 points worse, which is the margin": ("promoted", 0.005, promote(0.005)),
}


def brier_verdicts(report: Report, key: int, name: str) -> None:
    verdict, difference, make = BRIER[name]
    count = z = 0
    for number, rollouts in enumerate(report.size.blocks(report.size.block)):
        rng = np.random.default_rng([report.size.seed, key, number])
        walk, sums, squares = make(rollouts), [], []
        for block in brier(rng, report.size.labels, rollouts, difference):
            judge(iter([block]), [walk])
            sums.append(block.sum(axis=0))
            squares.append((block**2).sum(axis=0))
        count += walk.crossed
        z += hits(rules.z_of_sums(np.array(sums), np.array(squares), difference, _side(verdict)))
    report.add(
        "wrong", name, verdict, report.share(name, count, budget=True), report.share("", z), *["-"] * len(OTHERS)
    )


def _side(verdict: str) -> str:
    return "above" if verdict == "rolled back" else "below"


# Table 2: labels that come late


def late_labels(report: Report, key: int, verdict: str) -> None:
    promoting = verdict == "promoted"
    points, line, side = (MARGIN, MARGIN, "below") if promoting else (0.0, 0.0, "above")
    delays = LATE_BAD if promoting else LATE_GOOD
    labels, counts = report.size.labels, np.zeros(5, dtype=np.int64)
    for number, rollouts in enumerate(report.size.blocks(500)):
        rng = np.random.default_rng([report.size.seed, key, number])
        drawn, arrival = delayed(rng, labels, rollouts, points=points, differ=DIFFER, delays=delays)
        counts[0] += hits(settled_crossing(drawn, arrival, labels, m=line, side=side, alpha=ALPHA, ages=_ages(labels)))
        late = LateWalk(rollouts, ALPHA)
        arrived, cut = in_order_of_arrival(drawn, arrival, labels), shortcut(drawn, arrival, labels)
        plain = [MeanWalk(rollouts, ALPHA, line, side) for _ in range(2)]
        for t in range(labels):
            late.step(drawn[t])
            plain[0].step(arrived[t])
            plain[1].step(cut[t])
        blocks = arrived[: labels // 100 * 100].reshape(-1, 100, rollouts)
        z = rules.z_test((blocks == 1).sum(axis=1), (blocks == -1).sum(axis=1), line, side)
        counts += [0, late.crossed, plain[0].crossed, plain[1].crossed, hits(z)]
    settled, prefix, arrived_share, cut_share, z_share = (int(count) for count in counts)
    what = (
        "2 points worse (the margin), bad news 10 times later"
        if promoting
        else "no difference, good news 10 times later"
    )
    report.add(
        "late",
        what,
        verdict,
        report.share(f"settled, {what}", settled, budget=True),
        "-" if promoting else report.share(f"settled prefix, {what}", prefix, budget=True),
        *(report.share("", count) for count in (arrived_share, cut_share, z_share)),
    )


# Table 3: a traffic ramp


RAMPS = {
    "equal models while the error rate doubles and triples": (
        "rolled back",
        Ramp((0.05, 0.25, 0.5), (0.05, 0.10, 0.15), (0.05, 0.10, 0.15)),
        0.0,
        1.0,
    ),
    "2 points worse (the margin), same rise": (
        "promoted",
        Ramp((0.05, 0.25, 0.5), (0.05, 0.10, 0.15), (0.07, 0.12, 0.17)),
        MARGIN,
        None,
    ),
    "1.5 times the errors (the ratio), same rise": (
        "promoted",
        Ramp((0.05, 0.25, 0.5), (0.04, 0.08, 0.12), (0.06, 0.12, 0.18)),
        None,
        1.5,
    ),
    "equal models while the error rate falls": (
        "rolled back",
        Ramp((0.5, 0.25, 0.05), (0.15, 0.10, 0.05), (0.15, 0.10, 0.05)),
        0.0,
        1.0,
    ),
    "2 points worse (the margin), the error rate falls": (
        "promoted",
        Ramp((0.05, 0.25, 0.5), (0.15, 0.10, 0.05), (0.17, 0.12, 0.07)),
        MARGIN,
        None,
    ),
}


def ramps(report: Report, key: int, name: str) -> None:
    verdict, plan, line, ratio = RAMPS[name]
    side = "above" if verdict == "rolled back" else "below"
    counts = np.zeros(3, dtype=np.int64)
    for number, rollouts in enumerate(report.size.blocks(report.size.block)):
        rng = np.random.default_rng([report.size.seed, key, number])
        # Fed with harmless lines where the world says nothing about them.
        ipw = MeanWalk(rollouts, ALPHA, 0.0 if line is None else line, side, bound=20.0)
        errors = AttributionWalk(rollouts, ALPHA, 1.0 if ratio is None else ratio, side)
        seen = ramp(rng, report.size.labels, plan, [ipw], [errors])
        z = rules.pooled_z_test(seen, 0.0 if line is None else line, side)
        counts += [ipw.crossed, errors.crossed, hits(z)]
    means, attributed, pooled = (int(count) for count in counts)
    report.add(
        "ramp",
        name,
        verdict,
        "-" if line is None else report.share(f"inverse propensity, {name}", means, budget=True),
        "-" if ratio is None else report.share(f"attribution, {name}", attributed, budget=True),
        "-" if line is None else report.share("", pooled),
    )


# Table 4: power


@dataclass(frozen=True)
class Power:
    """What must be found, and by when the half of all rollouts must have found it."""

    name: str
    bound: int | None
    difference: Callable[[Size], Schedule]
    judge: Callable[[int], Walk]
    from_change: bool = False


POWER = [
    Power("roll back: 1 point worse (harm line 0)", 8_500, lambda _: constant(0.01), harm()),
    Power("roll back: 2 points worse", 2_100, lambda _: constant(0.02), harm()),
    Power("roll back: 5 points worse", 360, lambda _: constant(0.05), harm()),
    Power("promote: not 1 point worse, equal models", 8_200, lambda _: constant(0.0), promote(0.01)),
    Power("promote: not 2 points worse, equal models", 2_200, lambda _: constant(0.0), promote()),
    Power(
        "roll back: 5 points worse after 100,000 equal ones",
        1_450,
        lambda s: first_then(0.0, 0.05, s.good),
        harm(),
        from_change=True,
    ),
    Power(
        "roll back: 5 points worse after 100,000 that were 1 point better",
        1_450,
        lambda s: first_then(-0.01, 0.05, s.good),
        harm(),
        from_change=True,
    ),
    Power("roll back at harm line 2 points: 5 points worse", None, lambda _: constant(0.05), harm(MARGIN)),
    Power(
        "roll back at harm line 2 points: 5 points worse after 100,000 equal ones",
        None,
        lambda s: first_then(0.0, 0.05, s.good),
        harm(MARGIN),
        from_change=True,
    ),
]


def power(report: Report, key: int, goal: Power) -> None:
    size, parts = report.size, []
    start = size.good if goal.from_change else 0
    for number, rollouts in enumerate(size.blocks(size.block)):
        rng = np.random.default_rng([size.seed, key, number])
        walk = goal.judge(rollouts)
        judge(codes(rng, start + size.horizon, rollouts, goal.difference(size), differ=DIFFER, both=BOTH), [walk])
        parts.append(walk.first)
    first = joined(parts)
    before = int(((first > 0) & (first <= start)).sum())
    waits = np.where(first > start, first - start, size.horizon + 1)[~((first > 0) & (first <= start))]
    median, ninety = np.quantile(waits, [0.5, 0.9], method="higher")
    if goal.bound is not None and not report.quick and median > goal.bound:
        report.wrong.append(f"{goal.name}: median {median}, bound {goal.bound}")
    note = f"{100 * before / size.rollouts:.2f} % before the change" if goal.from_change else ""
    bound = "-" if goal.bound is None else f"{goal.bound:,}"
    report.add("power", goal.name, f"**{median:,}**", bound, f"{ninety:,}", note)


def price_of_waiting(report: Report, key: int) -> None:
    size, arrived, whole, aged = report.size, [], [], []
    for number, rollouts in enumerate(size.blocks(500)[: 4 if not report.quick else 1]):
        rng = np.random.default_rng([size.seed, key, number])
        drawn, arrival = delayed(rng, size.labels, rollouts, points=0.0, differ=DIFFER, delays=EVEN)
        for ages, firsts in (((0,), whole), (_ages(size.labels), aged)):
            line = {"m": MARGIN, "side": "below", "alpha": ALPHA, "ages": ages}
            firsts.append(settled_crossing(drawn, arrival, size.labels, **line))
        walk = MeanWalk(rollouts, ALPHA, MARGIN, "below")
        for row in in_order_of_arrival(drawn, arrival, size.labels):
            walk.step(row)
        arrived.append(walk.first)
    for name, firsts in (
        ("`on_arrival`, in labels", arrived),
        ("`settled`, all requests so far, in requests", whole),
        ("`settled`, requests of some age as well, in requests", aged),
    ):
        waits = np.where(joined(firsts) > 0, joined(firsts), size.labels + 1)
        median, ninety = np.quantile(waits, [0.5, 0.9], method="higher")
        text = [f"{int(value):,}" if value <= size.labels else f"> {size.labels:,}" for value in (median, ninety)]
        report.add(
            "power",
            f"promote: not 2 points worse, equal models, labels 600 requests late, {name}",
            f"**{text[0]}**",
            "-",
            text[1],
            "2,000 rollouts" if not report.quick else "",
        )


# Table 5: what happens to a candidate


def fates(report: Report, key: int, points: float) -> None:
    def both(line: float) -> Walks:
        return lambda n: [LateWalk(n, ALPHA, line), LateWalk(n, ALPHA, MARGIN), MeanWalk(n, ALPHA, MARGIN, "below")]

    (zero, margin, on), counts = paired(report.size, key, constant(points), both(0.0))
    others = usual(counts)
    z_back = rules.z_test(counts[0], counts[1], 0.0, "above")
    z_on = rules.z_test(counts[0], counts[1], MARGIN, "below")
    cells = [_fate(zero, on, report.size.rollouts), _fate(margin, on, report.size.rollouts)]
    cells.append(_fate(z_back, z_on, report.size.rollouts))
    for name in OTHERS:
        back, through = others[name]
        cells.append(f"{100 * back / report.size.rollouts:.1f} / {100 * through / report.size.rollouts:.1f}")
    report.add("fates", f"{100 * points:+.0f}", *cells)


def _fate(back: NDArray, on: NDArray, rollouts: int) -> str:
    """Whichever came first; harm is read first."""
    rolled = (back > 0) & ((on == 0) | (back <= on))
    promoted = (on > 0) & ~rolled
    return f"{100 * rolled.sum() / rollouts:.1f} / {100 * promoted.sum() / rollouts:.1f}"


def jobs(report: Report) -> list[tuple[str, Callable[[], None]]]:
    """Every row, with a key of its own for its random numbers."""
    found: list[tuple[str, Callable[[], None]]] = []
    for i, world in enumerate(WRONG):
        found.append((world.name, lambda i=i, world=world: wrong_verdicts(report, 100 + i, world)))
    for i, name in enumerate(BRIER):
        found.append((name, lambda i=i, name=name: brier_verdicts(report, 150 + i, name)))
    for i, verdict in enumerate(("rolled back", "promoted")):
        found.append((f"late labels, {verdict}", lambda i=i, verdict=verdict: late_labels(report, 200 + i, verdict)))
    for i, name in enumerate(RAMPS):
        found.append((name, lambda i=i, name=name: ramps(report, 300 + i, name)))
    for i, goal in enumerate(POWER):
        found.append((goal.name, lambda i=i, goal=goal: power(report, 400 + i, goal)))
    found.append(("the price of waiting", lambda: price_of_waiting(report, 450)))
    for i, points in enumerate((-0.01, 0.0, 0.01, 0.02, 0.03, 0.05)):
        found.append((f"fates at {points:+.2f}", lambda i=i, points=points: fates(report, 500 + i, points)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.statistics.table", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the page here; without it, to the screen")
    parser.add_argument("--quick", action="store_true", help="a small version of everything, in seconds")
    parser.add_argument("--seed", type=int, default=Size.seed)
    options = parser.parse_args(arguments)
    size = Size(seed=options.seed)
    if options.quick:
        size = Size(rollouts=120, labels=4_000, horizon=4_000, good=4_000, seed=options.seed)
    report, began = Report(size, options.quick), time.monotonic()
    shown = Console(stderr=True)
    bars = (
        TextColumn("{task.description:60}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*bars, console=shown) as progress:
        work = jobs(report)
        task = progress.add_task("", total=len(work))
        for name, job in work:
            progress.update(task, description=name[:60])
            job()
            progress.advance(task)
    page = written(report.lines, size, time.monotonic() - began)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
    for line in report.wrong:
        shown.print(f"[red]over its bound: {line}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
