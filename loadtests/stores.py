"""SQLite and PostgreSQL as the store, side by side in one run: `python -m loadtests.stores`.

Each writer is a process that stores batches of observations as a worker's recorder does, one transaction each, and then labels
for them in calls of 100. SQLite runs as it ships (WAL, synchronous NORMAL), PostgreSQL with fsync and synchronous commits, on
this machine, without a network between: so both wait for the same disk, SQLite only at checkpoints.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path

import rich.console
import rich.table

from loadtests.postgres import Postgres
from understudy.domain import Attempt, LabelReport, Mode, Observation, Outcome, Status, Variant
from understudy.store.sql import SqlStore

LABELS = 100


def observation(name: str, at: float) -> Observation:
    """As the flights example records it."""
    answer = Attempt(Status.OK, 0, 0.137251, (0.862749, 0.137251), 0.000431)
    return Observation(name, name, at, 3, Variant.PRIMARY, Mode.LIVE, 500, answer, answer, "N14228", None)


def tally(outcome: Outcome) -> Mapping[str, float]:
    """A handful of counters, as the service adds them."""
    return {"labels/matched": 1, "loss_sum/primary/brier": 0.1, "loss_count/primary/brier": 1, f"n/{outcome.label}": 1}


def write(
    url: str, writer: int, batches: int, rows: int, start: Barrier, found: "multiprocessing.Queue[list[list[float]]]"
) -> None:
    """Store `batches` of `rows`, then a label for each hundredth; put the seconds of each call into `found`."""
    store = SqlStore(url, "bench", tally)
    prepared = [[observation(f"{writer:x}-{b * rows + i}", 1e9 + b) for i in range(rows)] for b in range(batches)]
    start.wait()
    times: list[list[float]] = [[], []]
    for batch in prepared:
        begun = time.perf_counter()
        store.add_observations(batch, {"requests/primary/live/200": rows})
        times[0].append(time.perf_counter() - begun)
    start.wait()
    for batch in prepared:
        reports = [LabelReport(each.prediction_id, 1, each.at + 60) for each in batch[:LABELS]]
        begun = time.perf_counter()
        store.add_labels(reports, received_at=1e9)
        times[1].append(time.perf_counter() - begun)
    start.wait()
    found.put(times)
    store.close()


def measure(url: str, writers: int, batches: int, rows: int) -> tuple[float, float, list[float], list[float]]:
    """Rows and labels per second, and the seconds of each call of either."""
    SqlStore(url, "bench", tally).close()
    found: multiprocessing.Queue[list[list[float]]] = multiprocessing.Queue()
    start = multiprocessing.Barrier(writers + 1)
    processes = [
        multiprocessing.Process(target=write, args=(url, writer, batches, rows, start, found))
        for writer in range(writers)
    ]
    for process in processes:
        process.start()
    walls = []
    start.wait()
    for _ in range(2):
        begun = time.perf_counter()
        start.wait()
        walls.append(time.perf_counter() - begun)
    times = [found.get() for _ in processes]
    for process in processes:
        process.join()
    calls = [[second for each in times for second in each[kind]] for kind in range(2)]
    stored = writers * batches
    return stored * rows / walls[0], stored * min(rows, LABELS) / walls[1], calls[0], calls[1]


def main() -> None:
    """Measure each store with one writer and with several, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100, help="transactions per writer (default %(default)s)")
    parser.add_argument("--rows", type=int, default=256, help="rows per transaction (default %(default)s)")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 4], help="processes that write at once")
    given = parser.parse_args()
    table = rich.table.Table(
        "store", "writers", "rows/s", "flush p50 ms", "p99 ms", "labels/s", "labels p50 ms", "p99 ms"
    )
    with Postgres(durable=True) as server, tempfile.TemporaryDirectory() as folder:
        for writers in given.writers:
            server.sql(f"CREATE DATABASE w{writers}")
            for name, url in (
                ("SQLite", f"sqlite:///{Path(folder)}/{writers}.db"),
                ("PostgreSQL", server.url(f"w{writers}")),
            ):
                rows, labels, flushes, calls = measure(url, writers, given.batches, given.rows)
                cells = [
                    f"{v * 1000:.1f}" for kind in (flushes, calls) for v in (statistics.median(kind), quantile(kind))
                ]
                table.add_row(name, str(writers), f"{rows:,.0f}", *cells[:2], f"{labels:,.0f}", *cells[2:])
    rich.console.Console(width=110).print(table)


def quantile(values: list[float], share: float = 0.99) -> float:
    """The value below which `share` of them lie."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


if __name__ == "__main__":
    main()
