"""Runs with IOBinding, on the CPU's provider: the same answers as `session.run`, for every dtype and size."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from understudy.inference.session import BoundSession, bound
from understudy.inference.signature import DTYPES

KINDS = {
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    **{name: getattr(TensorProto, name.upper()) for name in DTYPES.values() if "int" in name},
}


def identity(dtype: str) -> Any:
    kind = KINDS[dtype]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Shape", ["x"], ["size"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [None, 3])],
        [
            helper.make_tensor_value_info("y", kind, [None, 3]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("dtype", [name for name in dict.fromkeys(DTYPES.values()) if name != "string"])
def test_answers_are_those_of_a_plain_run(dtype: str) -> None:
    """Empty, growing and shrinking batches, with a binding for each run."""
    session = identity(dtype)
    with_binding = bound(session)
    assert isinstance(with_binding, BoundSession)
    for rows in (1, 0, 4, 128, 2):
        x = (np.arange(rows * 3).reshape(rows, 3) % 2).astype(dtype)
        for names in (None, ["size", "y"]):
            plain, answer = session.run(names, {"x": x}), with_binding.run(names, {"x": x})
            for p, a in zip(plain, answer, strict=True):
                assert np.asarray(a).dtype == p.dtype
                np.testing.assert_array_equal(a, p)


def test_an_array_that_is_not_contiguous_is_read_in_its_order() -> None:
    """A view of every second column, transposed: the runtime reads memory, and not strides."""
    x = np.arange(24, dtype=np.float32).reshape(6, 4)[::2].T
    np.testing.assert_array_equal(bound(identity("float32")).run(["y"], {"x": x})[0], x)


def test_an_answer_outlives_its_binding_and_later_runs() -> None:
    """Answers are kept until they are recorded."""
    session = bound(identity("float32"))
    first = session.run(["y"], {"x": np.ones((2, 3), np.float32)})[0]
    for _ in range(20):
        session.run(["y"], {"x": np.zeros((2, 3), np.float32)})
    assert np.asarray(first).tolist() == [[1.0] * 3] * 2


def test_strings_are_run_in_the_ordinary_way() -> None:
    """IOBinding has no strings."""
    session = identity("string")
    assert bound(session) is session


def test_a_wrong_dtype_has_the_runtimes_own_error() -> None:
    """Bound, its bytes would be read as another type."""
    with pytest.raises(Exception, match="Unexpected input data type"):
        bound(identity("float32")).run(["y"], {"x": np.ones((2, 3), np.float64)})


def test_a_cancelled_run_does_not_end_in_an_answer() -> None:
    """Run options reach the runtime: a late run is cancelled on a GPU as well."""
    options = ort.RunOptions()
    options.terminate = True
    with pytest.raises(Exception, match="terminate"):
        bound(identity("float32")).run(["y"], {"x": np.ones((2, 3), np.float32)}, options)
