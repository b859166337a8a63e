"""From rows to the inputs of ONNX Runtime, as each peer would do it by hand."""

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Row = dict[str, object]
Array = npt.NDArray[np.float32] | npt.NDArray[np.object_]


def feeds(session: ort.InferenceSession, rows: list[Row]) -> dict[str, Array]:
    """One array per input: a column of numbers or strings, or rows of a vector."""
    arrays = {}
    for each in session.get_inputs():
        values = [row[each.name] for row in rows]
        kind = np.float32 if each.type == "tensor(float)" else object
        arrays[each.name] = np.array(values, dtype=kind).reshape(len(rows), -1)
    return arrays
