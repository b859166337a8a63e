"""Graphs whose rows are not simply on the first axis: every row gets what `session.run` gives for it alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tests.support import layouts
from tests.support.graphs import FLOAT, INT64, save
from understudy.errors import ConfigurationError
from understudy.inference import OutputReader
from understudy.inference.cards import Card, InputSpec, OutputSpec, beside, model_digest
from understudy.inference.decoding import Array, Columns, Decoder, Field
from understudy.inference.onnx import OnnxEngine
from understudy.inference.ragged import is_ragged, of_rows

CHANCE = np.random.default_rng(3)
Rows = Sequence[Mapping[str, Array]]


def opened(path: Path, **options: Any) -> OnnxEngine:
    return OnnxEngine(path, **({"device": "cpu", "warm_max_rows": 4} | options))


def floats(*shape: int) -> Array:
    return CHANCE.standard_normal(shape).astype(np.float32)


def run(engine: OnnxEngine, rows: Rows) -> dict[str, Array]:
    """One run of the engine for all rows, read as a worker reads it."""
    columns = {name: of_rows([row[name] for row in rows]) for name in rows[0]}
    outputs = engine.run(columns)
    OutputReader(engine.card).read(outputs, len(rows))
    return outputs


def alone(
    path: Path, rows: Rows, inputs: Mapping[str, int | None], outputs: Mapping[str, int | None]
) -> list[dict[str, Array]]:
    """What the runtime gives for each row by itself; the arguments say where the batch axes truly are."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = []
    for row in rows:
        feed = {n: v if inputs[n] is None else np.expand_dims(v, inputs[n] or 0) for n, v in row.items()}
        given = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
        found.append({n: v if (axis := outputs[n]) is None else np.take(v, 0, axis) for n, v in given.items()})
    return found


def check(path: Path, rows: Rows, inputs: Mapping[str, int | None], outputs: Mapping[str, int | None]) -> OnnxEngine:
    """Every element of every output of rows that are run together is that of the row alone."""
    engine = opened(path)
    together, apart = run(engine, rows), alone(path, rows, inputs, outputs)
    assert {spec.name: spec.batch_axis for spec in engine.card.inputs} == dict(inputs)
    assert {spec.name: spec.batch_axis for spec in engine.card.outputs} == dict(outputs)
    for name, array in together.items():
        assert len(array) == len(rows)
        for i, row in enumerate(apart):
            mine, its = np.asarray(array[i]), np.asarray(row[name])
            assert mine.shape == its.shape, name
            if its.dtype.kind == "f":
                np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                assert mine.tolist() == its.tolist(), name
    return engine


@pytest.mark.parametrize("names", [("batch", "seq"), (None, None), ("N", "T"), ("a", "b")])
def test_texts_of_different_lengths_share_a_request(tmp_path: Path, names: tuple[Any, Any]) -> None:
    """Token ids and their mask, whose lengths must agree; pooled and one vector per token."""
    path = layouts.text(tmp_path / "m.onnx", names, per_token=True)
    rows = [
        {"input_ids": CHANCE.integers(0, 50, n), "attention_mask": np.ones(n, np.int64)} for n in (3, 5, 3, 1, 9, 5)
    ]
    engine = check(path, rows, {"input_ids": 0, "attention_mask": 0}, {"pooled": 0, "kept": 0})

    ids, mask = engine.card.inputs
    assert engine.card.batch == "dynamic"
    assert ids.tried == mask.tried
    assert len({tuple(shape) for shape in ids.tried}) > 1
    assert is_ragged(run(engine, rows)["kept"])
    assert not is_ragged(run(engine, rows)["pooled"])


def test_images_of_different_sizes_share_a_request(tmp_path: Path) -> None:
    path = layouts.image(tmp_path / "m.onnx")
    rows = [{"image": floats(3, h, w)} for h, w in ((8, 8), (5, 9), (8, 8), (1, 1))]
    assert check(path, rows, {"image": 0}, {"y": 0}).card.batch == "dynamic"


