"""From a fitted pipeline to the bytes of an ONNX graph: the same bytes for the same pipeline, and the same answers.

Inputs go in by name, raw, one column each; all preprocessing is in the graph. Outputs are `label` (int64, [rows]) and
`probabilities` (float32, [rows, 2]: on time, late).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pandas as pd
from lightgbm import Booster, LGBMClassifier
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

from models.data import Frame
from models.features import CATEGORICAL, NULLABLE, NUMERIC, feeds
from models.train import Estimator, probabilities
from understudy.errors import UnderstudyError

PARITY_ROWS: Final = 20_000
PARITY_TOLERANCE: Final = 1e-4
"""The same branches are taken (see `_exact_cuts`), so only the rounding of sums is left: some 3e-7 as measured."""

KEPT_ON_TIME: Final = 0.01
"""The share of on-time flights that the broken model's export step believes training has seen."""

_OPSETS: Final = {"": 17, "ai.onnx.ml": 3}

update_registered_converter(
    LGBMClassifier,
    "LightGbmLGBMClassifier",
    calculate_linear_classifier_output_shapes,
    convert_lightgbm,
    options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
)


class ParityError(UnderstudyError):
    """The graph does not answer as the Python model does."""

    kind = "parity"


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a graph is from the Python model that it was made of.

    Attributes:
        difference: the largest absolute difference of P(late) over `rows` rows.
        flips: rows on which the class differs although P(late) is not within the tolerance of one half.
    """

    rows: int
    difference: float
    flips: int


def to_onnx(estimator: Estimator, name: str) -> bytes:
    """The ONNX graph of a fitted pipeline. The same pipeline gives the same bytes, in any process."""
    inputs = [(column, FloatTensorType([None, 1])) for column in NUMERIC]
    inputs += [(column, StringTensorType([None, 1])) for column in CATEGORICAL]
    model = convert_sklearn(
        estimator, name, initial_types=inputs, options={"zipmap": False}, target_opset=_OPSETS, verbose=0
    )
    if isinstance(estimator[-1], LGBMClassifier):
        _exact_cuts(model, estimator[-1].booster_)
    return _bytes(model, name)


def with_false_prior_correction(graph: bytes, name: str) -> bytes:
    """The same graph after a plausible mistake at export: its odds are corrected for a sampling that was never done.

    Where on-time flights are many, a team may train on one in a hundred of them and multiply the odds of being late by
    that share afterwards. Here all flights were trained on, and the export step still corrects. The order of the scores
    is untouched, so AUC sees nothing; hardly a flight is called late any more, so accuracy is that of "always on time".
    """
    model = onnx.load_from_string(graph)
    nodes = model.graph.node
    for node in nodes:
        # Both outputs are made anew from what the good graph says; "label" would follow from the wrong probabilities.
        node.output[:] = [
            f"{output}_of_sample" if output in {"label", "probabilities"} else output for output in node.output
        ]
    constants = {
        "kept": np.array([[1.0, KEPT_ON_TIME]], dtype=np.float32),
        "classes_axis": np.array([1], dtype=np.int64),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in constants.items())
    make = onnx.helper.make_node
    nodes.append(make("Mul", ["probabilities_of_sample", "kept"], ["weighted"]))
    nodes.append(make("ReduceSum", ["weighted", "classes_axis"], ["total"], keepdims=1))
    nodes.append(make("Div", ["weighted", "total"], ["probabilities"]))
    nodes.append(make("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
    return _bytes(model, name)


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on one CPU thread, so that its sums do not depend on the machine's cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def predict(
    running: onnxruntime.InferenceSession, rows: Frame
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The graph's classes (int64, [rows]) and P(late) (float64, [rows])."""
    labels, scores = running.run(["label", "probabilities"], feeds(rows))
    return labels, scores[:, 1].astype(np.float64)


def parity(estimator: Estimator, graph: bytes, frame: Frame, *, rows: int = PARITY_ROWS, seed: int = 0) -> Parity:
    """Compare graph and Python model on `rows` rows evenly spaced over `frame`, some with holes and unknown names.

    Raises:
        ParityError: when a probability differs by more than the tolerance, or a class for no reason of rounding.
    """
    sample = _with_holes(frame.iloc[np.linspace(0, len(frame) - 1, rows).astype(np.int64)], seed)
    expected = probabilities(estimator, sample)
    labels, found = predict(session(graph), sample)
    clear = np.abs(expected - 0.5) > PARITY_TOLERANCE
    flips = int(np.count_nonzero((labels != (expected > 0.5)) & clear))
    result = Parity(rows, float(np.abs(found - expected).max()), flips)
    if not result.difference <= PARITY_TOLERANCE or flips:
        raise ParityError(
            f"the ONNX graph is not the Python model: over {rows:,} rows P(late) differs by up to "
            f"{result.difference:.2g} (allowed: {PARITY_TOLERANCE:g}) and {flips} classes flip"
        )
    return result


def _with_holes(sample: Frame, seed: int) -> Frame:
    """A copy in which 5 % of each nullable input is missing and 2 % of each name is unknown to training."""
    random = np.random.default_rng(seed)
    holes: Mapping[str, pd.Series] = {
        name: sample[name].mask(random.random(len(sample)) < 0.05) for name in NUMERIC if name in NULLABLE
    }
    unknown = {name: sample[name].mask(random.random(len(sample)) < 0.02, "never seen") for name in CATEGORICAL}
    return sample.assign(**holes, **unknown)


def _exact_cuts(model: onnx.ModelProto, booster: Booster) -> None:
    """Make the graph's trees branch as LightGBM's do for every float32 input.

    LightGBM compares with a float64 cut, the graph with the float32 nearest to it. Where a cut lies halfway between two
    decimals that training has seen, and a third comes later, the nearest float32 is that third: it goes the other way.
    The greatest float32 that is not above the cut decides every float32 as the cut does.
    """
    below: dict[tuple[int, int, np.float32], np.float32] = {}
    for tree in booster.dump_model()["tree_info"]:
        waiting = [tree["tree_structure"]]
        while waiting:
            node = waiting.pop()
            if "threshold" not in node:
                continue
            cut = float(node["threshold"])
            nearest = np.float32(cut)
            lower = nearest if float(nearest) <= cut else np.nextafter(nearest, np.float32(-np.inf))
            key = (tree["tree_index"], node["split_feature"], nearest)
            if below.setdefault(key, lower) != lower:
                raise ParityError(f"two cuts of input {key[1]} in tree {key[0]} are the same float32")
            waiting += [node["left_child"], node["right_child"]]
    ensemble = next(node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier")
    parts = {attribute.name: attribute for attribute in ensemble.attribute}
    trees, features, values = parts["nodes_treeids"].ints, parts["nodes_featureids"].ints, parts["nodes_values"].floats
    for index, mode in enumerate(parts["nodes_modes"].strings):
        if mode != b"LEAF":
            values[index] = float(below[trees[index], features[index], np.float32(values[index])])


def _bytes(model: onnx.ModelProto, name: str) -> bytes:
    """Serialise without what may change from run to run: doc strings, producers, counters in node names."""
    model.producer_name, model.producer_version, model.domain, model.doc_string = "understudy", "", "", ""
    model.graph.name, model.graph.doc_string = name, ""
    del model.metadata_props[:]
    for index, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"{index:02d}_{node.op_type}", ""
    versions = sorted((opset.domain, opset.version) for opset in model.opset_import)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised
