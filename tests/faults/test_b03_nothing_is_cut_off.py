"""B3: of boxes [K, 4] only the first was answered, and of ten scores [10] the first three. Right: all of them, for each row."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support import layouts
from understudy.api.v2.codec import Signature
from understudy.domain import Variant
from understudy.errors import MalformedRequest
from understudy.inference import OutputReader, Scores
from understudy.inference.decoding import Array, Decoder, Field
from understudy.inference.onnx import OnnxEngine
from understudy.inference.ragged import of_rows


def boxes_of(tmp_path: Path, *images: Array) -> tuple[OnnxEngine, Scores]:
    engine = OnnxEngine(layouts.detector(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1)
    scores = OutputReader(engine.card).read(engine.run({"image": of_rows(images)}), len(images))
    return engine, scores


def image(*at: tuple[int, int]) -> Array:
    """A black image with white points."""
    made = np.zeros((1, 4, 4), np.float32)
    for row, column in at:
        made[0, row, column] = 2.0
    return made


def test_each_row_gets_all_of_its_boxes(tmp_path: Path) -> None:
    """Three, none and one; JSON has a list per row."""
    _, scores = boxes_of(tmp_path, image((0, 1), (2, 2), (3, 0)), image(), image((1, 1)))
    assert scores.others == {
        "boxes": [[[0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 3, 0]], [], [[0, 0, 1, 1]]],
        "scores": [[2.0, 2.0, 2.0], [], [2.0]],
        "count": [3.0, 0.0, 1.0],
    }


def test_v2_answers_rows_of_one_size_and_says_what_to_do_about_others(tmp_path: Path) -> None:
    """A tensor cannot hold rows of different sizes."""
    engine, scores = boxes_of(tmp_path, image((0, 1), (2, 2)), image((3, 3), (3, 0)), image((1, 1)))
    fields = [Field(s.name, s.dtype, s.row_shape) for s in engine.card.inputs]
    codec = Signature(Decoder(fields, rows_max=9, key_max_chars=9), {Variant.PRIMARY: engine.card})
    body = b'{"inputs": [{"name": "image", "shape": [2, 1, 1, 1], "datatype": "FP32", "data": [1, 2]}]}'
    request = codec.decode(body, None)

    text, _ = codec.encode({}, request, scores.slice(0, 2), Variant.PRIMARY)
    shapes = {tensor["name"]: tensor["shape"] for tensor in msgspec.json.decode(text)["outputs"]}
    assert shapes == {"boxes": [2, 2, 4], "scores": [2, 2], "count": [2]}
    assert [tensor.shape for tensor in codec.metadata()[1]] == [[-1, -1, 4], [-1, -1], [-1]]
    with pytest.raises(MalformedRequest, match="send one row per request"):
        codec.encode({}, request, scores, Variant.PRIMARY)


def test_a_model_without_a_batch_axis_gives_all_of_its_answer(tmp_path: Path) -> None:
    engine = OnnxEngine(layouts.picture(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1)
    outputs = engine.run({"picture": np.zeros((3, 3, 16, 16), np.float32)})
    assert outputs["y"].shape == (3, 10)
