"""BentoML's model store: finds the models that `bentoml:<tag>` names, imports models and exports them.

A stored model is `model.onnx` with its external data files, and `card.json` if it has a card.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.errors import ConfigurationError
from understudy.inference.cards import CARD_FILE, MODEL_FILE, digest_of, files_of, model_digest, read_card
from understudy.inference.graph import external_files

if TYPE_CHECKING:
    from bentoml import models

PREFIX = "bentoml:"
NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
"""A name or a version in BentoML's model store."""
DIGEST, TASK = "understudy_digest", "understudy_task"
"""Keys of the metadata that an import writes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A model of the store.

    Attributes:
        tag: its name and version.
        task: from its card or its import; empty if unknown.
        size: bytes of its files.
        digest: as computed now; empty if it cannot be served.
        problem: why this service cannot serve it; empty if it can.
    """

    tag: str
    created: datetime
    size: int
    task: str = ""
    digest: str = ""
    problem: str = ""


def folder_of(source: str) -> Path:
    """The folder of a stored model.

    Args:
        source: `bentoml:<name>`, `bentoml:<name>:<version>` or `bentoml:<name>:latest`.

    Raises:
        ConfigurationError: the store does not have it, or it has no `model.onnx`.
    """
    folder = Path(_get(source).path)
    if not (folder / MODEL_FILE).is_file():
        raise ConfigurationError(f"{source} has no {MODEL_FILE}; {_IMPORT_IT}")
    return folder


_IMPORT_IT = "store its ONNX file with `understudy models import FILE.onnx`"


def fixed(source: str) -> str:
    """The source with the version that its tag means now; unchanged if it is unknown, or no `bentoml:` source."""
    if not source.startswith(PREFIX):
        return source
    try:
        return f"{PREFIX}{_get(source).tag}"
    except ConfigurationError:
        return source  # whoever opens the model reports it; `bentoml build` needs none


def _get(source: str) -> "models.Model":
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml

    try:
        return bentoml.models.get(source.removeprefix(PREFIX))
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read from BentoML's model store: {error}") from error
    except Exception as error:  # its own exceptions, and those of its parsers
        raise ConfigurationError(
            f"{source} is not in BentoML's model store; `understudy models list` shows the models that are"
        ) from error


def tag_for(name: str, *, given: bool) -> str:
    """The tag under which to store a model.

    Args:
        name: as a user gives it (`<name>` or `<name>:<version>`), or a card's or file's name.
        given: whether a user gave it. Another name is made to fit.

    Raises:
        ConfigurationError: it is no valid tag.

    >>> tag_for("Flight delays (POC)", given=False)
    'flight-delays-poc'
    """
    if not given:
        name = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:63].strip("._-") or "model"
    base, colon, version = name.partition(":")
    if not NAME.fullmatch(base) or (colon and (not NAME.fullmatch(version) or version == "latest")):
        raise ConfigurationError(
            f"--name {name}: write NAME or NAME:VERSION, each of at most 63 lower-case letters, digits, `-`, `_` and `.`, and "
            "no version called latest"
        )
    return name


def store(model: Path, card: Path | None, tag: str, *, digest: str, task: str) -> str:
    """Copy a model into the store.

    Args:
        model: the `.onnx` file; its external data files are beside it.
        card: its model folder, or the card beside it; None if it has none.
        digest: the digest of the model that was checked.

    Returns:
        The tag with its version.

    Raises:
        ConfigurationError: the tag is taken, or the files are not those that were checked.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml

    if ":" in tag and any(str(known.tag) == tag for known in bentoml.models.list()):
        raise ConfigurationError(f"{tag} is in BentoML's model store already; choose another version")
    with bentoml.models.create(tag, metadata={DIGEST: digest, TASK: task}) as new:
        _copy(model, card, Path(new.path), digest)
    return str(new.tag)


def export(tag: str, folder: Path, *, force: bool = False) -> Path:
    """Copy a stored model into a folder, and check its digest.

    Args:
        force: replace the model in the folder. Other files in it are kept.

    Returns:
        What a rollout file names: the folder, or its `model.onnx` if the model has no card.

    Raises:
        ConfigurationError: the store does not have the model, it was damaged, or there are files in the folder already.
    """
    stored = _get(source := PREFIX + tag.removeprefix(PREFIX))
    place = folder_of(source)
    digest = model_digest(place / MODEL_FILE)
    if digest != (imported := stored.info.metadata.get(DIGEST, digest)):
        raise ConfigurationError(
            f"{source} was changed after its import: its digest is {digest}, and was {imported}; import the model again"
        )
    card = place if (place / CARD_FILE).is_file() else None
    if card is not None:
        read_card(card, digest)
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file; name a folder")
    if not force and folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty; name another folder, or replace the model in it with --force")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as staged:  # nothing is replaced by half a copy
        for name in _copy(place / MODEL_FILE, card, Path(staged), digest):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(staged) / name).replace(folder / name)
    if card is None:
        (folder / CARD_FILE).unlink(missing_ok=True)  # of the model that was replaced
    return folder if card is not None else folder / MODEL_FILE


def stored_models() -> Iterator[Stored]:
    """All models of the store, by tag, and whether this service can serve them, as far as their files tell."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml

    for model in sorted(bentoml.models.list(), key=lambda model: model.tag):
        folder = Path(model.path)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        tag, created, task = str(model.tag), model.info.creation_time, str(model.info.metadata.get(TASK, ""))
        try:
            digest = model_digest(folder_of(PREFIX + tag) / MODEL_FILE)
            if (folder / CARD_FILE).is_file():
                task = read_card(folder, digest).task
            yield Stored(tag, created, size, task, digest)
        except ConfigurationError as error:
            yield Stored(tag, created, size, task, problem=error.detail)


def _copy(model: Path, card: Path | None, folder: Path, digest: str) -> list[str]:
    """Copy a model's files as a model folder, and return their names.

    Raises:
        ConfigurationError: the copy has another digest.
    """
    names = external_files(model.read_bytes(), str(model))
    if taken := {MODEL_FILE, CARD_FILE, "model.yaml"} & set(names):
        raise ConfigurationError(
            f"{model} keeps weights in a file called {min(taken)}, which a model folder needs for something else; export the model "
            "again with another name of its data"
        )
    copies = {MODEL_FILE: model} | {name: model.parent / name for name in names}
    if card is not None:
        copies[CARD_FILE] = files_of(card)[0]
    for name, file in copies.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
        if digest_of(folder / name) != digest_of(file):
            raise ConfigurationError(f"{file} changed while it was copied; try again")
    if (copied := model_digest(folder / MODEL_FILE)) != digest:
        raise ConfigurationError(
            f"{model} changed while it was copied: its digest is {copied}, and was {digest}; try again"
        )
    return list(copies)
