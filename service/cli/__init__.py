"""`understudy`: serve a rollout, look at it, steer it, and send history through it."""

from service.cli import demo, drift, evaluate, history, launch, monitoring, report, start, steer, verify
from service.cli.common import app

__all__ = ["app", "demo", "drift", "evaluate", "history", "launch", "monitoring", "report", "start", "steer", "verify"]
