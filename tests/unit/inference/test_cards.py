"""Cards beside `.onnx` files, and the schema of cards."""

import json
from pathlib import Path

import jsonschema
import pytest

from tests.support.graphs import summing
from understudy.errors import ConfigurationError
from understudy.inference.card_schema import card_schema
from understudy.inference.cards import beside, files_of, read_card, write_card
from understudy.inference.locate import locate, resolve
from understudy.inference.onnx import OnnxEngine


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """`sum.onnx` with `sum.card.json` beside it."""
    model = summing(tmp_path / "sum.onnx")
    card = OnnxEngine(model, device="cpu", warm_max_rows=1).card
    write_card(beside(model), card.model_copy(update={"version": "7", "description": "of its own"}))
    return model


def test_an_onnx_file_has_its_card_beside_it(described: Path) -> None:
    path, card = resolve(described)

    assert path == described
    assert card is not None
    assert (card.version, card.description) == ("7", "of its own")
    assert locate(described) == (described, described.with_name("sum.card.json"))
    assert OnnxEngine(described, device="cpu", warm_max_rows=1).card == card


def test_an_onnx_file_without_a_card_has_none(described: Path) -> None:
    """Another model's card is not its own."""
    other = summing(described.with_name("other.onnx"))

    assert locate(other) == (other, None)
    assert resolve(other) == (other, None)


def test_a_card_of_other_bytes_is_refused(described: Path) -> None:
    """With the way out."""
    summing(described, width=4)

    with pytest.raises(ConfigurationError, match="is not the file that its card describes") as caught:
        OnnxEngine(described, device="cpu")
    assert "delete sum.card.json and run `understudy init --data` again" in caught.value.detail


def test_the_files_of_a_place() -> None:
    """A folder, and a card beside a file."""
    assert files_of(Path("m")) == (Path("m/card.json"), Path("m/model.onnx"))
    assert files_of(Path("a.b.card.json")) == (Path("a.b.card.json"), Path("a.b.onnx"))
    assert beside(Path("a.b.onnx")) == Path("a.b.card.json")


def test_a_card_file_fits_the_published_schema(described: Path) -> None:
    """And one with a key that cards do not have does not."""
    schema = jsonschema.Draft202012Validator(card_schema())
    document = json.loads(beside(described).read_text(encoding="utf-8"))

    schema.validate(document)
    assert read_card(beside(described)).name == "sum"
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(document | {"clases": []})


def test_the_schema_says_what_each_key_means() -> None:
    """From the docstrings, which say it to developers."""
    schema = card_schema()
    nullable = schema["$defs"]["InputSpec"]["properties"]["nullable"]["description"]
    assert nullable.startswith("whether a row may have `null`")
    assert "Attributes" not in json.dumps(schema)
    assert schema["properties"]["digest"]["description"] == "the digest of all the model's bytes, see `model_digest`."
