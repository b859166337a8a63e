"""The documents that REST, command line, dashboard and report share. OpenAPI is generated from them.

What is assembled for a document is a struct. What the store keeps as JSON is a typed dictionary, and is shown as it was kept.
"""

from understudy.documents.base import Document
from understudy.documents.history import (
    Audit,
    Drift,
    DriftAlarm,
    DriftEstimate,
    DriftFeature,
    Events,
    Evidence,
    Traffic,
    TrafficPoint,
)
from understudy.documents.policy import FieldDocument, LabelRules, PolicyDocument, StepDocument
from understudy.documents.state import (
    Comparison,
    DriftSummary,
    FileChange,
    LabelFigures,
    ModelStatus,
    RehearsalCounts,
    Rollout,
)

__all__ = [
    "Audit",
    "Comparison",
    "Document",
    "Drift",
    "DriftAlarm",
    "DriftEstimate",
    "DriftFeature",
    "DriftSummary",
    "Events",
    "Evidence",
    "FieldDocument",
    "FileChange",
    "LabelFigures",
    "LabelRules",
    "ModelStatus",
    "PolicyDocument",
    "RehearsalCounts",
    "Rollout",
    "StepDocument",
    "Traffic",
    "TrafficPoint",
]
