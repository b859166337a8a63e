"""Says everything that is wrong in a JSON body. Slow and thorough: the fast decoder has refused the body already. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from understudy.errors import InputProblem, MalformedRequest, TooLarge, not_json
from understudy.inference.fields import Field, value_type, whole_numbers


class Explainer:
    """Knows the fields of a row.

    Args:
        fields: the fields of a row.
        context: names of further fields, which are no input of a model.
        rows_max: the most rows in a request.
    """

    def __init__(self, fields: Sequence[Field], context: Sequence[str], rows_max: int) -> None:
        self.fields, self.context, self.rows_max = fields, context, rows_max
        self._names = {field.name: None for field in fields} | dict.fromkeys(context)

    def problems(self, body: bytes) -> Iterator[InputProblem]:
        """Everything that is wrong in a JSON body.

        Raises:
            MalformedRequest: as `Decoder.decode`.
        """
        try:
            data = msgspec.json.decode(body)
        except msgspec.ValidationError:
            return  # a number out of every float's range: the error of the fast path names it
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from None
        if not isinstance(data, dict):
            raise MalformedRequest('the body must be an object: {"rows": [{"feature": value, …}, …]}')
        for name in data.keys() - {"rows", "key"}:
            yield {"row": None, "field": name, "problem": "unknown; the body has `rows` and may have `key`"}
        if not isinstance(data.get("key"), str | None):
            yield {"row": None, "field": "key", "problem": f"must be a string, not {_shown(data['key'])}"}
        rows = data.get("rows")
        if not isinstance(rows, list) or not rows:
            problem = "is missing" if "rows" not in data else "must be a list with at least one row"
            yield {"row": None, "field": "rows", "problem": problem}
            return
        if len(rows) > self.rows_max:
            raise TooLarge(f"{len(rows)} rows; one request takes at most {self.rows_max}: send several")
        for number, row in enumerate(rows):
            yield from self._explain_row(number, row)

    def _explain_row(self, number: int, row: Any) -> Iterator[InputProblem]:
        if not isinstance(row, Mapping):
            yield {"row": number, "field": None, "problem": f"must be an object of features, not {_shown(row)}"}
            return
        for name in row.keys() - self._names.keys():
            yield {"row": number, "field": name, "problem": f"unknown; the model takes {', '.join(self._names)}"}
        for field in self.fields:
            if field.name not in row:
                if field.required:
                    hint = " (null is allowed for a value that is missing)" if field.nullable else ""
                    yield {
                        "row": number,
                        "field": field.name,
                        "problem": f"is missing; it takes {field.describe()}{hint}",
                    }
                continue
            value = whole_numbers(row[field.name]) if field.whole else row[field.name]
            try:
                msgspec.convert(value, value_type(field) if field.required else value_type(field) | None)
            except msgspec.ValidationError as error:
                problem = f"takes {field.describe()}, not {_shown(value)}"
                if isinstance(value, list) or _right_kind(value, field):
                    problem += f": {error}"
                yield {"row": number, "field": field.name, "problem": problem}
        for name in self.context:
            if name in row and not isinstance(row[name], str | int | None):
                yield {"row": number, "field": name, "problem": f"takes a string, not {_shown(row[name])}"}


def _right_kind(value: object, field: Field) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and field.dtype not in {"string", "bool"}


def _shown(value: object) -> str:
    """A value for an error message: its kind, and the value itself if it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return f"the string {value!r}" if len(value) <= 40 else f"a string of {len(value)} characters"
    return f"the number {value}"
