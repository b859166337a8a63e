"""ONNX Runtime, distrusted: what it is asked for is what runs, whatever the graph's inputs and outputs look like."""

import json
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from models import build
from tests.support.graphs import BOOL, FLOAT, INT64, STRING, classifier, folder, save, summing
from understudy.errors import ConfigurationError, InferenceError
from understudy.inference import OutputReader, cards, devices, warmup
from understudy.inference.cards import Card, InputSpec, OutputSpec, digest_of, write_card
from understudy.inference.cost import RowCosts
from understudy.inference.decoding import Array, Columns, Field
from understudy.inference.devices import cpu_quota
from understudy.inference.locate import resolve
from understudy.inference.onnx import OnnxEngine, typical
from understudy.inference.profile import CategoricalProfile, NumericProfile
from understudy.inference.warmup import WARM_ROWS, WARM_RUNS

MODELS = Path(__file__).parents[3] / "models"


def opened(path: Path, **options: Any) -> OnnxEngine:
    return OnnxEngine(path, **({"device": "cpu", "warm_max_rows": 4} | options))


def test_a_float_matrix_gives_one_value_a_row(tmp_path: Path) -> None:
    """Any number of rows, and what a regression means to the service."""
    engine = opened(summing(tmp_path / "m.onnx"))
    reader = OutputReader(engine.card)

    for rows in (1, 2, 7, 100):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        scores = reader.read(engine.run({"x": x}), rows)
        assert scores.values == x.sum(axis=1).tolist()
        assert scores.finite


def test_strings_whole_numbers_and_booleans_pass_unchanged(tmp_path: Path) -> None:
    """As the front door builds them from rows of JSON, in three outputs of their own."""
    kinds = {"s": STRING, "i": INT64, "b": BOOL}
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        [(name, kind, ["n", 1]) for name, kind in kinds.items()],
        [(f"{name}_out", kind, ["n", 1]) for name, kind in kinds.items()],
    )
    engine = opened(path)
    fields = [Field(s.name, s.dtype, tuple(s.shape[1:])) for s in engine.card.inputs]
    rows = [("häuser", 2**62, True), ("", -1, False)]
    outputs = engine.run(Columns(fields, {"s": 0, "i": 1, "b": 2}).build(rows))
    scores = OutputReader(engine.card).read(outputs, 2)

    assert [s.dtype for s in engine.card.inputs] == ["string", "int64", "bool"]
    assert engine.card.task == "other"
    assert scores.others == {"s_out": [["häuser"], [""]], "i_out": [[2**62], [-1]], "b_out": [[True], [False]]}


@pytest.mark.parametrize("size", [1, 3])
def test_a_graph_with_a_fixed_batch_is_run_in_pieces(tmp_path: Path, size: int) -> None:
    """Fewer rows than the size, exactly it, and more: one answer a row, in order, none for the padding."""
    engine = opened(summing(tmp_path / "m.onnx", size))

    for rows in (1, 2, 3, 4, 6, 7):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        assert engine.run({"x": x})["y"].tolist() == x.sum(axis=1, keepdims=True).tolist()


def test_a_fixed_batch_of_strings_is_padded_too(tmp_path: Path) -> None:
    """Padding repeats the last row: a value that the graph has seen."""
    node = helper.make_node("Identity", ["s"], ["t"])
    engine = opened(save(tmp_path / "m.onnx", [node], [("s", STRING, [3, 1])], [("t", STRING, [3, 1])]))

    words = np.array([["a"], ["b"], ["c"], ["d"]], dtype=object)
    assert engine.run({"s": words})["t"].tolist() == words.tolist()


