"""`init` wrote rollouts that waited for labels which no model of theirs could be scored by. What it writes now passes `check`, and
ends: here simulated with equal models.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from tests.support.commands import alone, done, refused
from tests.support.graphs import classifier, save, summing
from tests.unit.rollout.test_feasibility import KINDS, Kind, announced, left_after
from understudy.domain import Attempt, Status, Variant
from understudy.inference.onnx import OnnxEngine
from understudy.loading.preflight import subject
from understudy.rollout.feasibility import feasibility
from understudy.rollout.policy import Policy, parse

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
    engine = OnnxEngine(file, device="cpu", warm_max_rows=1, classes=own.classes)
    known = subject(engine.card)
    engine.close()
    loss = own.goals.quality.loss if own.goals.quality else ""
    if "value" in known.roles:
        return Kind(own.task, known, KINDS["number"].answer, KINDS["number"].truth)
    names = known.classes or (0, 1)
    several = tuple(0.9 if n == 0 else 0.1 / (len(names) - 1) for n in range(len(names)))
    probabilities = {} if loss == "zero_one" else {"probabilities": several} if len(names) > 2 else {"score": 0.1}
    return Kind(own.task, known, Attempt(Status.OK, label=names[0], **probabilities), names[0])  # type: ignore[arg-type]  # by name


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


@pytest.mark.parametrize(
    "name",
    ["my poc (1).onnx", "true.onnx", "1.onnx", "_.onnx", "mañana: 'x' \"y\".onnx", "a" * 90 + ".onnx", "# no.onnx"],
)
def test_init_writes_a_file_that_can_be_read_whatever_the_models_are_called(tmp_path: Path, name: str) -> None:
    """Blanks, quotes, words that YAML reads as something else, names that are too long for a service."""
    for each in (name, "better.onnx"):
        classifier(tmp_path / each)
    done("init", name, "better.onnx")

    assert parse((tmp_path / "rollout.yaml").read_text(encoding="utf-8")).primary == name
    assert done("check").splitlines()[-1] == "ready to serve"


def test_init_refuses_two_models_of_different_tasks(tmp_path: Path) -> None:
    """And writes nothing."""
    classifier(tmp_path / "poc.onnx")
    summing(tmp_path / "better.onnx", width=2)

    assert "only models with the same task can be compared" in refused("init", "poc.onnx", "better.onnx")
    assert not (tmp_path / "rollout.yaml").exists()


def test_init_says_in_the_file_why_there_is_no_quality_goal(tmp_path: Path) -> None:
    """Classes that have nothing in common."""
    classifier(tmp_path / "poc.onnx", zipmap=["a", "b"])
    classifier(tmp_path / "better.onnx", zipmap=["c", "d"])
    done("init", "poc.onnx", "better.onnx")
    text = (tmp_path / "rollout.yaml").read_text(encoding="utf-8")

    assert "the primary's classes are 'a', 'b' and the candidate's are 'c', 'd'" in " ".join(
        text.replace("  # ", "").split()
    )
    assert parse(text).goals.quality is None


@pytest.mark.parametrize(
    ("makers", "options", "classes", "comment"),
    [
        (["softmax without a label"] * 2, [], "[0, 1, 2]", "# a guess: the models do not name the classes"),
        (["two probabilities"] * 2, [], "[0, 1]", "# a guess: the models do not name the classes"),
        (["softmax without a label"] * 2, ["--classes", "cat,dog,eel"], "[cat, dog, eel]", ""),
        (["softmax without a label"] * 2, ["--classes", "1,2,3"], "[1, 2, 3]", ""),
        (
            ["named classes", "softmax without a label"],
            [],
            "[a, b, c]",
            "# a guess: only one of the models names its classes",
        ),
    ],
)
def test_init_names_the_classes_and_says_where_it_guesses(
    tmp_path: Path, makers: list[str], options: list[str], classes: str, comment: str
) -> None:
    """With the names the probabilities can be judged."""
    for maker, name in zip(makers, ("poc.onnx", "better.onnx"), strict=True):
        MAKERS[maker](tmp_path / name)
    done("init", "poc.onnx", "better.onnx", *options)
    text = (tmp_path / "rollout.yaml").read_text(encoding="utf-8")

    (line,) = (line for line in text.splitlines() if line.startswith("classes:"))
    assert line.startswith(f"classes: {classes} {comment}".rstrip())
    assert ("# a guess" in line) is bool(comment)
    quality = parse(text).goals.quality
    assert quality is not None
    assert quality.loss == "brier"
    assert done("check").splitlines()[-1] == "ready to serve"


def test_init_refuses_class_names_that_are_too_few(tmp_path: Path) -> None:
    """Two names for three probabilities."""
    for name in ("poc.onnx", "better.onnx"):
        MAKERS["softmax without a label"](tmp_path / name)

    assert "names 2 classes" in refused("init", "poc.onnx", "better.onnx", "--classes", "a,b")
