"""`init` wrote rollouts that waited for labels which no model of theirs could be scored by. What it writes now passes `check`, and
ends: here simulated with equal models.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from service.domain import Answer, Status, Variant
from service.engine.onnx import OnnxEngine
from service.loading import subject
from service.rollout.feasibility import feasibility
from service.rollout.policy import Policy, parse
from tests.unit.rollout.test_feasibility import KINDS, Kind, announced, left_after
from tests.unit.test_cli import alone, done
from tests.unit.test_onnx import classifier, save, summing

__all__ = ["alone"]

FLOAT = TensorProto.FLOAT


def bare(path: Path, output: str, width: int, node: str = "Softmax") -> None:
    """One output of a softmax, or of an embedding, and no label."""
    save(path, [helper.make_node(node, ["x"], [output])], [("x", FLOAT, ["n", width])], [(output, FLOAT, ["n", width])])


MAKERS: dict[str, Callable[[Path], Any]] = {
    "softmax without a label": lambda path: bare(path, "output", 3),
    "two probabilities": lambda path: bare(path, "probabilities", 2),
    "an embedding": lambda path: bare(path, "embedding", 8, "Identity"),
    "a classifier": lambda path: classifier(path, width=3),
    "named classes": lambda path: classifier(path, width=3, zipmap="words"),
    "a regression": summing,
}


def kind_of(own: Policy, file: Path) -> Kind:
    """What the simulation needs of a model."""
    engine = OnnxEngine(file, device="cpu", warm_max_rows=1)
    known = subject(engine.card)
    engine.close()
    loss = own.goals.quality.loss if own.goals.quality else ""
    if "value" in known.roles:
        return Kind(own.task, known, KINDS["number"].answer, KINDS["number"].truth)
    names = known.classes or (0, 1)
    several = tuple(0.9 if n == 0 else 0.1 / (len(names) - 1) for n in range(len(names)))
    probabilities = {} if loss == "zero_one" else {"probabilities": several} if len(names) > 2 else {"score": 0.1}
    return Kind(own.task, known, Answer(Status.OK, label=names[0], **probabilities), names[0])  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("maker", MAKERS)
def test_what_init_writes_passes_check_and_ends(tmp_path: Path, maker: str) -> None:
    """Every step is left within what the table announces."""
    for name in ("poc.onnx", "better.onnx"):
        MAKERS[maker](tmp_path / name)
    done("init", "poc.onnx", "better.onnx")

    assert done("check").splitlines()[-1] == "ready to serve"
    own = parse((tmp_path / "rollout.yaml").read_text(encoding="utf-8"))
    kind = kind_of(own, tmp_path / "poc.onnx")
    most = announced(own, feasibility(own, dict.fromkeys(Variant, kind.subject)))
    assert len(left_after(own, kind, most)) == len(own.steps) - 1
