"""Warms a model up, and measures what its runs cost: by rows, and by the length of the axes that vary."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from understudy.errors import InferenceError
from understudy.inference.cards import InputSpec
from understudy.inference.cost import Costs, RowCosts, SizeCosts, ValueCosts, elements_of
from understudy.inference.decoding import Array
from understudy.inference.graph_costs import GraphCosts

WARM_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
WARM_RUNS = 5
WARM_MAX_S = 5.0
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Lengths that are tried for all axes that vary at once."""
LENGTH_ROWS = (1, 4)
LENGTH_RUNS = 3
LENGTHS_MAX_S = 2.0
"""How long all lengths together may take; what is longer is extrapolated."""
LENGTH_ELEMENTS_MAX = 1 << 23
"""Longer inputs are not tried: 32 MiB of float32. An image or a volume of length 1024 would take gigabytes."""
LENGTH_RUN_MAX_S = 0.1
"""A run that took longer is not repeated, and greater lengths are not tried."""
USUAL_ELEMENTS = 128
"""Elements of a row of usual size, where nothing else is known: a sentence."""

Run = Callable[[Mapping[str, Array]], object]
Sample = Callable[[InputSpec, int], Array]


def measured_costs(run: Run, sample: Sample, inputs: Sequence[InputSpec], graph: GraphCosts, max_rows: int) -> Costs:
    """Warm a model up and measure it.

    Args:
        run: runs the model on its inputs by name.
        sample: makes a plausible input of so many rows.
        inputs: the model's inputs; an axis of its rows of size None varies.
        graph: what of its cost depends on values.
        max_rows: the largest batch that will be asked for.
    """
    free = [spec.name for spec in inputs if None in spec.row_shape]
    text = [spec.name for spec in inputs if graph.text and spec.dtype == "string"]
    if not free and not text and not graph.operators:
        return RowCosts(by_rows(run, sample, inputs, max_rows))
    sizes = by_sizes(run, sample, inputs, free, max_rows)
    if graph.operators:
        return ValueCosts(min(sizes.values(), default=0.0))
    return SizeCosts(sizes, free, text)


def by_rows(run: Run, sample: Sample, inputs: Sequence[InputSpec], max_rows: int) -> dict[int, float]:
    """Run every batch size and measure it; seconds by rows. Stops early for a model so slow that it would take long."""
    costs: dict[int, float] = {}
    started = time.perf_counter()
    for rows in [n for n in WARM_ROWS if n <= max_rows] or [1]:
        columns = {spec.name: sample(spec, rows) for spec in inputs}
        costs[rows] = statistics.median(_timed(run, columns) for _ in range(WARM_RUNS))
        if time.perf_counter() - started > WARM_MAX_S:
            break
    return costs


def by_sizes(
    run: Run, sample: Sample, inputs: Sequence[InputSpec], free: Sequence[str], max_rows: int
) -> dict[tuple[int, int], float]:
    """Run several lengths of the axes that vary; seconds by (rows, elements). A length that the model rejects is left out."""
    costs: dict[tuple[int, int], float] = {}
    started = time.perf_counter()
    tried = [_tried(spec, number) for number in range(len(inputs[0].tried)) for spec in inputs]
    sets = [tried[i : i + len(inputs)] for i in range(0, len(tried), len(inputs))] or [list(inputs)]
    for specs in [*sets, *([_of_length(spec, length) for spec in inputs] for length in LENGTHS if free)]:
        slowest = 0.0
        for rows in LENGTH_ROWS if free else WARM_ROWS:
            if rows > max(max_rows, 1) or time.perf_counter() - started > LENGTHS_MAX_S:
                continue
            if rows * sum(math.prod(spec.tried[0]) for spec in specs if spec.tried) > LENGTH_ELEMENTS_MAX:
                continue
            columns = {spec.name: sample(spec, rows) for spec in specs}
            times: list[float] = []
            try:
                while len(times) < LENGTH_RUNS and sum(times) < LENGTH_RUN_MAX_S:
                    times.append(_timed(run, columns))
            except InferenceError:
                break
            slowest = min(times)
            costs[rows, elements_of(columns, free, ())] = statistics.median(times)
        if slowest > LENGTH_RUN_MAX_S:
            break
    return costs


def _of_length(spec: InputSpec, length: int) -> InputSpec:
    return spec.model_copy(update={"tried": [[length if size is None else size for size in spec.row_shape]]})


def _tried(spec: InputSpec, number: int) -> InputSpec:
    """An input whose rows have a shape that the trial ran with; those with the same number belong together."""
    return spec.model_copy(update={"tried": [spec.tried[min(number, len(spec.tried) - 1)]]}) if spec.tried else spec


def _timed(run: Run, columns: Mapping[str, Array]) -> float:
    began = time.perf_counter()
    run(columns)
    return time.perf_counter() - began