@pytest.mark.parametrize("element", [BOOL, STRING])
@pytest.mark.parametrize("shape", [["n"], ["n", 1]])
def test_one_truth_or_text_a_row_is_no_number_to_predict(tmp_path: Path, element: int, shape: list[Any]) -> None:
    """As a regression's value no record could hold it."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    card = opened(save(tmp_path / "m.onnx", nodes, [("x", element, shape)], [("y", element, shape)])).card
    assert (card.task, card.outputs[0].role) == ("other", "other")


def test_the_card_of_a_bare_classifier_comes_from_its_signature(tmp_path: Path) -> None:
    """Two probabilities and a whole-number label: binary, with the classes 0 and 1."""
    card = opened(classifier(tmp_path / "poc.onnx")).card

    assert (card.name, card.version, card.task, card.classes, card.positive) == (
        "poc",
        "0",
        "binary-classification",
        [0, 1],
        1,
    )
    assert [(o.name, o.dtype, o.role) for o in card.outputs] == [
        ("label", "int64", "label"),
        ("probabilities", "float32", "probabilities"),
    ]
    assert card.inputs == [InputSpec(name="x", dtype="float32", shape=[None, 2])]
    assert card.digest == digest_of(tmp_path / "poc.onnx")


def test_three_probabilities_are_three_classes(tmp_path: Path) -> None:
    """And no positive one."""
    engine = opened(classifier(tmp_path / "m.onnx", width=3))
    scores = OutputReader(engine.card).read(engine.run({"x": np.eye(3, dtype=np.float32)}), 3)

    assert (engine.card.task, engine.card.classes, engine.card.positive) == (
        "multiclass-classification",
        [0, 1, 2],
        None,
    )
    assert scores.labels == [0, 1, 2]


@pytest.mark.parametrize(("zipmap", "order"), [("ints", [0, 1, 2]), ("words", ["c", "a", "b"])])
def test_a_zipmap_becomes_a_matrix_in_class_order(tmp_path: Path, zipmap: str, order: list[Any]) -> None:
    """The list of dicts that scikit-learn's converter makes by default: in sorted order, or in the card's where there is one."""
    path = classifier(tmp_path / "m.onnx", width=3, zipmap=zipmap)
    x = np.array([[1, 2, 3], [0, 0, 5]], dtype=np.float32)
    expected = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    bare = opened(path)
    assert bare.card.outputs[1].role == "probabilities"
    in_order = np.argsort(np.array(order))
    np.testing.assert_allclose(bare.run({"x": x})["zipped"], expected[:, in_order], rtol=1e-5)

    turned = list(reversed(order))
    (tmp_path / cards.MODEL_FILE).write_bytes(path.read_bytes())
    write_card(tmp_path, Card.model_validate(bare.card.model_dump() | {"classes": turned}))
    np.testing.assert_allclose(opened(tmp_path).run({"x": x})["zipped"], expected[:, ::-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "classes", "positive"),
    [
        ([0, 1], [0, 1], 1),
        ([1, -1], [-1, 1], 1),
        (["no", "yes"], ["no", "yes"], "yes"),
        (["late", "early"], ["early", "late"], "late"),
        ([3, 1, 2], [1, 2, 3], None),
        (["c", "a", "b"], ["a", "b", "c"], None),
    ],
)
def test_the_classes_of_a_bare_zipmap_are_known(
    tmp_path: Path, names: list[Any], classes: list[Any], positive: Any
) -> None:
    """The keys of its dicts say them; of two the second in order is the one whose probability is the score."""
    engine = opened(classifier(tmp_path / "m.onnx", width=len(names), zipmap=names))
    card = engine.card
    x = np.eye(len(names), dtype=np.float32)
    scores = OutputReader(card).read(engine.run({"x": x}), len(names))

    assert card.task == ("binary-classification" if len(names) == 2 else "multiclass-classification")
    assert (card.classes, card.positive) == (classes, positive)
    assert scores.finite
    assert scores.probabilities is not None
    best = [card.classes[int(np.argmax(row))] for row in scores.probabilities]
    assert best == names


@pytest.mark.parametrize("kind", ["strings", "shifted", "computed", "one"])
def test_classes_that_a_graph_does_not_name_stay_unknown(tmp_path: Path, kind: str) -> None:
    """A label that is taken from a list is named by it; one that is computed is answered as it is."""
    width = 1 if kind == "one" else 2
    made = TensorProto.STRING if kind == "strings" else INT64
    names = [b"no", b"yes"] if kind == "strings" else [-1, 1]
    constants = [helper.make_tensor("names", made, [2], names)]
    nodes = [
        helper.make_node("Softmax", ["x"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["names", "best"], ["label"]),
    ]
    if kind == "computed":
        constants = [helper.make_tensor("one", INT64, [1], [1])]
        nodes[2] = helper.make_node("Add", ["best", "one"], ["label"])
    outputs = [("label", made, ["n"]), ("probabilities", FLOAT, ["n", width])]
    engine = opened(save(tmp_path / "m.onnx", nodes, [("x", FLOAT, ["n", width])], outputs, constants))
    card = engine.card
    scores = OutputReader(card).read(engine.run({"x": np.eye(2, width, dtype=np.float32)}), 2)

    known = {"strings": ["no", "yes"], "computed": []}.get(kind, [-1, 1])
    assert (card.classes, card.positive, engine.unnamed) == (known, known[1] if known else None, 0 if known else 2)
    assert card.task == "binary-classification"
    assert ("card.json" in card.description) == (not known)
    assert scores.finite
    assert scores.probabilities is not None
    assert [len(row) for row in scores.probabilities] == [2, 2]
    if kind == "strings":
        assert scores.labels == ["no", "yes"]


def test_a_bare_classifier_that_cannot_run_says_who_and_why(tmp_path: Path) -> None:
    """Where the one row that would name the classes fails."""
    table = helper.make_tensor("table", FLOAT, [0, 2], [])
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["p"]),
        helper.make_node("ZipMap", ["p"], ["zipped"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    row = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    zipped = helper.make_value_info("zipped", helper.make_sequence_type_proto(row))

    with pytest.raises(InferenceError, match="odds failed: "):
        opened(save(tmp_path / "odds.onnx", nodes, [("i", INT64, ["n"])], [zipped], [table]))


def test_a_graph_that_fails_on_some_rows_says_who_and_why(tmp_path: Path) -> None:
    """An index out of range: InferenceError with the model's name, and the next run is fine."""
    table = helper.make_tensor("table", FLOAT, [3], [10.0, 20.0, 30.0])
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    engine = opened(save(tmp_path / "prices.onnx", [node], [("i", INT64, ["n", 1])], [("y", FLOAT, ["n", 1])], [table]))

    with pytest.raises(InferenceError, match=r"prices failed: .*99"):
        engine.run({"i": np.array([[0], [99]])})
    assert engine.run({"i": np.array([[2]])})["y"].tolist() == [[30.0]]


