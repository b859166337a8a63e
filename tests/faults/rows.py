"""Two models and everything between a caller and the record, in one process: requests in, exchanges out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from understudy.domain import Mode, Observation, Phase, Plan, Variant
from understudy.errors import InferenceError, UnderstudyError
from understudy.inference import Cancellation, Engine, OutputReader, Scores, wire
from understudy.inference.batching import LocalModel
from understudy.inference.calls import Calls
from understudy.inference.cards import Card, InputSpec, OutputSpec
from understudy.inference.decoding import Array, Decoder
from understudy.inference.onnx import OnnxEngine
from understudy.inference.remote import RemoteModel
from understudy.inference.spread_model import SpreadModel
from understudy.loading import fields_of, inputs_of
from understudy.records.exchange import Exchange
from understudy.serving.pending import Pending
from understudy.serving.pipeline import Pipeline, RequestOptions
from understudy.serving.shadow import Rehearsal, rehearse_here
from understudy.serving.slots import ModelSlots
from understudy.testing import FixedCosts, pipeline

SHADOW = Plan(Phase.SHADOW, weight=0, shadow=10_000, salt=7, revision=1)


def lookup_model(path: Path, rows: int = 100) -> OnnxEngine:
    """y = i / rows + log(x), i from 0 to `rows` - 1: ONNX Runtime raises for any other `i`, and answers NaN for x < 0."""
    table = numpy_helper.from_array(np.arange(rows, dtype=np.float32) / rows, "table")
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["row"]),
        helper.make_node("Log", ["x"], ["log"]),
        helper.make_node("Add", ["row", "log"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, [None, 1]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [table])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return OnnxEngine(path, device="cpu", warm_max_rows=1)


class RowEngine:
    """An engine whose answer to a row is `x`; it raises where x is 13, answers NaN for -1, and leaves out the rows with 17.

    Attributes:
        runs: the number of rows of each run, in order.
    """

    def __init__(self, cost_s: float = 0.0) -> None:
        self.card = Card(
            name="rows",
            version="1",
            task="regression",
            description="",
            digest="sha256:0",
            classes=[],
            positive=None,
            inputs=[InputSpec(name="x", dtype="float32", shape=[None, 1])],
            outputs=[OutputSpec(name="y", dtype="float32", shape=[None], role="value")],
        )
        self.runs: list[int] = []
        self._cost_s = cost_s
        self.costs = FixedCosts(lambda rows: self.seconds(rows))

    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        """See `Engine.run`."""
        x = columns["x"].reshape(-1)
        self.runs.append(len(x))
        if (x == 13).any():
            raise InferenceError("13 is an unlucky number")
        return {"y": np.where(x == -1, np.nan, x)[x != 17].astype(np.float32)}

    def seconds(self, rows: int) -> float:
        """See `Engine.seconds`."""
        return self._cost_s

    def close(self) -> None:
        """See `Engine.close`."""


class Beside:
    """The candidate's process without a process: calls are packed and unpacked as on its socket."""

    def __init__(self, engine: Engine) -> None:
        self._calls = Calls(engine)
        self.retries = 0
        self.on_retry = lambda: None

    async def run(self, columns: Mapping[str, Array], sizes: Sequence[int], timeout_s: float) -> list[wire.Part]:
        """See `RemoteEngine.run`."""
        await asyncio.sleep(0)
        parts, retries = wire.unpack_reply(self._calls.run(*wire.unpack_call(wire.pack_call(columns, sizes))))
        self.retries += retries
        return parts


class Caller:
    """A request that nobody sent over a connection: its answer is the exchange and the scores."""

    alone, body, scope = False, b"", {}

    def __init__(self) -> None:
        self.found: asyncio.Future[tuple[Exchange, Scores]] = asyncio.get_running_loop().create_future()

    def answer(self, exchange: Exchange, scores: Scores) -> Any:
        self.found.set_result((exchange, scores))
        return [], b""

    def refuse(self, whole: Any, error: UnderstudyError) -> None:
        self.found.set_exception(error)

    def reply(self, status: int, headers: Any, body: bytes) -> None:
        """See `answer`."""


