"""Runs models with ONNX Runtime, warmed up before use: the first request of each input shape is slow (onnxruntime#19838)."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from understudy.errors import ConfigurationError, InferenceError, ModelChanged, RunCancelled, WrongShape
from understudy.inference import Cancellation, bare
from understudy.inference.cards import (
    MULTILABEL,
    Card,
    InputSpec,
    read_card,
    read_model,
)
from understudy.inference.decoding import Array
from understudy.inference.devices import cancellable, open_session
from understudy.inference.locate import locate

WARM_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
WARM_RUNS = 5
WARM_MAX_S = 5.0


class OnnxEngine:
    """A warmed session behind the Engine port.

    Attributes:
        card: the model's card; for a bare file, one made from the graph's signature.
        device: the device that runs it: "cpu", "cuda" or "tensorrt".
        unnamed: how many probabilities a row has without class names; 0 if there are none or they have names.

    Args:
        expected: the digest that the model must have; None accepts any.
        classes: the class names in the rollout file, for a model without its own.
        task: the task in the rollout file, for a bare file.

    Raises:
        ConfigurationError: the model cannot be loaded, or has another digest.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        device: str = "auto",
        threads: int = 1,
        warm_max_rows: int = 1024,
        expected: str | None = None,
        classes: Sequence[int | str] = (),
        task: str = "other",
    ) -> None:
        self.path, described = locate(source)
        model = read_model(self.path)
        if expected is not None and model.digest != expected:
            raise ModelChanged(
                f"{self.path} is not the model that this service was started with: its digest is {model.digest}, that of the "
                f"start was {expected}. Restore the file, or restart the service to serve the new one"
            )
        card = read_card(described, model.digest) if described is not None else None
        session, self.device = open_session(self.path, device, threads, model)
        self._session: bare.Session | None = session
        self.unnamed = 0
        if card is None:
            found = bare.read(
                session,
                self.path,
                model.graph,
                model.digest,
                classes,
                lambda inputs: _one_run(session, self.path, inputs),
                task,
            )
            card, self.unnamed = found.card, found.unnamed
        del model
        self.card = named(card, classes)
        _check_signature(session, self.card)
        self._names = [output.name for output in self.card.outputs]
        # A model of two classes may output the probability of the second alone.
        of_two = len(self.card.classes) == 2 and self.card.task != MULTILABEL
        self._of_two = [o.name for o in self.card.outputs if o.role == "probabilities" and of_two]
        self._strings = [spec.name for spec in self.card.inputs if spec.dtype == "string"]
        batch = self.card.inputs[0].shape[0] if self.card.inputs[0].shape else None
        self._fixed_rows = batch
        self._seconds = by_rows(self._warm(warm_max_rows))

    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        """See `Engine.run`. A graph with a fixed batch dimension is run in pieces of that size, the last one padded."""
        try:
            if self._fixed_rows is None:
                return self._run(columns, cancellation)
            return self._run_in_pieces(columns, self._fixed_rows, cancellation)
        except (RunCancelled, WrongShape):
            raise
        except Exception as error:  # the runtime raises a dozen unrelated classes
            if cancellation is not None and cancellation.cancelled:
                raise RunCancelled from None
            raise InferenceError(f"{self.card.name} failed: {error}") from error

    def seconds(self, rows: int) -> float:
        """See `Engine.seconds`: interpolated between the warm-up's batch sizes, extended in proportion beyond them."""
        if rows < len(self._seconds):
            return self._seconds[rows]
        return self._seconds[-1] * rows / (len(self._seconds) - 1)

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def _run(self, columns: Mapping[str, Array], cancellation: Cancellation | None) -> dict[str, Array]:
        if self._session is None:
            raise RuntimeError("the engine is closed")
        if cancellation is None:
            outputs = self._session.run(self._names, dict(columns))
        else:
            options, stop = cancellable(self.device)
            cancellation.begin(stop)
            outputs = self._session.run(self._names, dict(columns), options)
        plain = {name: _plain(value, self.card.classes) for name, value in zip(self._names, outputs, strict=True)}
        for name in self._of_two:
            plain[name] = _two_columns(plain[name])
        return plain

    def _run_in_pieces(
        self, columns: Mapping[str, Array], size: int, cancellation: Cancellation | None
    ) -> dict[str, Array]:
        rows = len(next(iter(columns.values())))
        pieces = []
        for start in range(0, rows, size):
            piece = {name: array[start : start + size] for name, array in columns.items()}
            short = size - min(size, rows - start)
            if short:
                piece = {
                    name: np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) for name, array in piece.items()
                }
            outputs = self._run(piece, cancellation)
            for name, array in outputs.items():
                if array.ndim == 0 or len(array) != size:  # concatenating the pieces would mix up the rows
                    raise WrongShape(f"output {name!r} has shape {list(array.shape)} for a batch of {size} rows")
            pieces.append(outputs)
        return {name: np.concatenate([piece[name] for piece in pieces])[:rows] for name in self._names}

    def _warm(self, max_rows: int) -> dict[int, float]:
        """Run every batch size once and measure it; seconds by rows. Stops early for a model so slow that it would take long."""
        costs: dict[int, float] = {}
        started = time.perf_counter()
        for rows in [n for n in WARM_ROWS if n <= max_rows] or [1]:
            columns = {spec.name: typical(spec, rows) for spec in self.card.inputs}
            timings = []
            for _ in range(WARM_RUNS):
                begin = time.perf_counter()
                self.run(columns)
                timings.append(time.perf_counter() - begin)
            costs[rows] = statistics.median(timings)
            if time.perf_counter() - started > WARM_MAX_S:
                break
        return costs


