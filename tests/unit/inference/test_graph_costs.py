"""Which graphs may take long for a value, and which only for a size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.support.graphs import BOOL, FLOAT, INT64, STRING, attention, looping, save, summing
from understudy.inference.graph_costs import GraphCosts, graph_costs

NODE = helper.make_node


def found(path: Path, *inputs: str) -> GraphCosts:
    return graph_costs(path.read_bytes(), inputs)


def of(
    tmp_path: Path, nodes: list[Any], inputs: Any, output: Any = ("y", FLOAT, None), constants: Any = ()
) -> GraphCosts:
    path = save(tmp_path / "m.onnx", nodes, inputs, [output], constants)
    return found(path, *(name for name, *_ in inputs))


def test_models_of_tables_and_of_texts_follow_from_sizes(tmp_path: Path) -> None:
    assert found(summing(tmp_path / "m.onnx"), "x") == GraphCosts()
    assert found(attention(tmp_path / "a.onnx"), "input_ids") == GraphCosts()


def test_a_loop_depends_on_values(tmp_path: Path) -> None:
    assert found(looping(tmp_path / "m.onnx"), "turns", "x").operators == ("Loop",)


@pytest.mark.parametrize("of_value", [True, False])
def test_a_size_that_is_a_value_is_not_a_size_that_is_a_shape(tmp_path: Path, of_value: bool) -> None:
    """`Range` up to a number of the caller's can have any length; up to a length it is what exporters write for positions."""
    one, zero = (numpy_helper.from_array(np.array(value, np.int64), name) for value, name in ((1, "one"), (0, "zero")))
    start = (
        [NODE("ReduceMax", ["x"], ["n"], keepdims=0)]
        if of_value
        else [
            NODE("Shape", ["x"], ["shape"]),
            NODE("ReduceMax", ["shape"], ["n"], keepdims=0),
        ]
    )
    nodes = [*start, NODE("Range", ["zero", "n", "one"], ["y"])]
    result = of(tmp_path, nodes, [("x", INT64, ["n"])], ("y", INT64, None), [one, zero])

    assert result.operators == (("Range",) if of_value else ())


@pytest.mark.parametrize(("kind", "named"), [("Squeeze", ()), ("Exp", ("If",))])
def test_a_branch_that_costs_nothing_is_no_reason(tmp_path: Path, kind: str, named: tuple[str, ...]) -> None:
    """PyTorch writes an `If` around a `Squeeze`."""
    then, otherwise = (
        helper.make_graph([NODE(kind, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])
        for name in ("a", "b")
    )
    nodes = [NODE("If", ["c"], ["y"], then_branch=then, else_branch=otherwise)]

    assert of(tmp_path, nodes, [("c", BOOL, []), ("x", FLOAT, ["n", 1])]).operators == named


def test_texts_count_where_their_length_matters(tmp_path: Path) -> None:
    nodes = [NODE("StringNormalizer", ["x"], ["y"], case_change_action="LOWER")]
    result = of(tmp_path, nodes, [("x", STRING, ["n"])], ("y", STRING, None))

    assert (result.operators, result.text) == ((), True)


def test_an_operator_of_somebody_else_can_do_anything(tmp_path: Path) -> None:
    nodes = [NODE("Mine", ["x"], ["y"], domain="com.example")]

    assert of(tmp_path, nodes, [("x", FLOAT, ["n"])]).operators == ("com.example.Mine",)


def test_bytes_that_are_no_graph_are_not_trusted() -> None:
    assert graph_costs(b"\x3a\xff\xff", ["x"]).operators
