"""The candidate's end of a call (`remote` is the other): rows of several requests in, an answer to each out."""

import itertools
from collections.abc import Mapping, Sequence

from understudy.errors import InferenceError, WrongShape
from understudy.inference import Engine, OutputReader, wire
from understudy.inference.decoding import Array
from understudy.inference.joint import JointRuns


class Calls:
    """Runs the requests of a call together, and finds those on which the model fails.

    Here and not at the caller's end: a search there would be a round trip for each of its runs.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self._reader = engine, OutputReader(engine.card)
        self._retries = 0
        self._joint = JointRuns(self._count_retry)

    def seconds(self, sizes: Sequence[int]) -> float:
        """How long a call is expected to take; `sizes`: how many rows each of its requests has."""
        together = self.engine.seconds(sum(sizes))
        return together if len(sizes) <= self._joint.most else max(together, len(sizes) * self.engine.seconds(1))

    def run(self, columns: Mapping[str, Array], sizes: Sequence[int]) -> bytes:
        """The packed answer (`wire.unpack_reply`) to a call. Thread-safe; blocks."""
        rows = sum(sizes)
        if len(sizes) <= self._joint.most:
            try:
                part = wire.Part(len(sizes), self._outputs(columns, rows))
            except Exception as error:
                if len(sizes) == 1:
                    return self._reply([_part(1, error)])
                self._joint.failed(len(sizes))
            else:
                self._joint.succeeded()
                return self._reply([part])
        starts = [0, *itertools.accumulate(sizes)]

        def run(numbers: Sequence[int]) -> Mapping[str, Array]:
            start, end = starts[numbers[0]], starts[numbers[-1] + 1]
            return self._outputs({name: array[start:end] for name, array in columns.items()}, end - start)

        return self._reply([_part(count, found) for count, found in self._joint.run(range(len(sizes)), run)])

    def _outputs(self, columns: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        outputs = self.engine.run(columns)
        self._reader.check_shapes(outputs, rows)
        return outputs

    def _reply(self, parts: Sequence[wire.Part]) -> bytes:
        retries, self._retries = self._retries, 0
        return wire.pack_reply(parts, retries)

    def _count_retry(self) -> None:
        self._retries += 1


def _part(requests: int, found: Mapping[str, Array] | Exception) -> wire.Part:
    if not isinstance(found, Exception):
        return wire.Part(requests, found)
    said = found.detail if isinstance(found, InferenceError) else f"the model failed: {found!r}"
    return wire.Part(requests, error=said, misshapen=isinstance(found, WrongShape))
