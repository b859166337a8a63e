"""The cells of the matrix: which model, which callers, which labels, which clocks, which faults; and how one of them is played."""

import asyncio
import heapq
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tests.matrix import worlds
from tests.matrix.harness import Service, serving
from tests.matrix.worlds import BOTH_RAISE, CANDIDATE_NAN, CANDIDATE_RAISES, GUARD, POOL, World
from understudy.errors import ConfigurationError

LONGER = 8
"""How many times as many requests a rollout gets that is not decided."""
TRUTHS = ("better", "at the margin", "worse")
HOUR, DAY = 3600.0, 86_400.0
LIVE_FROM, REPLAY_FROM = 1_790_000_000.0, 1_372_636_800.0
"""When the rollout begins by the clock, and when the history began that is replayed: 1 July 2013."""
STEP_S = 60.0
"""Between two requests."""
WAIT_S = 24 * HOUR
TOGETHER = 64
"""Requests that are under way at once, so that rows of several callers share a run."""
JUDGED_EVERY = 128


@dataclass(frozen=True)
class Cell:
    """One combination. The first value of each level is the plain one."""

    style: int
    rows: int = 1
    delay: str = "at once"
    clocks: str = "live"
    bad: str = "none"
    missing: str = "none"
    dropped: float = 0.0
    rehearse: int = 100
    burst: str = "none"
    units: str = "none"

    @property
    def plain(self) -> bool:
        """Whether nothing about its labels and rehearsals keeps evidence away."""
        return self.missing == "none" and not self.dropped and self.delay != "some too late"

    def describe(self) -> str:
        """Its levels that are not plain."""
        said = [f"{f.name} {getattr(self, f.name)}" for f in fields(self)[1:] if getattr(self, f.name) != f.default]
        return ", ".join(said) or "plain"


LEVELS: dict[str, tuple[Any, ...]] = {
    "rows": (1, 5, 40),
    "delay": ("at once", "hours", "bad news late", "some too late"),
    "clocks": ("live", "replay", "live, then replay", "replay, then live", "mixed", "replay backwards"),
    "bad": ("none", "both 2 %", "candidate 0.5 %", "none"),
    "missing": ("none", "20 % at random", "none", "20 % of the bad news"),
    "dropped": (0.0, 0.0, 0.0, 0.005, 0.3),
    "rehearse": (100, 20, 100),
    "burst": ("none", "one restart", "none"),
    "units": ("none", "one has 60 %", "none"),
}


def cells(per_style: int = 3) -> list[Cell]:
    """A plain cell of each style, and others whose levels are dealt evenly, by a fixed seed."""
    rng = np.random.default_rng(20130701)
    decks = {name: _deck(levels, rng) for name, levels in LEVELS.items()}
    found = []
    for style in range(len(worlds.STYLES)):
        found.append(Cell(style))
        found += [Cell(style, **{name: next(deck) for name, deck in decks.items()}) for _ in range(per_style - 1)]
    return found


