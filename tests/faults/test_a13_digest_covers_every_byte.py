"""A13: a model whose weights are in `model.onnx.data` kept its digest when only that file changed.

The digest covers every file that is served, and what is served are the bytes that were digested.
"""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.faults.models import table_model
from tests.support.objects import ObjectServer, serving
from understudy.errors import ConfigurationError
from understudy.inference import graph
from understudy.inference.cards import digest_of, model_digest, read_card, write_card
from understudy.inference.fetch import ModelCache
from understudy.inference.onnx import OnnxEngine

DATA = "model.onnx.data"


def answer(engine: OnnxEngine) -> float:
    return float(engine.run({"i": np.array([7])})["y"][0])


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    """The reproduction: the same graph, other weights beside it."""
    path = table_model(tmp_path / "model.onnx", 1.0, data=DATA)
    graph_bytes, before = path.read_bytes(), OnnxEngine(path, device="cpu", warm_max_rows=1).card.digest
    table_model(path, 2.0, data=DATA)
    assert path.read_bytes() == graph_bytes
    assert OnnxEngine(path, device="cpu", warm_max_rows=1).card.digest != before
    assert model_digest(path) != before


def test_a_model_in_one_file_has_the_digest_that_sha256sum_prints(tmp_path: Path) -> None:
    path = table_model(tmp_path / "model.onnx", 1.0)
    assert model_digest(path) == digest_of(path) == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_documented_command_gives_the_digest_of_several_files(tmp_path: Path) -> None:
    table_model(tmp_path / "model.onnx", 1.0, data="weights.bin")
    command = "sha256sum model.onnx weights.bin | cut -c-64 | sha256sum"
    said = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert model_digest(tmp_path / "model.onnx") == "sha256:" + said.split()[0]


def test_overwriting_the_weights_changes_nothing_that_is_served(tmp_path: Path) -> None:
    """ONNX Runtime maps external data: a running session answered with whatever was written over the file."""
    path = table_model(tmp_path / "model.onnx", 1.0, data=DATA, rows=100_000)
    engine = OnnxEngine(path, device="cpu", warm_max_rows=1)
    table_model(path, 2.0, data="new.data", rows=100_000)
    with (tmp_path / DATA).open("r+b") as file:
        file.write((tmp_path / "new.data").read_bytes())
    assert answer(engine) == 1.0


def test_a_missing_data_file_is_said(tmp_path: Path) -> None:
    path = table_model(tmp_path / "model.onnx", 1.0, data=DATA)
    (tmp_path / DATA).unlink()
    with pytest.raises(ConfigurationError, match=r"model\.onnx\.data cannot be read .*copy all of the model's files"):
        OnnxEngine(path, device="cpu")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        model_digest(path)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/passwd", "a/../../b", "..\\b"])
def test_data_outside_of_the_models_folder_are_refused(tmp_path: Path, place: str) -> None:
    path = table_model(tmp_path / "in" / "model.onnx", 1.0, data=DATA)
    model = onnx.load_model(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigurationError, match="outside of its folder"):
        OnnxEngine(path, device="cpu")


def test_every_place_of_a_tensor_is_read(tmp_path: Path) -> None:
    """Initializers, attributes of nodes, subgraphs and functions: all of them may keep their values in files."""

    def external(name: str) -> TensorProto:
        tensor = numpy_helper.from_array(np.zeros(2, np.float32), name)
        onnx.external_data_helper.set_external_data(tensor, f"{name}.bin")
        tensor.ClearField("raw_data")
        return tensor

    node = helper.make_node("Constant", [], ["c"], value=external("attribute"))
    branch = helper.make_graph([node], "branch", [], [], [external("inner")])
    outer = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    function = helper.make_function(
        "d",
        "F",
        [],
        ["o"],
        [helper.make_node("Constant", [], ["o"], value=external("function"))],
        [helper.make_opsetid("", 17)],
    )
    sparse = onnx.SparseTensorProto(values=external("values"), indices=external("indices"), dims=[2])
    whole = helper.make_graph([outer], "g", [], [], [external("initializer")], sparse_initializer=[sparse])
    model = helper.make_model(whole, functions=[function])
    names = ("attribute", "inner", "function", "values", "indices", "initializer")
    assert graph.external_files(model.SerializeToString(), "m") == sorted(f"{name}.bin" for name in names)


def test_what_is_no_model_has_no_data_files() -> None:
    assert graph.external_files(b"\x0a\x08location\xff\xff\xff", "m") == []
    with pytest.raises(ValueError, match="beyond its message"):
        list(graph.fields(b"\x0a\x09short"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder whose card has the digest of all files."""
    path = table_model(tmp_path / "m" / "model.onnx", 1.0, data=DATA)
    write_card(path.parent, OnnxEngine(path, device="cpu", warm_max_rows=1).card)
    return path.parent


def test_a_card_vouches_for_the_data_files_too(folder: Path) -> None:
    assert read_card(folder).digest == model_digest(folder / "model.onnx")
    table_model(folder / "model.onnx", 2.0, data=DATA)
    with pytest.raises(ConfigurationError, match="is not the file that its card describes"):
        OnnxEngine(folder, device="cpu")


def test_an_old_cards_digest_is_explained(folder: Path) -> None:
    """It is that of `model.onnx` alone: the message has the one to write."""
    right = model_digest(folder / "model.onnx")
    write_card(folder, read_card(folder).model_copy(update={"digest": digest_of(folder / "model.onnx")}))
    with pytest.raises(ConfigurationError, match=rf"keeps weights in model\.onnx\.data.*{right}"):
        read_card(folder)


@pytest.fixture
def web(folder: Path) -> Iterator[ObjectServer]:
    with serving(folder) as server:
        yield server


def test_data_files_are_fetched_with_their_model(tmp_path: Path, folder: Path, web: ObjectServer) -> None:
    cache = ModelCache(tmp_path / "cache", max_bytes=2**30, timeout_s=5)
    card = f"{web.url}/card.json#{digest_of(folder / 'card.json').replace(':', '=')}"
    bare = f"{web.url}/model.onnx#{model_digest(folder / 'model.onnx').replace(':', '=')}"
    for source in (card, bare):
        assert answer(OnnxEngine(cache.local(source), device="cpu", warm_max_rows=1)) == 1.0
    table_model(folder / "model.onnx", 2.0, data=DATA)
    fresh = ModelCache(tmp_path / "another", max_bytes=2**30, timeout_s=5)
    for source in (card, bare):
        with pytest.raises(ConfigurationError, match="what is there is not what the rollout file"):
            fresh.local(source)