@pytest.mark.parametrize("names", [("T", "N"), (None, None), ("time", "batch_size"), ("seq_len", "many")])
def test_sequences_may_have_their_rows_on_the_second_axis(tmp_path: Path, names: tuple[Any, Any]) -> None:
    """By the name of the dimension, or because the first axis is one on which a row depends on those before it."""
    path = layouts.sequence(tmp_path / "m.onnx", names)
    rows = [{"x": floats(t, 4)} for t in (2, 6, 2, 4)]
    engine = check(path, rows, {"x": 1}, {"y": 1, "last": 1})
    assert engine.card.batch == "dynamic"
    assert "the rows of x are on axis 1" in engine.card.layout


def test_a_picture_without_a_batch_axis_is_a_row(tmp_path: Path) -> None:
    """B3: the first three of ten scores were answered."""
    path = layouts.picture(tmp_path / "m.onnx")
    rows = [{"picture": floats(3, 16, 16)} for _ in range(5)]
    engine = check(path, rows, {"picture": None}, {"y": None})
    assert (engine.card.batch, engine.card.inputs[0].row_shape) == ("one", (3, 16, 16))
    assert engine.card.layout == [
        "no input has an axis of rows (picture takes [3, 16, 16]), so each row is run by itself"
    ]


@pytest.mark.parametrize("batch", [1, "N"])
def test_boxes_are_as_many_as_each_image_has(tmp_path: Path, batch: Any) -> None:
    """B3: only the first box was answered. Also none at all, and images of different sizes."""
    path = layouts.detector(tmp_path / "m.onnx", batch)
    rows = [{"image": floats(1, 8, 8)}, {"image": np.zeros((1, 8, 8), np.float32)}, {"image": floats(1, 12, 4)}]
    engine = check(path, rows, {"image": 0}, dict.fromkeys(("boxes", "scores", "count")))
    assert engine.card.batch == ("fixed" if batch == 1 else "one")


def test_one_box_an_image_by_chance_is_no_axis_of_rows(tmp_path: Path) -> None:
    """The trial's images may each have one; then two images with two and none would be mixed up."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=1),
        helper.make_node("OneHot", ["best", "width", "values"], ["hot"], axis=1),
        helper.make_node("Squeeze", ["hot", "last"], ["flat"]),
        helper.make_node("NonZero", ["flat"], ["places"]),
        helper.make_node("Transpose", ["places"], ["boxes"], perm=[1, 0]),
        helper.make_node("Gather", ["boxes", "one"], ["columns"], axis=1),
    ]
    constants = [
        layouts.ints("width", 4),
        layouts.ints("values", 0, 1),
        layouts.ints("last", 2),
        layouts.ints("one", 1),
    ]
    path = save(tmp_path / "m.onnx", nodes, [("x", FLOAT, ["N", 4])], [("columns", 7, ["K", 1])], constants)
    assert opened(path).card.batch == "one"


@pytest.mark.parametrize("shape", [(), (1,)])
def test_rows_share_a_run_only_with_rows_of_the_same_threshold(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """B4: callers got each other's threshold."""
    path = layouts.threshold(tmp_path / "m.onnx", shape)
    rows = [
        {"x": floats(4), "threshold": np.full(shape, limit, np.float32)} for limit in (0.0, 2.0, 0.0, -2.0, 2.0, 0.5)
    ]
    engine = check(path, rows, {"x": 0, "threshold": None}, {"score": 0, "above": 0, "used": None})
    assert engine.card.batch == "dynamic"
    assert "threshold has no axis of rows, so only rows with the same value share a run" in engine.card.layout
    assert Field("threshold", "float32", engine.card.inputs[1].row_shape).scalar


def test_a_constant_beside_good_outputs_is_given_to_each_row(tmp_path: Path) -> None:
    """B6: every request was a 500."""
    path = layouts.aside(tmp_path / "m.onnx", "constant")
    engine = check(path, [{"x": floats(4)} for _ in range(3)], {"x": 0}, {"y": 0, "aside": None})
    assert engine.card.batch == "dynamic"
    assert engine.card.layout == ["output aside is the same for every row"]


def test_a_sum_over_all_rows_makes_rows_run_by_themselves(tmp_path: Path) -> None:
    """B6: it would be the sum over the rows of several callers."""
    path = layouts.aside(tmp_path / "m.onnx", "total")
    engine = check(path, [{"x": floats(4)} for _ in range(3)], {"x": 0}, {"y": 0, "aside": None})
    assert engine.card.batch == "one"
    assert engine.card.layout == ["output aside has no axis of rows, so each row is run by itself"]


