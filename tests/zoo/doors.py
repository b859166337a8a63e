"""Sends rows through every door of a service and compares each answer, element by element, with the runtime's own."""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.zoo.entry import Array, Entry, Row
from understudy.inference.cards import Card

Call = Callable[[str, str, bytes, Mapping[str, str]], tuple[int, Mapping[str, str], bytes]]
"""Method, path, body, headers → status, headers by lower-case name, body."""
DTYPES = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    **{f"{u.upper()}INT{bits}": np.dtype(f"{u}int{bits}") for u in ("", "u") for bits in (8, 16, 32, 64)},
}
VARIANTS = ("", "candidate")
"""Who answers: whom the service chooses, which is the primary; and whom the caller asks for, which is no evidence."""


@dataclass
class Result:
    """What came of a model.

    Attributes:
        doors: door → "right", or what is wrong.
        refused: the sentence that refused it, and the command.
    """

    entry: Entry
    doors: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def wrong(self) -> list[str]:
        """What is wrong, by door; empty for a model that is right at all doors, or refused as it must be."""
        found = [f"{door}: {said}" for door, said in self.doors.items() if said != "right"]
        if self.refused and not self.entry.refused:
            found.append(f"is refused, and should be served: {self.refused}")
        if self.entry.refused and not self.refused:
            found.append("is served, and should be refused")
        if self.refused and self.entry.refused and self.entry.refused not in self.refused:
            found.append(f"is refused without {self.entry.refused!r}: {self.refused}")
        return found


class Mismatch(Exception):
    """An answer is not the runtime's."""


