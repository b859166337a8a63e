"""One rollout in this process: the service's own worker, front door, store, writer and controller, under a clock of our making.

Requests are JSON bodies given to the front door. Three things are replaced: the clock, the socket to the candidate's process (its
bytes are packed and unpacked all the same), and the engines, which fail on the rows that say so.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import prometheus_client
import yaml

from tests.matrix.worlds import BOTH_RAISE, CANDIDATE_NAN, CANDIDATE_RAISES, GUARD
from understudy import loading, wiring
from understudy.api.parts import ApiParts
from understudy.api.rest import ERROR_FORMATS, Rest
from understudy.domain import LabelReport, Plan, Variant
from understudy.errors import CandidateAway, InferenceError
from understudy.http.router import AppRouter
from understudy.inference import Cancellation, Engine, Scores, wire
from understudy.inference.calls import Calls
from understudy.inference.cards import Card
from understudy.inference.decoding import Array, Batch
from understudy.inference.onnx import OnnxEngine
from understudy.inference.remote import RemoteEngine, RemoteModel
from understudy.inference.spread_model import SpreadModel
from understudy.loading.preflight import preflight
from understudy.loading.store import stored_rollouts
from understudy.rollout.controller import STATE, Controller, decided_at
from understudy.rollout.scoring import Model
from understudy.rollout.verify import Check, verify
from understudy.settings import read_settings
from understudy.wiring import parts

TIMEOUT_S = 30.0
SETTLE_S = 2.0
"""The judge looks at what was known a second ago; the clock goes on for so long before it is asked."""
SETTINGS = {"flush_interval_ms": 1.0, "shadow_gather_ms": 0.0, "inline_max_ms": 1_000.0}
"""Nothing here waits for others: the machine's speed must not decide what is a batch."""


class Clock:
    """Unix time as the rollout has it, moved by hand; durations are real."""

    perf = staticmethod(time.perf_counter)

    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        """See `understudy.clock.Clock.now`."""
        return self.time


class FaultyEngine:
    """An engine that fails on the rows whose guard column says so.

    Args:
        raises: values of the guard on which the whole run raises, as a runtime does for an index out of range.
        nan: values of the guard that make a row's numbers NaN.
    """

    def __init__(self, engine: OnnxEngine, raises: Sequence[float], nan: Sequence[float]) -> None:
        self._engine, self._raises, self._nan = engine, raises, nan
        self.card: Card = engine.card
        self.costs = engine.costs

    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        """See `understudy.inference.Engine.run`."""
        guard = columns["x"][:, GUARD]
        if np.isin(guard, self._raises).any():
            raise InferenceError("an index is out of range")
        outputs = self._engine.run(columns)
        bad = np.isin(guard, self._nan)
        if bad.any():
            floats = {name: array.copy() for name, array in outputs.items() if array.dtype.kind == "f"}
            if not floats:
                raise InferenceError("it has no number to be wrong in")
            for array in floats.values():
                array[bad] = np.nan
            outputs |= floats
        return outputs

    def seconds(self, rows: int) -> float:
        """See `understudy.inference.Engine.seconds`."""
        return self._engine.seconds(rows)

    def close(self) -> None:
        """See `understudy.inference.Engine.close`."""
        self._engine.close()


