"""Restarts a process as soon as it dies.

BentoML's supervisor (circus) checks its processes every ten seconds. For that long after a crash, a service with one worker would
answer no requests. Here it checks when the kernel reports a dead child (SIGCHLD), and a process that dies repeatedly is restarted
with increasing delays.
"""

import asyncio
import contextlib
import functools
import signal
import time

from circus.controller import Controller
from circus.exc import ConflictError

AT_ONCE_S = 0.05
"""Delay of the first restart, so that processes that die together are restarted together."""
AGAIN_S, AGAIN_MAX_S = 1.0, 10.0
"""Delay of the second restart; it doubles with each further one, up to circus's own interval."""
FORGIVEN_S = 60.0
"""After this long without a crash, the next restart uses the first delay again."""


class RestartDelay:
    """The delay before a restart, by the number of recent restarts."""

    def __init__(self) -> None:
        self._last = -FORGIVEN_S
        self._next = AT_ONCE_S

    def wait_s(self, now: float) -> float:
        """The delay for a crash at `now`, in seconds of a monotonic clock."""
        wait = AT_ONCE_S if now - self._last >= FORGIVEN_S else self._next
        self._last = now + wait
        self._next = min(AGAIN_S if wait < AGAIN_S else 2 * wait, AGAIN_MAX_S)
        return wait


@functools.cache
def install() -> None:
    """Patch the supervisor. Call it before the supervisor starts its processes; it has no effect in other processes."""
    begin = Controller.start

    def start(controller: Controller) -> None:
        begin(controller)
        delay = RestartDelay()
        waiting = False

        async def restart() -> None:
            nonlocal waiting
            await asyncio.sleep(delay.wait_s(time.monotonic()))
            waiting = False
            with contextlib.suppress(ConflictError):  # the supervisor is starting or stopping all of them
                await controller.arbiter.manage_watchers()

        def died() -> None:
            nonlocal waiting
            if not waiting:
                waiting = True
                controller.loop.add_callback(restart)

        signal.signal(signal.SIGCHLD, lambda *_: controller.loop.add_callback_from_signal(died))

    Controller.start = start
