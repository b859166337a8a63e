"""B2: a Loop whose number of turns is an input: `/livez` was silent for 40 s, and SIGTERM was not obeyed.

No size of the input shows what such a run costs, so it never runs on the event loop, and it is cancelled at its deadline.
"""

import contextlib
import threading
import time
from pathlib import Path

import httpx

from tests.faults.models import pair_rollout
from tests.support import service
from tests.support.graphs import looping
from tests.support.liveness import watched


def rows(turns: int) -> dict[str, list[dict[str, float]]]:
    return {"rows": [{"turns": turns, "x": 3.0}]}


FOR_EVER = rows(4_000_000_000)


def test_a_loop_without_end_is_late_alone_and_the_service_stops_when_it_is_told_to(tmp_path: Path) -> None:
    """Others are answered meanwhile: they are let past it. SIGTERM ends the loop."""
    rollout = pair_rollout(tmp_path, lambda path, number: looping(path, divisor=number), 1_000)
    running = service.start(tmp_path / "state", rollout=rollout)
    try:
        with watched(running.url) as livez:
            late: list[int] = []
            loops = [
                threading.Thread(
                    target=lambda: late.append(
                        httpx.post(running.url + "/predict", json=FOR_EVER, timeout=60).status_code
                    )
                )
                for _ in range(2)
            ]
            began = time.perf_counter()
            for loop in loops:
                loop.start()
            time.sleep(0.1)
            others = [running.http.post("/predict", json=rows(2)) for _ in range(5)]
            for loop in loops:
                loop.join()
            took_s = time.perf_counter() - began

        assert set(late) <= {504, 429}
        assert 504 in late
        answered = [other.json()["predictions"][0]["value"] for other in others if other.status_code == 200]
        assert answered
        assert set(answered) == {3.0}
        assert livez.undisturbed(took_s), (max(livez.before), max(livez.during))
        threading.Thread(target=lambda: _quietly(running.url)).start()
        time.sleep(0.2)
    finally:
        began = time.perf_counter()
        running.stop()
    assert time.perf_counter() - began < 20


def _quietly(url: str) -> None:
    """Ask for a loop without end of a service that is about to stop."""
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(url + "/predict", json=FOR_EVER, timeout=60)
