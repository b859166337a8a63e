"""Two embeddings, or any models whose outputs nothing gives a meaning, waited for labels for ever. They are judged by agreement:
how often the two answers differ, which needs no labels. Here through the writer, the store and the evidence.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

from tests.support.graphs import save
from understudy.domain import LabelReport, Mode, Phase, Status, Variant
from understudy.errors import ConfigurationError
from understudy.inference import OutputReader, Scores
from understudy.inference.cards import Card
from understudy.inference.onnx import OnnxEngine
from understudy.observability.metrics import Metrics
from understudy.records.exchange import Exchange, Packer
from understudy.records.pairs import Pairs, incomparable
from understudy.records.writer import RecordWriter
from understudy.rollout.controller import judge_at
from understudy.rollout.evidence import Evidence
from understudy.rollout.policy import Policy, Tolerance, parse
from understudy.rollout.scoring import Model
from understudy.settings import read_settings
from understudy.store.memory import MemoryStore
from understudy.testing import card
from understudy.wiring.parts import ProcessParts

WIDTH = 4
FILE = """
model: m
task: agreement
primary: a.onnx
candidate: b.onnx
goals: {quality: {loss: disagreement, margin: 0.05}, latency: {p99_ms: 50}}
compare: {embedding: {atol: 0.01, rtol: 0}}
steps: [{shadow: 100, until: {requests: 200}}, promote]
"""


def policy(text: str = FILE) -> Policy:
    return parse(text)


@pytest.fixture
def models(tmp_path: Path) -> dict[Variant, OnnxEngine]:
    """An embedding, and the same one a little off."""
    found = {}
    for variant, factor in ((Variant.PRIMARY, 1.0), (Variant.CANDIDATE, 1.001)):
        scale = helper.make_tensor("scale", TensorProto.FLOAT, [1], [factor])
        node = helper.make_node("Mul", ["x", "scale"], ["embedding"])
        path = tmp_path / f"{variant}.onnx"
        ends = [("x", TensorProto.FLOAT, ["n", WIDTH])], [("embedding", TensorProto.FLOAT, ["n", WIDTH])]
        save(path, [node], *ends, [scale])
        found[variant] = OnnxEngine(path, device="cpu", warm_max_rows=1)
    return found


def written(
    models: dict[Variant, OnnxEngine], inputs: Any, rows: int, *, failed: frozenset[int] = frozenset()
) -> MemoryStore:
    """A store after requests of so many rows that both models answered; the candidate failed at some of the requests."""
    own = policy()
    store = MemoryStore("ab12", lambda outcome: {})
    readers = {variant: OutputReader(engine.card) for variant, engine in models.items()}
    pairs = Pairs(readers, own.compare, {}, judged=True)
    metrics = Metrics(CollectorRegistry())
    writer = RecordWriter("m", store, metrics, readers, lambda r: [None] * len(r), pairs=pairs)
    packer, outputs = Packer(), {v: engine.run({"x": inputs}) for v, engine in models.items()}
    scores: dict[Variant, Scores] = {v: readers[v].read(outputs[v], len(inputs)) for v in Variant}
    for number in range(len(inputs) // rows):
        exchange = Exchange("p", number * rows, [(None,)] * rows, 1e6 + number, 1, 0, Variant.PRIMARY, Mode.LIVE)
        exchange.rehearsal = Variant.CANDIDATE
        exchange.settle(Variant.PRIMARY, Status.OK, scores[Variant.PRIMARY].slice(number * rows, rows), 0.001)
        part = None if number in failed else scores[Variant.CANDIDATE].slice(number * rows, rows)
        exchange.settle(Variant.CANDIDATE, Status.OK if part else Status.FAILED, part, 0.001)
        packer.add(exchange)
    writer.write(packer.seal({}, {}, {}, 0))
    return store


def judged(store: MemoryStore) -> tuple[Evidence, Any]:
    evidence, rows = Evidence(policy(), dict.fromkeys(Variant, Model((), None))), store.outcomes(limit=100_000)
    evidence.begin_step(0, 0)
    evidence.see(rows)
    assert evidence.settle(rows) == len(rows), "no label is waited for"
    return evidence, judge_at(policy(), evidence, evidence.tail([]), Phase.SHADOW, 0, frozenset())


def test_equal_answers_are_promoted_without_a_label(models: dict[Variant, OnnxEngine]) -> None:
    """Within the tolerance that the file states."""
    inputs = np.random.default_rng(7).normal(size=(1_500, WIDTH)).astype(np.float32)
    _, verdict = judged(written(models, inputs, 1))
    assert verdict.answer == "advance", verdict.reason
    assert "the candidate's answer differs from the primary's on 0.00%" in verdict.reason
    assert "label" not in verdict.reason


def test_other_answers_are_rolled_back(models: dict[Variant, OnnxEngine]) -> None:
    """A quarter of the rows is far enough from 0 to be outside of the tolerance."""
    inputs = np.ones((1_500, WIDTH), np.float32)
    inputs[::4] = 50.0
    _, verdict = judged(written(models, inputs, 1))
    assert verdict.answer == "rollback"
    assert "the candidate's answer differs from the primary's on 25" in verdict.reason


def test_a_candidate_without_an_answer_differs(models: dict[Variant, OnnxEngine]) -> None:
    """And errors are judged besides."""
    inputs = np.ones((600, WIDTH), np.float32)
    store = written(models, inputs, 1, failed=frozenset(range(0, 600, 3)))
    evidence, verdict = judged(store)
    assert verdict.answer == "rollback"
    (metric,) = [r for r in evidence.readings(evidence.tail([])) if r.metric == "disagreement"]
    assert metric.estimate == pytest.approx(1 / 3)


def test_each_row_of_a_request_says_for_itself_whether_it_agrees(models: dict[Variant, OnnxEngine]) -> None:
    inputs = np.ones((12, WIDTH), np.float32)
    inputs[4] = 50.0
    found = [o.agrees for _, o, _ in written(models, inputs, 3).outcomes(limit=100)]
    assert found == [True] * 4 + [False] + [True] * 7


def test_labels_that_come_anyway_change_nothing(models: dict[Variant, OnnxEngine]) -> None:
    """Whenever they come: what was judged can be folded again."""
    inputs = np.ones((300, WIDTH), np.float32)
    store = written(models, inputs, 1)
    before, _ = judged(store)
    store.add_labels([LabelReport(f"p-{i}", 1, 1e6 + i) for i in range(300)], received_at=2e6)
    after, _ = judged(store)
    assert before.chain.digest == after.chain.digest


def test_the_tolerances_are_part_of_what_evidence_is_kept_under() -> None:
    wider = policy(FILE.replace("atol: 0.01", "atol: 0.02"))
    assert policy().key("a", "b") != wider.key("a", "b")
    labelled = FILE.replace("task: agreement", "task: other").replace("loss: disagreement", "loss: zero_one")
    assert policy(labelled).key("a", "b") == policy(labelled.replace("atol: 0.01", "atol: 0.02")).key("a", "b")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("until: {requests: 200}", "until: {labels: 200}", "until: {requests: ..}"),
        ("loss: disagreement", "loss: zero_one", "write `loss: disagreement`"),
        ("steps:", "labels: {audit: 10}\nsteps:", "leave `labels.audit` out"),
        ("margin: 0.05", "margin: 0.05, evidence: served", "evidence: paired"),
        ("margin: 0.05", "margin: 0.05, poc_target: 0.1", "leave `poc_target` out"),
    ],
)
def test_what_makes_no_sense_without_labels_is_refused_in_words(old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        policy(FILE.replace(old, new))


def named(*outputs: tuple[str, list[int | None]]) -> Card:
    specs: list[Any] = [{"name": name, "dtype": "float32", "shape": shape} for name, shape in outputs]
    return card(task="other", classes=[], positive=None, outputs=specs)


def test_models_whose_answers_can_never_be_equal_are_refused() -> None:
    assert incomparable(named(("e", [None, 4])), named(("e", [None, 4]), ("more", [None, 1]))) is None
    assert incomparable(named(("e", [None, None])), named(("e", [None, 4]))) is None
    assert "no output of the same name" in str(incomparable(named(("e", [None, 4])), named(("f", [None, 4]))))
    assert "would differ on every row" in str(incomparable(named(("e", [None, 4])), named(("e", [None, 8]))))


def test_probabilities_may_have_a_tolerance_where_agreement_judges() -> None:
    """A model with smaller numbers gives nearly the same probabilities; its label must be the same."""
    readers = dict.fromkeys(Variant, OutputReader(card()))
    a, b = (
        Scores(3, [0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.49, 0.51]]),
        Scores(3, [0, 1, 0], [[0.895, 0.105], [0.3, 0.7], [0.51, 0.49]]),
    )
    assert Pairs(readers, {"probabilities": Tolerance(atol=0.03)}, {}).equal(a, b).tolist() == [True, False, False]


def test_the_service_compares_row_by_row_where_agreement_judges(
    models: dict[Variant, OnnxEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the processes of a service are made of passes it on."""
    monkeypatch.setattr("understudy.wiring.parts.Metrics", lambda: Metrics(CollectorRegistry()))
    files = {"a.onnx": tmp_path / "primary.onnx", "b.onnx": tmp_path / "candidate.onnx"}
    assert set(models) == set(Variant)
    text = FILE
    for name, path in files.items():
        text = text.replace(name, str(path))
    (tmp_path / "rollout.yaml").write_text(text, encoding="utf-8")
    parts = ProcessParts(read_settings(rollout_file=tmp_path / "rollout.yaml", state_dir=tmp_path / "state"))
    parts.store.close()
    assert parts.writer._pairs._judged
