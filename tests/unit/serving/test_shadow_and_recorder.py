"""Rehearsals are bounded and accounted for; records reach the store once, and a store that is away loses nothing."""

import asyncio
import gc
import itertools
import math
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import prometheus_client
import pytest

from tests.support.waiting import eventually
from understudy.domain import Fate, LabelReport, Mode, Observation, Outcome, Status, Variant
from understudy.errors import InferenceError, StoreError
from understudy.inference import OutputReader, Scores
from understudy.inference.columns import Table
from understudy.observability.metrics import Metrics, parse
from understudy.records.exchange import Exchange, Packer, unpack
from understudy.records.recorder import Recorder
from understudy.records.writer import RecordWriter
from understudy.rollout import losses, routing
from understudy.serving.shadow import Rehearsal
from understudy.settings import Settings
from understudy.store.memory import MemoryStore
from understudy.testing import card

CARD = card()
READERS = {variant: OutputReader(CARD) for variant in Variant}


def tally(outcome: Outcome) -> Mapping[str, float]:
    classes = dict.fromkeys(Variant, CARD.classes)
    return losses.tally(outcome, classes, dict.fromkeys(Variant, 1))


def scores(*positive: float) -> Scores:
    return Scores(
        len(positive),
        [int(p > 0.5) for p in positive],
        [[1 - p, p] for p in positive],
        bad=np.isnan(positive) if any(map(math.isnan, positive)) else None,
    )


def exchange(first: int, *positive: float, mode: Mode = Mode.LIVE) -> Exchange:
    made = Exchange("w", first, [(p, "s") for p in positive], 100.0, 1, 0, Variant.PRIMARY, mode)
    made.settle(Variant.PRIMARY, Status.OK, scores(*positive), 0.001)
    made.total_seconds = 0.002
    return made


class Sink(list[Exchange]):
    def add(self, exchange: Exchange) -> None:
        self.append(exchange)


def rehearsal(infer: Any, sink: Any, **limits: Any) -> Rehearsal:
    settings: dict[str, Any] = {"queue_max_rows": 100, "batch_max_rows": 10, "timeout_s": 1.0} | limits
    return Rehearsal(Variant.CANDIDATE, infer, sink, **settings)


async def candidate(requests: Sequence[Any]) -> list[Scores | Exception]:
    return [
        InferenceError("13") if any(row[0] == 13 for row in rows) else scores(*[row[0] for row in rows])
        for rows in requests
    ]


def test_every_offered_exchange_ends_once_one_way_or_another() -> None:
    """Compared, failed or invalid, each alone: nothing is lost and nothing is counted twice."""

    async def main() -> None:
        sink = Sink()
        work = rehearsal(candidate, sink, batch_max_rows=2)
        offered = [
            exchange(0, 0.1),
            exchange(1, 0.2),
            exchange(2, 13),
            exchange(3, 0.3),
            exchange(4, float("nan")),
            exchange(5, 0.4),
        ]
        for one in offered:
            work.offer(one)
        await work.drained()
        ended = {e.first_id: e.candidate.status for e in sink}
        assert len(sink) == len(offered)
        assert ended == {
            0: Status.OK,
            1: Status.OK,
            2: Status.FAILED,
            3: Status.OK,
            4: Status.INVALID,
            5: Status.OK,
        }

    asyncio.run(main())


def test_a_rehearsal_that_is_cut_off_while_it_is_recorded_records_each_once() -> None:
    """Many are recorded over several turns of the event loop: what a stop finds half done is neither lost nor doubled."""

    async def main() -> None:
        sink = Sink()
        work = rehearsal(candidate, sink, batch_max_rows=1000, queue_max_rows=1000)
        for i in range(1000):
            work.offer(exchange(i, 0.1))
        while not sink:
            await asyncio.sleep(0)
        assert len(sink) < 1000
        await work.close(0)
        assert sorted(e.first_id for e in sink) == list(range(1000))
        assert {e.candidate.status for e in sink} == {Status.OK, Status.DROPPED}

    asyncio.run(main())