def test_a_row_that_depends_on_the_others_is_run_by_itself(tmp_path: Path) -> None:
    path = layouts.aside(tmp_path / "m.onnx", "centred")
    engine = check(path, [{"x": floats(4)} for _ in range(3)], {"x": 0}, {"y": 0, "aside": 0})
    assert engine.card.batch == "one"
    assert "depends on the other rows of a run, so each row is run by itself" in engine.card.layout[0]


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_a_fixed_batch_may_have_its_rows_elsewhere_in_the_output(tmp_path: Path, rows: int) -> None:
    path = layouts.fixed(tmp_path / "m.onnx")
    engine = opened(path)
    x = floats(rows, 4)
    assert engine.card.batch == "fixed"
    assert [spec.batch_axis for spec in engine.card.outputs] == [1]
    np.testing.assert_allclose(engine.run({"x": x})["y"], x @ layouts.WEIGHTS, rtol=1e-5)


def test_a_fixed_batch_of_one_row_takes_any_number(tmp_path: Path) -> None:
    path = layouts.image(tmp_path / "m.onnx", 1)
    rows = [{"image": floats(3, h, 8)} for h in (8, 4, 8)]
    assert check(path, rows, {"image": 0}, {"y": 0}).card.batch == "fixed"


def test_strings_of_any_rank_are_rows_too(tmp_path: Path) -> None:
    path = layouts.words(tmp_path / "m.onnx")
    rows = [{"s": np.array([f"a{i}", f"b{i}"], object)} for i in range(3)]
    check(path, rows, {"s": 0}, {"turned": 1, "deep": 0})


def test_an_output_without_elements_is_there(tmp_path: Path) -> None:
    path = layouts.empty(tmp_path / "m.onnx")
    engine = check(path, [{"x": floats(4)} for _ in range(2)], {"x": 0}, {"none": 0, "y": 0})
    assert run(engine, [{"x": floats(4)}])["none"].tolist() == [[]]


def test_an_adjacency_matrix_is_a_row(tmp_path: Path) -> None:
    """Both of its dimensions have one name, so neither is the batch."""
    node = helper.make_node("MatMul", ["a", "a"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [("a", FLOAT, ["N", "N"])], [("y", FLOAT, ["N", "N"])])
    rows = [{"a": floats(3, 3)}, {"a": floats(5, 5)}, {"a": floats(3, 3)}]
    assert check(path, rows, {"a": None}, {"y": None}).card.batch == "one"


def test_numbers_without_any_axis_are_rows(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [("a", FLOAT, []), ("b", FLOAT, [])], [("y", FLOAT, [])])
    engine = check(path, [{"a": floats(), "b": floats()} for _ in range(3)], {"a": None, "b": None}, {"y": None})
    assert engine.card.outputs[0].role == "value"


def test_a_card_s_layout_is_believed_and_checked(tmp_path: Path) -> None:
    """What `init` has written is not searched for again; a layout that the graph does not have is refused."""
    path = layouts.sequence(tmp_path / "m.onnx", ("T", "N"))
    found = opened(path).card
    beside(path).write_text(found.model_dump_json())
    assert opened(path).card == found

    outputs = [o.model_copy(update={"batch_axis": 3}) for o in found.outputs]
    beside(path).write_text(found.model_copy(update={"outputs": outputs}).model_dump_json())
    with pytest.raises(ConfigurationError, match="`batch_axis: 3` of output y, which has 3 axes"):
        opened(path)


def test_rows_of_json_of_different_lengths_become_one_column() -> None:
    """One array per row where they differ, an ordinary array where they do not; an empty list has no elements."""
    fields = [Field("t", "int64", (None,)), Field("m", "float32", (None, 2)), Field("s", "string", (None,))]
    decoder = Decoder(fields, rows_max=9, key_max_chars=9)
    body = b'{"rows": [{"t": [1, 2], "m": [[1, 2]], "s": ["a"]}, {"t": [3], "m": [], "s": ["b", "c"]}]}'
    columns = Columns(fields, decoder.positions).build(decoder.decode(body).rows)

    assert [row.tolist() for row in columns["t"]] == [[1, 2], [3]]
    assert [row.shape for row in columns["m"]] == [(1, 2), (0, 2)]
    assert [row.tolist() for row in columns["s"]] == [["a"], ["b", "c"]]
    assert {row.dtype.name for row in columns["t"]} == {"int64"}


@pytest.mark.parametrize("columns", [10, 784])
def test_columns_that_the_graph_does_not_declare_are_those_of_its_weights(tmp_path: Path, columns: int) -> None:
    """Some exporters write [any, any] for a table; the trial takes sizes of the graph's constants."""
    weights = numpy_helper.from_array(floats(columns, 2), "weights")
    node = helper.make_node("MatMul", ["x", "weights"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [("x", FLOAT, [None, None])], [("y", FLOAT, [None, 2])], [weights])
    engine = check(path, [{"x": floats(columns)} for _ in range(3)], {"x": 0}, {"y": 0})
    assert engine.card.inputs[0].tried == [[columns]]


def test_an_input_without_any_shape_needs_a_card(tmp_path: Path) -> None:
    """The runtime reports it as one number."""
    x = helper.make_tensor_value_info("x", FLOAT, None)
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [x], [("y", FLOAT, [None, 3])])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="does not say how many axes x has"):
        opened(path)

    spec = InputSpec(name="x", dtype="float32", shape=[None, 3])
    output = OutputSpec(name="y", dtype="float32", shape=[None, 3])
    card = Card(name="m", version="1", task="other", inputs=[spec], outputs=[output], digest=model_digest(path))
    beside(path).write_text(card.model_dump_json())
    assert check(path, [{"x": floats(3)} for _ in range(3)], {"x": 0}, {"y": 0}).card.batch == "dynamic"


