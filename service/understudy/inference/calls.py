"""Runs calls in the candidate's process: rows of several requests in, an answer to each out. `remote` is the client."""

import itertools
from collections.abc import Mapping, Sequence

from understudy.errors import InferenceError, RunCancelled, WrongShape
from understudy.inference import Cancellation, Engine, OutputReader, wire
from understudy.inference.decoding import Array
from understudy.inference.joint import JointRuns


class Calls:
    """Runs the requests of a call together, and finds those on which the model fails.

    The search happens in this process; in the caller's it would need a round trip per run.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self._reader = engine, OutputReader(engine.card)
        self._retries = 0
        self._joint = JointRuns(self._count_retry)

    def seconds(self, sizes: Sequence[int], elements: int = 0) -> float:
        """The expected duration of a call.

        Args:
            sizes: the number of rows of each request.
            elements: the size of all requests.
        """
        costs = self.engine.costs
        together = costs.seconds(sum(sizes), elements)
        if len(sizes) <= self._joint.most:
            return together
        return max(together, len(sizes) * costs.seconds(1, elements // sum(sizes)))

    def run(
        self, columns: Mapping[str, Array], sizes: Sequence[int], cancellation: Cancellation | None = None
    ) -> bytes:
        """Run a call; returns the packed reply, see `wire.unpack_reply`. Thread-safe; blocks.

        Raises:
            RunCancelled: it was cancelled.
        """
        rows = sum(sizes)
        if len(sizes) <= self._joint.most:
            try:
                part = wire.Part(len(sizes), self._outputs(columns, rows, cancellation))
            except RunCancelled:
                raise
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
            return self._outputs({n: array[start:end] for n, array in columns.items()}, end - start, cancellation)

        return self._reply([_part(count, result) for count, result in self._joint.run(range(len(sizes)), run)])

    def one(self, columns: Mapping[str, Array], rows: int, cancellation: Cancellation) -> wire.Part:
        """The result of one request. Thread-safe; blocks.

        Raises:
            RunCancelled: it was cancelled.
        """
        try:
            return wire.Part(1, self._outputs(columns, rows, cancellation))
        except RunCancelled:
            raise
        except Exception as error:
            return _part(1, error)

    def _outputs(
        self, columns: Mapping[str, Array], rows: int, cancellation: Cancellation | None
    ) -> Mapping[str, Array]:
        outputs = self.engine.run(columns) if cancellation is None else self.engine.run(columns, cancellation)
        self._reader.check_shapes(outputs, rows)
        return outputs

    def _reply(self, parts: Sequence[wire.Part]) -> bytes:
        retries, self._retries = self._retries, 0
        return wire.pack_reply(parts, retries)

    def _count_retry(self) -> None:
        self._retries += 1


def _part(requests: int, result: Mapping[str, Array] | Exception) -> wire.Part:
    if not isinstance(result, Exception):
        return wire.Part(requests, result)
    message = result.detail if isinstance(result, InferenceError) else f"the model failed: {result!r}"
    return wire.Part(requests, error=message, misshapen=isinstance(result, WrongShape))
