"""Every pattern of ranks and axes: where the rows are, what varies, what has none."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support import graphs, layouts
from tests.support.graphs import BOOL, FLOAT, INT64, save
from tests.zoo.entry import Array, Chance, Entry, Row, numbers

BY = "onnx.helper"
NODE = helper.make_node


def weights(*shape: int, seed: int = 5) -> Array:
    """The same float32 numbers whenever they are asked for."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def const(name: str, value: Any) -> Any:
    """A constant of a graph."""
    return numpy_helper.from_array(np.asarray(value), name)


def _seeded(made: Any, *args: Any, **kwargs: Any) -> Any:
    """A layout with the same weights in every process."""

    def build(path: Path) -> None:
        layouts._CHANCE = np.random.default_rng(14)
        made(path, *args, **kwargs)

    return build


def _lengths(chance: Chance, n: int) -> Sequence[Row]:
    return [
        {"input_ids": chance.integers(0, 50, k), "attention_mask": np.ones(k, np.int64)}
        for k in chance.integers(1, 12, n)
    ]


def _images(channels: int, low: int = 2) -> Any:
    def rows(chance: Chance, n: int) -> Sequence[Row]:
        sizes = chance.integers(low, 9, (n, 2))
        return [{"image": chance.normal(size=(channels, h, w)).astype(np.float32)} for h, w in sizes]

    return rows


def _threshold(shape: tuple[int, ...]) -> Any:
    def rows(chance: Chance, n: int) -> Sequence[Row]:
        limits = [0.0, 1.0, 0.0, -1.0, 0.5, 1.0]
        return [
            {"x": chance.normal(size=4).astype(np.float32), "threshold": np.full(shape, limits[i % 6], np.float32)}
            for i in range(n)
        ]

    return rows


def _words(chance: Chance, n: int) -> Sequence[Row]:
    known = np.array(["a", "Ä", "a b", "", '"', "\\"], object)
    return [{"s": known[chance.integers(len(known), size=2)]} for _ in range(n)]


def _unary(op: str, sizes: Sequence[Any], path: Path, **attributes: Any) -> None:
    save(path, [NODE(op, ["x"], ["y"], **attributes)], [("x", FLOAT, sizes)], [("y", FLOAT, sizes)])


def _dense(sizes_in: Sequence[Any], sizes_out: Sequence[Any], outputs: int, path: Path) -> None:
    w = const("w", weights(int(sizes_in[-1]), outputs))
    save(path, [NODE("MatMul", ["x", "w"], ["y"])], [("x", FLOAT, sizes_in)], [("y", FLOAT, sizes_out)], [w])


def _nonzero(path: Path) -> None:
    nodes = [NODE("NonZero", ["x"], ["at"]), NODE("Transpose", ["at"], ["places"], perm=[1, 0])]
    save(path, nodes, [("x", FLOAT, [1, 5])], [("places", INT64, ["K", 2])])


def _two(names: Sequence[str], path: Path) -> None:
    a, b, out = names
    save(path, [NODE("Sub", [a, b], [out])], [(a, FLOAT, ["N", 2]), (b, FLOAT, ["N", 2])], [(out, FLOAT, ["N", 2])])


def _many(path: Path) -> None:
    """Vector, matrix, number, whole number and truth beside each other."""
    nodes = [
        NODE("MatMul", ["x", "w"], ["embedding"]),
        NODE("Unsqueeze", ["embedding", "last"], ["column"]),
        NODE("MatMul", ["column", "one"], ["heat map"]),
        NODE("ReduceMax", ["x", "last"], ["top"], keepdims=0),
        NODE("ArgMax", ["x"], ["best.index"], axis=1, keepdims=0),
        NODE("Greater", ["top", "half"], ["is/high"]),
    ]
    outputs = [
        ("embedding", FLOAT, ["N", 3]),
        ("heat map", FLOAT, ["N", 3, 2]),
        ("top", FLOAT, ["N"]),
        ("best.index", INT64, ["N"]),
        ("is/high", BOOL, ["N"]),
    ]
    constants = [
        const("w", weights(4, 3)),
        const("last", np.array([-1])),
        const("one", weights(1, 2)),
        const("half", np.float32(0.5)),
    ]
    save(path, nodes, [("x", FLOAT, ["N", 4])], outputs, constants)


