"""Runs several requests together, and finds those that make a joint run fail. Does no I/O and reads no clock.

A bad request must not fail the others of its run, and a caller that sends only bad requests must not multiply the work. So
the number of requests per run adapts: a joint run that fails is repeated with half as many requests, down to one, and each
successful run raises the number by a quarter. The number carries over from batch to batch:

* the search for one bad request among n takes a few times log2(n) runs, much as a bisection;
* where every request is bad, each is run once, by itself;
* in any sequence of requests there are at most two runs per request, and log2(`REQUESTS_MAX`) more in all: each failed joint run
  halves the number, and a success, of at least one request, at most doubles it;
* where requests are bad by chance, whatever their share, a request costs at most 1.3 runs, and its rows are run 1.9 times, both
  on average (1.6 times where one of sixteen callers sends nothing else). `tests/faults/test_a05_bad_row_is_alone.py` holds it.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from understudy.errors import RunCancelled
from understudy.inference import Scores
from understudy.inference.decoding import Batch

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")

REQUESTS_MAX = 1 << 20
"""Initial limit on the requests per run; in practice the rows of a batch are the limit."""
GROWTH = 4
"""A successful run raises the requests per run by one part in this many. With doubling instead, rows ran 2.8 times."""


class JointRuns:
    """Adapts how many requests may share a run.

    Args:
        on_retry: called before the requests of a failed joint run are run again.

    Attributes:
        most: the most requests in the next run.
    """

    def __init__(self, on_retry: Callable[[], None] = lambda: None) -> None:
        self.most = REQUESTS_MAX
        self._on_retry = on_retry

    def run(
        self, requests: Sequence[_Request], run: Callable[[Sequence[_Request]], _Result]
    ) -> list[tuple[int, _Result | Exception]]:
        """Run all requests, in order.

        Args:
            requests: the requests.
            run: runs some of the requests together. An exception for a single request is that request's result.

        Returns:
            For each final run, the number of its requests and its result or, for a single request, its error.

        Raises:
            RunCancelled: a run was cancelled, and so are those that were left.
        """
        results: list[tuple[int, _Result | Exception]] = []
        start = 0
        while start < len(requests):
            part = requests[start : start + self.most]
            try:
                result: _Result | Exception = run(part)
            except RunCancelled:
                raise
            except Exception as error:
                if len(part) > 1:
                    self.failed(len(part))
                    continue
                result = error
            else:
                self.succeeded()
            results.append((len(part), result))
            start += len(part)
        return results

    def failed(self, requests: int) -> None:
        """Note that a run of this many requests (at least two) failed."""
        self.most = requests // 2
        self._on_retry()

    def succeeded(self) -> None:
        """Note that a run succeeded."""
        if self.most < REQUESTS_MAX:
            self.most += max(1, self.most // GROWTH)


def split(requests: Sequence[Batch], scores: Scores) -> Sequence[Scores]:
    """Split the scores of a shared run by request."""
    if len(requests) == 1:
        return [scores]
    pieces, start = [], 0
    for rows in requests:
        pieces.append(scores.slice(start, len(rows)))
        start += len(rows)
    return pieces


def spread(
    requests: Sequence[Batch], results: Sequence[tuple[int, Scores | Exception]]
) -> Sequence[Scores | Exception]:
    """Each request's scores or error, from the results of `JointRuns.run`."""
    answers: list[Scores | Exception] = []
    for count, result in results:
        if isinstance(result, Exception):
            answers += [result] * count
        else:
            answers += split(requests[len(answers) : len(answers) + count], result)
    return answers
