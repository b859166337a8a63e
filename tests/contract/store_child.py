"""A process that writes to a store: `python -m tests.contract.store_child WHAT URL ...`. Says `ready`, waits for a line."""

import itertools
import random
import sys

from tests.contract.stores import names, observation, report, tally
from understudy.store.migrate import migrate
from understudy.store.sql import SqlStore

BATCH = 10


def say(*words: object) -> None:
    """One line each, at once: the parent waits for them, or kills."""
    sys.stdout.writelines(f"{word}\n" for word in words)
    sys.stdout.flush()


def write_all(url: str, seed: int, count: int) -> None:
    """Store the same predictions and labels as everybody else, in an order of one's own; print each outcome's name."""
    store = SqlStore(url, "flight-1", tally)
    order = random.Random(seed)
    work = [(kind, start) for start in range(0, count, BATCH) for kind in ("observations", "labels")]
    order.shuffle(work)
    for kind, start in work:
        batch = [f"p{i}" for i in range(start, start + BATCH)]
        if kind == "observations":
            outcomes = store.add_observations([observation(name) for name in batch], {f"flushes/{seed}": 1})
        else:
            outcomes = store.add_labels([report(name) for name in batch], received_at=200.0).outcomes
        say(*names(outcomes))
    say(*names(store.join_pending()))
    store.close()


def acknowledge(url: str) -> None:
    """Store labels for ever, and say so after each batch. Every second one has its observation before, the others after."""
    store = SqlStore(url, "flight-1", tally)
    for start in itertools.count(step=BATCH):
        batch = [f"p{i}" for i in range(start, start + BATCH)]
        store.add_observations([observation(name) for name in batch[::2]], {"seen": BATCH // 2})
        store.add_labels([report(name) for name in batch], received_at=200.0)
        say(start)
        store.add_observations([observation(name) for name in batch[1::2]], {"seen": BATCH // 2})


def main() -> None:
    what, url, *numbers = sys.argv[1:]
    say("ready")
    sys.stdin.readline()
    if what == "migrate":
        say(migrate(url))
    elif what == "write":
        write_all(url, *map(int, numbers))
    else:
        acknowledge(url)


if __name__ == "__main__":
    main()
