"""Model cards, and the check that a model file is the one that its card describes.

A model is a folder with `model.onnx` and `card.json`, an `.onnx` file with `<stem>.card.json` beside it or without (its card is
then made from the graph), or `bentoml:<tag>` for one in BentoML's model store.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic

from understudy.errors import ConfigurationError
from understudy.inference.graph import external_files
from understudy.inference.profile import Profile

CARD_FILE = "card.json"
MODEL_FILE = "model.onnx"
CARD_SUFFIX = ".card.json"
"""The card of `poc.onnx` is `poc.card.json` beside it."""

Task = Literal["binary-classification", "multiclass-classification", "multilabel-classification", "regression", "other"]
MULTILABEL: Literal["multilabel-classification"] = "multilabel-classification"
Dtype = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "string",
]


Role = Literal["label", "probabilities", "value", "other"]
Batch = Literal["dynamic", "fixed", "one"]
"""How many rows a run of the model takes: any number, the fixed size of the batch axis, or one."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Strict):
    """One input of the graph, under the name that callers use.

    Attributes:
        shape: as in the graph; None is a size that varies.
        nullable: whether a row may have `null` (fed as NaN, or as the empty string); in an array, in place of a number.
        batch_axis: the axis of the rows; None: it has none, so only rows with the same value share a run.
        tried: where other sizes vary too, shapes of a row that the model has run with; the i-th of each input belong together.
    """

    name: str
    dtype: Dtype
    shape: list[int | None]
    nullable: bool = False
    description: str = ""
    profile: Profile | None = None
    batch_axis: int | None = 0
    tried: list[list[int]] = []

    @property
    def row_shape(self) -> tuple[int | None, ...]:
        """The shape of one row's value; () is a single one."""
        return _without(self.shape, self.batch_axis)


class OutputSpec(_Strict):
    """One output of the graph.

    Attributes:
        role: how the service uses it.
        nullable: for the role "other", whether NaN and infinities are valid (`null` in JSON) instead of failures.
        batch_axis: the axis of the rows; None: it has none. Then each row is run by itself, or the output is the same for all.
    """

    name: str
    dtype: Dtype
    shape: list[int | None]
    role: Role = "other"
    nullable: bool = False
    batch_axis: int | None = 0

    @property
    def row_shape(self) -> tuple[int | None, ...]:
        """The shape of one row's value, as callers get it. Of probabilities [labels, 2], they get the second of each label."""
        shape = _without(self.shape, self.batch_axis)
        return shape[:1] if self.role == "probabilities" and len(shape) == 2 else shape

    @property
    def width(self) -> int | None:
        """How many numbers a row has; None if the graph leaves that open."""
        shape = self.row_shape
        return None if None in shape else math.prod(size for size in shape if size is not None)


def _without(shape: Sequence[int | None], axis: int | None) -> tuple[int | None, ...]:
    return tuple(size for i, size in enumerate(shape) if i != axis)


class HeldOut(_Strict):
    """Metrics on one month that the model has not seen."""

    month: str
    rows: int
    base_rate: float
    accuracy: float
    auc: float
    log_loss: float
    brier: float
    mean_probability: float


class Training(_Strict):
    """How the model was trained: data, period, rows, algorithm and seed."""

    data: str
    start: str
    end: str
    rows: int
    algorithm: str
    seed: int


class Measured(_Strict):
    """What `understudy init --data` measured on labelled data that the model need not have seen.

    Attributes:
        data: name of the file.
        start: the day of the first row (UTC); empty without times.
        end: the day of the last row (UTC); empty without times.
        rows: number of rows with a label.
        metrics: mean of each loss over these rows, in the unit of the loss.
    """

    data: str
    start: str = ""
    end: str = ""
    rows: int
    metrics: dict[str, float]


class Card(_Strict):
    """The card of a model: its identity, inputs, outputs, training and quality.

    Attributes:
        classes: class names in the order of the probabilities, as the graph's label output gives them.
        positive: the class whose probability is the score of a binary classifier.
        predictions: the profile of the model's answers on its training rows: of its score or value, or else of its class.
        digest: the digest of all the model's bytes, see `model_digest`.
        batch: how many rows a run takes; None: a trial finds it, and the batch axes, when the model is opened.
        layout: sentences about inputs, outputs and runs where rows are not simply on the first axis of each.
    """

    schema_version: Literal[1] = 1
    name: str
    version: str
    task: Task
    description: str = ""
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    classes: list[int | str] = []
    positive: int | str | None = None
    label: str = ""
    predictions: Profile | None = None
    training: Training | None = None
    held_out: list[HeldOut] = []
    measured: Measured | None = pydantic.Field(
        default=None, description="what `understudy init --data` measured; the profiles are of the same rows"
    )
    parity: float | None = pydantic.Field(
        default=None, description="largest difference of a probability between the ONNX graph and the Python model"
    )
    libraries: dict[str, str] = {}
    digest: str
    batch: Batch | None = None
    layout: list[str] = []

    @property
    def has_layout(self) -> bool:
        """Whether the card says where the rows are, or every input and output plainly has them on the first axis."""
        shapes = [spec.shape for spec in self.inputs] + [spec.shape for spec in self.outputs]
        return self.batch is not None or all(shape[:1] == [None] for shape in shapes)

    @property
    def roles(self) -> frozenset[str]:
        """The roles of its outputs."""
        return frozenset(output.role for output in self.outputs)

    @property
    def profiled_rows(self) -> int | None:
        """The number of rows that the profiles were made from; None if the card does not say."""
        known = self.training or self.measured
        return known.rows if known else None


