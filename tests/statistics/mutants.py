"""P13: wrong implementations that the tests must notice. `python -m tests.statistics.mutants`

Each mutant is one change to the source of a copy of the package; the unit tests run against the copy, and must fail.
The exit code is 1 if a mutant survives (or if the unchanged copy fails, which would make every other line worthless).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("service/understudy/rollout/sequential")
TESTS = Path("tests/unit/rollout")


@dataclass(frozen=True)
class Mutant:
    """One change: in `module`, `old` (which occurs once) becomes `new`."""

    name: str
    module: str
    old: str
    new: str


RANGE = "if not lo <= x <= hi:"
NAN_DROPPED = f"if x != x:\n            return\n        {RANGE}"
NEW_STEP = "self._step = MeanEvidence(**self._whole.settings())"
MARGIN = 'self._margin = checked("margin", margin, lo, hi)'
CENTRE = "weighted(candidate, loss, share, "
RESTART = "starting, self._waiting = "
PENDING = "for worst, times in "

# (what is wrong, module, old, new)
MUTANTS = [
    Mutant(*parts)
    for parts in (
        ("log E compared with 1/α", "base", "return -math.log(alpha)", "return 1.0 / alpha"),
        ("log E compared with α", "base", "return log_e >= threshold(alpha)", "return log_e >= alpha"),
        ("harm line and margin swapped", "goal", MARGIN, f"margin, harm_line = harm_line, margin\n        {MARGIN}"),
        (
            "the best bet in hindsight",
            "mean",
            "for stock, bet in sides) - _LOG_RUNGS",
            "for stock, bet in [max(sides)])",
        ),
        ("bets from the data", "mean", "float(x) - base", "(float(x) - base) * (1.0 if self._total >= 0 else 0.5)"),
        ("log1p(λx) without n·log1p(λm)", "mean", "stock - n * math.log1p(bet * step)", "stock"),
        (
            "base changed, state kept",
            "base",
            "mine[name] != theirs[name]",
            'mine[name] != theirs[name] and name != "base"',
        ),
        ("grid changed, state kept", "base", "if grid != GRID:", "if grid is None:"),
        ("E reset on step change", "goal", NEW_STEP, f"{NEW_STEP}; self._late = LateHarm(**self._late.settings())"),
        ("a new step lives on the old one", "goal", NEW_STEP, "pass"),
        ("NaN dropped", "mean", RANGE, NAN_DROPPED),
        ("NaN dropped by late harm", "late_harm", RANGE, NAN_DROPPED),
        ("values out of bounds let in", "mean", RANGE, "if x != x:"),
        ("centre knows the loss", "ipw", f"{CENTRE}self.centre)", f"{CENTRE}(self._losses + loss) / (self.n + 1))"),
        ("the other model's share", "ipw", "(centre - loss) / (1.0 - share)", "(centre - loss) / share"),
        ("every restart with a full stock", "late_harm", f"{RESTART}self._waiting - waiting", f"{RESTART}1.0"),
        ("restarts never spent", "late_harm", "return 1.0 / math.log2(t + 2)", "return 1.0"),
        ("pending labels ignored", "goal", f"{PENDING}(pending or {{}}).items():", f"{PENDING}():"),
        ("pending labels as the best", "goal", "evidence.assuming(worst, times)", "evidence.assuming(-worst, times)"),
        ("missing labels are harm", "goal", "self._late.update(best)", "self._late.update(x)"),
        ("promoted on any metric", "compose", "return min(log_es.values())", "return max(log_es.values())"),
        ("harm uncorrected", "compose", "return log_sum_exp(parts.values())", "return max(log_es.values())"),
        (
            "an edge in the bucket below",
            "histogram",
            "bisect_right(self._edges, value)",
            "bisect_left(self._edges, value)",
        ),
        ("rounded to the wrong side", "latency", "more(i + 1) + fewer(shifted[i])", "more(i) + fewer(shifted[i])"),
        ("a merge that forgets", "mean", "self._at_lo + at_lo\n", "at_lo\n"),
        (
            "bets without weights",
            "rate",
            "return log_sum_exp(terms) - math.log(len(bets))",
            "return log_sum_exp(terms)",
        ),
        ("shares pooled", "attribution", "fair_part(share, ratio)) for share", "fair_part(0.5, ratio)) for share"),
        ("the band's other edge", "mean", "edge(lambda m: self._log_e(down, stocks, m) >= enough, hi, lo)", "-low"),
    )
]


def applied(source: str, mutant: Mutant) -> str:
    """The changed source; ValueError where the place is not there exactly once."""
    if (found := source.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} occurs {found} times in {mutant.module}.py, not once")
    changed = source.replace(mutant.old, mutant.new)
    # A mutant may need a name that the module does not import.
    return changed.replace("from bisect import bisect_right", "from bisect import bisect_left, bisect_right")


def run(copy: Path) -> tuple[bool, str]:
    """Whether the tests pass against the copy, and the first line that says why not."""
    command = [sys.executable, "-m", "pytest", str(TESTS), "-k", "test_sequential and not drift", "-m", "not slow"]
    command += ["-x", "--tb=no", "-p", "no:cacheprovider"]
    env = os.environ | {"PYTHONPATH": str(copy / "service")}
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode not in {0, 1, 2}:  # no tests, or pytest itself is broken: that is no death
        raise RuntimeError(done.stdout + done.stderr)
    why = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, why[0].split("::")[-1].split(" - ")[0] if why else ""


def copied(into: Path) -> Path:
    """The package and its tests, alone: `understudy` must be imported from here and not from the checkout."""
    for name in ("service/understudy/__init__.py", "service/understudy/rollout/__init__.py", "pyproject.toml"):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, into / name)
    shutil.copytree(ROOT / PACKAGE, into / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    (into / TESTS).mkdir(parents=True)
    for test in sorted((ROOT / TESTS).glob("test_sequential_*.py")):
        shutil.copy(test, into / TESTS)
    return into


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.statistics.mutants", description=__doc__)
    parser.add_argument("only", nargs="*", help="words of a mutant's name; without, all of them")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.only or any(word in m.name for word in options.only)]
    console, began = Console(), time.monotonic()
    shown = Table("mutant", "module", "", "noticed by", title="P13: mutants")
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        if not (healthy := run(copy))[0]:
            console.print(f"[red]The tests fail without any mutant: {healthy[1]}")
            return 1
        for mutant in track(chosen, "mutants", console=Console(stderr=True)):
            module = copy / PACKAGE / f"{mutant.module}.py"
            source = module.read_text(encoding="utf-8")
            module.write_text(applied(source, mutant), encoding="utf-8")
            passed, why = run(copy)
            module.write_text(source, encoding="utf-8")
            survivors += passed
            shown.add_row(mutant.name, mutant.module, "[red]SURVIVES" if passed else "[green]dies", why)
    console.print(shown)
    console.print(f"{len(chosen) - survivors} of {len(chosen)} mutants die ({time.monotonic() - began:.0f} s)")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
