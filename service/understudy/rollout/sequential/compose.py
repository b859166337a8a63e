"""Combines the e-values of several metrics. Pure functions of log e-values by metric name.

Harm in any metric is harm: the weighted mean of e-values is an e-value under any dependence, never weaker than dividing
α by the number of metrics (Vovk & Wang, E-values, Annals of Statistics 2021). A promotion needs every metric: the
smallest e-value is one for "at least one metric fails its goal", so no correction is needed.
"""

import math
from collections.abc import Mapping

from understudy.rollout.sequential.base import checked, log_sum_exp


def log_e_any(log_es: Mapping[str, float], weights: Mapping[str, float] | None = None) -> float:
    """Log of the weighted mean of e-values: evidence of harm in *some* metric. Equal weights by default.

    The weights divide the error budget among the metrics. They must be fixed at the start.

    >>> round(log_e_any({"quality": 4.0, "errors": 0.0}), 3)
    3.325
    """
    parts = _weighed(log_es, weights)
    return log_sum_exp(parts.values())


def log_e_all(log_es: Mapping[str, float]) -> float:
    """Log of the smallest e-value: evidence that *every* metric meets its goal now.

    >>> log_e_all({"quality": 4.0, "errors": 3.2})
    3.2
    """
    _known(log_es)
    return min(log_es.values())


def to_blame(log_es: Mapping[str, float], weights: Mapping[str, float] | None = None) -> str:
    """The metric that contributes most to `log_e_any`.

    >>> to_blame({"quality": 4.0, "errors": 0.0})
    'quality'
    """
    parts = _weighed(log_es, weights)
    return max(parts, key=lambda name: parts[name])


def log_e_mean(*log_es: float) -> float:
    """Log of the unweighted mean of e-values for the same null.

    >>> round(log_e_mean(3.0, 3.0), 6)
    3.0
    """
    if not log_es:
        raise ValueError("no e-value to average")
    return log_sum_exp(log_es) - math.log(len(log_es))


def _known(log_es: Mapping[str, float]) -> None:
    if not log_es:
        raise ValueError("there is no metric: a verdict needs at least one e-value")
    for name, log_e in log_es.items():
        if math.isnan(log_e):
            raise ValueError(f"the evidence of {name!r} is not a number")


def _weighed(log_es: Mapping[str, float], weights: Mapping[str, float] | None) -> dict[str, float]:
    _known(log_es)
    shares = dict.fromkeys(log_es, 1.0 / len(log_es)) if weights is None else weights
    if shares.keys() != log_es.keys():
        raise ValueError(f"weights are for {sorted(shares)}, the evidence is for {sorted(log_es)}")
    total = math.fsum(checked(f"the weight of {name!r}", weight, 0.0, 1.0) for name, weight in shares.items())
    if abs(total - 1.0) > 1e-9:
        raise ValueError(f"the weights add up to {total!r}, not to 1")
    return {name: log_e + math.log(shares[name]) for name, log_e in log_es.items() if shares[name] > 0.0}
