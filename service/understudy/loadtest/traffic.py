"""Makes the requests of a load test: seeded samples of real rows, in a mix of sizes, and feedback with their labels.

Requests are encoded before they are due, because a caller's own work is not part of the service's latency.
"""

import collections
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from understudy.domain import JsonObject, Label
from understudy.errors import ConfigurationError
from understudy.offline import sources
from understudy.offline.client import Client

SAMPLE_MAX = 5_000
PROTOCOLS = ("rest", "v2", "both")
LABELS_KEPT = 5_000
LABELS_PER_POST = 20
"""The largest number of new labels per feedback request. One label that was reported before is repeated, as retries do."""
REPORTED_KEPT = 100
MIX = "1:8,10:1,100:1"
"""80 % of the requests have 1 row, 10 % have 10, and 10 % have 100."""


class _Response(msgspec.Struct):
    variant: str
    fallback: bool
    predictions: list[msgspec.Raw]


class _Prediction(msgspec.Struct):
    prediction_id: str


class _Parameters(msgspec.Struct):
    variant: str
    fallback: bool
    prediction_id: str


class _Tensor(msgspec.Struct):
    shape: list[int]


class _ResponseV2(msgspec.Struct):
    parameters: _Parameters
    outputs: list[_Tensor]


_response = msgspec.json.Decoder(_Response)
_prediction = msgspec.json.Decoder(_Prediction)
_response_v2 = msgspec.json.Decoder(_ResponseV2)


@dataclass(frozen=True, slots=True)
class Moment:
    """An encoded row and its label, if that is known."""

    row: bytes
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its bytes, its number of rows (0 for feedback), and the label of its first row."""

    data: bytes
    rows: int
    label: Label | None = None
    v2: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a response says: the variant, whether it is a fallback, and what is wrong with it, if anything."""

    variant: str = ""
    fallback: bool = False
    wrong: str = ""


def mix_of(text: str) -> dict[int, int]:
    """Parse rows per request, such as "1:8,10:1,100:1" or "100", into rows → weight.

    Raises:
        ConfigurationError: the text is neither.
    """
    weights: dict[int, int] = {}
    for part in text.split(","):
        rows, _, weight = part.partition(":")
        try:
            weights[int(rows)] = int(weight or 1)
        except ValueError:
            raise ConfigurationError(
                f"rows per request cannot be {text!r}: use a number such as `100`, or a mix such as `{MIX}`"
            ) from None
    if min(weights) < 1 or min(weights.values()) < 0 or not sum(weights.values()):
        raise ConfigurationError(
            f"rows per request cannot be {text!r}: a request has at least one row, and weights are not negative"
        )
    return weights


def history(source: str, month: int, seed: int) -> list[Moment]:
    """A seeded sample of a month of a data source, with labels.

    Raises:
        ConfigurationError: there is no such data source.
    """
    rows = sources.find(source).moments(month)
    chosen = random.Random(seed).sample(list(rows), min(SAMPLE_MAX, len(rows)))
    return [Moment(msgspec.json.encode(f.row), f.label) for f in chosen]


def rows_in(file: Path) -> list[Moment]:
    """Rows of a file with one JSON object per line: a row, or an object with `row` and `label`.

    Raises:
        ConfigurationError: a line is neither; the message has its number.
    """
    moments = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
                row = data["row"] if set(data) <= {"row", "label"} and "row" in data else data
                moments.append(Moment(msgspec.json.encode(dict(row)), data.get("label") if row is not data else None))
            except (ValueError, TypeError) as error:
                raise ConfigurationError(f"{file}, line {number}, is not a row: {error}") from None
            if len(moments) >= SAMPLE_MAX:
                break
    if not moments:
        raise ConfigurationError(f"{file} has no rows")
    return moments


def tensors_of(url: str, token: str | None) -> dict[str, str]:
    """The datatype of each input by name, as `/v2` reports them, and under "" the model's name."""
    with Client(url, token) as client:
        name = client.get("/rollout")["model"]
        model = client.get(f"/v2/models/{name}")
    return {"": name} | {spec["name"]: spec["datatype"] for spec in model["inputs"]}


class Traffic:
    """Makes requests and reads responses.

    Args:
        moments: rows to draw from.
        mix: rows per request → weight.
        url: of the service; token: sent if there is one.
        protocol: `rest`, `v2` (Open Inference Protocol, JSON tensors), or `both`.
        tensors: see `tensors_of`.
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
        self._known: collections.deque[tuple[str, Label]] = collections.deque(maxlen=LABELS_KEPT)
        self._reported: collections.deque[tuple[str, Label]] = collections.deque(maxlen=REPORTED_KEPT)
        host = urlsplit(url).netloc
        more = f"Authorization: Bearer {token}\r\n" if token else ""
        # `any`: routed, rehearsed and recorded like every request, but no evidence.
        common = f"Host: {host}\r\nContent-Type: application/json\r\nX-Rollout-Variant: any\r\n{more}"
        self._predict = f"POST /predict HTTP/1.1\r\n{common}".encode()
        self._protocol, self._tensors = protocol, dict(tensors or {})
        self._infer = f"POST /v2/models/{self._tensors.pop('', '')}/infer HTTP/1.1\r\n{common}".encode()
        self._parsed: list[JsonObject] = [msgspec.json.decode(m.row) for m in moments] if protocol != "rest" else []
        self._feedback = f"POST /feedback HTTP/1.1\r\n{common}".encode()

    def predict(self) -> Call:
        """A predict request; its number of rows is drawn from the mix."""
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
        """A feedback request with labels of earlier predictions, one of them reported before; None if there are none yet."""
        chosen = [self._known.popleft() for _ in range(min(LABELS_PER_POST, len(self._known)))]
        again = [self._random.choice(self._reported)] if self._reported else []
        self._reported.extend(chosen[:1])
        chosen += again
        if not chosen:
            return None
        labels = [{"prediction_id": name, "label": label} for name, label in chosen]
        return Call(_whole(self._feedback, msgspec.json.encode({"labels": labels})), 0)

    def read(self, call: Call, status: int, body: bytes) -> Reply:
        """Read a response and check that it fits the request."""
        if status != 200:
            return Reply(wrong=f"{status}: {_detail(body)}")
        if not call.rows:
            return Reply()
        try:
            if call.v2:
                return self._read_v2(call, body)
            response = _response.decode(body)
            if len(response.predictions) != call.rows:
                return Reply(wrong=f"{len(response.predictions)} predictions for {call.rows} rows")
            if call.label is not None:
                self._known.append((_prediction.decode(response.predictions[0]).prediction_id, call.label))
        except msgspec.DecodeError as error:
            return Reply(wrong=f"the response cannot be decoded: {error}")
        return Reply(response.variant, response.fallback)

    def _read_v2(self, call: Call, body: bytes) -> Reply:
        response = _response_v2.decode(body)
        if any(tensor.shape[:1] != [call.rows] for tensor in response.outputs):
            return Reply(wrong=f"tensors of {response.outputs[0].shape} for {call.rows} rows")
        if call.label is not None:
            self._known.append((response.parameters.prediction_id, call.label))
        return Reply(response.parameters.variant, response.parameters.fallback)


def _whole(head: bytes, body: bytes) -> bytes:
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])[:120]
    except (ValueError, KeyError, TypeError):
        return body[:80].decode(errors="replace")
