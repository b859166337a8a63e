"""Chooses concrete parts and puts them together, for each kind of process."""

from understudy.wiring.records import Records
from understudy.wiring.worker import Worker

__all__ = ["Records", "Worker"]
