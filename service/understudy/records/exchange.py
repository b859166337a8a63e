"""Exchanges: one request with the attempts of both models, and the packed form of a batch of them for the records process.

The requests of a batch share a run of the model (`understudy.inference.Run`). Its outputs are packed once, and each exchange
refers to its own rows of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from understudy.domain import SHARE_ONE, Attempt, Mode, Observation, Status, Variant
from understudy.inference import Lists, OutputReader, Run, Scores, wire
from understudy.inference.columns import Table
from understudy.inference.decoding import Rows
from understudy.inference.ragged import nested
from understudy.rollout import routing
from understudy.runtime.fairness import yielding


class RequestAttempt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One model's attempt at a request: its outcome, and how long the caller waited.

    Attributes:
        scores: `Scores | None`. A request that is `Status.INVALID` has scores if some of its rows are valid.
    """

    status: Status = Status.NONE
    scores: Any = None  # in packed form inside `unpack`
    seconds: float = 0.0


NOT_ASKED = RequestAttempt()


class Exchange(msgspec.Struct, array_like=True, gc=False):
    """One answered request, until it is recorded. Mutable until its rehearsal, if there is one, has ended.

    Attributes:
        key: the routing key; None if the request was routed by its first prediction's id.
        http: the HTTP status of the response.
        sampled: whether the draw for rehearsals chose it; see `Observation.sampled`.
        replay: as in `Observation`, and `received_at` too.
    """

    prefix: str
    first_id: int
    rows: Any  # `Rows`; in packed form inside `unpack`
    at: float
    revision: int
    share: int
    variant: Variant
    mode: Mode
    fallback: str | None = None
    rehearsal: Variant | None = None
    total_seconds: float = 0.0
    primary: RequestAttempt = NOT_ASKED
    candidate: RequestAttempt = NOT_ASKED
    key: str | None = None
    http: int = 200
    sampled: bool = True
    replay: str | None = None
    received_at: float | None = None

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def attempt(self, variant: Variant) -> RequestAttempt:
        """The attempt of `variant`."""
        return self.primary if variant is Variant.PRIMARY else self.candidate

    def settle(self, variant: Variant, status: Status, scores: Scores | None, seconds: float) -> None:
        """Set the attempt of `variant`."""
        attempt = RequestAttempt(status, scores, seconds)
        if variant is Variant.PRIMARY:
            self.primary = attempt
        else:
            self.candidate = attempt

    def prediction_id(self, row: int) -> str:
        """The prediction id of a row."""
        return f"{self.prefix}-{self.first_id + row}"

    def observations(
        self,
        readers: Mapping[Variant, OutputReader],
        units_of: Callable[[Rows], Sequence[str | None]],
        salt: int = 0,
        equal: Sequence[bool] | None = None,
    ) -> list[Observation]:
        """One observation per row.

        Args:
            readers: read each variant's scores.
            units_of: returns the unit of each row.
            salt: the salt of the plan.
            equal: for each row, whether the two models' answers are equal; None if they were not compared.
        """
        count = self.count
        primary = _answers(self.primary, readers.get(Variant.PRIMARY), count)
        candidate = _answers(self.candidate, readers.get(Variant.CANDIDATE), count)
        request_id = f"{self.prefix}-{self.first_id}"
        drawn = 0 < self.share < SHARE_ONE and self.mode is Mode.LIVE
        point = routing.bucket(self.key or request_id, salt) >> 1 if drawn else None
        return [
            Observation(
                self.prediction_id(i) if i else request_id,
                request_id,
                self.at,
                self.revision,
                self.variant,
                self.mode,
                self.share,
                primary[i],
                candidate[i],
                unit,
                self.fallback,
                point,
                None if equal is None else _agrees(primary[i], candidate[i], equal[i]),
                self.sampled,
                self.replay,
                self.received_at,
            )
            for i, unit in enumerate(units_of(self.rows))
        ]


def _agrees(primary: Attempt, candidate: Attempt, equal: bool) -> bool | None:
    return equal if primary.given and candidate.given else None


def _answers(attempt: RequestAttempt, reader: OutputReader | None, rows: int) -> Sequence[Attempt]:
    if reader is None:
        return [Attempt(attempt.status)] * rows
    return reader.attempts(attempt.scores, attempt.status, attempt.seconds, rows)


