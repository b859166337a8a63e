"""The requests of a load test, made before they are needed: real rows in a real mix, seeded, and the labels that follow.

A request is bytes by the time it is due: what a caller's own machine does before it sends is no part of the service's latency.
"""

import collections
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from understudy.errors import ConfigurationError
from understudy.offline import sources
from understudy.offline.client import Client

SAMPLE_MAX = 5_000
PROTOCOLS = ("rest", "v2", "both")
LABELS_KEPT = 5_000
LABELS_PER_POST = 20
"""At most; of predictions whose label is known and was not reported. One that was comes again with them: reporters try again."""
REPORTED_KEPT = 100
MIX = "1:8,10:1,100:1"
"""Most requests carry one row, one in ten carries ten, one in ten a hundred."""


class _Answer(msgspec.Struct):
    variant: str
    fallback: bool
    predictions: list[msgspec.Raw]


class _Prediction(msgspec.Struct):
    prediction_id: str


class _Said(msgspec.Struct):
    variant: str
    fallback: bool
    prediction_id: str


class _Tensor(msgspec.Struct):
    shape: list[int]


class _AnswerV2(msgspec.Struct):
    parameters: _Said
    outputs: list[_Tensor]


_answer = msgspec.json.Decoder(_Answer)
_prediction = msgspec.json.Decoder(_Prediction)
_answer_v2 = msgspec.json.Decoder(_AnswerV2)


@dataclass(frozen=True, slots=True)
class Moment:
    """A row that callers send, and its label where it is known."""

    row: bytes
    label: Any = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its bytes, how many rows it asks about (0: it reports labels), and the label of the first."""

    data: bytes
    rows: int
    label: Any = None
    v2: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer said: who answered, whether in the candidate's place; `wrong` says what is not as asked."""

    variant: str = ""
    fallback: bool = False
    wrong: str = ""


def mix_of(text: str) -> dict[int, int]:
    """Rows a request → weight, of "1:8,10:1,100:1" or of "100".

    Raises:
        ConfigurationError: when it is neither.
    """
    found: dict[int, int] = {}
    for part in text.split(","):
        rows, _, weight = part.partition(":")
        try:
            found[int(rows)] = int(weight or 1)
        except ValueError:
            raise ConfigurationError(f"rows a request is {text!r}; it takes `100`, or a mix such as `{MIX}`") from None
    if min(found) < 1 or min(found.values()) < 0 or not sum(found.values()):
        raise ConfigurationError(
            f"rows a request is {text!r}: a request has at least one row, and a weight is not negative"
        )
    return found


def history(source: str, month: int, seed: int) -> list[Moment]:
    """A seeded sample of a month of a data source, with the labels.

    Raises:
        ConfigurationError: there is no such source.
    """
    rows = sources.find(source).moments(month)
    chosen = random.Random(seed).sample(list(rows), min(SAMPLE_MAX, len(rows)))
    return [Moment(msgspec.json.encode(f.row), f.label) for f in chosen]


def rows_in(file: Path) -> list[Moment]:
    """Rows of a file, one JSON object a line; a `label` beside the `row` is reported as feedback.

    Raises:
        ConfigurationError: naming the line that is none.
    """
    found = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
                row = data["row"] if set(data) <= {"row", "label"} and "row" in data else data
                found.append(Moment(msgspec.json.encode(dict(row)), data.get("label") if row is not data else None))
            except (ValueError, TypeError) as error:
                raise ConfigurationError(f"{file}, line {number}, is no row: {error}") from None
            if len(found) >= SAMPLE_MAX:
                break
    if not found:
        raise ConfigurationError(f"{file} has no rows")
    return found


def tensors_of(url: str, token: str | None) -> dict[str, str]:
    """The model's name under "", and the datatype of each of its inputs, as `/v2` has them."""
    with Client(url, token) as client:
        name = client.get("/rollout")["model"]
        told = client.get(f"/v2/models/{name}")
    return {"": name} | {spec["name"]: spec["datatype"] for spec in told["inputs"]}


