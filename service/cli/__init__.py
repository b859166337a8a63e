"""`understudy`: serve a rollout, look at it, steer it, and send history through it."""

from service.cli import history, proof, start, steer
from service.cli.common import app

__all__ = ["app", "history", "proof", "start", "steer"]
