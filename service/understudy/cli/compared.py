"""Shows the comparison of the two models' outputs."""

import contextlib
import time
from collections.abc import Callable, Iterator

from understudy.cli.common import err
from understudy.domain import JsonObject

WAYS_SHOWN = 5
PROGRESS_EVERY_S = 5.0
"""How often progress is written where there is no terminal."""


@contextlib.contextmanager
def comparison_progress() -> Iterator[Callable[[int, int], None]]:
    """Shows how many rows were compared: in place on a terminal, else as a line every few seconds."""
    if err.is_terminal:
        with err.status("comparing the models …") as status:
            yield lambda done, rows: status.update(f"comparing the models: {done:,} of {rows:,} rows")
        return
    last = time.monotonic()

    def line(done: int, rows: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY_S:
            last = time.monotonic()
            err.print(f"compared {done:,} of {rows:,} rows", markup=False, soft_wrap=True)

    yield line


def comparison_lines(comparison: JsonObject, *, made_up: bool = False) -> Iterator[str]:
    """One line for each part of the `comparison` in `GET /rollout`.

    Args:
        made_up: whether fields of the rows were made up: then how far labels and probabilities differ is no finding.
    """
    labels, p = comparison.get("labels"), comparison.get("probabilities")
    if made_up and (labels or p):
        yield "both models answer these rows; how far their answers differ on made-up rows says nothing about real ones"
        labels = p = None
    if labels:
        ways = [f"{w['primary']} → {w['candidate']} {w['rows']:,}" for w in labels["ways"]]
        more = f", and {len(ways) - WAYS_SHOWN} more ways" if len(ways) > WAYS_SHOWN else ""
        which = f" ({', '.join(ways[:WAYS_SHOWN])}{more})" if ways else ""
        yield f"labels: {labels['flips']:,} of {labels['rows']:,} rows have different labels, {labels['share']:.2%}{which}"
    if p:
        most = f", at most {p['max']:.4f}" if "max" in p else ""
        yield (
            f"probabilities: mean distance {p['mean']:.4f} (total variation), 50 % of the rows within {p['p50']:.4f}, "
            f"99 % within {p['p99']:.4f}{most}; {p['equal']:.1%} equal"
        )
    for name, o in comparison.get("outputs", {}).items():
        line = f"{name}: {o['rows_outside']:,} of {o['rows']:,} rows outside the tolerance, {o['share']:.2%}"
        if o["mean_abs"] is not None:
            line += f"; mean difference {o['mean_abs']:.4g}"
        if "max_abs" in o:
            line += f", at most {o['max_abs']:.4g} (relative {o['max_rel']:.3g})"
        for what, words in (("not_finite", "numbers that are not finite"), ("misshapen", "rows with different shapes")):
            line += f"; {o[what]:,} {words}" if o[what] else ""
        yield line