def test_where_chance_decided_the_key_leaves_its_point_and_not_itself() -> None:
    """A key falls where the router drew it; nothing was drawn at a share of none or all, or for a pinned request."""

    def points(share: int, key: str | None, mode: Mode = Mode.LIVE) -> set[int | None]:
        made = exchange(0, 0.1, 0.2, mode=mode)
        made.share, made.key = share, key
        return {row.point for row in made.observations(READERS, lambda rows: [None] * len(rows), salt=7)}

    assert points(500, "ann") == {routing.bucket("ann", 7) >> 1}
    assert points(500, None) == {routing.bucket("w-0", 7) >> 1}
    assert points(0, "ann") == points(10_000, "ann") == points(500, "ann", Mode.PINNED) == {None}


def test_a_request_that_the_primary_failed_is_recorded_as_what_it_was() -> None:
    """It counts under its own status, is no answer whose latency counts, and its row says that the primary failed."""

    async def main() -> None:
        store = MemoryStore("r", tally)
        record, *_ = recorder(store)
        failed = Exchange("w", 0, [(0.1, "s")], 100.0, 1, 0, Variant.PRIMARY, Mode.LIVE)
        failed.settle(Variant.PRIMARY, Status.TIMEOUT, None, 0.25)
        failed.http = 504
        record.start()
        record.add(failed)
        await record.close()
        counters = store.counters()
        assert counters["requests/primary/live/504"] == 1
        assert not any(name.startswith("latency/") for name in counters)
        assert [row.primary.status for _, row, _ in store.outcomes()] == [Status.TIMEOUT]

    asyncio.run(main())


def test_a_full_queue_drops_and_says_so() -> None:
    """The limit counts rows; the drop is recorded, not silent."""

    async def main() -> None:
        sink = Sink()
        work = rehearsal(candidate, sink, queue_max_rows=3)
        for i in range(5):
            work.offer(exchange(i, 0.1))
        assert [e.candidate.status for e in sink] == [Status.DROPPED] * 2
        await work.drained()
        assert len(sink) == 5

    asyncio.run(main())


def test_a_candidate_that_hangs_is_late() -> None:
    """The rehearsal gives up after its time limit and goes on."""

    async def hangs(requests: Sequence[Any]) -> Sequence[Scores]:
        await asyncio.sleep(60)
        raise AssertionError

    async def main() -> None:
        sink = Sink()
        work = rehearsal(hangs, sink, timeout_s=0.01, batch_max_rows=1)
        work.offer(exchange(0, 0.1))
        work.offer(exchange(1, 0.1))
        await work.drained()
        assert [e.candidate.status for e in sink] == [Status.TIMEOUT] * 2

    asyncio.run(main())


def test_closing_records_what_was_not_rehearsed() -> None:
    """The one under way and the queued ones end as dropped, each once."""

    async def hangs(requests: Sequence[Any]) -> Sequence[Scores]:
        await asyncio.sleep(60)
        raise AssertionError

    async def main() -> None:
        sink = Sink()
        work = rehearsal(hangs, sink, timeout_s=60.0, batch_max_rows=1)
        for i in range(3):
            work.offer(exchange(i, 0.1))
        await asyncio.sleep(0)
        await work.close(0.01)
        assert sorted(e.first_id for e in sink) == [0, 1, 2]
        assert {e.candidate.status for e in sink} == {Status.DROPPED}

    asyncio.run(main())


class Away(MemoryStore):
    """A store that refuses the first `refusals` writes."""

    refusals = 0

    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("away")
        return super().add_observations(observations, counts)


def recorder(store: MemoryStore, ship: Any = None, **settings: Any) -> tuple[Recorder, RecordWriter, Any]:
    registry = prometheus_client.CollectorRegistry()
    writer = RecordWriter("m", store, Metrics(registry), READERS, lambda rows: [row[1] for row in rows])
    made = Recorder("w", writer.write, Settings(flush_interval_ms=1, **settings), ["x"], ship=ship)
    return (
        made,
        writer,
        lambda: {
            (n, *sorted(labels.items())): v
            for n, labels, v in parse(prometheus_client.generate_latest(registry).decode())
        },
    )


class Recorded(NamedTuple):
    """What is left of one exchange of two rows, one pinned, one dropped, two refused inputs and two labels."""

    store: MemoryStore
    metrics: Mapping[tuple[Any, ...], float]
    fates: tuple[Sequence[Fate], Sequence[Fate]]


