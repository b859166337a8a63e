"""A process that dies is started anew at once.

BentoML's supervisor (circus) looks after its processes every ten seconds: so long a service with one worker answered nobody after a
crash, and the candidate and the records were away. Here it looks when the kernel says that a child has died (SIGCHLD), and a
process that dies again and again is started less and less often.
"""

import asyncio
import contextlib
import functools
import signal
import time
from typing import Any

from circus.controller import Controller
from circus.exc import ConflictError

AT_ONCE_S = 0.05
"""Those that die together are started together."""
AGAIN_S, AGAIN_MAX_S = 1.0, 10.0
"""How long the second restart waits, doubled for each further one, up to what circus does by itself."""
FORGIVEN_S = 60.0
"""After this long without a death the next restart is at once again."""


class Patience:
    """How long a restart waits, by how many there were lately."""

    def __init__(self) -> None:
        self._last = -FORGIVEN_S
        self._next = AT_ONCE_S

    def wait_s(self, now: float) -> float:
        """For a death at `now` (seconds of any clock that does not go back)."""
        wait = AT_ONCE_S if now - self._last >= FORGIVEN_S else self._next
        self._last = now + wait
        self._next = min(AGAIN_S if wait < AGAIN_S else 2 * wait, AGAIN_MAX_S)
        return wait


@functools.cache
def install() -> None:
    """In the supervisor, before it starts its processes; harmless anywhere else."""
    begin = Controller.start

    def start(controller: Any) -> None:
        begin(controller)
        patience = Patience()
        waiting = False

        async def restart() -> None:
            nonlocal waiting
            await asyncio.sleep(patience.wait_s(time.monotonic()))
            waiting = False
            with contextlib.suppress(ConflictError):  # it is starting or stopping them all
                await controller.arbiter.manage_watchers()

        def died() -> None:
            nonlocal waiting
            if not waiting:
                waiting = True
                controller.loop.add_callback(restart)

        signal.signal(signal.SIGCHLD, lambda *_: controller.loop.add_callback_from_signal(died))

    Controller.start = start
