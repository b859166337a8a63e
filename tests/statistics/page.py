"""The words around the tables of `tests.statistics.table`."""

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy

METHOD = """\
# The statistics of the rollout decision, simulated

{rollouts:,} rollouts per row, each judged after every label up to {labels:,} labels (power: up to {horizon:,}), α = 5 %
for each verdict; one model wrong alone on 10 % of the requests and both on 5 %, unless the row says otherwise; margin
2 points, harm line 0. In brackets: 95 % Clopper-Pearson interval. Bold shares must stay under 5 % and bold medians
under their bound: the command that writes this page fails otherwise.

Written by `python -m tests.statistics.table`, seed {seed}, in {minutes:.0f} minutes on one core ({machine}); Python
{python}, numpy {numpy}, scipy {scipy}. The simulator is the same formulas in numpy; a test holds it to the classes that
decide, to 1e-9 at every step. docs/explanation/statistics.md explains the method.

How the others are put on the same streams:

- **z-test**: one-sided, nominal 5 %, paired, looked at every 100 labels.
- **Flagger**: checks of 200 labels of the candidate; a check fails above the primary's known error rate plus the margin
  (12 %); five failures in all roll back, ten (or sixty) passes promote.
- **Kayenta**: 98 % Mann-Whitney interval of the shift between 50 points of 400 labels per model, tolerance 0.25 ×
  Hodges-Lehmann, looked at after every 10 points; never "High" means promoted. *Little traffic*: 60 points of 20 labels.

Each row shows only the verdict that would be wrong there.
"""

TABLES: Mapping[str, tuple[str, Sequence[str], str]] = {
    "wrong": (
        "Wrong verdicts, paired labels",
        [
            "the truth",
            "wrong verdict",
            "**ours**",
            "z-test",
            "Flagger, 10 checks",
            "Flagger, 60 checks",
            "Kayenta",
            "Kayenta, little traffic",
        ],
        """\
A regression at night that the day outweighs *is* harm to `LateHarm`, by design: its day/night row has no hour with harm
in it, and the row with equal averages is judged by the plain engine.""",
    ),
    "late": (
        "Labels that come late, and later when they are bad (or good) news",
        [
            "the truth",
            "wrong verdict",
            "**ours, settled**",
            "**ours, late harm in request order**",
            "`on_arrival`",
            "mutant: agreements at once",
            "z-test on arrival",
        ],
        """\
Settled: requests in their order, disagreements without a label scored as the worst they can become, read over all requests
and over those at least 600, 1,800 and 6,000 requests old; any may cross. `on_arrival` assumes that delay has nothing to
do with the outcome; this table is what happens when it has.""",
    ),
    "ramp": (
        "A traffic ramp: each request has one model, and the share goes through three values",
        ["the truth", "wrong verdict", "**ours, inverse propensity**", "**ours, attribution**", "pooled z-test"],
        "The pooled test mixes times with different shares and error rates (Simpson's paradox), in either direction.",
    ),
    "power": (
        "Power: labels until the verdict",
        ["question", "median", "bound", "90 % of rollouts", "note"],
        """\
Undecided rollouts count as longer than the horizon. Late changes: labels after the change, among the rollouts that were
not rolled back before it.""",
    ),
    "fates": (
        "What becomes of a candidate: rolled back / promoted, percent of rollouts",
        [
            "points worse",
            "**ours, harm line 0**",
            "**ours, harm line = margin**",
            "z-test",
            "Flagger, 10 checks",
            "Flagger, 60 checks",
            "Kayenta",
            "Kayenta, little traffic",
        ],
        """\
Whichever verdict comes first within the labels of the table; the rest is still undecided, which is an answer. With the
harm line at 0, a candidate that is 1 point worse is harmful and inside the margin at once: both verdicts are right.""",
    ),
}


def written(lines: Mapping[str, Sequence[str]], size: Any, seconds: float) -> str:
    """The whole page."""
    text = METHOD.format(
        rollouts=size.rollouts,
        labels=size.labels,
        horizon=size.horizon,
        seed=size.seed,
        minutes=math.ceil(seconds / 60),
        machine=machine(),
        python=platform.python_version(),
        numpy=np.__version__,
        scipy=scipy.__version__,
    )
    for name, (title, columns, note) in TABLES.items():
        head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
        text += f"\n## {title}\n\n{head}\n" + "\n".join(lines.get(name, [])) + f"\n\n{note}\n"
    return text


def machine() -> str:
    """The processor, as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0]}, {len(named)} cores" if named else platform.machine()