@pytest.mark.parametrize(
    "columns", [{}, {"x": np.zeros((1, 4), np.float32)}, {"x": np.zeros((1, 3))}, {"z": np.zeros((1, 3), np.float32)}]
)
def test_columns_that_do_not_fit_are_an_inference_error(tmp_path: Path, columns: dict[str, Array]) -> None:
    """A missing one, a wrong width, a wrong kind, a wrong name: never an exception of the runtime's own."""
    with pytest.raises(InferenceError, match="m failed"):
        opened(summing(tmp_path / "m.onnx")).run(columns)


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    """Closing twice is harmless."""
    engine = opened(summing(tmp_path / "m.onnx"))
    engine.close()
    engine.close()

    with pytest.raises(InferenceError, match="the engine is closed"):
        engine.run({"x": np.zeros((1, 3), np.float32)})


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs: list[int] = []
    real = OnnxEngine.run

    def run(self: OnnxEngine, columns: Any) -> dict[str, Array]:
        runs.append(len(next(iter(columns.values()))))
        return real(self, columns)

    monkeypatch.setattr(OnnxEngine, "run", run)
    return runs


@pytest.mark.parametrize(
    ("limit", "sizes"), [(1024, WARM_ROWS), (5, (1, 2, 4)), (1, (1,)), (0, (1,))], ids=["all", "some", "one", "none"]
)
def test_every_batch_size_is_warmed_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, sizes: tuple[int, ...]
) -> None:
    """Several times each, up to the largest batch that will be asked for."""
    runs = watched(monkeypatch)
    opened(summing(tmp_path / "m.onnx"), warm_max_rows=limit)

    assert runs == [1, *(size for size in sizes for _ in range(WARM_RUNS))], (
        "one row to check the outputs, and the warm-up"
    )