class Traffic:
    """Makes requests and reads answers.

    Args:
        moments: what rows are drawn from; mix: rows a request → weight.
        url: of the service; token: sent where one is needed.
        protocol: `rest`, `v2` (Open Inference Protocol, JSON tensors), or `both` in turn; tensors: see `tensors_of`.
    """

    def __init__(
        self,
        moments: Sequence[Moment],
        mix: dict[int, int],
        url: str,
        *,
        seed: int,
        token: str | None = None,
        protocol: str = "rest",
        tensors: Mapping[str, str] | None = None,
    ) -> None:
        self._moments, self._random = moments, random.Random(seed)
        self._sizes, self._weights = list(mix), list(mix.values())
        self._known: collections.deque[tuple[str, Any]] = collections.deque(maxlen=LABELS_KEPT)
        self._reported: collections.deque[tuple[str, Any]] = collections.deque(maxlen=REPORTED_KEPT)
        host = urlsplit(url).netloc
        more = f"Authorization: Bearer {token}\r\n" if token else ""
        # `any`: routed, rehearsed and recorded like every request, and no evidence.
        common = f"Host: {host}\r\nContent-Type: application/json\r\nX-Rollout-Variant: any\r\n{more}"
        self._predict = f"POST /predict HTTP/1.1\r\n{common}".encode()
        self._protocol, self._tensors = protocol, dict(tensors or {})
        self._infer = f"POST /v2/models/{self._tensors.pop('', '')}/infer HTTP/1.1\r\n{common}".encode()
        self._parsed = [msgspec.json.decode(m.row) for m in moments] if protocol != "rest" else []
        self._feedback = f"POST /feedback HTTP/1.1\r\n{common}".encode()

    def predict(self) -> Call:
        """A request for predictions, its size drawn from the mix."""
        size = self._random.choices(self._sizes, self._weights)[0]
        if self._protocol == "v2" or (self._protocol == "both" and self._random.random() < 0.5):
            return self._predict_v2(size)
        chosen = self._random.choices(self._moments, k=size)
        body = b'{"rows":[' + b",".join([m.row for m in chosen]) + b"]}"
        return Call(_whole(self._predict, body), size, chosen[0].label)

    def _predict_v2(self, size: int) -> Call:
        numbers = self._random.choices(range(len(self._moments)), k=size)
        rows = [self._parsed[number] for number in numbers]
        inputs = [
            {
                "name": name,
                "datatype": kind,
                "shape": [size, 1],
                "data": [
                    ("" if kind == "BYTES" else None) if (value := row.get(name)) is None else value for row in rows
                ],
            }
            for name, kind in self._tensors.items()
        ]
        return Call(
            _whole(self._infer, msgspec.json.encode({"inputs": inputs})), size, self._moments[numbers[0]].label, v2=True
        )

    def feedback(self) -> Call | None:
        """A report of labels for predictions made earlier, one of them reported before; None where there are none yet."""
        chosen = [self._known.popleft() for _ in range(min(LABELS_PER_POST, len(self._known)))]
        again = [self._random.choice(self._reported)] if self._reported else []
        self._reported.extend(chosen[:1])
        chosen += again
        if not chosen:
            return None
        labels = [{"prediction_id": name, "label": label} for name, label in chosen]
        return Call(_whole(self._feedback, msgspec.json.encode({"labels": labels})), 0)

    def read(self, call: Call, status: int, body: bytes) -> Reply:
        """What an answer says, and whether it is the answer that was asked for."""
        if status != 200:
            return Reply(wrong=f"{status}: {_detail(body)}")
        if not call.rows:
            return Reply()
        try:
            if call.v2:
                return self._read_v2(call, body)
            told = _answer.decode(body)
            if len(told.predictions) != call.rows:
                return Reply(wrong=f"{len(told.predictions)} predictions for {call.rows} rows")
            if call.label is not None:
                self._known.append((_prediction.decode(told.predictions[0]).prediction_id, call.label))
        except msgspec.DecodeError as error:
            return Reply(wrong=f"the answer does not read: {error}")
        return Reply(told.variant, told.fallback)

    def _read_v2(self, call: Call, body: bytes) -> Reply:
        told = _answer_v2.decode(body)
        if any(tensor.shape[:1] != [call.rows] for tensor in told.outputs):
            return Reply(wrong=f"tensors of {told.outputs[0].shape} for {call.rows} rows")
        if call.label is not None:
            self._known.append((told.parameters.prediction_id, call.label))
        return Reply(told.parameters.variant, told.parameters.fallback)


def _whole(head: bytes, body: bytes) -> bytes:
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])[:120]
    except (ValueError, KeyError, TypeError):
        return body[:80].decode(errors="replace")
