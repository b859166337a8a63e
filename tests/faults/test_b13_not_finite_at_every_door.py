"""NaN in an output without a role was `null` with status 200 in JSON and raw in binary, where a 500 was promised.

It fails its request whatever the output and the format, unless the card says that NaN is an answer of this output.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.unit.api.test_v2_calls import INFER, Harness, about
from understudy.domain import Status, Variant
from understudy.inference import Cancellation
from understudy.inference.cards import OutputSpec
from understudy.inference.decoding import Array
from understudy.testing import FakeEngine, card


def asked(*, nullable: bool, binary: bool) -> tuple[int, Any, Any]:
    """What a caller gets whose second row has NaN in the embedding `e`, and how it was recorded."""
    outputs = [*card().outputs, OutputSpec(name="e", dtype="float32", shape=[None, 2], nullable=nullable)]
    own = card(outputs=outputs)

    class Embedding(FakeEngine):
        def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
            x = columns["x"].reshape(-1)
            e = np.stack([x, np.where(x == 0.25, np.nan, x)], axis=1).astype(np.float32)
            return {**super().run(columns), "e": e}

    async def main() -> tuple[int, Any, Any]:
        harness = Harness(cards=dict.fromkeys(Variant, own))
        harness.slots.primary.engine = Embedding(own)
        body = about(0.75, 0.25, parameters={"binary_data_output": binary})
        status, _, said = await harness.call(INFER, body)
        return status, said, harness.notes.added[0]

    return asyncio.run(main())


@pytest.mark.parametrize("binary", [False, True])
def test_it_is_an_error_in_either_format(binary: bool) -> None:
    status, said, recorded = asked(nullable=False, binary=binary)
    assert (status, recorded.primary.status) == (500, Status.INVALID)
    assert "row 1" in said["error"]


@pytest.mark.parametrize("binary", [False, True])
def test_a_card_may_say_that_nan_is_an_answer(binary: bool) -> None:
    status, said, recorded = asked(nullable=True, binary=binary)
    assert (status, recorded.primary.status) == (200, Status.OK)
    [embedding] = [output for output in said["outputs"] if output["name"] == "e"]
    assert embedding["shape"] == [2, 2]
    assert binary or embedding["data"] == [0.75, 0.75, 0.25, None]
