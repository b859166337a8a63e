"""`kill -9` of the controller's process at every step of every tick, over a SQLite file: each transition happens, once."""

import dataclasses
import multiprocessing
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.killed import Spot, control
from tests.support.controllers import RAMP, moves
from tests.unit.rollout.world import World
from understudy.store.sql import SqlStore

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.acceptance.killed"])
WRITES = ("lead", "save_state", "save_plan")
READS = ("load_plan", "load_state", "outcomes")
STORIES = {"good": ((640, "same"), (640, "same"), (5, "same")), "broken": ((60, "worse"), (5, "worse"))}
ANSWER_MAX_S = 30.0


class Controllers:
    """One controller's process at a time; when it was killed, another one with another name follows at the next tick."""

    def __init__(self, world: World, url: str, spot: Spot | None) -> None:
        self.world, self.url, self.started, self.killed = world, url, 0, 0
        self.calls: Counter[str] = Counter()
        self._start(spot)

    def _start(self, spot: Spot | None) -> None:
        self._ask, theirs = FORKS.Pipe()
        name = f"worker-{self.started}"
        self._process = FORKS.Process(target=control, args=(self.url, name, theirs, spot), daemon=True)
        self._process.start()
        theirs.close()
        self.started += 1

    def tick(self) -> None:
        """Ten seconds later: by then the lease of whoever was killed is over."""
        self.world.clock.advance(10)
        self._ask.send(self.world.clock.now())
        try:
            assert self._ask.poll(ANSWER_MAX_S), "no answer from the controller's process"
            self.calls = Counter(self._ask.recv())
        except (EOFError, ConnectionResetError):
            self._process.join(ANSWER_MAX_S)
            assert self._process.exitcode == -signal.SIGKILL
            self.killed += 1
            self._start(None)

    def stop(self) -> None:
        self._ask.send(None)
        self._process.join(ANSWER_MAX_S)
        assert self._process.exitcode == 0


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rollout whose first 640 requests have been answered and labelled, and judged by nobody."""
    file = tmp_path_factory.mktemp("begun") / "store.db"
    store = SqlStore(f"sqlite:///{file}", "r", lambda outcome: {})
    World(store=store).serve(640)
    store.close()
    return file


def told(begun: Path, folder: Path, story: str, spot: Spot | None = None) -> tuple[World, Controllers]:
    """The rest of the story, with the controller killed at a spot; two ticks after each batch, as time goes on."""
    folder.mkdir()
    shutil.copy(begun, folder / "store.db")
    url = f"sqlite:///{folder / 'store.db'}"
    world = World(store=SqlStore(url, "r", lambda outcome: {}))
    world.served = 640
    controllers = Controllers(world, url, spot)
    for n, kind in ((0, "same"), *STORIES[story]):
        world.serve(n, kind)
        controllers.tick()
        controllers.tick()
    controllers.stop()
    return world, controllers


SPOTS = [(story, effect) for story in STORIES for effect in (*WRITES, *READS)]
QUICK = [("good", "save_plan"), *(("broken", effect) for effect in WRITES)]
"""Every transition of the long story, and every write of the short one. `make test-all` has the others: the ticks of the long
story are alike, and a kill after a read finds what the write before it left; `test_controller` has all of them in memory."""


@pytest.mark.parametrize(
    ("story", "effect"), [pytest.param(*spot, marks=() if spot in QUICK else pytest.mark.slow) for spot in SPOTS]
)
def test_killed_anywhere_the_rollout_goes_on_and_every_transition_happens_once(
    begun: Path, tmp_path: Path, story: str, effect: str
) -> None:
    """The log, the plan and what `verify` says are those of a run that nobody disturbed; each kill is a real one."""
    whole, undisturbed = told(begun, tmp_path / "whole", story)
    assert whole.kinds == (RAMP if story == "good" else ["started", "advance", "rollback"])
    assert undisturbed.killed == 0
    assert undisturbed.calls[effect]
    for nth in range(1, undisturbed.calls[effect] + 1):
        # Before a read nothing has happened since the write before it, which is a spot of its own.
        for when in ("before", "inside", "after") if effect in WRITES else ("after",):
            spot = Spot(effect, nth, when)
            world, controllers = told(begun, tmp_path / f"{nth}-{when}", story, spot)
            assert controllers.killed == 1, spot
            assert moves(world) == moves(whole), spot
            assert dataclasses.replace(world.plan, updated_at=0) == dataclasses.replace(whole.plan, updated_at=0), spot
            checks, changed = world.verified()
            assert all(check.agrees for check in checks), spot
            assert changed is None
            world.store.close()
    whole.store.close()
