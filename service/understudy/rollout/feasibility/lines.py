"""Where a key stands in a rollout file's text. Pure."""

from collections.abc import Iterator

import yaml


class Lines:
    r"""The line of each key of a YAML document, counted from 1.

    Keys are written as the errors of the rollout file write them: `goals.quality.loss`, `steps.0.until.labels`.

    >>> lines = Lines("model: m\nsteps:\n  - shadow: 100\n    until: {labels: 5}\n")
    >>> lines.of("steps.0.until.labels"), lines.of("steps.0.require"), lines.of("goals.quality")
    (4, 3, None)
    """

    def __init__(self, text: str) -> None:
        try:
            root = yaml.compose(text, yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            root = None
        self._lines = dict(_walk(root, "")) if root is not None else {}

    def of(self, key: str) -> int | None:
        """The line of a key, or of the nearest part above it that the file has; None where the file has neither."""
        while key:
            if key in self._lines:
                return self._lines[key]
            key = key.rpartition(".")[0]
        return None


def _walk(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            yield name, key.start_mark.line + 1
            yield from _walk(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield f"{path}.{number}", value.start_mark.line + 1
            yield from _walk(value, f"{path}.{number}")
