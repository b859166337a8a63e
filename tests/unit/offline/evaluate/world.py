"""A model small enough to know by heart, and files of rows for it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.support.graphs import save

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
DAY = 86_400


def sigmoid_model(path: Path, shift: float = 0.0) -> Path:
    """P(1) is the sigmoid of `x` plus a shift; `place` is read and not used."""
    shift_by = helper.make_tensor("shift", FLOAT, [1], [shift])
    one, half = helper.make_tensor("one", FLOAT, [1], [1.0]), helper.make_tensor("half", FLOAT, [1], [0.5])
    shape = helper.make_tensor("shape", INT64, [1], [-1])
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["moved"]),
        helper.make_node("Sigmoid", ["moved"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["probabilities"], axis=1),
        helper.make_node("Greater", ["p", "half"], ["above"]),
        helper.make_node("Cast", ["above"], ["number"], to=INT64),
        helper.make_node("Reshape", ["number", "shape"], ["label"]),
        helper.make_node("Identity", ["place"], ["read"]),
    ]
    inputs: list[Any] = [("x", FLOAT, ["n", 1]), ("place", STRING, ["n", 1])]
    return save(
        path, nodes, inputs, [("label", INT64, ["n"]), ("probabilities", FLOAT, ["n", 2])], [shift_by, one, half, shape]
    )


def records(rows: int, *, seed: int = 0, days: int = 20) -> list[dict[str, Any]]:
    """Rows whose label is drawn with the model's own probability: it is calibrated on them."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 1.5, rows)
    label = random.random(rows) < 1 / (1 + np.exp(-x))
    return [
        {
            "x": round(float(x[i]), 4),
            "place": "north" if i % 3 else "south",
            "late": int(label[i]),
            "when": 1_700_000_000 + int(i * days * DAY / rows),
            "note": "not for the model",
        }
        for i in range(rows)
    ]


def json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def csv_file(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