def _empty(path: Path) -> None:
    """y, and an output without elements: [N, 0]."""
    nodes = [NODE("Neg", ["x"], ["y"]), NODE("Slice", ["x", "zero", "zero", "one"], ["none"])]
    constants = [const("zero", np.array([0])), const("one", np.array([1]))]
    save(path, nodes, [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 4]), ("none", FLOAT, ["N", 0])], constants)


def _columns(count: int, path: Path) -> None:
    """As many inputs of one number as an exporter of data frames makes."""
    names = [f"column {i}" for i in range(count)]
    save(
        path,
        [NODE("Concat", names, ["row"], axis=1), NODE("ReduceSum", ["row", "axis"], ["sum"], keepdims=1)],
        [(name, FLOAT, ["N", 1]) for name in names],
        [("sum", FLOAT, ["N", 1])],
        [const("axis", np.array([1]))],
    )


def _mixed(path: Path) -> None:
    """A number, a whole number, a text and a truth per row."""
    nodes = [
        NODE("Cast", ["count"], ["c"], to=FLOAT),
        NODE("Cast", ["member"], ["m"], to=FLOAT),
        NODE("Add", ["amount", "c"], ["ac"]),
        NODE("Add", ["ac", "m"], ["total"]),
        NODE("Identity", ["city"], ["where"]),
    ]
    save(
        path,
        nodes,
        [
            ("amount", FLOAT, ["N", 1]),
            ("count", INT64, ["N", 1]),
            ("city", TensorProto.STRING, ["N", 1]),
            ("member", BOOL, ["N", 1]),
        ],
        [("total", FLOAT, ["N", 1]), ("where", TensorProto.STRING, ["N", 1])],
    )


def _mixed_rows(chance: Chance, n: int) -> Sequence[Row]:
    return [
        {
            "amount": chance.normal(size=1).astype(np.float32),
            "count": chance.integers(0, 9, 1),
            "city": np.array([f"city {chance.integers(9)}"], object),
            "member": chance.random(1) > 0.5,
        }
        for _ in range(n)
    ]


