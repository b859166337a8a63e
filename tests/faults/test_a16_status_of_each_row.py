"""A candidate that answered NaN on some rows was charged without a word of why: the rows say what each of them was.

Through the packed form in which exchanges travel to the record, the rows of a request keep their own status and answer.
"""

import asyncio
import random
from pathlib import Path
from typing import Any

from tests.faults.rows import RowEngine, lookup_model, serving
from tests.unit.rollout.world import folded, policy, row
from understudy.domain import Attempt, Phase, Status
from understudy.records.exchange import Packer, unpack
from understudy.rollout.controller import judge_at


def test_rows_that_only_the_candidate_answers_with_nan(tmp_path: Path) -> None:
    """6 % of them: invalid for the candidate, fine for the primary."""
    chance = random.Random(8)
    rows = [{"i": 1, "x": -1.0 if chance.random() < 0.06 else 1.0} for _ in range(400)]
    bad = {number for number, row in enumerate(rows) if row["x"] < 0}

    class Tolerant(RowEngine):
        def run(self, columns: Any, cancellation: Any = None) -> Any:
            return {"y": abs(columns["x"].reshape(-1))}

    async def main() -> Any:
        async with serving(Tolerant(), lookup_model(tmp_path / "c.onnx")) as service:
            answers = await service.ask_many(rows, 16)
        return answers, service

    answers, service = asyncio.run(main())
    assert answers == [[1.0]] * len(rows)
    for number, observed in enumerate(service.observations()):
        assert observed.candidate.status is (Status.INVALID if number in bad else Status.OK)
        assert observed.primary.status is Status.OK


def test_the_rows_of_a_request_travel_with_their_status() -> None:
    async def main() -> Any:
        async with serving(RowEngine(), RowEngine()) as service:
            await asyncio.gather(service.ask({"x": 0.5}, {"x": -1.0}), service.ask({"x": 0.25}, {"x": 0.75}))
        return service

    service = asyncio.run(main())
    packer = Packer()
    for exchange in service.recorded:
        packer.add(exchange)
    there = unpack(packer.seal({}, {}, {}, 0)).exchanges
    sent, arrived = (
        [row for each in exchanges for row in each.observations(service.readers, lambda rows: [None] * len(rows), 7)]
        for exchanges in (service.recorded, there)
    )
    assert arrived == sent
    statuses = sorted((row.prediction_id, row.candidate.status) for row in arrived)
    assert [status for _, status in statuses] == [Status.WITHHELD, Status.INVALID, Status.OK, Status.OK]


def test_a_request_that_failed_for_another_row_is_a_failed_request_and_its_own_row_is_judged() -> None:
    """The goal for errors counts requests; the goal for quality the row's own answer, which there is."""
    withheld = Attempt(Status.WITHHELD, 1, 0.8, None, 0.011)
    rows = []
    for _ in range(40):
        rows += [row(len(rows) + i + 1) for i in range(10)]
        rows.append(row(len(rows) + 1, candidate=withheld))
    own = policy(errors={"margin": 0.02})
    evidence = folded(own, rows)
    errors = next(r for r in evidence.readings(evidence.tail([])) if r.metric == "errors")
    assert round(errors.estimate, 3) == round(1 / 11, 3)
    verdict = judge_at(own, evidence, evidence.tail([]), Phase.SHADOW, 0)
    assert verdict.answer == "rollback"
    assert "slow" not in verdict.reason
