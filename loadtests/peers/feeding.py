"""From rows to ONNX Runtime's inputs, as every peer here does it by hand."""

from typing import Any


def feeds(np: Any, session: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One array per input: a column of numbers or strings, or rows of a vector."""
    found = {}
    for each in session.get_inputs():
        values = [row[each.name] for row in rows]
        kind = np.float32 if each.type == "tensor(float)" else object
        found[each.name] = np.array(values, dtype=kind).reshape(len(rows), -1)
    return found
