"""`understudy`: serve a rollout, look at it, steer it, and send history through it."""

from service.cli import history, start, steer
from service.cli.common import app

__all__ = ["app", "history", "start", "steer"]