def test_a_slow_model_is_not_warmed_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the time limit the sizes that are left are not tried, and costs are still known."""
    monkeypatch.setattr(warmup, "WARM_MAX_S", 0.0)
    runs = watched(monkeypatch)
    engine = opened(summing(tmp_path / "m.onnx"), warm_max_rows=1024)

    assert runs == [1] * (1 + WARM_RUNS)
    assert engine.seconds(10) == pytest.approx(10 * engine.seconds(1))


@pytest.mark.parametrize(("rows", "seconds"), [(1, 0.001), (2, 0.002), (3, 0.004), (4, 0.006), (8, 0.012), (400, 0.6)])
def test_costs_are_interpolated_between_sizes_and_extended_beyond(tmp_path: Path, rows: int, seconds: float) -> None:
    """Linear between two measured sizes; in proportion after the last."""
    engine = opened(summing(tmp_path / "m.onnx"))
    engine.seconds = RowCosts({1: 0.001, 2: 0.002, 4: 0.006}).seconds

    assert engine.seconds(rows) == pytest.approx(seconds)


def test_warm_up_inputs_are_what_training_saw(tmp_path: Path) -> None:
    """The mean of a number, the commonest of words; zeros and empty strings where nothing is known."""
    numeric = NumericProfile(missing=0, minimum=0, maximum=9, mean=4.5, std=1, edges=[], shares=[1.0])
    words = CategoricalProfile(missing=0, shares={"JFK": 0.2, "EWR": 0.5, "LGA": 0.3})

    assert (
        typical(InputSpec(name="a", dtype="float32", shape=[None, 2], profile=numeric), 2).tolist() == [[4.5] * 2] * 2
    )
    assert typical(InputSpec(name="a", dtype="string", shape=[None, 1], profile=words), 2).tolist() == [["EWR"]] * 2
    assert typical(InputSpec(name="a", dtype="int8", shape=[None, None, 2]), 3).shape == (3, 1, 2)
    assert typical(InputSpec(name="a", dtype="string", shape=[None]), 1).tolist() == [""]
    assert typical(InputSpec(name="a", dtype="bool", shape=[None]), 1).dtype == np.bool_


# What a source may be, and what is refused.


def test_a_folder_is_its_model_and_its_card(tmp_path: Path) -> None:
    """A bare file has no card."""
    made = folder(tmp_path / "sum", version="7")

    path, card = resolve(str(made))
    assert path == made / "model.onnx"
    assert card is not None
    assert card.version == "7"
    assert resolve(path) == (path, None)
    assert opened(made).card.version == "7"


@pytest.mark.parametrize(
    ("name", "says"),
    [("none.onnx", "none.onnx is missing"), ("none", "model.onnx is missing"), ("bare", "card.json is missing")],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, name: str, says: str) -> None:
    """A file, a folder, and a folder that lacks its card."""
    (tmp_path / "bare").mkdir()
    summing(tmp_path / "bare" / "model.onnx")

    with pytest.raises(ConfigurationError, match=says):
        resolve(tmp_path / name)


def test_a_model_that_is_not_the_one_its_card_speaks_of_is_refused(tmp_path: Path) -> None:
    """One byte more is enough; both digests are in the message."""
    made = folder(tmp_path / "sum")
    digest = digest_of(made / "model.onnx")
    with (made / "model.onnx").open("ab") as file:
        file.write(b"\0")

    with pytest.raises(ConfigurationError, match="is not the file that its card describes") as caught:
        opened(made)
    assert digest in caught.value.detail
    assert digest_of(made / "model.onnx") in caught.value.detail


@pytest.mark.parametrize("text", ["{", "{}", '{"name": 1}'])
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """With the file's name."""
    made = folder(tmp_path / "sum")
    (made / "card.json").write_text(text, encoding="utf-8")

    with pytest.raises(ConfigurationError, match=r"card\.json is not a model card"):
        resolve(made)


def test_a_card_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    """A typo in a card must not go unnoticed."""
    made = folder(tmp_path / "sum")
    said = json.loads((made / "card.json").read_text(encoding="utf-8"))
    (made / "card.json").write_text(json.dumps(said | {"clases": [0, 1]}), encoding="utf-8")

    with pytest.raises(ConfigurationError, match="clases"):
        resolve(made)


@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_card_that_speaks_of_other_names_than_the_graph_is_refused(tmp_path: Path, kind: str) -> None:
    """Both lists of names are in the message."""
    spec: dict[str, Any] = {"name": "other", "dtype": "float32", "shape": [None, 3]}
    changes: dict[str, Any] = {"inputs": [InputSpec(**spec)]} if kind == "input" else {"outputs": [OutputSpec(**spec)]}

    with pytest.raises(ConfigurationError, match=rf"the card's {kind}s are \['other'\], the graph's are \['[xy]'\]"):
        opened(folder(tmp_path / "sum", **changes))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    """With its name."""
    (tmp_path / "m.onnx").write_bytes(b"not a graph")

    with pytest.raises(ConfigurationError, match=r"m\.onnx cannot be loaded"):
        opened(tmp_path / "m.onnx")


