"""`understudy`: serve a rollout, look at it, steer it, and send history through it."""

from service.cli import demo, history, launch, start, steer, verify
from service.cli.common import app

__all__ = ["app", "demo", "history", "launch", "start", "steer", "verify"]