class Player:
    """One model's rows, and what is expected of each.

    Args:
        entry: the model.
        card: the primary's, for the roles of its outputs.
        call: calls the service.
        rows: the rows.
        expected: the runtime's answer to each, by output.
        model: the rollout's `model`.
    """

    def __init__(
        self,
        entry: Entry,
        card: Card,
        call: Call,
        rows: Sequence[Row],
        expected: Sequence[Mapping[str, Array]],
        model: str,
    ) -> None:
        self._entry, self._card, self._call, self._rows, self._expected = entry, card, call, rows, expected
        self._v2 = f"/v2/models/{model}"
        self._roles = {output.name: output.role for output in card.outputs}
        self._single = {spec.name for spec in card.inputs if all(size == 1 for size in spec.row_shape)}
        self.ids: list[str] = []
        self.sent = 0

    def play(self, result: Result) -> None:
        """All doors that answer rows."""
        for variant in VARIANTS:
            who = variant or "primary"
            self._note(result, f"/predict, {who}", lambda v=variant: self.predict(v))
            self._note(result, f"V2 JSON, {who}", lambda v=variant: self.v2(v, binary=False))
            self._note(result, f"V2 binary, {who}", lambda v=variant: self.v2(v, binary=True))

    @staticmethod
    def _note(result: Result, door: str, played: Callable[[], None]) -> None:
        try:
            played()
        except Mismatch as error:
            result.doors[door] = str(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this model's, and the others go on
            result.doors[door] = f"{type(error).__name__}: {error}"
        else:
            result.doors[door] = "right"

    def predict(self, variant: str) -> None:
        """All rows in one request, then the first one alone."""
        for rows in (range(len(self._rows)), range(1)):
            body = {
                "rows": [
                    {n: _json(v.reshape(-1)[0] if n in self._single else v) for n, v in self._rows[i].items()}
                    for i in rows
                ]
            }
            status, _, raw = self._call(
                "POST", "/predict", json.dumps(body).encode(), {"x-rollout-variant": variant} if variant else {}
            )
            if status != 200:
                raise Mismatch(f"{status} {raw[:400].decode(errors='replace')}")
            predictions = json.loads(raw)["predictions"]
            if not variant:
                self.ids += [prediction["prediction_id"] for prediction in predictions]
                self.sent += len(rows)
            if len(predictions) != len(rows):
                raise Mismatch(f"{len(predictions)} predictions for {len(rows)} rows")
            for i, prediction in zip(rows, predictions, strict=True):
                self._compare_prediction(prediction, self._expected[i])

    def v2(self, variant: str, *, binary: bool) -> None:
        """All rows in one request if they make tensors, else one row a request."""
        status, _, raw = self._call("GET", self._v2, b"", {})
        if status != 200:
            raise Mismatch(f"metadata: {status} {raw[:300]!r}")
        datatypes = {tensor["name"]: tensor["datatype"] for tensor in json.loads(raw)["inputs"]}
        alike = all(
            len({each[name].shape for each in found}) == 1
            for found in (self._rows, self._expected)
            for name in found[0]
        )
        groups = [range(len(self._rows))] if alike else [range(i, i + 1) for i in range(len(self._rows))]
        for rows in groups:
            listed, tail = [], b""
            for name in self._rows[0]:
                array = np.stack([self._rows[i][name] for i in rows])
                tensor = {"name": name, "datatype": datatypes[name], "shape": list(array.shape)}
                if binary:
                    data = _raw(array)
                    listed.append(tensor | {"parameters": {"binary_data_size": len(data)}})
                    tail += data
                else:
                    listed.append(tensor | {"data": [_json(value) for value in array.reshape(-1)]})
            text = json.dumps({"inputs": listed, "parameters": {"binary_data_output": binary}}).encode()
            headers = {"x-rollout-variant": variant} if variant else {}
            if binary:
                headers |= {
                    "content-type": "application/octet-stream",
                    "inference-header-content-length": str(len(text)),
                }
            status, head, raw = self._call("POST", f"{self._v2}/infer", text + tail, headers)
            if status != 200:
                raise Mismatch(f"{status} {raw[:400].decode(errors='replace')}")
            self.sent += 0 if variant else len(rows)
            self._compare_tensors(_read(raw, head), rows)

    def _compare_tensors(self, outputs: Mapping[str, Array], rows: Sequence[int]) -> None:
        if outputs.keys() != self._roles.keys():
            raise Mismatch(f"outputs {sorted(outputs)} instead of {sorted(self._roles)}")
        for name, array in outputs.items():
            for at, i in enumerate(rows):
                self._same(name, array[at], self._expected[i][name])

    def feedback(self, stored: Callable[[], None]) -> None:
        """A label for each prediction; every one is joined."""
        if self._card.task == "other":
            return
        labels = [self._label(self._expected[i % len(self._rows)]) for i in range(len(self.ids))]
        stored()
        body = {"labels": [{"prediction_id": i, "label": label} for i, label in zip(self.ids, labels, strict=True)]}
        status, _, raw = self._call("POST", "/feedback", json.dumps(body).encode(), {})
        if status not in {200, 202}:
            raise Mismatch(f"{status} {raw[:400].decode(errors='replace')}")
        said = json.loads(raw)
        if said.get("matched", said.get("joined", len(labels))) != len(labels):
            raise Mismatch(f"{raw[:300]!r} for {len(labels)} labels")

    def _label(self, expected: Mapping[str, Array]) -> Any:
        card, roles = self._card, self._roles
        if card.task == "regression":
            value = next(expected[name] for name, role in roles.items() if role == "value")
            return float(value.reshape(-1)[0]) if value.size == 1 else [float(v) for v in value.reshape(-1)]
        if card.task == "multilabel-classification":
            return card.classes[:1]
        if card.classes:
            return card.classes[0]
        return next(expected[name].item() for name, role in roles.items() if role == "label")

    def _compare_prediction(self, prediction: Mapping[str, Any], expected: Mapping[str, Array]) -> None:
        for name, role in self._roles.items():
            if role == "other":
                if name not in prediction.get("outputs", {}):
                    raise Mismatch(f"{name}: is not in the answer {str(prediction)[:200]}")
                found = prediction["outputs"][name]
                if expected[name].size == 1 and not isinstance(found, list):  # [1] in JSON is a number
                    found = np.full(expected[name].shape, found, object if isinstance(found, str) else None)
                self._same(name, found, expected[name])
            elif role == "probabilities":
                found = prediction["probabilities"]
                values = list(found.values()) if isinstance(found, Mapping) else found
                self._same(name, values, expected[name])
            elif role == "value":
                found = prediction["value"] if "value" in prediction else prediction["prediction"]
                self._same(name, found, expected[name])
            else:
                self._same_label(name, prediction["label"], expected[name])

    def _same_label(self, name: str, found: Any, expected: Array) -> None:
        if self._card.task == "multilabel-classification":
            wanted = [c for c, yes in zip(self._card.classes, expected.reshape(-1), strict=True) if yes]
            if list(found) != wanted:
                raise Mismatch(f"{name}: {found!r} instead of {wanted!r}")
            return
        label = expected.reshape(-1)[0].item() if expected.dtype.kind != "O" else str(expected.reshape(-1)[0])
        names = self._entry.names
        if names and not isinstance(label, str):
            label = names[int(label)]
        if found != label:
            raise Mismatch(f"{name}: {found!r} instead of {label!r}")

    def _same(self, name: str, found: Any, expected: Array) -> None:
        role = self._roles[name]
        mine = np.asarray(found, dtype=None if expected.dtype.kind == "f" else object)
        if expected.size == 0 and mine.size == 0:
            return
        if role == "probabilities":
            if (
                mine.size == 2 * expected.size and expected.size == 1
            ):  # a sigmoid is the probability of the second class
                expected = np.concatenate([1 - expected.reshape(-1), expected.reshape(-1)])
            elif expected.ndim == 2 and expected.shape[1] == 2 and mine.size * 2 == expected.size:  # that of each label
                expected = expected[:, 1]
        if role in {"label", "value"} and mine.size == expected.size == 1:
            mine, expected = mine.reshape(-1), expected.reshape(-1)
        if mine.shape != expected.shape:
            raise Mismatch(f"{name}: shape {mine.shape} instead of {expected.shape}")
        if expected.dtype.kind in "OU":
            same = [str(a) for a in mine.reshape(-1)] == [str(b) for b in expected.reshape(-1)]
        elif expected.dtype.kind in "biu":
            same = bool((mine.astype(object) == expected.astype(object)).all())
        else:
            tolerance = max(self._entry.tolerance, 2e-3 if expected.dtype == np.float16 else 0.0)
            left, right = mine.astype(np.float64), expected.astype(np.float64)
            same = bool(np.allclose(left, right, rtol=tolerance, atol=tolerance * 0.1, equal_nan=True))
        if not same:
            raise Mismatch(f"{name}: {mine.reshape(-1)[:6]!s} instead of {expected.reshape(-1)[:6]!s}")


def compared(comparison: Mapping[str, Any], rows: int, outputs: Sequence[str]) -> None:
    """Every rehearsal was compared on every output and agreed.

    Raises:
        Mismatch: it was not.
    """
    if comparison.get("rows") != rows:
        raise Mismatch(f"{comparison.get('rows')} rows compared of {rows}")
    for name in outputs:
        counts = comparison.get("outputs", {}).get(name)
        if counts is None:
            raise Mismatch(f"{name} is not compared: {sorted(comparison.get('outputs', {}))}")
        if (counts["rows"], counts["rows_outside"], counts["misshapen"]) != (rows, 0, 0):
            raise Mismatch(f"{name}: {counts}")


def _json(value: Any) -> Any:
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, list):
        return [_json(each) for each in plain]
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _raw(array: Array) -> bytes:
    if array.dtype.kind in "OU":
        texts = [str(value).encode() for value in array.reshape(-1)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return array.tobytes()


def _read(raw: bytes, head: Mapping[str, str]) -> dict[str, Array]:
    at = int(head.get("inference-header-content-length", len(raw)))
    outputs = {}
    for tensor in json.loads(raw[:at])["outputs"]:
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        text = tensor["datatype"] == "BYTES"
        if size is None:
            array = np.array(tensor["data"], object if text else DTYPES[tensor["datatype"]])
        else:
            piece, at = raw[at : at + size], at + size
            array = _texts(piece) if text else np.frombuffer(piece, DTYPES[tensor["datatype"]])
        outputs[tensor["name"]] = array.reshape(tensor["shape"])
    return outputs


def _texts(piece: bytes) -> Array:
    texts, at = [], 0
    while at < len(piece):
        [size] = struct.unpack_from("<I", piece, at)
        texts.append(piece[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return np.array(texts, object)
