"""A fallback was always a pair and a good answer only with chance `rehearse`, so 0.4 % failures read as 4.8 %.

The draw for rehearsals decides what is a pair, by the request's id alone and however the request ended.
"""

import asyncio
import random
from typing import Any

import pytest

from tests.faults.rows import predicted
from tests.unit.rollout.world import policy
from understudy.domain import Mode, Phase, Plan, Status, Variant
from understudy.errors import InferenceError
from understudy.inference import OutputReader
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Decoder
from understudy.inference.spread_model import SpreadModel
from understudy.loading import fields_of, inputs_of
from understudy.records.exchange import Exchange
from understudy.rollout import routing
from understudy.rollout.evidence import Evidence
from understudy.rollout.scoring import Model
from understudy.serving.pipeline import RequestOptions
from understudy.serving.shadow import Rehearsal, rehearse_here
from understudy.serving.slots import ModelSlots
from understudy.testing import FakeEngine, card, pipeline

FAILS = 0.04
ERRORS = {"margin": 0.05}
MODELS = {variant: Model([0, 1], 1) for variant in Variant}


class Notes:
    """A recorder that only remembers."""

    def __init__(self) -> None:
        self.added: list[Exchange] = []
        self.open = lambda exchange: None
        self.add = self.added.append
        self.failed = lambda exchange, status: None


async def served(plan: Plan, requests: int, draining: bool = False) -> list[Exchange]:
    """Requests through the request path and a rehearsal; the candidate fails on some of them by chance, the primary never."""
    chance, notes, own = random.Random(3), Notes(), card()
    decoder = Decoder(fields_of(own, own), context=[], rows_max=5, key_max_chars=16)
    seats = {"max_rows": 9, "queue_max_rows": 99, "inline_max_s": 1.0}
    primary = LocalModel(FakeEngine(own), inputs_of(own, decoder.positions), None, **seats)  # type: ignore[arg-type]

    async def ask(rows: Any) -> Any:
        if chance.random() < FAILS:
            raise InferenceError("it raised")
        return await primary.infer(rows)

    async def rehearse(requests: Any) -> Any:
        return await asyncio.gather(*map(ask, requests), return_exceptions=True)

    limits = {"queue_max_rows": 10_000, "batch_max_rows": 1, "timeout_s": 5.0}
    rehearsals = {
        Variant.CANDIDATE: Rehearsal(Variant.CANDIDATE, rehearse, notes, **limits),  # type: ignore[arg-type]
        Variant.PRIMARY: Rehearsal(Variant.PRIMARY, lambda rs: rehearse_here(primary, rs), notes, **limits),  # type: ignore[arg-type]
    }
    tasks: set[asyncio.Task[None]] = set()

    def spawn(coroutine: Any) -> None:
        tasks.add(asyncio.get_running_loop().create_task(coroutine))

    slots = ModelSlots(primary, SpreadModel(rehearse, spawn, max_rows=9, queue_max_rows=99))
    path = pipeline(notes, plan, slots, decoder, rehearsals=rehearsals, deadline_s=1.0)  # type: ignore[arg-type]
    path.draining = draining
    for number in range(requests):
        rows = decoder.decode(b'{"rows": [{"x": %f, "s": "s"}]}' % (number % 7 / 7)).rows
        await predicted(path, rows, RequestOptions(None, None, Mode.LIVE, 1e6 + number))
    for rehearsal in rehearsals.values():
        await rehearsal.drained()
    return notes.added


def plan_of(rehearse: int) -> Plan:
    return Plan(Phase.CANARY, weight=5_000, shadow=rehearse, salt=7, revision=1)


def errors_of(exchanges: list[Exchange]) -> Any:
    reader = OutputReader(card())
    own = policy(errors=ERRORS)
    evidence = Evidence(own, MODELS)
    rows = [
        (seq, observation, None)
        for seq, each in enumerate(exchanges, 1)
        for observation in each.observations(dict.fromkeys(Variant, reader), lambda rows: [None] * len(rows), 7)
    ]
    evidence.see(rows)
    return next(r for r in evidence.readings(evidence.tail([])) if r.metric == "errors")


@pytest.mark.parametrize("rehearse", [0, 500, 10_000])
def test_the_draw_alone_decides_and_a_fallback_is_no_more_likely_a_pair(rehearse: int) -> None:
    plan = plan_of(rehearse)
    exchanges = asyncio.run(served(plan, 3_000))

    assert len(exchanges) == 3_000
    assert sum(each.fallback is not None for each in exchanges) > 30
    for each in exchanges:
        assert each.sampled == routing.rehearses(plan, each.prediction_id(0))
        assert each.sampled or each.rehearsal is None
    found = errors_of(exchanges)
    assert found.n == sum(each.sampled for each in exchanges)
    # The share of failures among the pairs is the candidate's own, within four standard errors.
    assert found.estimate == pytest.approx(FAILS, abs=4 * (FAILS / max(found.n, 1)) ** 0.5) or not rehearse
    assert (found.n, found.estimate) == (0, 0.0) or rehearse


def test_a_worker_that_drains_makes_no_pairs_of_its_fallbacks_alone() -> None:
    """Nothing is rehearsed while the service stops, so a fallback is no pair then either."""
    exchanges = asyncio.run(served(plan_of(10_000), 300, draining=True))
    assert errors_of(exchanges).n == 0


def test_what_a_stopping_service_does_not_rehearse_is_no_pair() -> None:
    """It says nothing about the request; only drops while it serves depend on the load."""

    async def never(rows: Any) -> Any:
        await asyncio.sleep(3600)

    async def main() -> list[Exchange]:
        notes = Notes()
        limits = {"queue_max_rows": 10, "batch_max_rows": 1, "timeout_s": 5.0}
        rehearsal = Rehearsal(Variant.CANDIDATE, never, notes, **limits)  # type: ignore[arg-type]
        for number in range(3):
            rehearsal.offer(Exchange("p", number, [(0.5, "s")], 1e6, 1, 0, Variant.PRIMARY, Mode.LIVE))
        await rehearsal.close(0.01)
        return notes.added

    exchanges = asyncio.run(main())
    assert [each.candidate.status for each in exchanges] == [Status.DROPPED] * 3
    assert not any(each.sampled for each in exchanges)