def entries() -> Iterator[Entry]:
    """The models."""
    yield Entry("text", BY, _seeded(layouts.text), _lengths)
    yield Entry("text-per-token", BY, _seeded(layouts.text, per_token=True), _lengths)
    yield Entry("text-unnamed-axes", BY, _seeded(layouts.text, (None, None)), _lengths)
    yield Entry("images-any-size", BY, _seeded(layouts.image), _images(3))
    yield Entry("image-batch-1-any-size", BY, _seeded(layouts.image, 1), _images(3))
    moved: dict[str, int | None] = {"x": 1, "y": 1}
    yield Entry(
        "lstm-time-first",
        BY,
        _seeded(layouts.sequence, ("T", "N"), states=False),
        lambda c, n: [{"x": c.normal(size=(k, 4)).astype(np.float32)} for k in c.integers(1, 7, n)],
        moved,
    )
    yield Entry("lstm-with-state", BY, _seeded(layouts.sequence), numbers(x=(5, 4)), {**moved, "last": 1})
    yield Entry(
        "no-batch-axis", BY, _seeded(layouts.picture), numbers(picture=(3, 16, 16)), {"picture": None, "y": None}
    )
    none: dict[str, int | None] = {"boxes": None, "scores": None, "count": None}
    yield Entry("detector", BY, layouts.detector, _images(1), none)
    yield Entry(
        "nonzero-places",
        BY,
        _nonzero,
        lambda c, n: [{"x": (c.random(5) > 0.5).astype(np.float32)} for _ in range(n)],
        {"places": None},
    )
    for rank, shape in enumerate(((), (1,), (1, 1))):
        yield Entry(
            f"threshold-rank-{rank}",
            BY,
            partial(layouts.threshold, shape=shape) if rank < 2 else partial(_threshold_matrix),
            _threshold(shape),
            {"threshold": None, "used": None},
        )
    yield Entry("constant-beside", BY, partial(layouts.aside, kind="constant"), numbers(x=(4,)), {"aside": None})
    yield Entry("total-beside", BY, partial(layouts.aside, kind="total"), numbers(x=(4,)), {"aside": None})
    yield Entry("centred-over-batch", BY, partial(layouts.aside, kind="centred"), numbers(x=(4,)))
    for size in (1, 4, 8):  # of a single row, nothing tells which axis of y was its own: callers get all of y
        own: dict[str, int | None] = {"y": None if size == 1 else 1}
        yield Entry(f"fixed-batch-{size}-turned", BY, _seeded(layouts.fixed, size), numbers(x=(4,)), own, batch=size)
    yield Entry("fixed-batch-1", BY, partial(_dense, [1, 4], [1, 2], 2), numbers(x=(4,)))
    yield Entry("fixed-batch-16", BY, partial(_dense, [16, 4], [16, 2], 2), numbers(x=(4,)), batch=16)
    yield Entry("words-turned", BY, _seeded(layouts.words), _words, {"turned": 1})
    yield Entry("several-outputs", BY, _many, numbers(x=(4,)))
    yield Entry("zero-size-output", BY, _empty, numbers(x=(4,)))
    for rank in range(1, 7):
        shape = (2, 3, 2, 1, 2)[: rank - 1]
        yield Entry(f"rank-{rank}", BY, partial(_unary, "Neg", ["N", *shape]), numbers(x=shape))
    yield Entry("rank-0", BY, partial(_unary, "Neg", []), numbers(x=()), {"x": None, "y": None})
    alone: dict[str, int | None] = {"x": None, "y": None}
    yield Entry("vector-element-wise", BY, partial(_unary, "Softsign", [7]), numbers(x=()), batch=7)  # seven rows
    yield Entry("vector-without-batch", BY, partial(_unary, "Softmax", [7]), numbers(x=(7,)), alone)  # one row
    yield Entry("no-names-of-axes", BY, partial(_unary, "Softsign", [None, 3]), numbers(x=(3,)))
    yield Entry("axis-named-2", BY, partial(_unary, "Softsign", ["2", 3]), numbers(x=(3,)))
    yield Entry("two-columns", BY, partial(_dense, ["N", 4], ["N", 2], 2), numbers(x=(4,)))
    yield Entry("wide-4096", BY, partial(_dense, ["N", 4096], ["N", 2], 2), numbers(x=(4096,)), tolerance=2e-3)
    yield Entry("columns-60", BY, partial(_columns, 60), numbers(**{f"column {i}": (1,) for i in range(60)}))
    yield Entry("mixed-columns", BY, _mixed, _mixed_rows)
    odd = (
        ("a b", "c.d/e:0", "out put"),
        ('quo"te', "back\\slash", "y"),
        ("line\nbreak", "tab\t", "y"),
        ("ä", "日本", "ß"),
        ("class", "import", "def"),
        ("__proto__", "constructor", "toString"),
        ("{x}", "%s", "$y"),
        ("0", "1", "2"),
        ("rows", "inputs", "outputs"),
        ("label", "probabilities", "prediction_id"),
        ("x" * 300, "b", "y"),
        ("'", "`", "a'b"),
        ("<b>", "&amp;", "</script>"),
        (" ", "  ", "   "),
        ("A", "a", "Y"),
    )
    for number, names in enumerate(odd):
        yield Entry(f"odd-names-{number}", BY, partial(_two, names), numbers(**{names[0]: (2,), names[1]: (2,)}))
    yield Entry(
        "attention",
        BY,
        graphs.attention,
        lambda c, n: [{"input_ids": c.integers(0, 100, k)} for k in c.integers(2, 20, n)],
        tolerance=2e-3,
    )
    yield Entry(
        "loop-by-input",
        BY,
        graphs.looping,
        lambda c, n: [{"turns": c.integers(1, 9, 1), "x": c.normal(size=1).astype(np.float32)} for _ in range(n)],
    )


def _threshold_matrix(path: Path) -> None:
    nodes = [
        NODE("ReduceSum", ["x", "axes"], ["score"], keepdims=1),
        NODE("Greater", ["score", "threshold"], ["above"]),
        NODE("Identity", ["threshold"], ["used"]),
    ]
    save(
        path,
        nodes,
        [("x", FLOAT, ["N", 4]), ("threshold", FLOAT, [1, 1])],
        [("score", FLOAT, ["N", 1]), ("above", BOOL, ["N", 1]), ("used", FLOAT, [1, 1])],
        [const("axes", np.array([1]))],
    )
