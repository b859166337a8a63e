"""Fakes and builders for tests: an engine without a model, a clock that is set by hand."""

from understudy.testing.builders import card, observation
from understudy.testing.fakes import FakeEngine, FixedCosts, FixedPlan, ManualClock
from understudy.testing.pipelines import pipeline

__all__ = ["FakeEngine", "FixedCosts", "FixedPlan", "ManualClock", "card", "observation", "pipeline"]
