"""Chooses the concrete parts of each kind of process and connects them."""

from understudy.wiring.records import RecordsParts
from understudy.wiring.worker import Worker

__all__ = ["RecordsParts", "Worker"]
