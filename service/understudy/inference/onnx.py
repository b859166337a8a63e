"""Runs models with ONNX Runtime, warmed up before use: the first request of each input shape is slow (onnxruntime#19838)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from understudy.errors import ConfigurationError, InferenceError, ModelChanged, RunCancelled, WrongShape
from understudy.inference import Cancellation, OutputReader, bare, signature
from understudy.inference.arrange import Arranged
from understudy.inference.cards import (
    MULTILABEL,
    Card,
    InputSpec,
    read_card,
    read_model,
)
from understudy.inference.cost import RowCosts
from understudy.inference.decoding import Array
from understudy.inference.devices import GpuOptions, cancellable, open_session
from understudy.inference.graph_costs import graph_costs
from understudy.inference.locate import locate
from understudy.inference.names import AS_IN_THE_GRAPH, ModelNames
from understudy.inference.warmup import USUAL_ELEMENTS, measured_costs


class EngineOptions(TypedDict, total=False):
    """The keyword arguments of `OnnxEngine`, without the expected digest."""

    device: str
    threads: int
    warm_max_rows: int
    classes: Sequence[int | str]
    task: str
    without_card: bool
    names: ModelNames
    gpu: GpuOptions | None


FOR_ITS_CARD: EngineOptions = {"device": "cpu", "warm_max_rows": 1}
"""Options to open a model for its card alone."""


class OnnxEngine:
    """A warmed session behind the Engine port.

    Attributes:
        card: the model's card; for a bare file, one made from the graph's signature.
        costs: what its runs take.
        device: the device that runs it: "cpu", "cuda" or "tensorrt".
        unnamed: how many probabilities a row has without class names; 0 if there are none or they have names.

    Args:
        expected: the digest that the model must have; None accepts any.
        classes: the class names in the rollout file, for a model without its own.
        task: the task in the rollout file, for a bare file.
        without_card: treat an `.onnx` file as a bare file even if a card lies beside it, to write a new one.
        names: how the service calls the graph's inputs and outputs, and which inputs may be missing.
        gpu: how a GPU is used; None for the defaults.

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
        without_card: bool = False,
        names: ModelNames = AS_IN_THE_GRAPH,
        gpu: GpuOptions | None = None,
    ) -> None:
        self.path, described = locate(source)
        if without_card and self.path == Path(source):
            described = None
        model = read_model(self.path)
        if expected is not None and model.digest != expected:
            raise ModelChanged(
                f"{self.path} is not the model that this service was started with: its digest is {model.digest}, that of the "
                f"start was {expected}. Restore the file, or restart the service to serve the new one"
            )
        card = read_card(described, model.digest) if described is not None else None
        session, self.device = open_session(self.path, device, threads, model, gpu)
        self._session: signature.Session | None = session
        graph = signature.read(session, self.path, model.graph, card)
        self._names = [output.name for output in graph.outputs]
        self.unnamed = 0
        if card is None:
            found = bare.read(
                graph,
                self.path,
                model.graph,
                model.digest,
                classes,
                lambda: _one_run(session, self.path, graph),
                task,
                names.public_output,
            )
            card, self.unnamed = found.card, found.unnamed
        else:
            card = graph.on(card)
        values = graph_costs(model.graph, [spec.name for spec in graph.inputs])
        del model
        card = named(card, classes)
        varies = any(None in spec.row_shape for spec in graph.inputs)
        self._arranged = None if graph.rows.first_axis and not varies else Arranged(graph.rows)
        self._of_two, self._of_sets = _columns(graph, card)
        self.card = names.card(card)
        self._renames = names if names.renamed else None
        if self.device == "tensorrt":
            # An engine is built, for minutes, when rows leave the range seen so far: the warm-up's time may end before the largest.
            for rows in (1, warm_max_rows):
                self.run({spec.name: typical(spec, rows) for spec in self.card.inputs})
        self._check_outputs()
        self.costs = costs = measured_costs(self.run, typical, self.card.inputs, values, warm_max_rows)
        # Asked several times per request: without a method of this class between.
        self.seconds: Callable[[int], float] = (
            costs.seconds if isinstance(costs, RowCosts) else lambda rows: costs.seconds(rows, rows * USUAL_ELEMENTS)
        )

    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        """See `Engine.run`. Where a graph does not simply have its rows on the first axis, see `arrange.Arranged`."""
        if self._renames is not None:
            columns = self._renames.to_graph(columns)
        try:
            if self._arranged is None:
                outputs = self._run(columns, cancellation)
            else:
                outputs = self._arranged.run(columns, lambda feed: self._run(feed, cancellation))
        except (RunCancelled, WrongShape):
            raise
        except Exception as error:  # the runtime raises a dozen unrelated classes
            if cancellation is not None and cancellation.cancelled:
                raise RunCancelled from None
            raise InferenceError(f"{self.card.name} failed: {error}") from error
        for name in self._of_two:
            outputs[name] = _two_columns(outputs[name])
        for name in self._of_sets:
            outputs[name] = outputs[name][..., 1]
        return outputs if self._renames is None else self._renames.to_service(outputs)

    def _check_outputs(self) -> None:
        """Run one typical row and check the answer's shapes, so that a card that does not fit is found before the first request.

        Raises:
            ConfigurationError: an output has another shape than the card says.
        """
        outputs = self.run({spec.name: typical(spec, 1) for spec in self.card.inputs})
        try:
            OutputReader(self.card).check_shapes(outputs, 1)
        except WrongShape as error:
            raise ConfigurationError(
                f"{self.card.name}: {error.detail}. Correct `role`, `classes` or `shape` in the model's card.json, or `classes` "
                "in the rollout file"
            ) from error

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def _run(self, columns: Mapping[str, Array], cancellation: Cancellation | None) -> dict[str, Array]:
        if self._session is None:
            raise RuntimeError("the engine is closed")
        if cancellation is None:
            outputs = self._session.run(self._names, dict(columns))
        else:
            options, stop = cancellable(self.device, frees=cancellation.frees)
            cancellation.begin(stop)
            outputs = self._session.run(self._names, dict(columns), options)
        return {
            name: signature.plain(value, self.card.classes) for name, value in zip(self._names, outputs, strict=True)
        }


