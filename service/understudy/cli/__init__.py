"""The command line, `understudy`: serve a rollout, look at it, steer it, and send history through it."""

from understudy.cli import demo, drift, evaluate, history, loadtest, monitoring, report, start, steer, verify
from understudy.cli.common import app

__all__ = [
    "app",
    "demo",
    "drift",
    "evaluate",
    "history",
    "loadtest",
    "monitoring",
    "report",
    "start",
    "steer",
    "verify",
]
