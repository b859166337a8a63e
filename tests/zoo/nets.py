"""Networks: like transformers and CNNs, with control flow, functions and external data; and those that the onnx package ships."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.graphs import BOOL, FLOAT, INT64, save
from tests.zoo.entry import Chance, Entry, Row, numbers
from tests.zoo.shapes import const, weights

BY = "onnx.helper"
NODE = helper.make_node
SHIPPED = Path(onnx.__file__).parent / "backend" / "test" / "data"


def _cnn(batch: Any, classes: int, path: Path) -> None:
    """Convolution, normalisation, pooling, a dense layer and a softmax."""
    nodes = [
        NODE("Conv", ["image", "k1"], ["c1"], pads=[1, 1, 1, 1]),
        NODE("Relu", ["c1"], ["r1"]),
        NODE("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        NODE("Conv", ["p1", "k2"], ["c2"]),
        NODE("GlobalAveragePool", ["c2"], ["g"]),
        NODE("Flatten", ["g"], ["f"]),
        NODE("Gemm", ["f", "w", "b"], ["logits"]),
        NODE("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    constants = [
        const("k1", weights(4, 3, 3, 3)),
        const("k2", weights(5, 4, 3, 3)),
        const("w", weights(5, classes)),
        const("b", weights(classes)),
    ]
    save(path, nodes, [("image", FLOAT, [batch, 3, 16, 16])], [("probabilities", FLOAT, [batch, classes])], constants)


def _transformer(path: Path) -> None:
    """Two heads, a residual, normalisation and a mask; the first token's vector is the answer."""
    nodes = [
        NODE("Gather", ["words", "input_ids"], ["e"]),
        *(NODE("MatMul", ["e", f"w{p}"], [p]) for p in "qkv"),
        NODE("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        NODE("MatMul", ["q", "kt"], ["s"]),
        NODE("Cast", ["attention_mask"], ["m"], to=FLOAT),
        NODE("Sub", ["m", "one"], ["n"]),
        NODE("Mul", ["n", "big"], ["bias"]),
        NODE("Unsqueeze", ["bias", "middle"], ["wide"]),
        NODE("Add", ["s", "wide"], ["masked"]),
        NODE("Softmax", ["masked"], ["a"], axis=-1),
        NODE("MatMul", ["a", "v"], ["o"]),
        NODE("Add", ["e", "o"], ["h"]),
        NODE("LayerNormalization", ["h", "scale", "shift"], ["last_hidden_state"], axis=-1),
        NODE("Gather", ["last_hidden_state", "zero"], ["first"], axis=1),
        NODE("MatMul", ["first", "head"], ["logits"]),
    ]
    constants = [
        const("words", weights(60, 8)),
        *(const(f"w{p}", weights(8, 8, seed=i)) for i, p in enumerate("qkv")),
        const("one", np.float32(1)),
        const("big", np.float32(1e4)),
        const("middle", np.array([1])),
        const("scale", np.ones(8, np.float32)),
        const("shift", np.zeros(8, np.float32)),
        const("zero", np.array(0)),
        const("head", weights(8, 3)),
    ]
    axes = ["batch_size", "sequence_length"]
    save(
        path,
        nodes,
        [("input_ids", INT64, axes), ("attention_mask", INT64, axes)],
        [("last_hidden_state", FLOAT, [*axes, 8]), ("logits", FLOAT, ["batch_size", 3])],
        constants,
    )


def _tokens(chance: Chance, n: int) -> Sequence[Row]:
    rows = []
    for k in chance.integers(2, 12, n):
        mask = np.ones(k, np.int64)
        mask[k - k // 3 :] = 0
        rows.append({"input_ids": chance.integers(0, 60, k), "attention_mask": mask})
    return rows


def _head(last: str, width: int, path: Path) -> None:
    """A dense layer with this activation."""
    nodes = [NODE("MatMul", ["x", "w"], ["z"]), NODE(last, ["z"], ["y"])]
    save(path, nodes, [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", width])], [const("w", weights(4, width))])


def _if(path: Path) -> None:
    """The sum of a row decides over all rows at once, so rows depend on each other."""

    def branch(op: str) -> Any:
        return helper.make_graph(
            [NODE(op, ["x"], [f"{op} out"])], op, [], [helper.make_tensor_value_info(f"{op} out", FLOAT, ["N", 3])]
        )

    nodes = [
        NODE("ReduceSum", ["x"], ["all"], keepdims=0),
        NODE("Greater", ["all", "zero"], ["up"]),
        NODE("If", ["up"], ["y"], then_branch=branch("Neg"), else_branch=branch("Abs")),
    ]
    save(path, nodes, [("x", FLOAT, ["N", 3])], [("y", FLOAT, ["N", 3])], [const("zero", np.float32(0))])


def _scan(path: Path) -> None:
    """Running sums along the time of a sequence [N, T, 2], batch first."""
    body = helper.make_graph(
        [NODE("Add", ["before", "step"], ["after"]), NODE("Identity", ["after"], ["each"])],
        "body",
        [
            helper.make_tensor_value_info("before", FLOAT, ["N", 2]),
            helper.make_tensor_value_info("step", FLOAT, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("after", FLOAT, ["N", 2]),
            helper.make_tensor_value_info("each", FLOAT, ["N", 2]),
        ],
    )
    nodes = [
        NODE("Gather", ["x", "zero"], ["first"], axis=1),
        NODE("Sub", ["first", "first"], ["start"]),
        NODE(
            "Scan",
            ["start", "x"],
            ["last", "sums"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        ),
    ]
    save(
        path,
        nodes,
        [("x", FLOAT, ["N", "T", 2])],
        [("last", FLOAT, ["N", 2]), ("sums", FLOAT, ["N", "T", 2])],
        [const("zero", np.array(0))],
    )


def _loop(path: Path) -> None:
    """x doubled three times."""
    body = helper.make_graph(
        [NODE("Identity", ["go"], ["on"]), NODE("Add", ["h", "h"], ["h2"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("h", FLOAT, ["N", 2]),
        ],
        [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_value_info("h2", FLOAT, ["N", 2])],
    )
    save(
        path,
        [NODE("Loop", ["three", "", "x"], ["y"], body=body)],
        [("x", FLOAT, ["N", 2])],
        [("y", FLOAT, ["N", 2])],
        [const("three", np.array(3))],
    )


def _function(path: Path) -> None:
    """A function of the model's own domain, called twice."""
    square = helper.make_function(
        "own", "Square", ["a"], ["b"], [NODE("Mul", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    graph = helper.make_graph(
        [NODE("Square", ["x"], ["s"], domain="own"), NODE("Square", ["s"], ["y"], domain="own")],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    path.write_bytes(
        helper.make_model(graph, functions=[square], opset_imports=opsets, ir_version=8).SerializeToString()
    )


def _external(path: Path) -> None:
    """Weights in a file beside the model."""
    _head("Tanh", 40, path)
    model = onnx.load(path)
    onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def _quantized(path: Path) -> None:
    """QuantizeLinear, a whole-number product, DequantizeLinear."""
    nodes = [
        NODE("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        NODE("MatMulInteger", ["q", "w", "zero"], ["i"]),
        NODE("Cast", ["i"], ["f"], to=FLOAT),
        NODE("Mul", ["f", "scale"], ["y"]),
    ]
    constants = [
        const("scale", np.float32(0.05)),
        const("zero", np.uint8(128)),
        const("w", (weights(4, 3) * 20).astype(np.int8)),
    ]
    save(path, nodes, [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 3])], constants)


def _shipped(file: Path, path: Path) -> None:
    """As it is, but without the constants that old versions list among the inputs."""
    model = onnx.load(file)
    known = {constant.name for constant in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in known]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    path.write_bytes(model.SerializeToString())


def _shipped_rows(file: Path, *, batched: bool) -> Any:
    """The file's reference input, and others of its size."""
    values = []
    for piece in sorted((file.parent / "test_data_set_0").glob("input_*.pb")):
        tensor = onnx.TensorProto()
        tensor.ParseFromString(piece.read_bytes())
        values.append(numpy_helper.to_array(tensor))
    model = onnx.load(file)
    known = {constant.name for constant in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in known]

    def rows(chance: Chance, n: int) -> Sequence[Row]:
        found = []
        for i in range(n):
            row = {}
            for name, value in zip(names, values, strict=True):
                one = value[0] if batched else value
                row[name] = one if not i or one.dtype.kind != "f" else chance.random(one.shape).astype(one.dtype)
            found.append(row)
        return found

    return rows


def _batched(file: Path) -> bool:
    """Whether a shipped graph fixes one row, on the first axis of its only input and output."""
    graph = onnx.load(file).graph
    known = {constant.name for constant in graph.initializer}
    tensors = [i for i in graph.input if i.name not in known] + list(graph.output)
    return all(t.type.tensor_type.shape.dim and t.type.tensor_type.shape.dim[0].dim_value == 1 for t in tensors)


BATCHES = {
    "Conv1d",
    "Conv2d",
    "Conv2d_groups",
    "Conv3d",
    "ELU",
    "LogSoftmax",
    "ReflectionPad2d",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "concat2",
}
"""Those that fix several rows."""
TOO_OLD = {"BatchNorm2d_eval", "GLU", "Linear", "PReLU_2d", "addmm", "basic"}
"""Those of operator versions that ONNX Runtime does not have any more."""
CONVERTED = (
    "BatchNorm2d_eval",
    "Conv1d",
    "Conv2d",
    "Conv2d_groups",
    "Conv3d",
    "ConvTranspose2d",
    "ELU",
    "GLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "PReLU_2d",
    "PixelShuffle",
    "ReflectionPad2d",
    "Sigmoid",
    "Softmax",
    "Tanh",
)
OPERATORS = ("addmm", "basic", "chunk", "concat2", "flatten", "index", "permute2", "reduced_mean", "view")


def _light(file: Path, path: Path) -> None:
    path.write_bytes(file.read_bytes())


def entries() -> Iterator[Entry]:
    """The models."""
    image = numbers(image=(3, 16, 16))
    yield Entry("cnn", BY, partial(_cnn, "N", 5), image)
    yield Entry("cnn-batch-1", BY, partial(_cnn, 1, 5), image)
    yield Entry("cnn-batch-4", BY, partial(_cnn, 4, 2), image, batch=4)
    yield Entry("transformer", BY, _transformer, _tokens)
    for last, width in (
        ("Sigmoid", 1),
        ("Sigmoid", 3),
        ("Softmax", 2),
        ("Softmax", 10),
        ("Tanh", 1),
        ("Identity", 1),
        ("LogSoftmax", 3),
    ):
        yield Entry(f"dense-{last}-{width}".lower(), BY, partial(_head, last, width), numbers(x=(4,)))
    yield Entry("if-over-all-rows", BY, _if, numbers(x=(3,)))
    yield Entry(
        "scan", BY, _scan, lambda c, n: [{"x": c.normal(size=(k, 2)).astype(np.float32)} for k in c.integers(1, 6, n)]
    )
    yield Entry("loop", BY, _loop, numbers(x=(2,)))
    yield Entry("function", BY, _function, numbers(x=(3,)))
    yield Entry("external-data", BY, _external, numbers(x=(4,)))
    yield Entry("quantized", BY, _quantized, numbers(x=(4,)))
    shipped = [(f"shipped-{n}", SHIPPED / "pytorch-converted" / f"test_{n}" / "model.onnx") for n in CONVERTED]
    shipped += [(f"shipped-{n}", SHIPPED / "pytorch-operator" / f"test_operator_{n}" / "model.onnx") for n in OPERATORS]
    shipped += [(f"shipped-{n}", SHIPPED / "simple" / f"test_{n}" / "model.onnx") for n in ("single_relu_model",)]
    for name, file in shipped:
        graph = onnx.load(file).graph
        old = "NOT_IMPLEMENTED" if name.removeprefix("shipped-") in TOO_OLD else ""
        size = graph.input[0].type.tensor_type.shape.dim[0].dim_value if name.removeprefix("shipped-") in BATCHES else 1
        axes: dict[str, int | None] = {}
        if size == 1 and not _batched(file):
            axes = dict.fromkeys(value.name for value in (*graph.input, *graph.output))
        rows = _shipped_rows(file, batched=not axes)
        build = partial(_shipped, file)
        yield Entry(name, "onnx package", build, rows, axes, batch=size, refused=old, tolerance=1e-3)
    for name, size in (("sign_model", 7), ("shrink", 5)):  # element by element: the vector is as many rows
        build = partial(_shipped, SHIPPED / "simple" / f"test_{name}" / "model.onnx")
        yield Entry(f"shipped-{name}", "onnx package", build, numbers(x=()), batch=size)
    for file in sorted((SHIPPED / "light").glob("*.onnx")):
        graph = onnx.load(file).graph
        known = {constant.name for constant in graph.initializer}
        [given] = [i for i in graph.input if i.name not in known]
        shape = tuple(d.dim_value for d in given.type.tensor_type.shape.dim)[1:]
        if any(name in file.stem for name in ("alexnet", "vgg19", "zfnet", "densenet", "resnet", "inception")):
            continue  # minutes of work, and nothing that the others do not have
        yield Entry(
            file.stem.replace("_", "-"),
            "onnx package",
            partial(_light, file),
            numbers(**{given.name: shape}),
            tolerance=2e-3,
        )
