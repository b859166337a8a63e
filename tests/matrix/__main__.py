"""Play the whole matrix and write `docs/reference/matrix.md`: `python -m tests.matrix`.

Exit code 1 when more rollouts end wrongly than the error budget explains, or a decision is not reached again offline.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.matrix import page
from tests.matrix.cells import TRUTHS, Outcome, cells, play
from tests.matrix.worlds import STYLES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "matrix.md"


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--per-style", type=int, default=3, help="cells of each style of model (default 3: 51 cells)")
    parser.add_argument("--requests", type=int, default=4_000, help="the most requests of a rollout (default 4,000)")
    parser.add_argument("--seeds", type=int, default=1, help="how often each rollout is played (default 1)")
    parser.add_argument("--only", help="play the cells whose description or style holds this text; write no page")
    args = parser.parse_args()
    began, outcomes = time.monotonic(), list[Outcome]()
    chosen = [c for c in cells(args.per_style) if args.only in {None, ""} or args.only in f"{STYLES[c.style].name} {c}"]
    with tempfile.TemporaryDirectory() as folder:
        for number, cell in enumerate(chosen, 1):
            for truth in TRUTHS:
                for seed in range(args.seeds):
                    outcome = play(cell, truth, Path(folder), requests=args.requests, seed=seed)
                    if outcome.undecided:
                        print(f"{number}/{len(chosen)} goes on: {page.line(outcome)}", file=sys.stderr, flush=True)
                        outcome = play(cell, truth, Path(folder), requests=args.requests * page.LONGER, seed=seed)
                    outcomes.append(outcome)
                    print(f"{number}/{len(chosen)} {page.line(outcomes[-1])}", file=sys.stderr, flush=True)
    minutes = (time.monotonic() - began) / 60
    text, problems = page.written(outcomes, requests=args.requests, minutes=minutes)
    if not args.only:
        PAGE.write_text(text, encoding="utf-8")
    print("\n".join(problems) or f"{len(outcomes)} rollouts: no more wrong ends than the error budget explains")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
