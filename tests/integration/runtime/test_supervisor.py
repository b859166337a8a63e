"""A supervisor that would not look for an hour starts a process anew when it has died."""

import os
import signal
import subprocess
import sys

SUPERVISOR = """
import sys
from bentoml._internal.utils.circus import create_standalone_arbiter
from circus.watcher import Watcher
from understudy.runtime import supervisor as restarts

restarts.install()
restarts.install()
say = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
watcher = Watcher("one", sys.executable, args=["-c", say], close_child_stdout=False)
create_standalone_arbiter([watcher], check_delay=3600).start()
"""


def test_a_process_that_died_is_started_anew_and_one_that_is_stopped_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(supervisor.stdout.readline())]
        for _ in range(2):
            os.kill(pids[-1], signal.SIGKILL)
            pids.append(int(supervisor.stdout.readline()))
        supervisor.terminate()
        assert supervisor.stdout.read() == ""
        assert supervisor.wait(30) == 0
    assert len(set(pids)) == 3
