"""The `understudy` command: serve, check, steer and inspect a rollout."""

from understudy.cli import (
    demo,
    drift,
    evaluate,
    history,
    init,
    loadtest,
    models,
    monitoring,
    report,
    start,
    steer,
    verify,
)
from understudy.cli.common import app

__all__ = [
    "app",
    "demo",
    "drift",
    "evaluate",
    "history",
    "init",
    "loadtest",
    "models",
    "monitoring",
    "report",
    "start",
    "steer",
    "verify",
]
