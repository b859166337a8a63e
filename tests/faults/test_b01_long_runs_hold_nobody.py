"""B1: 16 texts of 1,024 tokens were answered after 7.5 s at a deadline of 250 ms, and `/livez` was silent all that time.

The cost was measured with one token and looked up by rows, so the run was taken for a short one and held the event loop.
"""

import time
from pathlib import Path

from tests.faults.models import pair_rollout
from tests.support import service
from tests.support.graphs import attention
from tests.support.liveness import watched

DEADLINE_S = 0.25
LONG = {"rows": [{"input_ids": [1] * 1024}] * 16}
SHORT = {"rows": [{"input_ids": [1] * 8}]}


def test_long_texts_are_late_alone(tmp_path: Path) -> None:
    """A 504 at the deadline, the run is cancelled, its memory comes back, and the next short text is answered."""
    rollout = pair_rollout(tmp_path, lambda path, number: attention(path, width=256, layers=12, words=10 + number), 250)
    running = service.start(tmp_path / "state", rollout=rollout)
    try:
        workers = running.children("Understudy") + running.children("Candidate")

        def memory() -> int:
            return sum(worker.memory_info().rss for worker in workers)

        def idle() -> bool:
            spent_s = sum(worker.cpu_times().user for worker in workers)
            time.sleep(0.5)
            return sum(worker.cpu_times().user for worker in workers) - spent_s < 0.2

        def short_is_answered() -> bool:
            return running.http.post("/predict", json=SHORT).status_code == 200

        running.wait_for(short_is_answered)
        before = memory()
        with watched(running.url) as livez:
            began = time.perf_counter()
            late = running.http.post("/predict", json=LONG)
            first_s = time.perf_counter() - began
            running.wait_for(short_is_answered)
            statuses = {running.http.post("/predict", json=LONG).status_code for _ in range(5)}

        assert late.status_code == 504
        assert statuses == {504}
        assert first_s < 20  # the run takes seconds on any machine, and is cancelled after a quarter of one
        assert livez.undisturbed(first_s), (max(livez.before), max(livez.during))
        running.wait_for(lambda: memory() < 1.1 * before)
        running.wait_for(idle)  # nothing runs on, in either process
    finally:
        running.stop()
