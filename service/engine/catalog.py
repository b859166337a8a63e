"""Model folders: the card that says what a model is, and the check that its file is the one the card speaks of.

A model is a folder with `model.onnx` and `card.json`, a bare `.onnx` file (its signature is then read from the graph),
or `bentoml:<tag>` for one in BentoML's model store.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pydantic

from service.drift.profile import Profile
from service.errors import ConfigurationError

CARD_FILE = "card.json"
MODEL_FILE = "model.onnx"

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


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Strict):
    """One input of the graph, by the name a caller uses.

    Attributes:
        shape: as in the graph; None is a dimension that varies. The first is the batch.
        nullable: whether a row may say `null` (fed as NaN, or as the empty string).
    """

    name: str
    dtype: Dtype
    shape: list[int | None]
    nullable: bool = False
    description: str = ""
    profile: Profile | None = None


class OutputSpec(_Strict):
    """One output of the graph. `role` says what the service makes of it."""

    name: str
    dtype: Dtype
    shape: list[int | None]
    role: Literal["label", "probabilities", "value", "other"] = "other"


def width_of(shape: Sequence[int | None]) -> int | None:
    """How many numbers an output of this shape has for each row; None where the graph leaves that open.

    >>> width_of([None]), width_of([None, 1]), width_of([None, 4]), width_of([None, None])
    (1, 1, 4, None)
    """
    sizes = list(shape[1:])
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


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
    """Where the model comes from: data, window, and how many rows."""

    data: str
    start: str
    end: str
    rows: int
    algorithm: str
    seed: int


class Card(_Strict):
    """The card of a model: what it is, what goes in and out, how it was made, and how good it was.

    Attributes:
        classes: class names in the order of the probabilities, as the graph's label output gives them.
        positive: the class whose probability is the score of a binary classifier.
        predictions: what the model answered on its training rows: the score or value, or the class where there are several.
        digest: `sha256:` and the hex digest of the bytes of `model.onnx`.
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
    parity: float | None = pydantic.Field(
        default=None, description="largest difference of a probability between the ONNX graph and the Python model"
    )
    libraries: dict[str, str] = {}
    digest: str

    @property
    def roles(self) -> frozenset[str]:
        """What its outputs are."""
        return frozenset(output.role for output in self.outputs)


def digest_of(path: Path) -> str:
    """`sha256:` and the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: Path) -> Card:
    """The card of a model folder, after checking that it speaks of the `model.onnx` beside it.

    Raises:
        ConfigurationError: when a file is missing, the card does not parse, or the digest differs.
    """
    card_path, model_path = folder / CARD_FILE, folder / MODEL_FILE
    for path in (model_path, card_path):
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing; `make models` builds the example models")
    try:
        card = Card.model_validate_json(card_path.read_bytes())
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{card_path} is not a model card: {error}") from error
    found = digest_of(model_path)
    if found != card.digest:
        raise ConfigurationError(
            f"{model_path} is not the file its card speaks of: its digest is {found}, the card says {card.digest}. "
            "Build the model again, or restore the file."
        )
    return card


def write_card(folder: Path, card: Card) -> None:
    """Write `card` as JSON a person can read."""
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
