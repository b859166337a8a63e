"""The schema of profiles, a part of the card: the distribution of an input or of the predictions in the training data."""

from typing import Annotated, Literal, TypeAlias

import pydantic


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Windows(_Strict):
    """How much windows of the training data differ from the rest of it.

    Without this, some features would always seem to drift: the day of the month, because no single day resembles a month, and the
    weather, because it changes by the day.

    Attributes:
        seconds: the length of a window; windows start every hour.
        count: the number of windows.
        psi: the largest population stability index of a window.
        missing: the largest share of missing values in a window.
    """

    seconds: float
    count: int
    psi: float
    missing: float


class NumericProfile(_Strict):
    """The distribution of a numeric input in the training data.

    Attributes:
        missing: share of rows without a value, 0 to 1.
        minimum: the smallest value.
        maximum: the largest value.
        mean: the mean of the present values.
        std: the standard deviation of the present values.
        edges: inner bin edges in ascending order (deciles, made unique); bin i is (edges[i-1], edges[i]].
        shares: share of the present values in each of the `len(edges) + 1` bins; they add up to 1.
        windows: how much windows of the training data differ from the rest; None if rows have no time.
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
    """The distribution of a string input in the training data.

    Attributes:
        missing: share of rows without a value, 0 to 1.
        shares: share of each value among the rows that have one.
        windows: as for `NumericProfile`.
    """

    kind: Literal["categorical"] = "categorical"
    missing: float
    shares: dict[str, float]
    windows: Windows | None = None


Profile: TypeAlias = Annotated[NumericProfile | CategoricalProfile, pydantic.Field(discriminator="kind")]
