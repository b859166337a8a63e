"""Play every model of the zoo and write `docs/reference/models.md`: `python -m tests.zoo`.

Exit code 1 when any model is neither right at all doors nor refused as it must be.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.zoo import page
from tests.zoo.doors import Result
from tests.zoo.models import models
from tests.zoo.play import played

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="play the models whose name holds this text; write no page")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time (default: one a core)")
    parser.add_argument("--seed", type=int, default=14, help="of the rows (default 14)")
    parser.add_argument(
        "--in-process", action="store_true", help="without processes: all but the sockets; eight times as fast"
    )
    args = parser.parse_args()
    chosen = [entry for entry in models() if args.only in {None, ""} or args.only in entry.name]
    results = dict[str, Result]()

    def write(known: Sequence[Result]) -> None:
        text = page.written(known, of=len(chosen), seed=args.seed, real=not args.in_process)
        PAGE.write_text(text, encoding="utf-8")

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        tasks = [
            pool.submit(played, entry.name, args.seed, real=not args.in_process) for entry in reversed(chosen)
        ]  # the slowest first
        for number, task in enumerate(as_completed(tasks), 1):
            result = task.result()
            results[result.entry.name] = result
            wrong = sum(1 for each in results.values() if each.wrong)
            print(f"{number}/{len(chosen)} ({wrong} wrong) {page.line(result)}", file=sys.stderr, flush=True)
            if not args.only and (number % 10 == 0 or number == len(chosen)):
                write([results[entry.name] for entry in chosen if entry.name in results])
    ordered = [results[entry.name] for entry in chosen]
    wrong = sum(1 for result in ordered if result.wrong)
    print(f"{len(ordered)} models: {sum(1 for r in ordered if r.refused)} refused, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
