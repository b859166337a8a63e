"""A candidate whose output is `output` where the primary's is `logits` made V2 answer with `outputs: []`, and nothing was compared.

The candidate never takes an output away from callers: it is mapped, or refused.
"""

from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests.faults.test_b08_the_candidates_names_of_inputs import rollout
from tests.support.commands import alone, done, refused
from tests.support.doors import Doors
from tests.support.graphs import FLOAT, INT64, classifier, save, scaling
from understudy import loading
from understudy.errors import ConfigurationError
from understudy.inference.cards import InputSpec, OutputSpec
from understudy.inference.mapping import proposed_mapping
from understudy.settings import Settings
from understudy.testing import card

__all__ = ["alone"]


def test_check_and_start_refuse_it_with_the_line_to_write(tmp_path: Path) -> None:
    scaling(tmp_path / "poc.onnx", y="logits")
    scaling(tmp_path / "better.onnx", 3.0, y="output")
    settings = Settings(rollout_file=rollout(tmp_path))

    assert "does not give the output `logits`" in (line := refused("check"))
    assert "write `outputs: {logits: output}`" in line
    with pytest.raises(ConfigurationError, match="does not give the output `logits`"):
        loading.read_cards(loading.load_policy(settings), settings)


def test_with_the_line_callers_get_the_same_output_of_both(tmp_path: Path) -> None:
    scaling(tmp_path / "poc.onnx", y="logits")
    scaling(tmp_path / "better.onnx", 3.0, y="output")
    file = rollout(tmp_path, outputs={"logits": "output"})

    told = done("check")
    assert "the output `logits` is `output` of the candidate" in told
    assert "logits: 512 of 512 rows outside the tolerance" in told
    for candidate, factor in ((False, 2.0), (True, 3.0)):
        doors = Doors(file, candidate=candidate)
        _, said = doors.v2(x=("FP32", [1, 3], [1, 2, 3]))
        assert said["outputs"] == [
            {"name": "logits", "datatype": "FP32", "shape": [1, 3], "data": [factor, 2 * factor, 3 * factor]}
        ]
        _, said = doors.predict({"x": [1, 2, 3]})
        assert said["predictions"][0]["outputs"] == {"logits": [factor, 2 * factor, 3 * factor]}


def test_init_writes_the_line(tmp_path: Path) -> None:
    scaling(tmp_path / "poc.onnx", y="logits")
    scaling(tmp_path / "better.onnx", 3.0, y="output")
    done("init", "poc.onnx", "better.onnx")

    assert "outputs: {logits: output} # a guess" in (tmp_path / "rollout.yaml").read_text(encoding="utf-8")
    assert done("check").splitlines()[-1] == "ready to serve"


def without_label(path: Path) -> Path:
    node = helper.make_node("Softmax", ["x"], ["probabilities"], axis=1)
    return save(path, [node], [("x", FLOAT, ["n", 2])], [("probabilities", FLOAT, ["n", 2])])


def test_the_label_is_the_likeliest_class_where_the_candidate_has_no_label(tmp_path: Path) -> None:
    """On both doors, from the names of the rollout file."""
    classifier(tmp_path / "poc.onnx")
    without_label(tmp_path / "better.onnx")
    file = rollout(tmp_path, task="binary-classification", classes=[0, 1], goals={})

    doors = Doors(file, candidate=True)
    assert doors.predict({"x": [0, 9]}, {"x": [9, 0]})[1]["predictions"][0]["label"] == 1
    _, said = doors.v2(x=("FP32", [2, 2], [0, 9, 9, 0]))
    assert {o["name"]: o["data"] for o in said["outputs"]}["label"] == [1, 0]
    assert doors.v2(x=("FP32", [1, 2], [0, 9]))[1]["outputs"][0]["datatype"] == "INT64"


def test_a_candidate_that_cannot_give_the_label_is_refused(tmp_path: Path) -> None:
    """Nothing names the classes of its probabilities."""
    classifier(tmp_path / "poc.onnx")
    node = helper.make_node("Neg", ["x"], ["scores"])
    save(tmp_path / "better.onnx", [node], [("x", FLOAT, ["n", 2])], [("scores", FLOAT, ["n", 2])])
    rollout(tmp_path)

    assert "the candidate does not give the output `label` (int64 [n], its label)" in refused("check")


@pytest.mark.parametrize("candidate", [False, True])
def test_probabilities_of_other_classes_are_answered_under_all_names(tmp_path: Path, candidate: bool) -> None:
    """The primary knows a, b and c, the candidate c and d: V2 has four columns, and zeros for what a model does not know."""
    classifier(tmp_path / "poc.onnx", width=3, zipmap=["a", "b", "c"])
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["part"]),
        helper.make_node("Softmax", ["part"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["probabilities"], ["zipped"], domain="ai.onnx.ml", classlabels_strings=["c", "d"]),
    ]
    row = helper.make_map_type_proto(8, helper.make_tensor_type_proto(FLOAT, []))
    zipped = helper.make_value_info("zipped", helper.make_sequence_type_proto(row))
    constants = [helper.make_tensor(name, INT64, [1], [value]) for name, value in (("from", 0), ("to", 2), ("axis", 1))]
    outputs: list[Any] = [("label", INT64, ["n"]), zipped]
    save(tmp_path / "better.onnx", nodes, [("x", FLOAT, ["n", 3])], outputs, constants)
    file = rollout(tmp_path, task="multiclass-classification", goals={})

    doors = Doors(file, candidate=candidate)
    _, said = doors.v2(x=("FP32", [1, 3], [0, 0, 0]))
    [found] = [output for output in said["outputs"] if output["name"] == "zipped"]
    assert found["shape"] == [1, 4]
    assert found["data"] == pytest.approx([0, 0, 0.5, 0.5] if candidate else [1 / 3, 1 / 3, 1 / 3, 0])
    assert [o["shape"] for o in doors.metadata()["outputs"] if o["name"] == "zipped"] == [[-1, 4]]


def test_names_that_differ_in_case_only_are_paired_before_shapes_are_looked_at() -> None:
    """`input_ids` and `attention_mask` have one shape, so only their names tell them apart."""

    def named(*names: str) -> Any:
        inputs = [InputSpec(name=name, dtype="int64", shape=[None, None]) for name in names]
        return card(inputs=inputs, outputs=[OutputSpec(name="y", dtype="float32", shape=[None], role="value")])

    first, second = named("input_ids", "attention_mask"), named("attentionMask", "Input-IDs")
    assert proposed_mapping(first, second)[0] == {"input_ids": "Input-IDs", "attention_mask": "attentionMask"}
    assert proposed_mapping(first, named("a", "b"))[0] == {}