def test_a_graph_with_an_output_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    """A sequence of tensors has no place in an answer."""
    sequence = helper.make_value_info("q", helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None)))
    path = save(
        tmp_path / "m.onnx", [helper.make_node("SequenceConstruct", ["x"], ["q"])], [("x", FLOAT, ["n", 1])], [sequence]
    )

    with pytest.raises(ConfigurationError, match=r"`q` is seq\(tensor\(float\)\), which is not served"):
        opened(path)


def test_a_model_in_bentoml_s_store_is_found_by_its_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its card where it has one; an unknown tag is named. (BentoML itself is played by a stub here.)"""

    def get(tag: str) -> Any:
        if tag != "sum:1":
            raise LookupError(f"no model {tag}")
        return types.SimpleNamespace(path=str(made))

    made = folder(tmp_path / "sum")
    monkeypatch.setitem(sys.modules, "bentoml", types.SimpleNamespace(models=types.SimpleNamespace(get=get)))

    path, card = resolve("bentoml:sum:1")
    assert path == made / "model.onnx"
    assert card is not None
    (made / "card.json").unlink()
    assert resolve("bentoml:sum:1") == (path, None)
    with pytest.raises(
        ConfigurationError, match="bentoml:none:2 is not in BentoML's model store; `understudy models list`"
    ):
        resolve("bentoml:none:2")
    (made / "model.onnx").rename(made / "saved_model.onnx")
    with pytest.raises(ConfigurationError, match=r"bentoml:sum:1 has no model\.onnx"):
        resolve("bentoml:sum:1")


# Devices and threads.


class Pretended:
    """A session of a runtime that was built for more than the machine has: it falls back and says nothing."""

    seen: Any = None

    def __init__(self, path: str, options: Any, providers: Sequence[str]) -> None:
        self.real = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.works = any("CUDAExecutionProvider" in each for each in providers) and Pretended.cuda_works
        Pretended.seen = (options, list(providers))

    cuda_works = False

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"] if self.works else ["CPUExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def pretend(monkeypatch: pytest.MonkeyPatch, *, missing: str | None, works: bool = False) -> None:
    """A GPU build of the runtime, with all libraries but `missing`."""

    def load(name: str) -> object:
        if name == missing:
            raise OSError(name)
        return object()

    build_of = types.SimpleNamespace(
        get_available_providers=lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
        InferenceSession=Pretended,
        SessionOptions=ort.SessionOptions,
        ExecutionMode=ort.ExecutionMode,
        __version__="9.9",
    )
    monkeypatch.setattr(Pretended, "cuda_works", works)
    monkeypatch.setattr(devices, "ort", build_of)
    monkeypatch.setattr(devices.ctypes, "CDLL", load)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="a GPU build of ONNX Runtime")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_this_runtime_was_not_built_for_is_refused(tmp_path: Path, device: str) -> None:
    """The library that is missing is named, and the way out."""
    with pytest.raises(ConfigurationError) as caught:
        opened(summing(tmp_path / "m.onnx"), device=device)
    for word in (f"device: {device} was requested", "The library missing is onnxruntime-gpu", "or say device: cpu"):
        assert word in caught.value.detail


@pytest.mark.parametrize(
    ("device", "missing"),
    [
        ("cuda", "libcuda.so.1"),
        ("cuda", "libcudnn.so.9"),
        ("tensorrt", "libnvinfer.so.10"),
        ("tensorrt", "libcudart.so.12"),
    ],
)
def test_a_silent_fall_back_to_the_cpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, missing: str
) -> None:
    """ONNX Runtime says nothing; we name the first library that cannot be loaded."""
    pretend(monkeypatch, missing=missing)

    with pytest.raises(ConfigurationError) as caught:
        opened(summing(tmp_path / "m.onnx"), device=device)
    assert "fell back to CPUExecutionProvider" in caught.value.detail
    assert f"The library missing is {missing}." in caught.value.detail


def test_a_fall_back_for_an_unknown_reason_is_refused_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every library loads, and still it is the CPU."""
    pretend(monkeypatch, missing=None)

    with pytest.raises(ConfigurationError, match=r"fell back to CPUExecutionProvider.*unknown"):
        opened(summing(tmp_path / "m.onnx"), device="cuda")


