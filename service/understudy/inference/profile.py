"""The schema of a reference profile: what one input, or the predictions, looked like in training. It is part of the card."""

from typing import Annotated, Literal, TypeAlias

import pydantic


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Windows(_Strict):
    """How unlike the rest the windows of the training data themselves were: each is held against the training data without it.

    Without this a feature that moves through its range (the day of the month) would always look drifted, since no single day
    resembles a month; and weather, which comes by the day, would, too.

    Attributes:
        seconds: the length of a window; they slide by the hour.
        count: how many windows there were.
        psi: the largest population stability index of a window.
        missing: the largest share of missing values in a window.
    """

    seconds: float
    count: int
    psi: float
    missing: float


class NumericProfile(_Strict):
    """What a numeric input looked like in training.

    Attributes:
        missing: share of rows without a value, 0 to 1.
        minimum: smallest and `maximum` largest value seen; `mean` and `std` of the values present.
        edges: inner bin edges in ascending order (deciles, made unique); bin i is (edges[i-1], edges[i]].
        shares: share of the present values in each of the `len(edges) + 1` bins; they add up to 1.
        windows: how far windows of the training data were from the rest, where their time is known.
    """

    kind: Literal["numeric"] = "numeric"
    missing: float
    minimum: float
    maximum: float
    mean: float
    std: float
    edges: list[float]
    shares: list[float]
    windows: Windows | None = None


class CategoricalProfile(_Strict):
    """What a string input looked like in training: share of rows without a value, and share of each value among the rest."""

    kind: Literal["categorical"] = "categorical"
    missing: float
    shares: dict[str, float]
    windows: Windows | None = None


Profile: TypeAlias = Annotated[NumericProfile | CategoricalProfile, pydantic.Field(discriminator="kind")]
