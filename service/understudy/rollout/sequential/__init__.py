"""Sequential tests: evidence that stays valid however often it is looked at. Standard library only; no I/O, clock or randomness.

Theory of operation
-------------------
Each class holds a few numbers about one question and turns them into an *e-value*: the present stock of a gambler who
started with 1 and bet, at fair odds, against the null hypothesis ("not worse", "not better", "split as planned"). If the
null is true, the chance that this stock *ever* reaches 1/α is at most α (Ville's inequality). So the controller may look
after every label and stop at any time; the number of labels need not be planned.

=====================  =====================================================  =======================  ==========
class                  question                                               state                    merges
=====================  =====================================================  =======================  ==========
`MeanEvidence`         the average of bounded values (paired losses)          counts and 18 products   yes
`RateEvidence`         how often something happens                            two counts               yes
`LateHarm`             has it become worse than the harm line, at any time?   a count and 9 stocks     no: order
`PairedGoal`           one paired metric: harm and advance, step by step      the two above            no: order
`IpwDifference`        a difference when each request has only one model      counts and 18 products   yes
`AttributionEvidence`  whose failures are they?                               two counts per share     yes
`LatencyEvidence`      quantiles, absolute and against the primary            two histograms           yes
`SplitGuard`           were requests split as planned?                        two counts per share     yes
=====================  =====================================================  =======================  ==========

Rules that the error guarantee depends on (docs/explanation/statistics.md has measurements of what breaks without each): bets
are fixed in advance; values are bounded before they come here, and none is dropped because of its size; margins, lines,
bounds and bets are frozen at the start; log e-values are compared with log 1/α in one place (`crossed`); bands are never
intersected over time.

Losses are oriented so that *up is worse*, and differences are candidate minus primary.
"""

from understudy.rollout.sequential.attribution import AttributionEvidence
from understudy.rollout.sequential.base import GRID, Mergeable, SequentialEvidence, crossed, threshold
from understudy.rollout.sequential.compose import log_e_all, log_e_any, log_e_mean, to_blame
from understudy.rollout.sequential.goal import PairedGoal
from understudy.rollout.sequential.ipw import IpwDifference
from understudy.rollout.sequential.late_harm import LateHarm
from understudy.rollout.sequential.latency import LatencyEvidence
from understudy.rollout.sequential.mean import MeanEvidence
from understudy.rollout.sequential.planning import Forecast, labels_needed, split_variance
from understudy.rollout.sequential.rate import RateEvidence
from understudy.rollout.sequential.split_guard import SplitGuard

__all__ = [
    "GRID",
    "AttributionEvidence",
    "Forecast",
    "IpwDifference",
    "LateHarm",
    "LatencyEvidence",
    "MeanEvidence",
    "Mergeable",
    "PairedGoal",
    "RateEvidence",
    "SequentialEvidence",
    "SplitGuard",
    "crossed",
    "labels_needed",
    "log_e_all",
    "log_e_any",
    "log_e_mean",
    "split_variance",
    "threshold",
    "to_blame",
]