def test_a_card_that_promises_another_shape_is_refused_at_load(tmp_path: Path) -> None:
    """It would be a 500 for every request."""
    path = layouts.image(tmp_path / "m.onnx")
    outputs = [OutputSpec(name="y", dtype="float32", shape=[None, 1], role="value")]
    card = opened(path).card.model_copy(update={"task": "regression", "outputs": outputs})
    beside(path).write_text(card.model_dump_json())
    with pytest.raises(ConfigurationError, match=r"output 'y' has shape \[1, 2\] for 1 rows, 1 numbers for each"):
        opened(path)


def test_a_label_of_each_token_is_no_set_of_classes(tmp_path: Path) -> None:
    """Its length varies with the text."""
    node = helper.make_node("ArgMax", ["x"], ["labels"], axis=-1, keepdims=0)
    path = save(tmp_path / "m.onnx", [node], [("x", FLOAT, ["N", "T", 3])], [("labels", INT64, ["N", "T"])])
    engine = check(path, [{"x": floats(t, 3)} for t in (2, 5, 2)], {"x": 0}, {"labels": 0})
    assert (engine.card.task, engine.card.roles) == ("other", {"other"})


def test_a_size_may_be_the_sum_of_two(tmp_path: Path) -> None:
    """As exporters write the attention mask of a model with a cache."""
    nodes = [
        helper.make_node("Concat", ["past", "new"], ["all"], axis=1),
        helper.make_node("Mul", ["all", "mask"], ["y"]),
    ]
    inputs = [("past", FLOAT, ["batch", "past"]), ("new", FLOAT, ["batch", "seq"])]
    inputs.append(("mask", FLOAT, ["batch", "past + seq"]))
    path = save(tmp_path / "m.onnx", nodes, inputs, [("y", FLOAT, ["batch", "past + seq"])])
    rows = [{"past": floats(a), "new": floats(b), "mask": floats(a + b)} for a, b in ((1, 2), (4, 1), (2, 1))]
    check(path, rows, dict.fromkeys(("past", "new", "mask"), 0), {"y": 0})


def test_a_random_output_is_no_reason_to_run_rows_alone(tmp_path: Path) -> None:
    """The same row gets another answer each time."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 4])])
    assert opened(path).card.batch == "dynamic"


def test_the_trial_makes_no_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its failed runs are not shown as errors of the runtime."""
    weights = numpy_helper.from_array(floats(10, 2), "weights")
    node = helper.make_node("MatMul", ["x", "weights"], ["y"])
    opened(save(tmp_path / "m.onnx", [node], [("x", FLOAT, [None, None])], [("y", FLOAT, [None, 2])], [weights]))
    assert capfd.readouterr().err == ""
