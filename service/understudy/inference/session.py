"""Runs a session on a GPU with IOBinding: inputs are read from and outputs written to CPU memory in one call of the runtime.

Only the runtime's own transfers happen, and outputs need no conversion of types. What IOBinding cannot bind (strings, and the
sequences and maps of a ZipMap) is run in the ordinary way. It works on every device, so it is tested on the CPU.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from understudy.inference.decoding import Array
from understudy.inference.signature import DTYPES, Node, RawOutput, Session


class Binding(Protocol):
    """The part of `onnxruntime.IOBinding` that is used."""

    def bind_cpu_input(self, name: str, arr_on_cpu: Array) -> None:
        """Read an input from an array, which must live until the run ends."""
        ...

    def bind_output(self, name: str, device_type: str) -> None:
        """Let the runtime allocate an output on this device."""
        ...

    def copy_outputs_to_cpu(self) -> list[Array]:
        """The outputs, in the order in which they were bound."""
        ...


class Bindable(Session, Protocol):
    """A session that has IOBinding."""

    def io_binding(self) -> Binding:
        """A new binding."""
        ...

    def run_with_iobinding(self, iobinding: Binding, run_options: object = None) -> None:
        """Run the graph on what is bound."""
        ...


def bound(session: Session) -> Session:
    """The session with IOBinding, or as it is if one of its inputs or outputs is not a tensor of numbers."""
    nodes = [*session.get_inputs(), *session.get_outputs()]
    if not hasattr(session, "io_binding") or not all(
        node.type in DTYPES and DTYPES[node.type] != "string" for node in nodes
    ):
        return session
    return BoundSession(cast("Bindable", session))


class BoundSession:
    """A session whose runs use IOBinding. Thread-safe: each run has a binding of its own.

    Args:
        session: takes and gives tensors of numbers only.
    """

    def __init__(self, session: Bindable) -> None:
        self._session = session
        self._dtypes = {node.name: np.dtype(DTYPES[node.type]) for node in session.get_inputs()}
        self._outputs = [node.name for node in session.get_outputs()]

    def get_inputs(self) -> Sequence[Node]:
        """See `Session.get_inputs`."""
        return self._session.get_inputs()

    def get_outputs(self) -> Sequence[Node]:
        """See `Session.get_outputs`."""
        return self._session.get_outputs()

    def run(
        self, output_names: Sequence[str] | None, input_feed: dict[str, Array], run_options: object = None, /
    ) -> Sequence[RawOutput]:
        """See `Session.run`."""
        if any(array.size == 0 or array.dtype != self._dtypes.get(name) for name, array in input_feed.items()):
            # Nothing to bind in an empty array; and a wrong dtype gets the runtime's own message.
            return self._session.run(output_names, input_feed, run_options)
        binding = self._session.io_binding()
        arrays = {name: np.ascontiguousarray(array) if array.ndim else array for name, array in input_feed.items()}
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name in self._outputs if output_names is None else output_names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, run_options)
        return binding.copy_outputs_to_cpu()
