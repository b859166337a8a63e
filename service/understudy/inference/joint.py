"""Runs several requests together, and finds those that fail when a joint run does. Does no I/O itself, reads no clock.

A request that fails must not fail the others of its run, and a caller who sends nothing but such requests must not multiply the
work. So the number of requests to a run adapts: a joint run that fails is repeated with half as many requests, down to one; each
run that succeeds adds a quarter to the number. It is kept from batch to batch:

* the search for one bad request among n takes a few times log2(n) runs, much as a bisection;
* where every request is bad, each is run once, by itself;
* in any sequence of requests there are at most two runs to a request, and log2(`REQUESTS_MAX`) more in all: each failed joint run
  halves the number, and a success, of at least one request, at most doubles it;
* where requests are bad by chance, whatever their share, a request costs at most 1.3 runs, and its rows are run 1.9 times, both
  on average (1.6 times where one of sixteen callers sends nothing else). `tests/faults/test_a05_bad_row_is_alone.py` holds it.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from understudy.inference import Scores
from understudy.inference.decoding import Batch

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")

REQUESTS_MAX = 1 << 20
"""Most requests to a run, as far as this is concerned: batches are bounded by their rows."""
GROWTH = 4
"""A run that succeeds adds this part, a quarter, to the number of requests to a run. Doubling it ran rows 2.8 times."""


class JointRuns:
    """Remembers how many requests may be run together.

    Args:
        on_retry: called when the requests of a joint run that failed are about to be run again.

    Attributes:
        most: the most requests of the next run.
    """

    def __init__(self, on_retry: Callable[[], None] = lambda: None) -> None:
        self.most = REQUESTS_MAX
        self._on_retry = on_retry

    def run(
        self, requests: Sequence[_Request], run: Callable[[Sequence[_Request]], _Result]
    ) -> list[tuple[int, _Result | Exception]]:
        """Run all the requests, in order.

        Args:
            run: runs some of the requests together. What it raises for a single request is that request's result.

        Returns:
            Of each run that counts: how many requests it had, and its result; or one request and its error.
        """
        found: list[tuple[int, _Result | Exception]] = []
        start = 0
        while start < len(requests):
            part = requests[start : start + self.most]
            try:
                result: _Result | Exception = run(part)
            except Exception as error:
                if len(part) > 1:
                    self.failed(len(part))
                    continue
                result = error
            else:
                self.succeeded()
            found.append((len(part), result))
            start += len(part)
        return found

    def failed(self, requests: int) -> None:
        """Note that a run of so many requests, two at the least, failed."""
        self.most = requests // 2
        self._on_retry()

    def succeeded(self) -> None:
        """Note that a run succeeded."""
        if self.most < REQUESTS_MAX:
            self.most += max(1, self.most // GROWTH)


def split(requests: Sequence[Batch], scores: Scores) -> Sequence[Scores]:
    """Each request's own part of the scores of a run that they shared."""
    if len(requests) == 1:
        return [scores]
    pieces, start = [], 0
    for rows in requests:
        pieces.append(scores.slice(start, len(rows)))
        start += len(rows)
    return pieces


def spread(requests: Sequence[Batch], found: Sequence[tuple[int, Scores | Exception]]) -> Sequence[Scores | Exception]:
    """Each request's result, of those of `JointRuns.run`."""
    answers: list[Scores | Exception] = []
    for count, result in found:
        if isinstance(result, Exception):
            answers += [result] * count
        else:
            answers += split(requests[len(answers) : len(answers) + count], result)
    return answers
