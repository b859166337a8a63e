"""Small ONNX models, written to files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from understudy.inference import cards
from understudy.inference.cards import Card, InputSpec, OutputSpec, digest_of, write_card

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
Value = tuple[str, int, Sequence[int | str | None]]


def save(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Value], outputs: Sequence[Any], constants: Sequence[Any] = ()
) -> Path:
    """A graph of opset 18 in an IR that any runtime of the last years reads."""

    def info(value: Any) -> Any:
        return helper.make_tensor_value_info(*value) if isinstance(value, tuple) else value

    graph = helper.make_graph(nodes, "g", [info(v) for v in inputs], [info(v) for v in outputs], list(constants))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def summing(path: Path, rows: int | str | None = "n", width: int = 3) -> Path:
    """y = the sum of each row of x."""
    axes = helper.make_tensor("axes", INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    return save(path, [node], [("x", FLOAT, [rows, width])], [("y", FLOAT, [rows, 1])], [axes])


def classifier(path: Path, *, width: int = 2, zipmap: str | Sequence[int | str] = "") -> Path:
    """Probabilities are the softmax of x; the label is the likeliest class; with `zipmap` they are a list of dicts."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
    ]
    probabilities: Any = ("probabilities", FLOAT, ["n", width])
    if zipmap:
        known: dict[Any, Sequence[int | str]] = {"ints": range(width), "words": ["c", "a", "b"]}
        names = list(known[zipmap] if isinstance(zipmap, str) else zipmap)[:width]
        ints = isinstance(names[0], int)
        classes: dict[str, Any] = {"classlabels_int64s" if ints else "classlabels_strings": names}
        nodes.append(helper.make_node("ZipMap", ["probabilities"], ["zipped"], domain="ai.onnx.ml", **classes))
        row = helper.make_map_type_proto(INT64 if ints else STRING, helper.make_tensor_type_proto(FLOAT, []))
        probabilities = helper.make_value_info("zipped", helper.make_sequence_type_proto(row))
    return save(path, nodes, [("x", FLOAT, ["n", width])], [("label", INT64, ["n"]), probabilities])


def folder(path: Path, **changes: Any) -> Path:
    """A model folder around `summing`, whose card says `changes`."""
    path.mkdir(exist_ok=True)
    summing(path / cards.MODEL_FILE)
    fields: dict[str, Any] = {
        "name": "sum",
        "version": "1",
        "task": "regression",
        "digest": digest_of(path / cards.MODEL_FILE),
        "inputs": [InputSpec(name="x", dtype="float32", shape=[None, 3])],
        "outputs": [OutputSpec(name="y", dtype="float32", shape=[None, 1], role="value")],
    }
    write_card(path, Card(**(fields | changes)))
    return path
