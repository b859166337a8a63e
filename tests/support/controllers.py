"""A controller's process that may crash, and the stories that it judges."""

from collections import Counter

RAMP = ["started", "advance", "advance", "finish"]


class CrashError(Exception):
    """The process is gone."""


class Trap:
    """A store that calls a hook before or after the `nth` call of one of its methods, and counts all calls."""

    def __init__(self, store, effect="", nth=0, when="before", hook=None):
        self._store, self._effect, self._nth, self._when, self._hook = store, effect, nth, when, hook or self._crash
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name):
        method = getattr(self._store, name)

        def call(*args, **kwargs):
            self.calls[name] += 1
            here = name == self._effect and self.calls[name] == self._nth
            if here and self._when == "before":
                self._hook()
            result = method(*args, **kwargs)
            if here and self._when == "after":
                self._hook()
            return result

        return call

    @staticmethod
    def _crash():
        raise CrashError


class Process:
    """A controller's process, which starts anew under another name after a crash, when the lease of the dead one is over."""

    def __init__(self, world, store=None):
        self.world, self.store, self.crashes = world, store, 0
        self.controller = world.controller("worker-0", store)

    def tick(self, **said):
        self.world.clock.advance(10)
        try:
            return self.controller.tick(**said)
        except CrashError:
            self.crashes += 1
            self.controller = self.world.controller(f"worker-{self.crashes}")
            return None


def good(world, process):
    """Equal models: through every step, and some traffic afterwards. Two ticks after each batch, as time goes on."""
    for n in (640, 640, 640, 5):
        world.serve(n)
        process.tick()
        process.tick()


def broken(world, process):
    """The candidate becomes bad when it answers 5 %."""
    for n, kind in ((640, "same"), (60, "worse"), (5, "worse")):
        world.serve(n, kind)
        process.tick()
        process.tick()


def told(world, story=good, store=None):
    process = Process(world, store)
    story(world, process)
    return process


def moves(world):
    """What the judge did, where it looked, and what came of it; without the times, which a crash moves on."""
    kept = ("from", "to", "weight", "step", "judged_step", "seen", "settled", "tail_to", "marks", "chain")
    return [(e.kind, e.actor, e.revision, {name: e.details.get(name) for name in kept}) for e in world.store.events()]
