"""All models of the zoo."""

from collections.abc import Sequence
from functools import cache

from tests.zoo import dtypes, estimators, hostile, nets, shapes
from tests.zoo.entry import Entry


@cache
def models() -> Sequence[Entry]:
    """All models, in the page's order."""
    return [entry for kind in (dtypes, shapes, estimators, nets, hostile) for entry in kind.entries()]