@pytest.fixture
def recorded() -> Recorded:
    async def main() -> Recorded:
        store = MemoryStore("r", tally)
        record, writer, read = recorder(store)
        record.start()
        compared = exchange(0, 0.2, 0.9)
        compared.rehearsal = Variant.CANDIDATE
        compared.settle(Variant.CANDIDATE, Status.OK, scores(0.1, 0.8), 0.004)
        dropped = exchange(2, 0.4)
        dropped.rehearsal = Variant.CANDIDATE
        dropped.settle(Variant.CANDIDATE, Status.DROPPED, None, 0.0)
        pinned = exchange(3, 0.5, mode=Mode.PINNED)
        pinned.at = 1_000.0
        for one in (compared, dropped, pinned):
            record.add(one)
        record.refused(422, [{"field": "x", "problem": "is missing"}, {"field": "made up", "problem": "unknown"}])
        early = writer.labels([LabelReport("w-9", 1, 160.0)], lambda: 1.0)
        await record.close()
        receipt = store.add_labels([LabelReport("w-1", 1, 160.0)], received_at=1.0)
        return Recorded(store, read(), (early.fates, receipt.fates))

    return asyncio.run(main())


def test_each_row_of_an_exchange_is_stored_under_its_id_and_unit(recorded: Recorded) -> None:
    rows = [row for _, row, _ in recorded.store.outcomes()]
    assert [row.prediction_id for row in rows] == ["w-0", "w-1", "w-2", "w-3"]
    assert rows[0].unit == "s"
    assert recorded.metrics["understudy_store_rows_total",] == 4


def test_requests_and_rehearsals_are_counted_by_what_became_of_them(recorded: Recorded) -> None:
    counters = recorded.store.counters()
    assert {k: v for k, v in counters.items() if k.startswith(("shadow", "requests", "rows"))} == {
        "shadow/sent": 2,
        "shadow/compared": 1,
        "shadow/dropped": 1,
        "requests/primary/live/200": 2,
        "requests/primary/pinned/200": 1,
        "requests/candidate/shadow/200": 1,
        "requests/candidate/shadow/429": 1,
        "rows/live": 3,
        "rows/pinned": 1,
    }
    assert recorded.metrics["understudy_shadow_total", ("result", "compared")] == 1
    assert recorded.metrics["understudy_request_duration_seconds_count", ("model", "m"), ("variant", "primary")] == 3


def test_comparisons_are_counted_alike_in_the_store_and_in_the_metrics(recorded: Recorded) -> None:
    """0.2 beside 0.1, and 0.9 beside 0.8: both 0.1 apart, and no label flips."""
    assert {k: v for k, v in recorded.store.counters().items() if k.startswith("compare/")} == {
        "compare/rows": 2,
        "compare/label_rows": 2,
        "compare/label_flips": 0,
        "compare/distance_rows": 2,
        "compare/distance_equal": 0,
        "compare/distance_sum": pytest.approx(0.2),
        "compare/distance/7": 2,
    }
    metrics = recorded.metrics
    assert metrics["understudy_compared_rows_total",] == 2
    assert metrics["understudy_probability_distance_count",] == 2
    assert metrics["understudy_probability_distance_sum",] == pytest.approx(0.2)
    assert metrics["understudy_probability_distance_bucket", ("le", "0.05")] == 0
    assert metrics["understudy_probability_distance_bucket", ("le", "0.1")] == 2


def test_input_problems_are_counted_by_feature_and_made_up_names_as_unknown(recorded: Recorded) -> None:
    metrics = recorded.metrics
    assert metrics["understudy_input_problems_total", ("feature", "x"), ("problem", "missing")] == 1
    assert metrics["understudy_input_problems_total", ("feature", "unknown"), ("problem", "unknown")] == 1


def test_a_label_is_joined_with_its_row_and_adds_to_the_losses(recorded: Recorded) -> None:
    assert recorded.fates == ([Fate.PENDING], [Fate.MATCHED])
    assert recorded.store.counters()["loss_sum/candidate/brier"] == pytest.approx((0.8 - 1) ** 2)