class Bundle(msgspec.Struct, array_like=True, gc=False):
    """What a worker has recorded between two flushes.

    Attributes:
        exchanges: the exchanges; their scores refer to `runs`.
        runs: the outputs of the models' runs.
        others: the outputs without a role of each run, packed by `wire`. Empty if no exchange has answers of both models.
        statuses: requests that ended in an error: variant, mode, HTTP status, count.
        problems: invalid values: field, kind of problem, count.
        sizes: the number of rows of each run, by variant.
        dropped: rows dropped because too many waited.
    """

    exchanges: list[Any]  # `Exchange`; each packed by itself inside `unpack`
    runs: list[Lists] = []
    others: list[bytes] = []
    statuses: list[tuple[str, str, str, int]] = []
    problems: list[tuple[str, str, int]] = []
    sizes: dict[str, list[int]] = {}
    dropped: int = 0


class Packer:
    """Packs one batch, an exchange at a time: packing a whole batch at once would block for a millisecond.

    Attributes:
        ids: the first id of each exchange.
        rows: the number of rows.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.rows = 0
        self._pieces: list[bytes] = []
        self._runs: list[Run] = []
        self._places: dict[int, int] = {}  # position of each run in `_runs`, by `id()`
        self._paired = False
        self._pack = msgspec.msgpack.Encoder(enc_hook=self._plain).encode

    def add(self, exchange: Exchange) -> None:
        """Pack a complete exchange."""
        self.ids.append(exchange.first_id)
        self.rows += exchange.count
        self._paired = self._paired or (exchange.primary.scores is not None and exchange.candidate.scores is not None)
        self._pieces.append(self._pack(exchange))

    def seal(
        self,
        statuses: Mapping[tuple[str, str, str], int],
        problems: Mapping[tuple[str, str], int],
        sizes: Mapping[Variant, Sequence[int]],
        dropped: int,
    ) -> bytes:
        """The packed batch with the other fields of `Bundle`. Nothing can be added afterwards."""
        packed = self._pack(
            (
                self._pieces,
                [run.lists for run in self._runs],
                [wire.pack(run.other_arrays) for run in self._runs if self._paired],
                [(*key, count) for key, count in statuses.items()],
                [(*key, count) for key, count in problems.items()],
                {variant.value: counts for variant, counts in sizes.items() if counts},
                dropped,
            )
        )
        del self._pack  # breaks a reference cycle that would keep the runs' arrays until a garbage collection
        return packed

    def _plain(self, value: Any) -> Any:
        """The packed form of types that MessagePack does not have: scores, and rows that are columns."""
        if isinstance(value, Scores):
            run = value.run
            place = self._places.get(id(run))
            if place is None:
                place = self._places[id(run)] = len(self._runs)
                self._runs.append(run)  # keeps it alive, so its `id()` stays unique
            own = (place, value.start, value.rows)
            return own if run.bad is None or value.finite else (*own, value.bad_rows)
        if isinstance(value, Table):
            return {"rows": len(value), "columns": wire.pack(value.columns)}
        raise TypeError(f"{type(value).__name__} is not recorded")


_decode = msgspec.msgpack.Decoder(Bundle).decode
_decode_exchange = msgspec.msgpack.Decoder(Exchange).decode


def unpack(packed: bytes) -> Bundle:
    """Unpack a batch.

    Raises:
        ValueError: the bytes are not a batch.
    """
    batch = _decode(packed)
    others: list[dict[str, Any]] = [
        {name: nested(array) if array.dtype == object else array for name, array in wire.unpack(packed).items()}
        for packed in batch.others
    ] or [{} for _ in batch.runs]
    runs = [Run(None, lists=lists, others=arrays) for lists, arrays in zip(batch.runs, others, strict=True)]
    batch.exchanges = [_exchange(piece, runs) for piece in yielding(batch.exchanges)]
    return batch


def _exchange(packed: bytes, runs: Sequence[Run]) -> Exchange:
    exchange = _decode_exchange(packed)
    if isinstance(exchange.rows, dict):
        exchange.rows = Table(wire.unpack(exchange.rows["columns"]), exchange.rows["rows"])
    exchange.primary, exchange.candidate = _whole(exchange.primary, runs), _whole(exchange.candidate, runs)
    return exchange


def _whole(attempt: RequestAttempt, runs: Sequence[Run]) -> RequestAttempt:
    if attempt.scores is None:
        return attempt
    parts = attempt.scores
    start, rows, run = parts[1], parts[2], runs[parts[0]]
    if len(parts) > 3:  # with the rows that are not finite
        mask = np.zeros(start + rows, bool)
        mask[[start + row for row in parts[3]]] = True
        run = Run(None, lists=run.lists, others=run.others, bad=mask)
    return RequestAttempt(attempt.status, Scores(rows, run=run, start=start), attempt.seconds)