def typical(spec: InputSpec, rows: int) -> Array:
    """A plausible input for warming up: the profile's mean or commonest value, else zeros or empty strings.

    Returns:
        Shape [rows, *the shape of a row]; sizes that vary are those that the trial ran with.
    """
    tried = spec.tried[0] if spec.tried else [1 if size is None else size for size in spec.row_shape]
    shape = [rows, *tried]
    if spec.dtype == "string":
        shares = spec.profile.shares if spec.profile and spec.profile.kind == "categorical" else {}
        return np.full(shape, max(shares, key=lambda k: shares[k]) if shares else "", dtype=object)
    mean = spec.profile.mean if spec.profile and spec.profile.kind == "numeric" else 0
    return np.full(shape, mean, dtype=spec.dtype)


def _two_columns(values: Array) -> Array:
    """Probabilities of two classes, [rows, 2]: as they are, or made of that of the second class, [rows] or [rows, 1]."""
    if values.ndim == 0 or values.size != len(values):
        return values
    second = values.reshape(-1, 1)
    return np.concatenate([1 - second, second], axis=1)


def _columns(graph: signature.Signature, card: Card) -> tuple[list[str], list[str]]:
    """The outputs with the probability of the second of two classes alone, and those with both for each of several labels."""
    rows = {output.name: output.row_shape for output in graph.outputs}
    probabilities = [output for output in card.outputs if output.role == "probabilities"]
    if card.task == MULTILABEL:
        return [], [output.name for output in probabilities if len(rows[output.name]) == 2]
    two = [o for o in probabilities if len(card.classes) == 2 or o.row_shape == (2,)]
    return [output.name for output in two if rows[output.name] != (2,)], []


def _one_run(session: signature.Session, path: Path, graph: signature.Signature) -> dict[str, Array]:
    """The outputs for a typical row."""

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        found = session.run(None, dict(feed))
        return {o.name: signature.plain(value, ()) for o, value in zip(graph.outputs, found, strict=True)}

    try:
        return Arranged(graph.rows).run({spec.name: typical(spec, 1) for spec in graph.inputs}, run)
    except Exception as error:  # the runtime raises a dozen unrelated classes
        raise InferenceError(f"{path.stem} failed: {error}") from error


def named(card: Card, classes: Sequence[int | str]) -> Card:
    """A card that names its classes, or else as the rollout file names them where there are so many probabilities."""
    widths = {o.row_shape[-1] for o in card.outputs if o.role == "probabilities" and o.row_shape}
    if card.classes or not classes or widths != {len(classes)}:
        return card
    two = len(classes) == 2 and card.positive is None and card.task != MULTILABEL
    positive = classes[1] if two else card.positive
    return card.model_copy(update={"classes": list(classes), "positive": positive})
