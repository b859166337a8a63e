"""What long requests do to others: 16 texts of 1,024 tokens, a loop without end, and 8 MiB of JSON, again and again.

    python -m loadtests.deadlines            # exit code 1 when a limit is exceeded; writes loadtests/results/DATE-deadlines.md

Two workers. One connection stays with one worker, and prediction ids tell which. Long requests go to the first worker, other
callers ask the second one, and `/livez` is asked of the first. Afterwards the workers' memory must be what it was.
"""

import datetime
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from tests.faults.models import pair_rollout
from tests.support import service
from tests.support.graphs import attention, looping

LIMIT_MS = 100.0
MEMORY_GROWTH_MAX = 0.10
SENDERS = 2
RETURN_S = 60.0
"""How long memory may take to return: what was rehearsed keeps its rows until the candidate has had its turn."""
RESULTS = Path(__file__).parent / "results"
console = Console(highlight=False)


@dataclass(frozen=True)
class Attack:
    """What is sent.

    Attributes:
        make: writes a model; one of two numbers tells the models apart.
        long: the body of a request that takes long.
        short: the body of another caller's request.
        limited: whether the limits apply; else it is shown beside them.
    """

    name: str
    make: Callable[[Path, int], Path]
    long: bytes
    short: bytes
    limited: bool = True


def _texts(path: Path, number: int) -> Path:
    return attention(path, width=256, layers=12, words=100 + number)


SHORT_TEXT = b'{"rows":[{"input_ids":[1,2,3,4,5,6,7,8]}]}'
ATTACKS = [
    Attack(
        "16 texts of 1,024 tokens",
        _texts,
        b'{"rows":[' + b",".join([b'{"input_ids":[' + b",".join([b"1"] * 1024) + b"]}"] * 16) + b"]}",
        SHORT_TEXT,
    ),
    Attack(
        "a loop without end",
        lambda path, number: looping(path, divisor=number),
        b'{"rows":[{"turns":4000000000,"x":1}]}',
        b'{"rows":[{"turns":2,"x":1}]}',
    ),
    Attack(
        "8 MB of numbers",
        _texts,
        b'{"rows":[{"input_ids":[' + b",".join([b"1"] * 4_000_000) + b"]}]}",
        SHORT_TEXT,
        limited=False,
    ),
]


@dataclass
class Latencies:
    """Milliseconds by what was asked."""

    others: list[float]
    livez: list[float]
    statuses: dict[int, int]

    def row(self, name: str) -> str:
        """A line of the table."""
        cells = [f"{_p99(values):.1f} / {max(values):.1f}" for values in (self.others, self.livez)]
        answers = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return f"| {name} | {' | '.join(cells)} | {answers or '–'} |"


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]


def connections(url: str, body: bytes, wanted: int) -> list[httpx.Client]:
    """Connections to different workers, one to each; sorted by worker."""
    found: dict[str, httpx.Client] = {}
    for _ in range(500):
        client = httpx.Client(base_url=url, timeout=120)
        answer = client.post("/predict", content=body)
        if answer.status_code == 200:
            worker = answer.headers["x-prediction-id"].rpartition("-")[0]
            if found.setdefault(worker, client) is client:
                if len(found) == wanted:
                    return [found[name] for name in sorted(found)]
                continue
        client.close()
    raise SystemExit("the connections do not reach every worker")


def measured(attack: Attack, url: str, seconds: float, *, attacked: bool) -> Latencies:
    """Latencies of others, with or without long requests."""
    first, second = connections(url, attack.short, 2)
    name = first.post("/predict", content=attack.short).headers["x-prediction-id"].rpartition("-")[0]
    senders: list[httpx.Client] = []
    while attacked and len(senders) < SENDERS:
        client = connections(url, attack.short, 2)[0]
        again = client.post("/predict", content=attack.short)
        assert again.headers["x-prediction-id"].startswith(name)
        senders.append(client)
    found, ends = Latencies([], [], {}), time.monotonic() + seconds

    def repeat(ask: Callable[[], Any], pause_s: float, note: list[float] | None) -> None:
        while time.monotonic() < ends:
            began = time.perf_counter()
            answer = ask()
            if note is not None:
                note.append((time.perf_counter() - began) * 1000)
                assert answer.status_code == 200, answer.text[:200]
            else:
                found.statuses[answer.status_code] = found.statuses.get(answer.status_code, 0) + 1
            time.sleep(pause_s)

    threads = [
        threading.Thread(
            target=repeat, args=(lambda: second.post("/predict", content=attack.short), 0.01, found.others)
        ),
        threading.Thread(target=repeat, args=(lambda: first.get("/livez"), 0.01, found.livez)),
        *(
            threading.Thread(target=repeat, args=(lambda c=client: c.post("/predict", content=attack.long), 0.0, None))
            for client in senders
        ),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in [first, second, *senders]:
        client.close()
    return found


def memory_mib(running: service.Running) -> float:
    """Resident memory of all workers."""
    return float(sum(worker.memory_info().rss for worker in running.children("Understudy"))) / 2**20


def main(seconds: Annotated[float, typer.Option(help="length of each measurement")] = 20.0) -> None:
    """Measure, print, and write the result."""
    lines = [
        "| sent to the first worker | others on the second worker: p99 / most, ms | `/livez` of the first | answers |",
        "|---|---|---|---|",
    ]
    memory, passed = [], True
    for attack in ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            rollout = pair_rollout(Path(folder), attack.make, 250)
            running = service.start(Path(folder) / "state", rollout=rollout, workers=2)
            try:
                alone = measured(attack, running.url, seconds / 2, attacked=False)
                before = memory_mib(running)
                beside = measured(attack, running.url, seconds, attacked=True)
                most = memory_mib(running)
                ended = time.monotonic()
                while (after := memory_mib(running)) > before * (1 + MEMORY_GROWTH_MAX):
                    if time.monotonic() - ended > RETURN_S:
                        break
                    time.sleep(1)
                returned_s = time.monotonic() - ended
            finally:
                running.stop()
        lines += [alone.row(f"nothing ({attack.name})"), beside.row(attack.name)]
        memory.append(
            f"| {attack.name} | {before:.0f} | {most:.0f} | {after:.0f} ({after / before - 1:+.1%}) | {returned_s:.0f} s |"
        )
        fast = _p99(beside.others) < LIMIT_MS and _p99(beside.livez) < LIMIT_MS
        passed = passed and (not attack.limited or (fast and after < before * (1 + MEMORY_GROWTH_MAX)))
    text = "\n".join(
        [
            *lines,
            "",
            "| resident memory of the workers, MiB | before | during | after | it took |",
            "|---|---|---|---|---|",
            *memory,
        ]
    )
    console.print(text)
    today = datetime.datetime.now(datetime.UTC).date()
    head = (
        f"# Long requests beside others\n\n`python -m loadtests.deadlines`, deadline 250 ms, {SENDERS} connections that send long "
        "requests without a pause, a candidate that rehearses them. Client, candidate and workers share the machine's cores. "
        f"{'Within' if passed else 'NOT within'} the limits: {LIMIT_MS:.0f} ms at p99, and {MEMORY_GROWTH_MAX:.0%} of memory. "
        "8 MB of numbers are shown beside them, without limits. The machine was in use by others while this ran.\n\n"
    )
    (RESULTS / f"{today}-deadlines.md").write_text(head + text + "\n", encoding="utf-8")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    typer.run(main)
