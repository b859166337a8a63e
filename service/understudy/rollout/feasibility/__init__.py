"""Whether a rollout can finish: what its goals, steps and requirements need, and whether it can ever be there. Pure.

`feasibility()` is asked by `understudy init` before it writes a file, by `check`, which prints the table, and by `serve`, which
does not start what would wait for ever. The rules are in `goals.py` and `steps.py`, the numbers in `needs.py`
and `asked.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from understudy.domain import Variant
from understudy.rollout.feasibility import asked, goals, steps
from understudy.rollout.feasibility.lines import Lines
from understudy.rollout.feasibility.problems import Limits, Problem, Subject
from understudy.rollout.feasibility.table import Need, table
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep

__all__ = ["Feasibility", "Limits", "Lines", "Need", "Problem", "Subject", "feasibility", "said"]


@dataclass(frozen=True, slots=True)
class Feasibility:
    """The whole answer."""

    needs: tuple[Need, ...]
    problems: tuple[Problem, ...]

    @property
    def refusals(self) -> tuple[Problem, ...]:
        """What keeps the rollout from starting."""
        return tuple(problem for problem in self.problems if problem.refused)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is worth a look."""
        return tuple(problem for problem in self.problems if not problem.refused)

    def finishes(self, need: Need) -> bool:
        """Whether nothing stands against a row of the table."""
        return not any((problem.key + ".").startswith(need.key + ".") for problem in self.refusals)


def feasibility(policy: Policy, models: Mapping[Variant, Subject], limits: Limits | None = None) -> Feasibility:
    """Whether every goal, step and requirement of a policy can be judged with these models."""
    found = tuple(dict.fromkeys(_problems(policy, models, limits or Limits())))
    return Feasibility(tuple(table(policy)) if policy.candidate is not None else (), found)


def said(problem: Problem, lines: Lines) -> str:
    """A problem in one line: where it is in the file, and what to do."""
    line = lines.of(problem.key)
    return f"{problem.key}: {problem.says}" if line is None else f"line {line}, {problem.key}: {problem.says}"


def _problems(policy: Policy, models: Mapping[Variant, Subject], limits: Limits) -> Iterator[Problem]:
    yield from goals.speed(policy, models, limits)
    if policy.candidate is None:
        return
    yield from goals.quality(policy, models)
    yield from goals.labels(policy, limits)
    yield from goals.served(policy, models)
    for number, step in enumerate(policy.steps):
        if isinstance(step, ShadowStep | CanaryStep):
            yield from steps.step(policy, number, step)
    yield from steps.order(policy)
    yield from steps.load(policy)
    yield from asked.amounts(policy)
