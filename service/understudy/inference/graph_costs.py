"""Whether the duration of a graph's run can depend on the values of its inputs, and not only on their sizes. Pure.

A loop whose number of turns is an input can take a microsecond or an hour on inputs of one size, so nothing that was measured says
how long the next run takes. The graph shows it: the values of the inputs reach a loop, or an operator whose output's size is a
value. What is computed from shapes alone (`Shape`, `Size`) follows from sizes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from understudy.inference.graph import Buffer, fields

SIZES_ARE_VALUES = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "STFT": (1, 3),
    "Tile": (1,),
    "Upsample": (1,),
}
"""Operators whose output is as large as a value says, and the inputs with that value."""
OF_VALUES = frozenset(
    {"Loop", "NonMaxSuppression", "NonZero", "Compress", "Unique", "StringSplit", "RegexFullMatch", "SequenceMap"}
)
"""Operators whose work, or the size of whose output, depends on values, if a value of the inputs reaches them."""
OF_TEXT = frozenset({"StringNormalizer", "StringConcat", "TfIdfVectorizer", "Tokenizer"})
"""Operators whose work grows with the length of the texts."""
OF_SHAPES = frozenset({"Shape", "Size"})
"""Operators whose output depends on the size of their input alone."""
CHEAP_BRANCH = frozenset(
    {"Cast", "Constant", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
)
"""Operators of a branch of `If` that cost about nothing. PyTorch writes such branches to drop an axis of size 1."""
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
WHOLE_SEARCHES = frozenset({"BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"})
"""Operators of com.microsoft that run a model until it says that it has ended."""
DEPTH_MAX = 50
"""Deepest nesting of graphs that is read."""


@dataclass(slots=True)
class _Node:
    kind: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    graphs: list[Buffer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GraphCosts:
    """What of a graph's cost does not follow from the sizes of its inputs.

    Attributes:
        operators: the operators that make the duration depend on values, sorted.
        text: whether the length of texts matters.
    """

    operators: tuple[str, ...] = ()
    text: bool = False


def graph_costs(model: bytes, inputs: Iterable[str]) -> GraphCosts:
    """What of a graph's cost depends on values.

    Args:
        model: the bytes of the `.onnx` file.
        inputs: the names of the graph's inputs.
    """
    reader = _Reader()
    try:
        for number, value in fields(model):
            if number == 7 and not isinstance(value, int):
                reader.read(value, set(inputs), 0)
    except (ValueError, RecursionError):
        return GraphCosts(("a graph that cannot be read",))
    return GraphCosts(tuple(sorted(reader.found)), reader.text)


class _Reader:
    """Follows values through graphs: a name is marked if what it stands for depends on a value of the inputs."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.text = False

    def read(self, graph: Buffer, marked: set[str], depth: int) -> None:
        """Read a graph, adding to `marked` the names that depend on values."""
        if depth > DEPTH_MAX:
            raise RecursionError
        for number, value in fields(graph):
            if number == 1 and not isinstance(value, int):
                self._node(_node(value), marked, depth)

    def _node(self, node: _Node, marked: set[str], depth: int) -> None:
        touched = any(name in marked for name in node.inputs)
        if node.kind in OF_TEXT:
            self.text = True
        if node.domain not in KNOWN_DOMAINS or node.kind in WHOLE_SEARCHES:
            # A custom operator, or a function that the model defines: nothing is known about its cost.
            self.found.add(f"{node.domain}.{node.kind}" if node.domain else node.kind)
        elif node.kind in OF_VALUES:
            # The body of a loop may read names of the graph around it, so any loop may end when a value says so.
            if touched or node.kind == "Loop":
                self.found.add(node.kind)
        elif any(at < len(node.inputs) and node.inputs[at] in marked for at in SIZES_ARE_VALUES.get(node.kind, ())):
            self.found.add(node.kind)
        elif node.kind == "If" and touched and not all(_is_cheap(graph) for graph in node.graphs):
            self.found.add("If")
        for inner in node.graphs:
            inside = set(marked)
            if node.kind in {"Scan", "Loop"}:
                inside |= _inputs(inner)
            self.read(inner, inside, depth + 1)
        if (touched and node.kind not in OF_SHAPES) or node.graphs:
            marked.update(name for name in node.outputs if name)


def _node(message: Buffer) -> _Node:
    node = _Node()
    for number, value in fields(message):
        if isinstance(value, int):
            continue
        if number == 1:
            node.inputs.append(bytes(value).decode())
        elif number == 2:
            node.outputs.append(bytes(value).decode())
        elif number == 4:
            node.kind = bytes(value).decode()
        elif number == 7:
            node.domain = bytes(value).decode()
        elif number == 5:
            node.graphs += _graphs(value)
    return node


def _graphs(attribute: Buffer) -> list[Buffer]:
    """The graphs of an attribute. One with a long list of numbers has none: walking a forest's would take seconds."""
    found: list[Buffer] = []
    for number, value in fields(attribute):
        if number in {7, 8}:  # floats or integers: a list
            return []
        if number in {6, 11} and not isinstance(value, int):
            found.append(value)
    return found


def _inputs(graph: Buffer) -> set[str]:
    """The names of a graph's inputs."""
    return {
        bytes(name).decode()
        for number, info in fields(graph)
        if number == 11 and not isinstance(info, int)
        for inner, name in fields(info)
        if inner == 1 and not isinstance(name, int)
    }


def _is_cheap(graph: Buffer) -> bool:
    return all(
        _node(value).kind in CHEAP_BRANCH
        for number, value in fields(graph)
        if number == 1 and not isinstance(value, int)
    )
