"""Finds the class names in an ONNX graph, in the node that computes its label or its probabilities. Pure.

ONNX Runtime does not expose the attributes of nodes, and the `onnx` package is too large to ship, so this module parses the file.
Class names are found in:

* `classlabels_*` of LinearClassifier, SVMClassifier, TreeEnsembleClassifier and ZipMap, in the order of the probabilities;
* a constant list from which ArrayFeatureExtractor or Gather selects the label by index, as many converters write it;
* LabelEncoder, which renames the classes of the classifier before it;
* ArgMax (or Greater, for two classes) that gives the label directly: the classes are the column indexes.
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from understudy.inference.graph import Value, fields

Names = list[int | str]

_LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
_KEYS, _VALUES = ("keys_int64s", "keys_strings", "keys_tensor"), ("values_strings", "values_int64s", "values_tensor")
_TAKES = {"ArrayFeatureExtractor", "Gather"}
_PASSES = {"Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}  # these do not change the label
_SIZED_BY_VALUES = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
_SHAPES = frozenset({"Shape", "Size"})  # what they give depends on sizes only
_INT32, _INT64, _STRING = 6, 7, 8


@dataclass(slots=True)
class _Node:
    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[memoryview] = field(default_factory=list)


class _Graph:
    """The nodes of a graph and its subgraphs, by their outputs."""

    def __init__(self, model: bytes) -> None:
        self.made_by: dict[str, _Node] = {}
        self.constants: dict[str, memoryview] = {}
        for number, value in fields(model):
            if number == 7 and isinstance(value, memoryview):
                self._read(value)

    def _read(self, graph: memoryview) -> list[str]:
        """Add a graph's nodes; returns the names of its outputs."""
        outputs = []
        for number, value in fields(graph):
            if isinstance(value, int):
                continue
            if number == 1:
                self._add(_node(value))
            elif number == 5:
                self.constants[_text(_first(value, 8))] = value
            elif number == 12:
                outputs.append(_text(_first(value, 1)))
        return outputs

    def _add(self, node: _Node) -> None:
        for attribute in node.attributes if node.kind in {"If", "Loop", "Scan"} else ():
            inner = _first(attribute, 6)
            if isinstance(inner, memoryview):
                node.inputs += self._read(inner)
        for attribute in node.attributes if node.kind == "Constant" else ():
            tensor = _first(attribute, 5)
            if isinstance(tensor, memoryview):
                self.constants |= dict.fromkeys(node.outputs, tensor)
        self.made_by |= dict.fromkeys(node.outputs, node)


def class_names(model: bytes, outputs: Sequence[str], columns: int = 0) -> Names | None:
    """The class names of the first output that has any, in the order of the probabilities; None if there are none.

    Args:
        model: the bytes of the `.onnx` file.
        outputs: names of the graph's outputs, the label first.
        columns: how many probabilities a row has; 0 if there are none.
    """
    try:
        graph = _Graph(model)
        for output in outputs:
            if columns and _is_a_column(graph, output, columns):
                return list(range(columns))
            if names := _behind(graph, [output]):
                return names
    except (ValueError, RecursionError, struct.error):
        pass  # an unexpected encoding; ONNX Runtime has loaded the model, so only its class names stay unknown
    return None


def last_operator(model: bytes, output: str) -> str:
    """The operator that computes an output, such as Sigmoid or Gemm; empty if it cannot be found.

    Args:
        model: the bytes of the `.onnx` file.
    """
    try:
        node = _maker(_Graph(model), output)
    except (ValueError, RecursionError, struct.error):
        return ""
    return "" if node is None else node.kind


def constant_sizes(model: bytes) -> list[int]:
    """The sizes of all axes of a graph's constants, ascending: an input's size that it does not declare is often among them."""
    try:
        constants = _Graph(model).constants.values()
        return sorted({size for tensor in constants for size in _dims(tensor)})
    except (ValueError, RecursionError, struct.error):
        return []


def without_shape(model: bytes) -> frozenset[str]:
    """The inputs of a graph that declare no shape, not even the number of axes."""
    try:
        graph = next(value for number, value in fields(model) if number == 7 and isinstance(value, memoryview))
        inputs = [value for number, value in fields(graph) if number == 11 and isinstance(value, memoryview)]
        return frozenset(_text(_first(value, 1)) for value in inputs if _shapeless(value))
    except (ValueError, StopIteration, RecursionError):
        return frozenset()


def _shapeless(info: memoryview) -> bool:
    kind = _first(info, 2)
    tensor = None if kind is None or isinstance(kind, int) else _first(kind, 1)
    return tensor is not None and not isinstance(tensor, int) and _first(tensor, 2) is None


def _dims(tensor: memoryview) -> Iterator[int]:
    for number, value in fields(tensor):
        if number == 1:
            yield from [value] if isinstance(value, int) else _varints(value)


@dataclass(frozen=True, slots=True)
class Upstream:
    """What an output is computed from.

    Attributes:
        tensors: the names of all tensors upstream of it, inputs of the graph among them.
        sized_by_values: whether an operator upstream has as many results as its input's values say, such as NonZero.
    """

    tensors: frozenset[str]
    sized_by_values: bool


