"""Products of many factors, one per bet, without overflow and without loss of precision.

A product is a float and an integer exponent of two. It is renormalised before it can leave the range of a float. A sum
of logarithms would be simpler, but each value would round a *growing* sum (an error of 1e-3 after ten million equal
values), while a product's error stays relative (1e-9); and each value would cost a logarithm.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

from understudy.rollout.sequential.base import checked

_LOG_2 = math.log(2.0)
_SAFE_LOG = 600.0  # a float holds e^±708


class StockTotals(TypedDict):
    """Products in [½, 1) and their exponents of two, one per bet."""

    products: list[float]
    exponents: list[int]


class Stocks:
    """One product of (1 + bet · step) per bet: the stock of a gambler who makes this bet on every value.

    >>> stocks = Stocks(bets=(0.5, -0.5), largest_log=math.log(2))
    >>> stocks.multiply(0.5); stocks.multiply(-0.25)
    >>> [round(math.exp(log), 6) for log in stocks.logs()]  # 1.25 × 0.875 and 0.75 × 1.125
    [1.09375, 0.84375]
    """

    __slots__ = ("_bets", "_exponents", "_products", "_room", "_since")

    def __init__(self, bets: Sequence[float], largest_log: float) -> None:
        self._bets = tuple(bets)
        self._room = int(_SAFE_LOG / largest_log)  # this many factors stay inside the range of a float
        if self._room < 1:
            raise ValueError(f"one factor may be e^±{largest_log!r}, too much for a float")
        self._since = 0
        self._products = [1.0] * len(self._bets)
        self._exponents = [0] * len(self._bets)

    def multiply(self, step: float) -> None:
        """Multiply each product by its factor for `step`."""
        self._products = [p * (1.0 + bet * step) for p, bet in zip(self._products, self._bets, strict=True)]
        self._since += 1
        if self._since >= self._room:
            self._products, self._exponents = self.normal()
            self._since = 0

    def power(self, step: float, times: int) -> None:
        """Multiply each product by its factor for `step`, `times` times."""
        self._products, self._exponents = self.normal()
        for j, bet in enumerate(self._bets):
            log = times * math.log1p(bet * step)
            whole = math.floor(log / _LOG_2)
            self._products[j] *= math.exp(log - whole * _LOG_2)
            self._exponents[j] += whole
        self._since = 1

    def normal(self) -> tuple[list[float], list[int]]:
        """Products in [½, 1) and their exponents. Exact, so that normalising at other moments gives the same numbers."""
        parts = [math.frexp(product) for product in self._products]
        exponents = [held + part[1] for held, part in zip(self._exponents, parts, strict=True)]
        return [part[0] for part in parts], exponents

    def logs(self) -> list[float]:
        """The logarithm of each product. Computed from the normal form, so that a restart does not change the last digit."""
        return [math.log(p) + exponent * _LOG_2 for p, exponent in zip(*self.normal(), strict=True)]

    def totals(self) -> StockTotals:
        """The products as JSON values, exactly."""
        products, exponents = self.normal()
        return {"products": products, "exponents": exponents}

    def take(self, totals: StockTotals) -> None:
        """Multiply by the products of another object's `totals`. Exact if nothing was multiplied here yet."""
        products = [checked("a product", product, 0.5, 1.0) for product in totals["products"]]
        exponents = [int(exponent) for exponent in totals["exponents"]]
        if not len(products) == len(exponents) == len(self._bets):
            raise ValueError(f"{len(products)} products and {len(exponents)} exponents for {len(self._bets)} bets")
        mine = self.normal()
        self._products = [a * b for a, b in zip(mine[0], products, strict=True)]
        self._exponents = [a + b for a, b in zip(mine[1], exponents, strict=True)]
        self._since = 1
