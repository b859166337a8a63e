"""Finite populations of rows with labels, and three real ONNX models for each: the proof of concept, a better and a worse one.

Requests are drawn from a population with replacement. So the true mean loss of each model is the mean over the population,
and the true difference between two models is known exactly. The losses are computed here in NumPy and not by the
service's own code, so that the two can disagree.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.matrix import exporters

Floats = npt.NDArray[np.float64]

POOL = 6_000
TRAIN = 3_000
GUARD = 3
"""The column that no model reads; its value says how the row fails, if it does."""
BOTH_RAISE, CANDIDATE_RAISES, CANDIDATE_NAN = 13.0, 14.0, 15.0
FEATURES = 4


@dataclass(frozen=True)
class World:
    """A population and its models.

    Attributes:
        rows: features, float32 [POOL, FEATURES]; labels: one per row, as `/feedback` takes it.
        models: ONNX files by "poc", "better" and "worse".
        losses: per model, the raw loss of each row, float64 [POOL].
        worst: the loss of a row without an answer.
        policy: what the rollout file says about these models beside the margin: task, classes, loss, clip.
        pairwise: whether the loss is one of pairs (`win_rate`, `disagreement`); then `losses` are differences from the POC's.
    """

    rows: npt.NDArray[np.float32]
    labels: Sequence[Any]
    models: Mapping[str, Path]
    losses: Mapping[str, Floats]
    worst: float
    policy: Mapping[str, Any]
    quality: Mapping[str, Any]
    pairwise: bool = False
    best: float = 0.0

    def difference(self, candidate: str, fails: npt.NDArray[np.bool_], both: npt.NDArray[np.bool_]) -> float:
        """The true mean difference, candidate minus POC, when some rows fail at the candidate or at both."""
        each = self.losses[candidate] - self.losses["poc"]
        each = np.where(fails, self.worst - (0.0 if self.pairwise else self.losses["poc"]), each)
        return float(np.where(both, 0.0, each).mean())


@dataclass(frozen=True)
class Style:
    """One way in which models of one task are built and exported."""

    name: str
    loss: str
    build: Callable[[Path, np.random.Generator], World] = field(repr=False)


def features(rng: np.random.Generator, rows: int) -> npt.NDArray[np.float32]:
    """Standard normal features, float32 [rows, FEATURES]; the guard column is 0."""
    x = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    x[:, GUARD] = 0.0
    return x


def outputs(path: Path, x: npt.NDArray[np.float32]) -> list[Any]:
    """What the graph answers, by ONNX Runtime itself."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


# Losses, in NumPy


def one_hot(labels: Sequence[Any], classes: Sequence[Any]) -> Floats:
    """Float64 [rows, classes]; a label that is none of the classes is a row of zeros."""
    return np.array([[float(label == name) for name in classes] for label in labels])


def brier(p: Floats, truth: Floats) -> Floats:
    """Half the squared distance; for two classes that is (p - y) squared."""
    return np.asarray(((p - truth) ** 2).sum(axis=1) + (1.0 - truth.sum(axis=1))) / 2


def log_loss(p: Floats, truth: Floats, clip: float) -> Floats:
    """Natural logarithm, cut off at `clip`."""
    return np.asarray(np.minimum(-np.log(np.maximum((p * truth).sum(axis=1), 1e-15)), clip))


