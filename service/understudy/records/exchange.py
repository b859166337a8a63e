"""An exchange: what happened in one request. And the form in which batches of them travel to the process that keeps the records.

A run of a model is shared by the requests of a batch (`understudy.inference.Run`), so its answers travel once, and each exchange
says which part of them is its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from understudy.domain import SHARE_ONE, Attempt, Mode, Observation, Status, Variant
from understudy.inference import Lists, OutputReader, Run, Scores, wire
from understudy.inference.columns import Table
from understudy.inference.decoding import Rows
from understudy.rollout import routing
from understudy.runtime.fairness import yielding


class RequestAttempt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one model's attempt at a request ended, and how long its caller waited.

    Attributes:
        scores: `Scores | None`; there are some also where the request is `Status.INVALID` and some of its rows were fine.
    """

    status: Status = Status.NONE
    scores: Any = None  # as they travel, in `unpack`
    seconds: float = 0.0


NOT_ASKED = RequestAttempt()


class Exchange(msgspec.Struct, array_like=True, gc=False):
    """One answered request on its way to the record. Mutable until its rehearsal, if there is one, has ended.

    Attributes:
        key: what the router drew by; None: the first prediction's id.
        http: the status that it was answered with.
        sampled: whether the draw for rehearsals chose it; see `Observation.sampled`.
        replay, received_at: as in `Observation`.
    """

    prefix: str
    first_id: int
    rows: Any  # `Rows`; as they travel, in `unpack`
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
        """How many rows it has."""
        return len(self.rows)

    def attempt(self, variant: Variant) -> RequestAttempt:
        """How `variant`'s attempt ended."""
        return self.primary if variant is Variant.PRIMARY else self.candidate

    def settle(self, variant: Variant, status: Status, scores: Scores | None, seconds: float) -> None:
        """Note how `variant`'s attempt ended."""
        attempt = RequestAttempt(status, scores, seconds)
        if variant is Variant.PRIMARY:
            self.primary = attempt
        else:
            self.candidate = attempt

    def prediction_id(self, row: int) -> str:
        """The id of one row's prediction."""
        return f"{self.prefix}-{self.first_id + row}"

    def observations(
        self,
        readers: Mapping[Variant, OutputReader],
        units_of: Callable[[Rows], Sequence[str | None]],
        salt: int = 0,
        equal: Sequence[bool] | None = None,
    ) -> list[Observation]:
        """The rows of this exchange, as they are recorded.

        Args:
            salt: the plan's.
            equal: of each row, whether the two models' answers are equal; None where that was not compared.
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
    """What has gathered between two flushes.

    Attributes:
        runs: of models, of whose answers the exchanges' scores are parts; whole again after `unpack`.
        others: each run's outputs without a role, in the form of `wire`; none where no exchange has two models' to compare.
        statuses: requests that ended in an error: variant, mode, HTTP status, how many.
        problems: values that did not fit: field, kind of problem, how many.
        sizes: rows of each run of a model, by variant.
        dropped: rows given up since too many waited.
    """

    exchanges: list[Any]  # `Exchange`; packed one by one as they travel, in `unpack`
    runs: list[Lists] = []
    others: list[bytes] = []
    statuses: list[tuple[str, str, str, int]] = []
    problems: list[tuple[str, str, int]] = []
    sizes: dict[str, list[int]] = {}
    dropped: int = 0


class Packer:
    """Packs one batch, an exchange at a time, and so it is unpacked: a whole batch at once would hold a core for a millisecond.

    Attributes:
        ids: the first id of each exchange; rows: how many rows they have.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.rows = 0
        self._pieces: list[bytes] = []
        self._runs: list[Run] = []
        self._places: dict[int, int] = {}  # of each run in `_runs`, by its identity
        self._paired = False
        self._pack = msgspec.msgpack.Encoder(enc_hook=self._plain).encode

    def add(self, exchange: Exchange) -> None:
        """Pack an exchange that is complete."""
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
        """The batch; see `Bundle` for what else goes with it. It ends here: nothing is added any more."""
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
        del self._pack  # it knows this packer: neither, nor any run's arrays, would go without the garbage collector
        return packed

    def _plain(self, value: Any) -> Any:
        """What has no form of its own in MessagePack: a part of a run's answers, rows that are columns."""
        if isinstance(value, Scores):
            run = value.run
            place = self._places.get(id(run))
            if place is None:
                place = self._places[id(run)] = len(self._runs)
                self._runs.append(run)  # so it lives, and no other run has its identity
            own = (place, value.start, value.rows)
            return own if run.bad is None or value.finite else (*own, value.bad_rows)
        if isinstance(value, Table):
            return {"rows": len(value), "columns": wire.pack(value.columns)}
        raise TypeError(f"{type(value).__name__} is not recorded")


_decode = msgspec.msgpack.Decoder(Bundle).decode
_decode_exchange = msgspec.msgpack.Decoder(Exchange).decode


def unpack(packed: bytes) -> Bundle:
    """A batch from its packed form.

    Raises:
        ValueError: it is none.
    """
    batch = _decode(packed)
    others: list[dict[str, Any]] = [
        {name: array.tolist() if array.dtype == object else array for name, array in wire.unpack(packed).items()}
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
