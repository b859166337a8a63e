"""What the service answers fits the document that describes it."""

import json
from typing import Any

import msgspec
import pytest

from tests.unit.api.test_openapi import document, fits
from understudy.api.documents import Access, ArgoMeasurement, ArgoVerdict, Gate
from understudy.documents import Audit, Document, Drift, Events, Evidence, Traffic, TrafficPoint
from understudy.domain import Event, Variant
from understudy.inference.decoding import Field
from understudy.rollout.policy import parse
from understudy.serving.policy_document import about
from understudy.testing import card

POLICY = parse("model: m\ntask: binary-classification\nprimary: a\ncandidate: b\nsteps: [{canary: 5}, promote]\n")
COUNTS = {"requests": 3, "asked": 4, "failed": 1, "p50_ms": 1.5, "p99_ms": None}
DOCUMENTS: list[Document] = [
    Access("ada", "viewer", tokens=True),
    ArgoVerdict(ArgoMeasurement(ok=True, inconclusive=False, reason="all goals are met")),
    Gate("canary", "hold"),
    Audit(None, 3600.0, []),
    Events([Event(1.0, "pause", "ada", "lunch", 7, {"from": "canary"}, 12)]),
    Evidence(7, {"rows/live": 3.0}, []),
    Traffic("recent", None, None, []),
    Traffic("recent", 5.0, 240, [msgspec.convert({"from": 1.0, "to": 6.0, "primary": COUNTS}, TrafficPoint)]),
    Drift(None, [], [], {"primary": {"rows": 3, "accuracy": None, "brier": 0.1}}, []),
    about(POLICY, [Field("x", "float32"), Field("s", "string")], ["user"], {Variant.PRIMARY: card()}),
]


@pytest.mark.parametrize("answer", DOCUMENTS, ids=lambda answer: type(answer).__name__)
def test_an_answer_fits_its_schema_and_a_broken_one_does_not(answer: Document) -> None:
    """As it is sent. Without one of its required members it does not fit, so the schema says something."""
    name, body = type(answer).__name__, json.loads(msgspec.json.encode(answer))
    whole: dict[str, Any] = document()
    required = whole["components"]["schemas"][name]["required"]

    assert fits(body, name, whole)
    assert required
    assert not fits({key: value for key, value in body.items() if key != required[0]}, name, whole)