def upstream(model: bytes, output: str) -> Upstream | None:
    """What an output is computed from; None if the file cannot be read.

    Args:
        model: the bytes of the `.onnx` file.
    """
    try:
        graph = _Graph(model)
    except (ValueError, RecursionError, struct.error):
        return None
    tensors, nodes = _reached(graph, [output])
    sized = False
    for node in nodes:
        if node.kind in _SIZED_BY_VALUES:
            behind, _ = _reached(graph, node.inputs, stop=_SHAPES)
            sized = sized or any(name and name not in graph.made_by and name not in graph.constants for name in behind)
    return Upstream(frozenset(tensors), sized)


def _reached(graph: _Graph, start: Sequence[str], stop: frozenset[str] = frozenset()) -> tuple[set[str], list[_Node]]:
    """All tensors and nodes upstream of some tensors, not beyond nodes of a kind in `stop`."""
    waiting, known, nodes = deque(start), set(start), []
    while waiting:
        node = graph.made_by.get(waiting.popleft())
        if node is None or node.kind in stop:
            continue
        nodes.append(node)
        new = [name for name in node.inputs if name not in known]
        known.update(new)
        waiting.extend(new)
    return known, nodes


def _behind(graph: _Graph, start: Sequence[str]) -> Names | None:
    """The class names of the nearest node upstream of some tensors."""
    waiting, known = deque(start), set(start)
    while waiting:
        node = graph.made_by.get(waiting.popleft())
        if node is None:
            continue
        if names := _names_at(graph, node):
            return names
        new = [name for name in node.inputs if name not in known]
        known.update(new)
        waiting.extend(new)
    return None


def _is_a_column(graph: _Graph, output: str, columns: int) -> bool:
    """Whether an output is a column index: from ArgMax or, for two classes, from a comparison with a threshold."""
    node = _maker(graph, output)
    return node is not None and (node.kind == "ArgMax" or (columns == 2 and node.kind in {"Greater", "GreaterOrEqual"}))


def _maker(graph: _Graph, output: str) -> _Node | None:
    """The node that computes an output, skipping those that only change its type or shape."""
    node = graph.made_by.get(output)
    while node is not None and node.kind in _PASSES and node.inputs:
        node = graph.made_by.get(node.inputs[0])
    return node


def _names_at(graph: _Graph, node: _Node) -> Names | None:
    if node.kind == "LabelEncoder":
        return _renamed(graph, node)
    if node.kind in _TAKES and node.inputs and node.inputs[0] in graph.constants:
        return _tensor(graph.constants[node.inputs[0]])
    return next((names for names in (_attribute(node, name) for name in _LABELS) if names), None)


def _renamed(graph: _Graph, node: _Node) -> Names | None:
    """The names that a LabelEncoder gives to the classes before it, or to their indexes if they have no names."""
    keys = next((found for found in (_attribute(node, name) for name in _KEYS) if found), None)
    values = next((found for found in (_attribute(node, name) for name in _VALUES) if found), None)
    if keys is None or values is None or len(keys) != len(values):
        return None
    names = dict(zip(keys, values, strict=True))
    before = _behind(graph, node.inputs)
    if before is not None and all(name in names for name in before):
        return [names[name] for name in before]
    numbers: Names = list(range(len(keys)))
    return [names[number] for number in numbers] if set(keys) == set(numbers) else None


def _node(message: memoryview) -> _Node:
    node = _Node()
    for number, value in fields(message):
        if isinstance(value, int):
            continue
        if number == 1:
            node.inputs.append(_text(value))
        elif number == 2:
            node.outputs.append(_text(value))
        elif number == 4:
            node.kind = _text(value)
        elif number == 5:
            node.attributes.append(value)
    return node


def _attribute(node: _Node, name: str) -> Names | None:
    """An attribute that is a list or a tensor of integers or strings."""
    for message in node.attributes:
        # The name is the first field. Other attributes of a forest have a million numbers, so they are not parsed.
        number, first = next(fields(message), (0, 0))
        if _text(first if number == 1 else _first(message, 1)) != name:
            continue
        found: Names = []
        for number, value in fields(message):
            if number == 5 and isinstance(value, memoryview):
                return _tensor(value)
            if number == 8:
                found += [_signed(value)] if isinstance(value, int) else _varints(value)
            elif number == 9:
                found.append(_text(value))
        return found
    return None


def _tensor(message: memoryview) -> Names | None:
    """The values of a tensor of integers or strings."""
    kind, raw = 0, b""
    found: Names = []
    for number, value in fields(message):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number in {5, 7}:
            found += [_signed(value)] if isinstance(value, int) else _varints(value)
        elif number == 6:
            found.append(_text(value))
        elif number == 9 and isinstance(value, memoryview):
            raw = bytes(value)
    if kind not in {_INT32, _INT64, _STRING}:
        return None
    if raw and kind != _STRING:
        size, letter = (4, "i") if kind == _INT32 else (8, "q")
        found += struct.unpack(f"<{len(raw) // size}{letter}", raw)
    return found


def _first(message: memoryview, number: int) -> Value | None:
    return next((value for found, value in fields(message) if found == number), None)


def _text(value: Value | None) -> str:
    return "" if value is None or isinstance(value, int) else bytes(value).decode()


def _varints(packed: memoryview) -> Iterator[int]:
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield _signed(value)
            value = shift = 0


def _signed(value: int) -> int:
    """A 64-bit two's complement number."""
    return value - 2**64 if value >= 2**63 else value