def by_rows(costs: Mapping[int, float]) -> list[float]:
    """Measured seconds by batch size, interpolated for every number of rows up to the largest: it is looked up twice a request."""
    found: list[float] = np.interp(range(max(costs) + 1), list(costs), list(costs.values())).tolist()
    return found


def typical(spec: InputSpec, rows: int) -> Array:
    """A plausible input for warming up: the profile's mean or commonest value, else zeros or empty strings."""
    shape = [rows if i == 0 else (size or 1) for i, size in enumerate(spec.shape)] or []
    if spec.dtype == "string":
        shares = spec.profile.shares if spec.profile and spec.profile.kind == "categorical" else {}
        return np.full(shape, max(shares, key=lambda k: shares[k]) if shares else "", dtype=object)
    mean = spec.profile.mean if spec.profile and spec.profile.kind == "numeric" else 0
    return np.full(shape, mean, dtype=spec.dtype)


def _plain(value: bare.RawOutput, classes: Sequence[int | str]) -> Array:
    """Arrays as they are; a ZipMap's list of dicts as a matrix of probabilities in class order."""
    if isinstance(value, list):
        order = list(classes) or (list(value[0]) if value else [])
        return np.array([[row[name] for name in order] for row in value], dtype=np.float32)
    return np.asarray(value)


def _two_columns(values: Array) -> Array:
    """Probabilities of two classes, [rows, 2]: as they are, or made of that of the second class, [rows] or [rows, 1]."""
    if values.ndim == 0 or values.size != len(values):
        return values
    second = values.reshape(-1, 1)
    return np.concatenate([1 - second, second], axis=1)


def _one_run(session: bare.Session, path: Path, inputs: Sequence[InputSpec]) -> dict[str, bare.RawOutput]:
    """The raw outputs for the smallest batch there is."""
    rows = (inputs[0].shape[0] if inputs[0].shape else None) or 1
    try:
        found = session.run(None, {spec.name: typical(spec, rows) for spec in inputs})
    except Exception as error:  # the runtime raises a dozen unrelated classes
        raise InferenceError(f"{path.stem} failed: {error}") from error
    return dict(zip([output.name for output in session.get_outputs()], found, strict=True))


def named(card: Card, classes: Sequence[int | str]) -> Card:
    """A card that names its classes, or else as the rollout file names them where there are so many probabilities."""
    widths = {output.shape[-1] for output in card.outputs if output.role == "probabilities" and output.shape}
    if card.classes or not classes or widths != {len(classes)}:
        return card
    two = len(classes) == 2 and card.positive is None and card.task != MULTILABEL
    positive = classes[1] if two else card.positive
    return card.model_copy(update={"classes": list(classes), "positive": positive})


def _check_signature(session: bare.Session, card: Card) -> None:
    """Check that the card has the same inputs and outputs as the graph."""
    for what, specs, nodes in (
        ("input", card.inputs, session.get_inputs()),
        ("output", card.outputs, session.get_outputs()),
    ):
        said, found = [spec.name for spec in specs], [node.name for node in nodes]
        if sorted(said) != sorted(found):
            raise ConfigurationError(f"{card.name}: the card's {what}s are {said}, the graph's are {found}")