def _deck(levels: tuple[Any, ...], rng: np.random.Generator) -> Iterator[Any]:
    while True:
        yield from (levels[i] for i in rng.permutation(len(levels)))


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended.

    Attributes:
        difference: the true mean difference of the losses, candidate minus primary; margin: what was allowed.
        phase: where it stood at the end; requests: how many it took, or how many there were.
        agrees: whether every decision was reached again offline.
    """

    cell: Cell
    truth: str
    difference: float
    margin: float
    phase: str
    requests: int
    labels: int
    reason: str
    agrees: bool
    failures: int

    @property
    def wrong(self) -> bool:
        """Promoted although it is not better than the margin allows, or rolled back although it is better."""
        if self.truth == "better":
            return self.phase == "aborted"
        return self.phase == "promoted" or (self.truth == "at the margin" and self.phase == "aborted")

    @property
    def undecided(self) -> bool:
        """Held although nothing is missing that could hold it: more requests must decide it."""
        return (
            self.cell.plain and self.truth != "at the margin" and self.phase not in {"promoted", "aborted", "refused"}
        )


def play(cell: Cell, truth: str, folder: Path, *, requests: int = 4_000, seed: int = 0) -> Outcome:
    """Play one rollout to its end, or until the requests are used up."""
    world = worlds.world(cell.style, folder / "models")
    rng = np.random.default_rng([seed, cell.style, TRUTHS.index(truth), hash_of(cell)])
    pool, fails, both = _population(world, cell, rng)
    candidate = "better" if truth == "better" else "worse"
    difference = world.difference(candidate, fails, both)
    margin = _margin(truth, difference, world)
    policy = _policy(world, cell, candidate, margin)
    own = folder / f"{cell.style}-{hash_of(cell)}-{truth.replace(' ', '-')}-{seed}-{requests}"
    try:
        return asyncio.run(_played(cell, truth, world, pool, policy, own, rng, (difference, margin), requests))
    except ConfigurationError as refused:
        return Outcome(cell, truth, difference, margin, "refused", 0, 0, refused.detail, True, 0)


def play_cell(cell: Cell, requests: int, seeds: int) -> list[Outcome]:
    """Play the rollouts of a cell. What could be decided and is not goes on with more requests."""
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for truth, seed in itertools.product(TRUTHS, range(seeds)):
            outcome = play(cell, truth, Path(folder), requests=requests, seed=seed)
            if outcome.undecided:
                outcome = play(cell, truth, Path(folder), requests=requests * LONGER, seed=seed)
            outcomes.append(outcome)
    return outcomes


def hash_of(cell: Cell) -> int:
    """A small number that tells cells of one style apart, the same in every process."""
    text = repr([getattr(cell, f.name) for f in fields(cell)])
    return int.from_bytes(text.encode()[-64:], "big") % 99_991


def _margin(truth: str, difference: float, world: World) -> float:
    if truth == "at the margin":
        return difference
    if (
        truth == "better" and difference >= 0.0
    ):  # by agreement nothing is better than equal, and a failure is no agreement
        return difference + 0.05 * world.worst
    return abs(difference) / 2


def _population(world: World, cell: Cell, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """The rows with their guards, which of them fail at the candidate alone, and which at both models."""
    rows, u = world.rows.copy(), rng.random(POOL)
    both = (u < 0.02) if cell.bad.startswith("both") else np.zeros(POOL, bool)
    # Of the requests, which fail as a whole, so of the rows fewer: `latency` allows 1 % late or missing answers.
    fails = (u < 0.005 / cell.rows) if cell.bad.startswith("candidate") else np.zeros(POOL, bool)
    rows[both, GUARD] = BOTH_RAISE
    rows[fails, GUARD] = np.where(rng.random(int(fails.sum())) < 0.5, CANDIDATE_RAISES, CANDIDATE_NAN)
    return rows, fails, both


def _policy(world: World, cell: Cell, candidate: str, margin: float) -> dict[str, Any]:
    labelled = world.quality["loss"] != "disagreement"
    until = {"labels": 100} if labelled else {"requests": 100}
    return {
        "model": "matrix",
        "primary": str(world.models["poc"]),
        "candidate": str(world.models[candidate]),
        "device": "cpu",
        **world.policy,
        **({"unit": "user"} if cell.units != "none" else {}),
        "goals": {
            "quality": {**world.quality, "margin": float(margin)},
            "errors": {"margin": 0.05},
            "latency": {"p99_ms": 30_000, "deadline_ms": 60_000},
        },
        "labels": {"wait": WAIT_S},
        "steps": [
            {"shadow": 100, "until": until},
            {"canary": 20, "rehearse": cell.rehearse, "until": until},
            {"canary": 50, "rehearse": cell.rehearse},
            "promote",
        ],
    }


class _Times:
    """When the request with a number happens: by the clock, and in the history it is replayed from, if it is."""

    def __init__(self, cell: Cell, requests: int) -> None:
        self._clocks, self._half, self._first = cell.clocks, requests // 2, min(300, requests // 4)

    def of(self, number: int) -> tuple[float, float | None]:
        clock = LIVE_FROM + number * STEP_S
        history = REPLAY_FROM + number * STEP_S
        replayed = {
            "live": False,
            "replay": True,
            "live, then replay": number >= self._first,
            "replay, then live": number < self._first,
            "mixed": number % 2 == 1,
            "replay backwards": True,
        }[self._clocks]
        if self._clocks == "replay backwards" and number < self._half:
            history += 31 * DAY
        return clock, history if replayed else None


async def _played(
    cell: Cell,
    truth: str,
    world: World,
    pool: Any,
    policy: dict[str, Any],
    folder: Path,
    rng: np.random.Generator,
    known: tuple[float, float],
    requests: int,
) -> Outcome:
    async with serving(policy, folder, LIVE_FROM) as service:
        callers = _Callers(cell, world, pool, service, rng, _Times(cell, requests))
        if cell.dropped:
            service.drops = lambda: bool(rng.random() < cell.dropped)
        sent = 0
        while sent < requests and service.plan.phase.value not in {"promoted", "aborted"}:
            many = min(JUDGED_EVERY, requests - sent)
            for start in range(sent, sent + many, TOGETHER):
                service.take_away(away=cell.burst != "none" and (start // TOGETHER) == 10)
                await callers.send(range(start, min(start + TOGETHER, sent + many)))
            sent += many
            await callers.label()
            await service.judge()
        if service.plan.phase.value not in {"promoted", "aborted"}:
            service.clock.time += 4 * WAIT_S
            await callers.label(everything=True)
            for _ in range(3):
                await service.judge()
        verdict = service.controller.verdict
        checks, changed = await asyncio.to_thread(service.verified)
        progress = (await service.worker.control.state(candidate_up=True)).progress
        phase = service.plan.phase.value
        reason = verdict.reason if verdict is not None else "nothing was judged"
        return Outcome(
            cell,
            truth,
            *known,
            phase,
            sent,
            progress["labels"] if progress else 0,
            reason,
            changed is None and all(check.agrees for check in checks),
            callers.failures,
        )


class _Callers:
    """Send requests and, later, their labels."""

    def __init__(
        self, cell: Cell, world: World, pool: Any, service: Service, rng: np.random.Generator, times: _Times
    ) -> None:
        self._cell, self._world, self._pool, self._service, self._rng, self._times = (
            cell,
            world,
            pool,
            service,
            rng,
            times,
        )
        self._due: list[tuple[float, int, dict[str, Any]]] = []
        self._middle = float(np.median(world.losses["poc"]))
        self._number = itertools.count()
        self.failures = 0

    async def send(self, numbers: range) -> None:
        """So many requests at once."""
        clock = self._service.clock
        clock.time = max(clock.time, self._times.of(numbers[-1])[0])
        await asyncio.gather(*(self._one(number) for number in numbers))
        await self._service.stored()

    async def _one(self, number: int) -> None:
        rng, cell = self._rng, self._cell
        drawn = rng.integers(0, POOL, size=cell.rows)
        user = {} if cell.units == "none" else {"user": "whale" if rng.random() < 0.6 else f"u{number}"}
        rows = [{"x": self._pool[i].tolist()} | user for i in drawn]
        at, history = self._times.of(number)
        headers = {} if history is None else {"X-Rollout-At": repr(history)}
        status, answer = await self._service.call("/predict", {"rows": rows}, headers)
        if status != 200:
            self.failures += 1
            return
        for i, prediction in zip(drawn, answer["predictions"], strict=True):
            self._plan_label(int(i), prediction["prediction_id"], at, history)

    def _plan_label(self, i: int, prediction: str, at: float, history: float | None) -> None:
        cell, rng, label = self._cell, self._rng, self._world.labels[i]
        if label is None:
            return
        bad_news = self._world.losses["poc"][i] > self._middle
        if rng.random() < 0.2 and (cell.missing.endswith("random") or (cell.missing.endswith("news") and bad_news)):
            return
        delay = {
            "at once": 1.0,
            "hours": float(rng.uniform(1, 6)) * HOUR,
            "bad news late": 10 * HOUR if bad_news else HOUR,
            "some too late": WAIT_S * 1.5 if rng.random() < 0.1 else HOUR,
        }[cell.delay]
        body: dict[str, Any] = {"prediction_id": prediction, "label": label}
        body["at"] = (at if history is None else history) + delay
        heapq.heappush(self._due, (at + delay, next(self._number), body))

    async def label(self, *, everything: bool = False) -> None:
        """Post the labels that are known by now."""
        due = []
        while self._due and (everything or self._due[0][0] <= self._service.clock.time):
            due.append(heapq.heappop(self._due)[2])
        for start in range(0, len(due), 500):
            status, answer = await self._service.call("/feedback", {"labels": due[start : start + 500]})
            assert status == 200, answer
