"""Play the whole matrix and write `docs/reference/matrix.md`: `python -m tests.matrix`.

Exit code 1 when more rollouts end wrongly than the error budget explains, or a decision is not reached again offline.
"""

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from tests.matrix import page
from tests.matrix.cells import Outcome, cells, play_cell
from tests.matrix.worlds import STYLES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "matrix.md"


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--per-style", type=int, default=3, help="cells of each style of model (default 3: 51 cells)")
    parser.add_argument("--requests", type=int, default=4_000, help="the most requests of a rollout (default 4,000)")
    parser.add_argument("--seeds", type=int, default=1, help="how often each rollout is played (default 1)")
    parser.add_argument("--only", help="play the cells whose description or style holds this text; write no page")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="rollouts at a time (default: one a core)"
    )
    args = parser.parse_args()
    began, outcomes = time.monotonic(), list[Outcome]()
    chosen = [c for c in cells(args.per_style) if args.only in {None, ""} or args.only in f"{STYLES[c.style].name} {c}"]
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(play_cell, chosen, repeat(args.requests), repeat(args.seeds)), 1):
            for outcome in found:
                print(f"{number}/{len(chosen)} {page.line(outcome)}", file=sys.stderr, flush=True)
            outcomes += found
    minutes = (time.monotonic() - began) / 60
    text, problems = page.written(outcomes, requests=args.requests, minutes=minutes)
    if not args.only:
        PAGE.write_text(text, encoding="utf-8")
    print("\n".join(problems) or f"{len(outcomes)} rollouts: no more wrong ends than the error budget explains")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