class CandidateProcess(RemoteEngine):
    """The candidate's process without its socket: calls and replies are packed and unpacked all the same.

    Attributes:
        away: while it is true the process does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__("http://127.0.0.1:1")
        self._calls = Calls(engine)
        self.away = False

    async def run(self, columns: Mapping[str, Array], sizes: Sequence[int], timeout_s: float) -> list[wire.Part]:
        """See `RemoteEngine.run`."""
        if self.away:
            raise CandidateAway(ever_up=True)
        parts, _ = wire.unpack_reply(self._calls.run(*wire.unpack_call(wire.pack_call(columns, sizes))))
        return parts


class Service:
    """What callers, labels, and the judge's beat meet.

    Attributes:
        drops: says of each rehearsal whether the queue is full for it.
    """

    def __init__(self, worker: wiring.Worker, controller: Controller, clock: Clock) -> None:
        self.worker, self.controller, self.clock = worker, controller, clock
        self.drops = lambda: False
        self._router = AppRouter(mock.Mock(routes=[]))
        rest = Rest(ApiParts.of(worker), lambda: True, dict)
        self._router.open(rest.routes(), rest.predictions(), error_formats=ERROR_FORMATS)
        self._place_models()

    def take_away(self, *, away: bool) -> None:
        """Stop the candidate's process, or start it again."""
        self._process.away = away

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self.worker.control.plan

    def _place_models(self) -> None:
        worker = self.worker
        engine = worker.slots.primary.engine  # type: ignore[union-attr]  # nothing is promoted yet
        assert isinstance(engine, OnnxEngine)
        worker.slots.primary = worker._local_model(Variant.PRIMARY, self.wrapped(engine, Variant.PRIMARY))
        candidate = worker._load(Variant.CANDIDATE)
        assert isinstance(candidate, OnnxEngine)
        process = CandidateProcess(self.wrapped(candidate, Variant.CANDIDATE))
        self._process = process
        model = RemoteModel(
            process, loading.inputs_of(candidate.card, worker.decoder.positions), worker.readers[Variant.CANDIDATE]
        )

        async def ask(requests: Sequence[Batch]) -> Sequence[Scores | Exception]:
            return await model.infer(requests, TIMEOUT_S)

        worker.slots.candidate = SpreadModel(ask, worker.spawn, **worker._limits(Variant.CANDIDATE))
        worker.rehearsals[Variant.CANDIDATE] = worker._rehearsal(Variant.CANDIDATE, ask)
        for rehearsal in worker.rehearsals.values():
            self._let_drop(rehearsal)

    def _let_drop(self, rehearsal: Any) -> None:
        offer = rehearsal.offer

        def offered(exchange: Any) -> None:
            if self.drops():
                exchange.rehearsal = rehearsal.variant
                rehearsal._drop([exchange])
            else:
                offer(exchange)

        rehearsal.offer = offered

    def wrapped(self, engine: OnnxEngine, variant: Variant) -> Engine:
        """The engine as the service shall have it: it fails on the rows that say so."""
        if variant is Variant.PRIMARY:
            return FaultyEngine(engine, [BOTH_RAISE], [])
        return FaultyEngine(engine, [BOTH_RAISE, CANDIDATE_RAISES], [CANDIDATE_NAN])

    async def call(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """POST JSON; the answer's status and body."""
        status, _, answer = await self.raw("POST", path, json.dumps(body).encode(), headers)
        return status, json.loads(answer)

    async def raw(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body of the answer to a request."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in ({"content-type": "application/json"} | dict(headers or {})).items()
            ],
            "client": ("127.0.0.1", 1),
        }
        await self._router(scope, receive, send)
        head = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], head, b"".join(part.get("body", b"") for part in sent[1:])

    async def stored(self) -> None:
        """Wait until every request so far is rehearsed and stored."""
        for rehearsal in self.worker.rehearsals.values():
            await rehearsal.drained()
        last = f"{self.worker.id_prefix}-{self.worker.pipeline.next_id - 1}"
        await self.worker.recorder.stored([LabelReport(last, 0, 0.0)])

    async def judge(self) -> None:
        """Let the controller look, and follow what it decides."""
        self.clock.time += SETTLE_S
        plan = await asyncio.to_thread(self.controller.tick)
        if plan is not None:
            control = self.worker.control
            await control.prepare(plan)
            control._follow(plan)

    def verified(self) -> tuple[list[Check], str | None]:
        """What `understudy verify` finds."""
        store, worker = self.worker.store, self.worker
        (record,) = stored_rollouts(worker.settings)
        state = store.load_state(STATE)
        assert state is not None

        def rows(after: int, upto: int, known_by: float) -> Iterator[Any]:
            while after < upto and (page := store.outcomes(after=after, limit=2_000, known_by=known_by)):
                yield from (each for each in page if each[0] <= upto)
                after = page[-1][0]

        return verify(
            worker.policy,
            models_of(worker),
            store.events(limit=1000),
            state,
            rows,
            pruned_to=record.pruned.up_to if record.pruned else 0,
            kept=lambda revision: store.load_state(decided_at(revision)),
        )


def models_of(worker: wiring.Worker) -> dict[Variant, Model]:
    """What scoring needs of the two models."""
    return {variant: Model(card.classes, card.positive) for variant, card in worker.cards.items()}


def _written(policy: Mapping[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(dict(policy), sort_keys=False), encoding="utf-8")
    return file


@contextlib.asynccontextmanager
async def serving(
    policy: Mapping[str, Any], folder: Path, now: float, made: type[Service] | None = None
) -> AsyncIterator[Service]:
    """A service of this rollout file in an empty folder, from `now` on; of the class `made`, if given.

    Raises:
        ConfigurationError: it is refused, with the reason.
    """
    file = _written(policy, folder)
    settings = read_settings(rollout_file=file, state_dir=folder / "state", **SETTINGS)
    preflight(settings)
    clock = Clock(now)
    registry = prometheus_client.CollectorRegistry()
    with (
        mock.patch.object(parts, "SystemClock", return_value=clock),
        mock.patch.object(parts, "Metrics", return_value=parts.Metrics(registry)),
    ):
        worker = wiring.Worker(settings)
    controller = Controller(worker.policy, models_of(worker), worker.store, clock, "matrix")
    try:
        await worker.start()
        yield (made or Service)(worker, controller, clock)
    finally:
        await worker.close()
