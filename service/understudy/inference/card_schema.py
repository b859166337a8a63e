"""The JSON Schema of card files, with the meaning of each key from the docstrings of `understudy.inference.cards`."""

import inspect
import re
from typing import Any

from understudy.inference.cards import Card

_ATTRIBUTE = re.compile(r"^(\w+(?:, \w+)*): (.*)$")


def card_schema() -> dict[str, Any]:
    """The JSON Schema of card files."""
    schema = Card.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        _describe(part)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "card.json"}


def _describe(part: dict[str, Any]) -> None:
    """Move the meanings of attributes from a class's docstring to its properties."""
    summary, _, attributes = inspect.cleandoc(part.get("description", "")).partition("\n\nAttributes:\n")
    part["description"] = summary
    names: list[str] = []
    for line in inspect.cleandoc(attributes).splitlines():
        if (found := _ATTRIBUTE.match(line)) and all(name in part["properties"] for name in found[1].split(", ")):
            names, text = found[1].split(", "), found[2]
        else:
            text = f" {line.strip()}"
        for name in names:
            known = part["properties"][name]
            known["description"] = known.get("description", "") + text
