"""Rows of a table for `understudy check`."""

from pathlib import Path

import numpy as np

from understudy.inference.decoding import Decoder, Field
from understudy.offline import samples


def test_a_column_that_only_routing_reads_is_no_input(tmp_path: Path) -> None:
    """The columns `a` and `b` are the vector `x`, because the third one is the routing key."""
    table = tmp_path / "held-out.csv"
    table.write_text("a,b,customer,y\n1,2,c1,0\n3,4,c2,1\n", encoding="utf-8")
    decoder = Decoder([Field("x", "float32", (2,))], context=["customer"], rows_max=10, key_max_chars=20)

    rows, source = samples.from_table(table, decoder, 10, "y")

    assert [np.asarray(row[0]).tolist() for row in rows] == [[1, 2], [3, 4]]
    assert "`a`, `b`" in source