def classification(
    loss: str, exporter: Callable[..., Path], classes: Sequence[Any], *, say: bool = False, lacks: bool = False
) -> Callable[[Path, np.random.Generator], World]:
    """A world of classes.

    Args:
        say: whether the rollout file must name the classes, since the graph does not.
        lacks: whether the worse model was trained without the last class.
    """

    def build(folder: Path, rng: np.random.Generator) -> World:
        k = len(classes)
        weights = np.array([[1.6, -0.8, 0.6, 0.0], [-1.2, 1.4, 0.0, 0.0], [0.2, -0.9, -1.5, 0.0]])[:k]
        if k == 2:
            weights = np.array([[0.0, 0.0, 0.0, 0.0], [1.8, -1.2, 0.9, 0.0]])

        def labelled(rows: int) -> tuple[npt.NDArray[np.float32], list[Any]]:
            x = features(rng, rows)
            logits = x @ weights.T
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            drawn = (p.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
            return x, [classes[i] for i in np.minimum(drawn, k - 1)]

        x, y = labelled(TRAIN)
        poc = x.copy()
        poc[:, 2] = rng.normal(size=TRAIN)  # the proof of concept never saw the third feature
        poc[:, 1] += rng.normal(scale=1.0, size=TRAIN).astype(np.float32)
        bad = x.copy()
        bad[:, 1:3] = rng.normal(size=(TRAIN, 2))
        bad[:, 0] += rng.normal(scale=2.0, size=TRAIN).astype(np.float32)
        kept = [i for i, label in enumerate(y) if not lacks or label != classes[-1]]
        trained = {
            "poc": (poc, y),
            "better": (x, y),
            "worse": (x[kept] if lacks else bad[kept], [y[i] for i in kept]),
        }
        models = {name: exporter(folder / f"{name}.onnx", a, b) for name, (a, b) in trained.items()}
        rows, labels = labelled(POOL)
        truth = one_hot(labels, classes)
        losses: dict[str, Floats] = {}
        for name, path in models.items():
            known = list(classes[:-1]) if lacks and name == "worse" else list(classes)
            if loss == "zero_one":
                said = outputs(path, rows)[0].reshape(-1).tolist()
                losses[name] = np.array([float(a != b) for a, b in zip(said, labels, strict=True)])
                continue
            p = np.zeros((POOL, k))
            p[:, : len(known)] = exporters.probabilities(path, rows, known)
            losses[name] = brier(p, truth) if loss == "brier" else log_loss(p, truth, CLIP)
        task = "binary-classification" if k == 2 else "multiclass-classification"
        policy: dict[str, Any] = {"task": task} | ({"classes": list(classes)} if say else {})
        worst = CLIP if loss == "log_loss" else 1.0
        return World(rows, labels, models, losses, worst, policy, {"loss": loss})

    return build


CLIP = 5.0


def regression(loss: str, outputs_: int = 1) -> Callable[[Path, np.random.Generator], World]:
    """A world of house prices, in thousands; several numbers a row where `outputs_` is more than 1."""

    def build(folder: Path, rng: np.random.Generator) -> World:
        weights = rng.normal(scale=60.0, size=(3, outputs_))

        def labelled(rows: int) -> tuple[npt.NDArray[np.float32], Floats]:
            x = features(rng, rows)
            return x, 400.0 + x[:, :3] @ weights + rng.normal(scale=40.0, size=(rows, outputs_))

        models = {}
        for name, off in (("poc", 0.5), ("better", 0.05), ("worse", 1.2)):
            guess = weights * (1 + off * np.sign(rng.normal(size=weights.shape)))
            models[name] = exporters.linear(folder / f"{name}.onnx", guess, 400.0)
        rows, truth = labelled(POOL)
        found = {
            name: outputs(path, rows)[0].reshape(POOL, outputs_).astype(np.float64) for name, path in models.items()
        }
        clip = 400.0
        losses: dict[str, Floats] = {}
        for name, values in found.items():
            error = np.abs(values - truth)
            if loss == "win_rate":
                ours, theirs = (np.sqrt(((v - truth) ** 2).sum(axis=1)) for v in (values, found["poc"]))
                losses[name] = np.sign(ours - theirs)
            elif loss == "absolute_error":
                losses[name] = np.minimum(error.mean(axis=1), clip)
            else:
                losses[name] = np.minimum((error**2).mean(axis=1), clip**2)
        worst = {"win_rate": 1.0, "absolute_error": clip, "squared_error": clip**2}[loss]
        quality = {"loss": loss} | ({} if loss == "win_rate" else {"clip": clip})
        labels = [row[0] if outputs_ == 1 else row for row in truth.tolist()]
        return World(rows, labels, models, losses, worst, {"task": "regression"}, quality, loss == "win_rate")

    return build


def multilabel(folder: Path, rng: np.random.Generator) -> World:
    """Four independent topics; a label is the list of those that are true."""
    classes = ["sport", "politics", "arts", "science"]
    weights = rng.normal(scale=1.6, size=(3, 4))

    def chances(x: npt.NDArray[np.float32]) -> Floats:
        return np.asarray(1 / (1 + np.exp(-(x[:, :3] @ weights))))

    models = {}
    for name, noise in (("poc", 0.7), ("better", 0.05), ("worse", 1.6)):
        guess = weights + rng.normal(scale=noise, size=weights.shape)
        models[name] = exporters.sigmoid(folder / f"{name}.onnx", guess)
    rows = features(rng, POOL)
    truth = (rng.random((POOL, 4)) < chances(rows)).astype(float)
    losses = {name: ((outputs(path, rows)[0] - truth) ** 2).mean(axis=1) for name, path in models.items()}
    labels = [[c for c, y in zip(classes, row, strict=True) if y] for row in truth.tolist()]
    policy = {"task": "multilabel-classification", "classes": classes}
    return World(rows, labels, models, losses, 1.0, policy, {"loss": "brier"})


def agreement(folder: Path, rng: np.random.Generator) -> World:
    """An embedding that was quantized well, or badly; there are no labels."""
    weights = rng.normal(size=(3, 8))
    rows = features(rng, POOL)
    models = {}
    for name, flips in (("poc", 0.0), ("better", 0.0), ("worse", 1.0)):
        models[name] = exporters.embedding(folder / f"{name}.onnx", weights, flips)
    found = {name: outputs(path, rows)[0] for name, path in models.items()}
    close = {n: np.isclose(v, found["poc"], rtol=1e-3, atol=1e-7).all(axis=1) for n, v in found.items()}
    losses = {name: 1.0 - equal.astype(float) for name, equal in close.items()}
    return World(
        rows, [None] * POOL, models, losses, 1.0, {"task": "agreement"}, {"loss": "disagreement"}, pairwise=True
    )


STYLES = (
    Style("scikit-learn, ZipMap, 0/1", "brier", classification("brier", exporters.zipmap, [0, 1])),
    Style("scikit-learn, matrix, 0/1", "log_loss", classification("log_loss", exporters.matrix, [0, 1])),
    Style("scikit-learn, ZipMap, names", "brier", classification("brier", exporters.zipmap, ["no", "yes"])),
    Style("LightGBM, matrix, 0/1", "brier", classification("brier", exporters.lightgbm, [0, 1])),
    Style("label only, names", "zero_one", classification("zero_one", exporters.label_only, ["no", "yes"])),
    Style(
        "probabilities only", "brier", classification("brier", exporters.probabilities_only, ["no", "yes"], say=True)
    ),
    Style("sigmoid [N, 1]", "log_loss", classification("log_loss", exporters.sigmoid_column, [0, 1], say=True)),
    Style("three names, matrix", "brier", classification("brier", exporters.matrix, ["high", "low", "mid"])),
    Style("labels 1 to 3, matrix", "log_loss", classification("log_loss", exporters.matrix, [1, 2, 3])),
    Style("softmax only", "brier", classification("brier", exporters.softmax_only, ["a", "b", "c"], say=True)),
    Style(
        "the worse lacks a class",
        "brier",
        classification("brier", exporters.matrix, ["high", "low", "mid"], lacks=True),
    ),
    Style("regression, clip", "absolute_error", regression("absolute_error")),
    Style("regression, squares", "squared_error", regression("squared_error")),
    Style("regression, no unit", "win_rate", regression("win_rate")),
    Style("vector regression", "absolute_error", regression("absolute_error", 3)),
    Style("multilabel, sigmoid", "brier", multilabel),
    Style("embedding, no labels", "disagreement", agreement),
)


@functools.cache
def world(style: int, folder: Path) -> World:
    """The world of a style, built once for each folder."""
    own = folder / f"style-{style}"
    own.mkdir(parents=True, exist_ok=True)
    return STYLES[style].build(own, np.random.default_rng(style))
