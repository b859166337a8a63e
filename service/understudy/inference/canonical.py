"""Canonical texts of values, for the routing key and the unit: they depend on the value, not on the protocol. Pure."""

from collections.abc import Callable
from typing import Any

import numpy as np


def text_of(dtype: str, *, may_be_missing: bool) -> Callable[[Any], str | None]:
    """A function that gives the canonical text of a scalar field's values, see `decoding.Decoder.value`.

    Args:
        dtype: the field's, as in a model card.
        may_be_missing: whether the empty string stands for no value.
    """
    if dtype == "string":
        return text_or_missing if may_be_missing else _text
    if not dtype.startswith("float"):
        return _text
    kind = np.dtype(dtype).type
    wide = dtype == "float64"

    def text(value: Any) -> str | None:
        if value is None or value != value:
            return None
        # The shortest decimal of this number in the field's dtype; `+ 0.0` turns -0.0 into 0.0.
        return repr((float(value) if wide else float(str(kind(value)))) + 0.0)

    return text


def text_or_missing(value: object) -> str | None:
    """A value as text; None for no value and for the empty string."""
    return None if value is None or value == "" else str(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
