"""Reads `POST /feedback`: labels, each for one prediction, checked against the kind of thing that the model predicts. Pure."""

import datetime
from typing import Annotated, Any

import msgspec

from service.domain import Label, LabelReport
from service.engine.catalog import Card
from service.errors import InvalidInput, MalformedRequest, TooLarge
from service.losses import label_classes

WHOLE_MAX = 2**63 - 1
"""Largest whole number that a label may be."""


class _Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    prediction_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    label: bool | int | float | str
    at: float | str | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    labels: Annotated[list[_Item], msgspec.Meta(min_length=1)]


class FeedbackDecoder:
    """Decodes label bodies: a label may be any class of either model."""

    def __init__(self, card: Card, labels_max: int, candidate: Card | None = None) -> None:
        self._classes = label_classes(card.classes, candidate.classes if candidate else None)
        self._task, self._labels_max = card.task, labels_max
        self._decode = msgspec.json.Decoder(_Body).decode

    def decode(self, body: bytes, now: float) -> list[LabelReport]:
        """The labels in a body; `at` (Unix seconds or RFC 3339) is when each became known, `now` where it is left out.

        Raises:
            MalformedRequest: not JSON.
            TooLarge: more labels than `labels_max`.
            InvalidInput: the JSON is of another form, or a label is not one of the models' classes.
        """
        try:
            items = self._decode(body).labels
        except msgspec.ValidationError as error:
            form = '{"labels": [{"prediction_id": …, "label": …, "at"?: …}, …]}'
            raise InvalidInput([{"row": None, "field": "labels", "problem": f"{error}; the body is {form}"}]) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"the body is not JSON: {error}") from None
        if len(items) > self._labels_max:
            raise TooLarge(f"{len(items)} labels; one call takes at most {self._labels_max}: send several")
        errors: list[dict[str, Any]] = []
        reports: list[LabelReport] = []
        for row, item in enumerate(items):
            try:
                reports.append(LabelReport(item.prediction_id, self._label(item.label), _time(item.at, now)))
            except ValueError as error:
                errors.append({"row": row, "field": str(error.args[0]), "problem": error.args[1]})
        if errors:
            raise InvalidInput(errors)
        return reports

    def _label(self, label: Label) -> Label:
        """The label as the model names it. `true` and 1.0 are the class 1, where the classes are numbers."""
        if self._classes:
            if label not in self._classes:
                raise ValueError("label", f"is {label!r}; the model's classes are {self._classes}")
            return self._classes[self._classes.index(label)]  # type: ignore[arg-type]  # membership was just checked
        if self._task == "regression" and (isinstance(label, bool | str)):
            raise ValueError("label", f"is {label!r}; the model predicts a number")
        if isinstance(label, int) and abs(label) > WHOLE_MAX:
            raise ValueError("label", "is a whole number of more than 64 bits")
        return label


def _time(at: float | str | None, now: float) -> float:
    if at is None:
        return now
    if isinstance(at, str):
        try:
            moment = datetime.datetime.fromisoformat(at)
        except ValueError:
            raise ValueError(
                "at", f"is {at!r}; it takes Unix seconds or RFC 3339, such as 2013-07-01T12:00:00Z"
            ) from None
        if moment.tzinfo is None:
            raise ValueError("at", f"is {at!r}; say which time zone, such as 2013-07-01T12:00:00Z")
        return moment.timestamp()
    return float(at)
