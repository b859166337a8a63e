"""An input whose name has a quote, a backslash or a line break ended `check` and `serve` with a traceback.

Every name that ONNX Runtime takes is served on every door, and stays on one line in messages.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import alone, done, refused
from tests.support.doors import Doors
from tests.support.graphs import FLOAT, INT64, passing
from understudy.errors import InvalidInput
from understudy.inference.decoding import Decoder, Field
from understudy.inference.names import quoted, yaml_key, yaml_name
from understudy.inference.pieces import LargeDecoder
from understudy.rollout.policy import parse

__all__ = ["alone"]

ODD = [
    'a"b',
    "a'b",
    "a\\b",
    "a\nb",
    "a\tb\x00c"[:3],
    "naïve 特徴 😀",
    "x" * 3_000,
    "Case",
    "case",
    "key",
    "rows",
    "label",
    "a: b # c",
    "{a}",
    "$.a",
    "__class__",
    "f0",
    "%s",
    "</script>",
    "yes",
    "1",
    " ",
    "ALTER; --",
]


def rollout(folder: Path, **named: str) -> Path:
    for name in ("poc.onnx", "better.onnx"):
        passing(folder / name, *((each, FLOAT, ["r", 1]) for each in ODD), ("n", INT64, ["r", 1]))
    done("init", "poc.onnx", "better.onnx")
    return folder / "rollout.yaml"


def test_they_are_checked_and_served_on_every_door(tmp_path: Path) -> None:
    file = rollout(tmp_path)
    told = done("check")
    assert told.splitlines()[-1] == "ready to serve"
    file.write_text(file.read_text(encoding="utf-8").replace("model: poc", "model: m"), encoding="utf-8")

    row = {name: float(place) for place, name in enumerate(ODD)}
    wanted = [*row.values(), 7]
    for candidate in (False, True):
        doors = Doors(file, candidate=candidate)
        status, said = doors.predict({**row, "n": 7.0})
        assert (status, [v for [v] in said["predictions"][0]["outputs"].values()]) == (200, wanted)
        given = {name: ("FP32", [1, 1], [value]) for name, value in row.items()}
        _, said = doors.v2(**given, n=("INT64", [1, 1], [7]))
        assert {o["name"]: o["data"] for o in said["outputs"]} == {f"{n}_out": [v] for n, v in {**row, "n": 7}.items()}
        arrays = {name: ("FP32", np.array([[value]], np.float32)) for name, value in row.items()}
        status, _, found = doors.v2_binary(**arrays, n=("INT64", np.array([[7]])))
        assert (status, [array.item() for array in found.values()]) == (200, wanted)


def test_what_is_wrong_in_a_row_is_said_under_the_name() -> None:
    decoder = Decoder([Field('a"b', "float32"), Field("n", "int64")], rows_max=9, key_max_chars=9)
    for body in (
        b'{"rows":[{"a\\"b":"x","n":1}]}',
        b'{"rows":[{"\xef\xa3\xbf0":1,"n":1}]}',
        b'{"rows":[]}',
        b'{"rows":7}',
    ):
        with pytest.raises(InvalidInput) as caught:
            decoder.decode(body)
        assert caught.value.errors
    assert decoder.decode(b'{"rows":[{"n":1.0,"a\\"b":2}],"key":"k"}').rows == [(2.0, 1)]
    assert LargeDecoder(decoder).decode(b'{"rows":[{"n":1,"a\\"b":2}]}').rows == [(2.0, 1)]


def test_a_line_of_the_rollout_file_holds_any_name() -> None:
    base = "model: m\ntask: other\nprimary: a\ncandidate: b\n"
    for name in ODD:
        text = f"{base}inputs: {{{yaml_key(name)}: {{rename: {yaml_name(name)}}}}}\noutputs: {{{yaml_key(name)}: y}}\n"
        policy = parse(text)
        assert ([*policy.inputs], policy.inputs[name].rename, [*policy.outputs]) == ([name], name, [name])
        assert "\n" not in quoted(name)
        assert len(quoted(name)) < 100


def test_a_message_about_them_is_one_line(tmp_path: Path) -> None:
    passing(tmp_path / "poc.onnx", ("a\nb", FLOAT, ["r", 1]))
    passing(tmp_path / "better.onnx", ("c\nd", INT64, ["r", 1]))
    assert "`c\\nd` (int64 [n, 1])" in refused("init", "poc.onnx", "better.onnx")