def test_a_store_that_is_away_loses_nothing_and_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three refused writes, then all of it, once."""

    async def main() -> None:
        store = Away("r", tally)
        store.refusals = 3
        record, _, read = recorder(store)
        monkeypatch.setattr("understudy.records.recorder.STORE_RETRY_S", 0.001)
        record.start()
        for i in range(50):
            record.add(exchange(i, 0.2))
        await eventually(lambda: not store.refusals)
        await record.close()
        assert len(store.outcomes()) == 50
        assert store.counters()["requests/primary/live/200"] == 50
        metrics = read()
        assert (
            metrics[
                "understudy_requests_total", ("mode", "live"), ("model", "m"), ("status", "200"), ("variant", "primary")
            ]
            == 50
        )
        assert metrics["understudy_store_errors_total", ("call", "add_observations")] == 3

    asyncio.run(main())


def test_a_label_that_comes_at_once_finds_its_prediction() -> None:
    """Posted before the next flush, with the rehearsal still under way: matched, not pending."""

    async def main() -> None:
        record, writer, _ = recorder(MemoryStore("r", tally))
        record.start()
        slow = exchange(0, 0.2)
        record.open(slow)
        asyncio.get_running_loop().call_later(0.05, record.add, slow)
        first, others = [LabelReport("w-0", 1, 160.0)], [LabelReport("w-1", 1, 160.0), LabelReport("other-0", 0, 1.0)]
        await record.stored(first)
        receipt = writer.labels(first, lambda: 1.0)
        await record.stored(others)
        unknown = writer.labels(others, lambda: 1.0)
        await record.close()
        assert receipt.fates == [Fate.MATCHED]
        assert unknown.fates == [Fate.PENDING, Fate.PENDING]

    asyncio.run(main())


def test_what_waits_for_the_store_is_bounded() -> None:
    """Beyond `records_max_rows` rows are given up, and counted."""

    async def main() -> None:
        store = MemoryStore("r", tally)
        record, _, read = recorder(store, records_max_rows=5)
        for i in range(8):
            record.add(exchange(i, 0.2))
        record.start()
        await record.close()
        assert len(store.outcomes()) == 5
        assert read()["understudy_store_dropped_total",] == 3

    asyncio.run(main())


@pytest.mark.parametrize(("away", "least", "most"), [(0.02, 0.078, 0.6), (0.0, 0.0, 0.15), (600.0, 0.2, 0.6)])
def test_where_most_is_given_up_and_answers_wait_for_the_core_less_is_recorded(
    monkeypatch: pytest.MonkeyPatch, away: float, least: float, most: float
) -> None:
    """40 rows are given up beside one that is kept: the next batch waits four times as long as the last took the core."""
    taken = [0.0]
    monkeypatch.setattr("understudy.records.recorder.REST_MAX_S", 0.2)
    monkeypatch.setattr("understudy.records.recorder.yielded_s", lambda: taken[0])

    async def main() -> None:
        at: list[float] = []
        record: Recorder

        async def ship(packed: bytes) -> None:
            at.append(time.monotonic())
            taken[0] += away
            if len(at) < 4:  # while it is written: one is kept, since its place is taken until then
                for i in range(41):
                    record.add(exchange(100 * len(at) + i, 0.5))

        record, _, _ = recorder(MemoryStore("r", tally), ship, records_max_rows=2, flush_max_rows=1)
        record.add(exchange(0, 0.5))
        record.start()
        await eventually(lambda: len(at) >= 4)
        await record.close()
        waits = [later - earlier for earlier, later in itertools.pairwise(at)]
        assert all(least <= wait < most for wait in waits[:3]), waits

    asyncio.run(main())


def test_a_batch_whose_acknowledgement_was_lost_goes_again_and_counts_once() -> None:
    """The records process dies after the commit, before its answer: the same bytes go again, and no row or count doubles."""

    async def main() -> None:
        store = MemoryStore("r", tally)
        sent: list[bytes] = []

        async def ship(packed: bytes) -> None:
            sent.append(packed)
            writer.write(packed)
            if len(sent) == 1:
                raise StoreError("the records process: closed the connection")

        record, writer, _ = recorder(store, ship)
        record.start()
        for i in range(3):
            record.add(exchange(i, 0.2))
        await eventually(lambda: len(sent) >= 2)
        record.add(exchange(3, 0.2))
        await record.close()
        assert sent[0] == sent[1]
        assert [o.prediction_id for _, o, _ in store.outcomes()] == ["w-0", "w-1", "w-2", "w-3"]
        assert store.counters()["requests/primary/live/200"] == 4

    asyncio.run(main())


def test_while_the_records_process_is_away_records_wait_and_the_last_are_written_here() -> None:
    """Shipping fails for good; what waits is bounded, and at the end this process writes it itself."""

    async def main() -> None:
        store = MemoryStore("r", tally)

        async def ship(packed: bytes) -> None:
            raise StoreError("away")

        record, _, read = recorder(store, ship, records_max_rows=5)
        record.start()
        for i in range(8):
            record.add(exchange(i, 0.2))
            await asyncio.sleep(0.002)
        assert not store.outcomes()
        await record.close()
        assert len(store.outcomes()) == 5
        assert read()["understudy_store_dropped_total",] == 3

    asyncio.run(main())


def travelled(*made: Exchange) -> list[Exchange]:
    packer = Packer()
    for each in made:
        packer.add(each)
    return unpack(packer.seal({}, {}, {}, 0)).exchanges


def test_exchanges_that_shared_a_run_get_their_own_rows_back() -> None:
    """The run's answers travel once."""
    both = Scores(3, labels=[1, 0, 1], probabilities=[[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    made = [exchange(7, 0.25), exchange(8, 0.5)]
    made[0].settle(Variant.PRIMARY, Status.OK, both.slice(0, 1), 0.1)
    made[1].settle(Variant.PRIMARY, Status.OK, both.slice(1, 2), 0.1)
    one, two = travelled(*made)

    assert one.primary.scores == Scores(1, labels=[1], probabilities=[[0.1, 0.9]])
    assert two.primary.scores == Scores(2, labels=[0, 1], probabilities=[[0.8, 0.2], [0.3, 0.7]])
    assert one.primary.scores.run is two.primary.scores.run


def test_a_sealed_batch_is_let_go_at_once() -> None:
    """With the runs that it holds: nothing waits for the garbage collector."""
    packer = Packer()
    packer.add(exchange(7, 0.25))
    gone = weakref.ref(packer)
    gc.disable()
    try:
        assert unpack(packer.seal({}, {}, {}, 0)).exchanges
        del packer
        assert gone() is None
    finally:
        gc.enable()


def test_outputs_without_a_role_travel_where_they_are_compared() -> None:
    """Numbers as arrays, texts as lists; and not at all where only one model answered."""
    made = exchange(7, 0.25)
    others = {"v": [[[1.0], [2.0]]], "s": [["a"]]}
    made.settle(Variant.PRIMARY, Status.OK, Scores(1, others=others), 0.1)
    (alone,) = travelled(made)
    made.settle(Variant.CANDIDATE, Status.OK, Scores(1, others=others), 0.1)
    (pair,) = travelled(made)

    assert alone.primary.scores.others is None
    for attempt in (pair.primary, pair.candidate):
        assert attempt.scores.others["v"].tolist() == others["v"]
        assert attempt.scores.others["s"] == others["s"]


def test_an_exchange_travels_whole() -> None:
    """Packed and unpacked it is equal: strings, missing values, both models' answers."""
    made = exchange(7, 0.25, 0.75, mode=Mode.PINNED)
    made.rows = [(1, 0.5, None, "ÆØ", True), (-(2**63), float("inf"), "", "x", False)]
    made.fallback, made.rehearsal = "timeout", Variant.CANDIDATE
    made.settle(Variant.CANDIDATE, Status.INVALID, None, 0.25)
    (back,) = travelled(made)

    assert (back.primary, back.candidate) == (made.primary, made.candidate)
    assert [tuple(row) for row in back.rows] == made.rows
    back.rows = made.rows
    assert back == made


def test_columns_travel_as_columns() -> None:
    """Rows of a binary request are not taken apart on the way."""
    made = exchange(7, 0.25, 0.75)
    made.rows = Table({"x": np.array([[0.5], [1.5]], np.float32), "s": np.array([["a"], ["ß"]], object)}, 2)
    (back,) = travelled(made)

    assert back.count == 2
    assert back.rows.values("s") == ["a", "ß"]
    assert back.rows.columns["x"].tolist() == [[0.5], [1.5]]
    assert back.primary == made.primary


def test_arrays_that_wait_are_limited_by_their_elements() -> None:
    """A thousand texts of ten thousand words are few rows, and much memory."""

    async def main() -> None:
        sink = Sink()
        bounded = rehearsal(candidate, sink, queue_max_elements=10, elements_of=lambda rows: 6 * len(rows))
        for number in range(3):
            bounded.offer(exchange(number, 0.5))
        assert [each.first_id for each in sink] == [1, 2]
        assert {each.candidate.status for each in sink} == {Status.DROPPED}
        await bounded.drained()
        bounded.offer(exchange(3, 0.5))  # there is room again
        await bounded.drained()
        assert [each.first_id for each in sink] == [1, 2, 0, 3]
        await bounded.close(0.1)

    asyncio.run(main())