@pytest.mark.parametrize(("missing", "device"), [("libcudnn.so.9", "cpu"), (None, "cuda")])
def test_auto_takes_the_gpu_where_it_works_and_the_cpu_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str | None, device: str
) -> None:
    """A GPU build on a machine without the libraries is no reason to fail when nobody insisted."""
    pretend(monkeypatch, missing=missing, works=True)

    assert opened(summing(tmp_path / "m.onnx"), device="auto").device == device


def test_the_session_gets_the_threads_it_is_told_and_does_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spinning pool would burn the core that decodes the next request."""
    pretend(monkeypatch, missing=None, works=True)
    opened(summing(tmp_path / "m.onnx"), device="cuda", threads=3)
    options, providers = Pretended.seen

    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert [name if isinstance(name, str) else name[0] for name in providers] == [
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]


V2, V1_QUOTA, V1_PERIOD = "cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({V2: "150000 100000\n"}, 1.5),
        ({V2: "max 100000\n"}, 8.0),
        ({V2: "1600000 100000\n"}, 8.0),  # a quota beyond the mask
        ({V2: "50000 100000", V1_QUOTA: "100", V1_PERIOD: "100000"}, 0.5),  # v2 wins
        ({V1_QUOTA: "250000\n", V1_PERIOD: "100000\n"}, 2.5),
        ({V1_QUOTA: "-1\n", V1_PERIOD: "100000\n"}, 8.0),
        ({V1_QUOTA: "250000\n"}, 8.0),
        ({V2: "nonsense"}, 8.0),
        ({}, 8.0),
    ],
)
def test_cpus_are_what_the_container_may_use(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: float
) -> None:
    """The affinity mask, cut down to the quota of cgroup v2, or of v1; not the host's cores."""
    root = Path("/sys/fs/cgroup")

    def read_text(self: Path, **options: Any) -> str:
        name = str(self.relative_to(root))
        if name not in files:
            raise FileNotFoundError(name)
        return files[name]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    assert cpu_quota() == cpus


# The example's own models.


@pytest.fixture(scope="module")
def flights() -> Callable[[str], OnnxEngine]:
    build.build()
    return lambda name: opened(MODELS / name)


@pytest.mark.parametrize("name", ["flight_poc", "flight_candidate"])
def test_the_example_s_models_answer_alike_alone_and_in_a_batch(
    flights: Callable[[str], OnnxEngine], name: str
) -> None:
    """Eight flights with values missing here and there: batching changes no answer."""
    engine = flights(name)
    random = np.random.default_rng(7)
    columns = {spec.name: typical(spec, 8) for spec in engine.card.inputs}
    for spec in engine.card.inputs:
        if spec.dtype.startswith("float"):
            columns[spec.name] = columns[spec.name] * random.uniform(0.5, 1.5, (8, 1)).astype(np.float32)
            if spec.nullable:
                columns[spec.name][random.random((8, 1)) < 0.3] = np.nan
    reader = OutputReader(engine.card)
    together = reader.read(engine.run(columns), 8)

    assert together.finite
    assert together.probabilities is not None
    assert together.labels == [int(row[1] > 0.5) for row in together.probabilities]
    np.testing.assert_allclose(np.sum(together.probabilities, axis=1), 1, atol=1e-6)
    for i in range(8):
        alone = reader.read(engine.run({n: a[i : i + 1] for n, a in columns.items()}), 1)
        np.testing.assert_allclose(alone.probabilities, together.probabilities[i : i + 1], atol=1e-6)  # type: ignore[arg-type]


def test_the_test_models_are_valid_graphs(tmp_path: Path) -> None:
    """By ONNX's own checker, so that nothing here passes because of what the runtime tolerates."""
    for path in (
        summing(tmp_path / "a.onnx"),
        classifier(tmp_path / "b.onnx"),
        classifier(tmp_path / "c.onnx", zipmap="ints"),
    ):
        onnx.checker.check_model(onnx.load(path), full_check=True)
