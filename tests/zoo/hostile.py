"""Files that are no models, or models that nobody should serve: each is refused with one sentence."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.support.graphs import BOOL, FLOAT, INT64, save, summing
from tests.zoo.entry import Entry
from tests.zoo.shapes import const

BY = "by hand"
NODE = helper.make_node


def _bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _truncated(share: float, path: Path) -> None:
    summing(path, width=50)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _opset(version: int, path: Path) -> None:
    model = onnx.load(summing(path))
    model.opset_import[0].version = version
    path.write_bytes(model.SerializeToString())


def _ir(path: Path) -> None:
    model = onnx.load(summing(path))
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())


def _nodes(nodes: Any, path: Path, **more: Any) -> None:
    save(path, nodes, more.get("inputs", [("x", FLOAT, ["N", 3])]), [("y", FLOAT, ["N", 3])], more.get("constants", []))


def _custom(path: Path) -> None:
    model = onnx.load(summing(path))
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    path.write_bytes(model.SerializeToString())


def _endless(path: Path) -> None:
    """A loop that never ends, on constants: the runtime runs it while it opens the file."""
    body = helper.make_graph(
        [NODE("Identity", ["go"], ["on"]), NODE("Add", ["h", "h"], ["h2"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("h", FLOAT, []),
        ],
        [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_value_info("h2", FLOAT, [])],
    )
    nodes = [NODE("Loop", ["", "yes", "start"], ["end"], body=body), NODE("Add", ["x", "end"], ["y"])]
    _nodes(nodes, path, constants=[const("yes", np.array(True)), const("start", np.float32(0))])


def _huge(path: Path) -> None:
    """Sixty-four terabytes of zeros."""
    nodes = [
        NODE("ConstantOfShape", ["shape"], ["big"]),
        NODE("ReduceSum", ["big"], ["sum"], keepdims=0),
        NODE("Add", ["x", "sum"], ["y"]),
    ]
    _nodes(nodes, path, constants=[const("shape", np.array([1 << 22, 1 << 22]))])


def _outside(location: str, path: Path) -> None:
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[3], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    _nodes([NODE("Add", ["x", "w"], ["y"])], path, constants=[tensor])


def _deep(path: Path) -> None:
    """If within If, twenty times."""
    graph = helper.make_graph(
        [NODE("Neg", ["x"], ["o0"])], "g0", [], [helper.make_tensor_value_info("o0", FLOAT, None)]
    )
    for i in range(1, 20):
        node = NODE(
            "If",
            ["yes"],
            [f"o{i}"],
            then_branch=graph,
            else_branch=helper.make_graph(
                [NODE("Abs", ["x"], [f"e{i}"])], f"e{i}", [], [helper.make_tensor_value_info(f"e{i}", FLOAT, None)]
            ),
        )
        graph = helper.make_graph([node], f"g{i}", [], [helper.make_tensor_value_info(f"o{i}", FLOAT, None)])
    _nodes([*graph.node, NODE("Identity", ["o19"], ["y"])], path, constants=[const("yes", np.array(True))])


def _sequence(path: Path) -> None:
    out = helper.make_tensor_sequence_value_info("y", FLOAT, ["N", 3])
    graph = helper.make_graph(
        [NODE("SequenceConstruct", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 3])],
        [out],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )


def _no_input(path: Path) -> None:
    _nodes([NODE("Identity", ["c"], ["y"])], path, inputs=[], constants=[const("c", np.zeros((1, 3), np.float32))])


def _random(path: Path) -> None:
    _nodes([NODE("RandomNormalLike", ["x"], ["y"])], path)


def entries() -> Iterator[Entry]:
    """The files."""
    many: dict[str, tuple[Callable[[Path], object], str]] = {
        "empty": (partial(_bytes, b""), "onnx"),
        "text": (partial(_bytes, b"this is no model\n"), "onnx"),
        "pickle": (partial(_bytes, b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94."), "onnx"),
        "zeros": (partial(_bytes, bytes(10_000)), "onnx"),
        "noise": (partial(_bytes, np.random.default_rng(1).bytes(5_000)), "onnx"),
        "git-lfs-pointer": (
            partial(_bytes, b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"),
            "onnx",
        ),
        "truncated-half": (partial(_truncated, 0.5), "onnx"),
        "truncated-end": (partial(_truncated, 0.97), "onnx"),
        "opset-too-new": (partial(_opset, 999), "onnx"),
        "ir-too-new": (_ir, "onnx"),
        "custom-operator": (_custom, "com.example"),
        "unknown-operator": (partial(_nodes, [NODE("Frobnicate", ["x"], ["y"])]), "Frobnicate"),
        "cycle": (
            partial(
                _nodes, [NODE("Add", ["x", "b"], ["a"]), NODE("Add", ["x", "a"], ["b"]), NODE("Neg", ["b"], ["y"])]
            ),
            "onnx",
        ),
        "missing-tensor": (partial(_nodes, [NODE("Add", ["x", "nowhere"], ["y"])]), "onnx"),
        "wrong-type": (partial(_nodes, [NODE("Not", ["x"], ["y"])]), "onnx"),
        "external-missing": (partial(_outside, "not-there.bin"), "not-there.bin"),
        "external-outside": (partial(_outside, "../../../../etc/passwd"), "onnx"),
        "external-absolute": (partial(_outside, "/etc/passwd"), "onnx"),
        "endless-loop": (_endless, "onnx"),
        "huge-allocation": (_huge, "onnx"),
        "sequence-output": (_sequence, "seq(tensor(float))"),
        "no-input": (_no_input, "input"),
    }
    for name, (build, said) in many.items():
        yield Entry(f"hostile-{name}", BY, build, lambda chance, n: [], refused=said)
    yield Entry(
        "hostile-deep-nesting", BY, _deep, lambda c, n: [{"x": c.normal(size=3).astype(np.float32)} for _ in range(n)]
    )