async def predicted(path: Pipeline, rows: Any, asked: RequestOptions) -> tuple[Exchange, Scores]:
    """What a request of these rows comes to.

    Raises:
        UnderstudyError: it is refused.
    """
    caller, started = Caller(), path.now()
    exchange, plan = path.begin(rows, asked)
    Pending(path, caller, exchange, plan, started, caller.answer, caller.refuse).ask()
    return await caller.found


class Service:
    """A worker's request path between two engines, and what it has recorded."""

    def __init__(self, primary: Engine, candidate: Engine, plan: Plan, executor: Any) -> None:
        self.recorded: list[Exchange] = []
        cards = {Variant.PRIMARY: primary.card, Variant.CANDIDATE: candidate.card}
        self.decoder = Decoder(fields_of(primary.card, candidate.card), context=[], rows_max=100, key_max_chars=16)
        self.readers = {variant: OutputReader(card) for variant, card in cards.items()}
        self.plan, self._tasks = plan, set[asyncio.Task[None]]()
        limits: dict[str, Any] = {"max_rows": 64, "queue_max_rows": 10_000}
        positions = self.decoder.positions
        self.primary = LocalModel(primary, inputs_of(primary.card, positions), executor, inline_max_s=1.0, **limits)
        self.beside = Beside(candidate)
        remote: Any = self.beside
        model = RemoteModel(remote, inputs_of(candidate.card, positions), self.readers[Variant.CANDIDATE])

        async def ask(requests: Sequence[Any]) -> Sequence[Scores | Exception]:
            return await model.infer(requests, 5.0)

        async def rehearse(requests: Sequence[Any]) -> Sequence[Scores | Exception]:
            return await rehearse_here(self.primary, requests)

        notes: Any = SimpleNamespace(
            open=lambda exchange: None, add=self.recorded.append, failed=lambda exchange, status: None
        )
        often: dict[str, Any] = {"queue_max_rows": 10_000, "batch_max_rows": 512, "timeout_s": 5.0}
        self.rehearsals = {
            Variant.CANDIDATE: Rehearsal(Variant.CANDIDATE, ask, notes, **often),
            Variant.PRIMARY: Rehearsal(Variant.PRIMARY, rehearse, notes, **often),
        }
        self.slots = ModelSlots(self.primary, SpreadModel(ask, self._spawn, **limits))
        self.pipeline = pipeline(notes, plan, self.slots, self.decoder, rehearsals=self.rehearsals)

    async def ask(self, *rows: Mapping[str, float]) -> list[float] | UnderstudyError:
        """What a caller gets for a request of these rows."""
        order = list(self.decoder.positions)
        decoded = [tuple(row[name] for name in order) for row in rows]
        try:
            _, scores = await predicted(self.pipeline, decoded, RequestOptions(None, None, Mode.LIVE, 1e6))
        except UnderstudyError as error:
            return error
        assert scores.values is not None
        return [float(value) for value in scores.values]  # type: ignore[arg-type]  # numbers, of a regression

    async def ask_many(self, rows: Iterable[Mapping[str, float]], at_once: int) -> list[list[float] | UnderstudyError]:
        """What callers get who send one row each, so many at a time."""
        waiting, found = list(rows), []
        for start in range(0, len(waiting), at_once):
            found += await asyncio.gather(*map(self.ask, waiting[start : start + at_once]))
        return found

    def observations(self) -> list[Observation]:
        """The rows as they are recorded, by the ids of their predictions."""

        def units(rows: Sequence[object]) -> list[None]:
            return [None] * len(rows)

        found = [row for each in self.recorded for row in each.observations(self.readers, units, self.plan.salt)]
        return sorted(found, key=lambda row: int(row.prediction_id.removeprefix("p-")))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(coroutine))


@contextlib.asynccontextmanager
async def serving(primary: Engine, candidate: Engine, plan: Plan = SHADOW) -> AsyncIterator[Service]:
    """A service; when the block ends, all its rehearsals have."""
    with ThreadPoolExecutor(1) as executor:
        service = Service(primary, candidate, plan, executor)
        yield service
        for rehearsal in service.rehearsals.values():
            await rehearsal.drained()
