"""Every dtype that ONNX Runtime takes by NumPy, as matrix, as column, as scalar per row, and cast into another."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.support.graphs import save
from tests.zoo.entry import Chance, Entry, Row

KINDS = (
    "BOOL",
    "FLOAT16",
    "FLOAT",
    "DOUBLE",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "STRING",
)
BY = "onnx.helper"
WORDS = ("", "a", "Ä ö", 'a "quoted" text', "back\\slash", "日本", "line\nbreak", "null")


def _drawn(kind: str, shape: tuple[int, ...], chance: Chance, n: int) -> Sequence[Row]:
    """Values over the whole range of the dtype, its ends among them."""
    rows: list[Row] = []
    dtype = None if kind == "STRING" else np.dtype(helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind)))
    for number in range(n):
        if dtype is None:
            value = np.array([WORDS[i] for i in chance.integers(len(WORDS), size=int(np.prod(shape)))], object)
        elif dtype.kind == "b":
            value = chance.random(int(np.prod(shape))) > 0.5
        elif dtype.kind == "f":
            value = chance.normal(size=int(np.prod(shape))).astype(dtype)
        else:
            ends = np.iinfo(dtype)
            value = chance.integers(ends.min, ends.max, int(np.prod(shape)), dtype, endpoint=True)
            value[:1] = (ends.min, ends.max)[number % 2]
        rows.append({"x": value.reshape(shape)})
    return rows


def _identity(kind: str, shape: Sequence[int], path: Path) -> None:
    """y = x, but of nothing that a runtime could leave out."""
    element = getattr(TensorProto, kind)
    sizes = ["N", *shape]
    save(path, [helper.make_node("Identity", ["x"], ["y"])], [("x", element, sizes)], [("y", element, sizes)])


def _cast(source: str, target: str, path: Path) -> None:
    a, b = getattr(TensorProto, source), getattr(TensorProto, target)
    save(path, [helper.make_node("Cast", ["x"], ["y"], to=b)], [("x", a, ["N", 3])], [("y", b, ["N", 3])])


def _typed(element: int, path: Path) -> None:
    save(path, [helper.make_node("Identity", ["x"], ["y"])], [("x", element, ["N", 3])], [("y", element, ["N", 3])])


def entries() -> Iterator[Entry]:
    """The models."""
    shapes: dict[str, tuple[int, ...]] = {"matrix": (3,), "column": (1,), "vector": (), "image": (2, 2, 2)}
    for kind in KINDS:
        for name, shape in shapes.items():
            if name == "image" and kind not in {"FLOAT", "STRING", "UINT8"}:
                continue
            build: Callable[[Path], object] = partial(_identity, kind, shape)
            yield Entry(f"{kind.lower()}-{name}", BY, build, partial(_drawn, kind, shape))
    for source, target in (
        ("INT64", "STRING"),
        ("FLOAT16", "FLOAT"),
        ("UINT8", "DOUBLE"),
        ("BOOL", "INT64"),
        ("INT32", "BOOL"),
    ):
        yield Entry(
            f"cast-{source}-{target}".lower(), BY, partial(_cast, source, target), partial(_drawn, source, (3,))
        )
    for name in ("FLOAT8E4M3FN", "COMPLEX64"):
        yield Entry(
            f"dtype-{name.lower()}",
            BY,
            partial(_typed, getattr(TensorProto, name)),
            lambda chance, n: [],
            refused={"FLOAT8E4M3FN": "float8", "COMPLEX64": "complex64"}[name],
        )
