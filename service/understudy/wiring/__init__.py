"""Chooses the concrete parts of each kind of process and connects them."""

from understudy.wiring.records import Records
from understudy.wiring.worker import Worker

__all__ = ["Records", "Worker"]