def digest_of(path: Path) -> str:
    """`sha256:` and the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """A model's bytes, read once, so that ONNX Runtime loads exactly the bytes with this digest.

    Attributes:
        graph: the `.onnx` file.
        data: its external data files, by their name in the graph.
        digest: see `model_digest`.
    """

    graph: bytes
    data: Mapping[str, bytes]
    digest: str


def read_model(path: Path) -> ModelBytes:
    """Read a model's bytes and compute their digest.

    Raises:
        ConfigurationError: a file cannot be read, or lies outside of the model's folder.
    """
    graph = _read(path)
    data = {name: _read(path.parent / name, path) for name in external_files(graph, str(path))}
    return ModelBytes(
        graph, data, _combined(hashlib.sha256(graph).hexdigest(), [hashlib.sha256(data[n]).hexdigest() for n in data])
    )


def model_digest(path: Path) -> str:
    """The digest of all of a model's bytes.

    For a model in one file it is `sha256:` and the output of `sha256sum`. With external data files it is the digest of all files'
    digests: first the model's, then those of the data files sorted by their names in the graph, one hex digest per line:
    `sha256sum model.onnx weights.data | cut -c-64 | sha256sum`.

    Raises:
        ConfigurationError: as `read_model`.
    """
    graph = _read(path)
    return _combined(
        hashlib.sha256(graph).hexdigest(),
        [_digest_beside(path.parent / name, path) for name in external_files(graph, str(path))],
    )


def _digest_beside(path: Path, model: Path) -> str:
    try:
        return digest_of(path).removeprefix("sha256:")
    except OSError as error:
        raise _unreadable(path, model, error) from error


def _combined(graph: str, data: Sequence[str]) -> str:
    if not data:
        return f"sha256:{graph}"
    return "sha256:" + hashlib.sha256("".join(f"{each}\n" for each in (graph, *data)).encode()).hexdigest()


def _read(path: Path, model: Path | None = None) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, model or path, error) from error


def _unreadable(path: Path, model: Path, error: OSError) -> ConfigurationError:
    why = error.strerror or str(error)
    if path == model:
        return ConfigurationError(f"{path} cannot be read: {why}")
    return ConfigurationError(
        f"{path} cannot be read ({why}): {model.name} keeps weights in it; copy all of the model's files together"
    )


def beside(model: Path) -> Path:
    """The card file that belongs to an `.onnx` file.

    >>> beside(Path("models/poc.onnx")).as_posix()
    'models/poc.card.json'
    """
    return model.with_name(model.stem + CARD_SUFFIX)


def files_of(place: Path) -> tuple[Path, Path]:
    """The card file and the model file of a model folder, or of a card beside an `.onnx` file."""
    if place.name.endswith(CARD_SUFFIX):
        return place, place.with_name(place.name.removesuffix(CARD_SUFFIX) + ".onnx")
    return place / CARD_FILE, place / MODEL_FILE


def read_card(place: Path, digest: str | None = None) -> Card:
    """Read a card, and check that it describes the model beside it.

    Args:
        place: a model folder, or the card beside an `.onnx` file.
        digest: the model's digest, if it is known already.

    Raises:
        ConfigurationError: a file is missing, the card does not parse, or the digest differs.
    """
    card_path, model_path = files_of(place)
    for path in (model_path, card_path):
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing; `make models` builds the example models")
    try:
        card = Card.model_validate_json(card_path.read_bytes())
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{card_path} is not a model card: {error}") from error
    actual = digest or model_digest(model_path)
    if actual != card.digest:
        if digest_of(model_path) == card.digest:
            names = ", ".join(external_files(_read(model_path), str(model_path)))
            raise ConfigurationError(
                f"{card_path}: its digest is that of {model_path.name} alone, and the model keeps weights in {names}. Write the "
                f"digest of all of them: {actual}"
            )
        way_out = "Build the model again, or restore the file."
        if place == card_path:
            way_out = f"Restore the file, or delete {card_path.name} and run `understudy init --data` again."
        raise ConfigurationError(
            f"{model_path} is not the file that its card describes: its digest is {actual}, the card says "
            f"{card.digest}. {way_out}"
        )
    return card


def write_card(place: Path, card: Card) -> None:
    """Write `card` as indented JSON, into a model folder or beside an `.onnx` file."""
    files_of(place)[0].write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
