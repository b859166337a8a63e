"""Where a model is: the file and the card that a rollout file's `primary` or `candidate` names."""

from pathlib import Path

from understudy.errors import ConfigurationError
from understudy.inference import bentoml_store
from understudy.inference.cards import CARD_FILE, MODEL_FILE, Card, beside, read_card


def resolve(source: str | Path) -> tuple[Path, Card | None]:
    """The model file and card that a rollout file's `primary` or `candidate` names; no card for a bare file.

    Raises:
        ConfigurationError: when nothing usable is there.
    """
    path, card = locate(source)
    return path, read_card(card) if card is not None else None


def locate(source: str | Path) -> tuple[Path, Path | None]:
    """The model file, and where its card is: its folder, or the card file beside an `.onnx` file; None for a bare file.

    Raises:
        ConfigurationError: when nothing is there.
    """
    text = str(source)
    if text.startswith(bentoml_store.PREFIX):
        folder = bentoml_store.folder_of(text)
        return folder / MODEL_FILE, folder if (folder / CARD_FILE).exists() else None
    path = Path(text)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing")
        return path, card if (card := beside(path)).is_file() else None
    for name in (MODEL_FILE, CARD_FILE):
        if not (path / name).is_file():
            raise ConfigurationError(f"{path / name} is missing; `make models` builds the example models")
    return path / MODEL_FILE, path
