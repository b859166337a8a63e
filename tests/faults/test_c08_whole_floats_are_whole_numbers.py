"""44.0 and 1e3 were refused for an int64 input, although pandas makes floats of integers that way.

They are whole numbers on every door. A body without them is decoded once, as before.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.doors import Doors
from tests.support.graphs import FLOAT, INT64, passing
from understudy.errors import InvalidInput
from understudy.inference.columns import Table
from understudy.inference.decoding import Columns, Decoder, Field
from understudy.inference.pieces import LargeDecoder

INT32, UINT64 = 6, 13


def doors(folder: Path) -> Doors:
    inputs = [("n", INT64, ["r", 1]), ("v", INT32, ["r", 2]), ("x", FLOAT, ["r", 1])]
    passing(folder / "m.onnx", *inputs)
    file = folder / "rollout.yaml"
    file.write_text("model: m\ntask: other\nprimary: m.onnx\n", encoding="utf-8")
    return Doors(file)


def test_predict_takes_them(tmp_path: Path) -> None:
    """In numbers and in arrays; the sign of a float field's -0.0 stays."""
    status, said = doors(tmp_path).predict(b'{"n": 44.0, "v": [1e3, 2], "x": -0.0}')

    assert (status, said["predictions"][0]["outputs"]) == (200, {"n_out": [44], "v_out": [1000, 2], "x_out": [-0.0]})
    assert str(said["predictions"][0]["outputs"]["x_out"][0]) == "-0.0"


def test_v2_takes_them(tmp_path: Path) -> None:
    given = {"n": ("INT64", [1, 1], [44.0]), "v": ("INT32", [1, 2], [[1e3, 2]]), "x": ("FP32", [1, 1], [1])}
    status, said = doors(tmp_path).v2(**given)

    assert (status, [output["data"] for output in said["outputs"]]) == (200, [[44], [1000, 2], [1.0]])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b'{"n": 44.5, "v": [1, 2], "x": 1}', "takes a whole number (int64), not the number 44.5"),
        (b'{"n": 9007199254740993.0, "v": [1, 2], "x": 1}', ""),
        (b'{"n": 1e300, "v": [1, 2], "x": 1}', "takes a whole number (int64)"),
        (b'{"n": 1.0, "v": [3e9, 2], "x": 1}', "takes an array of shape [2] of int32"),
        (b'{"n": true, "v": [1.0, 2], "x": 1}', "takes a whole number (int64), not true"),
        (b'{"n": "44.0", "v": [1.0, 2], "x": 1}', "not the string '44.0'"),
    ],
)
def test_other_floats_are_refused_and_only_they(tmp_path: Path, row: bytes, says: str) -> None:
    """2^53 is the last whole number that a float says for certain."""
    status, said = doors(tmp_path).predict(row)
    if not says:  # the float of 9007199254740993.0 is 2^53, as in every reader of JSON
        assert (status, said["predictions"][0]["outputs"]["n_out"]) == (200, [2**53])
        return
    assert (status, len(said["errors"])) == (422, 1)
    assert says in said["errors"][0]["problem"]


def test_large_bodies_take_them_too() -> None:
    fields = [Field("n", "int64"), Field("v", "int64", (None,))]
    decoder = LargeDecoder(Decoder(fields, rows_max=9_000, key_max_chars=9))
    row, long = b'{"n":4.0,"v":[1.0,2]}', b'{"n":4.0,"v":[' + b",".join([b"7.0"] * 200_000) + b"]}"

    assert decoder.decode(b'{"rows":[' + b",".join([row] * 5_000) + b"]}").rows[4_999] == (4, [1, 2])
    [(number, values)] = decoder.decode(b'{"rows":[' + long + b"]}").rows
    assert (number, values.dtype, int(values.sum())) == (4, np.dtype("int64"), 1_400_000)


@pytest.mark.parametrize(("value", "fits"), [(44.0, True), (44.5, False)])
def test_a_candidate_that_takes_whole_numbers_gets_no_cut_ones(value: float, fits: bool) -> None:
    """The primary's field is a float. It was cut to 44 for the candidate."""
    columns = Columns([Field("n", "int32", (1,))], {"n": 0})
    table: Any = Table({"n": np.array([[value]], np.float32)}, 1)
    for rows in ([(value,)], table):
        if fits:
            assert columns.build(rows)["n"].tolist() == [[44]]
        else:
            with pytest.raises(InvalidInput):
                columns.build(rows)


def test_extremes_pass_unchanged(tmp_path: Path) -> None:
    """Beyond 2^53 whole numbers are written without a point, and stay exact."""
    passing(tmp_path / "m.onnx", ("u", UINT64, ["r", 1]), ("n", INT64, ["r", 1]))
    file = tmp_path / "rollout.yaml"
    file.write_text("model: m\ntask: other\nprimary: m.onnx\n", encoding="utf-8")
    open_ = Doors(file)
    for u, n in ((2**64 - 1, 2**63 - 1), (2**63, -(2**63)), (0, -1)):
        assert open_.predict({"u": u, "n": n})[1]["predictions"][0]["outputs"] == {"u_out": [u], "n_out": [n]}
        _, said = open_.v2(u=("UINT64", [1, 1], [u]), n=("INT64", [1, 1], [n]))
        assert [output["data"] for output in said["outputs"]] == [[u], [n]]
        arrays = {"u": ("UINT64", np.array([[u]], np.uint64)), "n": ("INT64", np.array([[n]], np.int64))}
        assert [a.tolist() for a in open_.v2_binary(**arrays)[2].values()] == [[[u]], [[n]]]
    assert open_.predict({"u": 2**64, "n": 0})[0] == 422
    assert open_.predict({"u": 0, "n": 2**63})[0] == 422
    assert open_.v2(u=("UINT64", [1, 1], [2**64]), n=("INT64", [1, 1], [0]))[0] == 400
