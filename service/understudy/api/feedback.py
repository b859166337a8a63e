"""Decodes `POST /feedback`: labels, each for one prediction, checked against what the model predicts. Pure."""

import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from understudy.domain import Label, LabelReport, Scalar
from understudy.errors import InputProblem, InvalidInput, MalformedRequest, TooLarge
from understudy.inference.cards import MULTILABEL, Card
from understudy.rollout.losses import label_classes
from understudy.times import TimeLimits

WHOLE_MAX = 2**63 - 1
"""Largest integer that a label may be."""


_AT = "when the label became known, Unix seconds or RFC 3339 (not in the future, not before 2000); now if absent"


class LabelItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The label of one prediction."""

    prediction_id: Annotated[str, Meta(min_length=1, max_length=64, description="from the response of the prediction")]
    label: bool | int | float | str | list[bool | int | float | str]
    at: Annotated[float | str | None, Meta(description=_AT, examples=["2013-07-01T12:00:00Z"])] = None


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Labels, each for one prediction."""

    labels: Annotated[list[LabelItem], Meta(min_length=1)]


class FeedbackDecoder:
    """Decodes labels. A label may be any class of either model.

    For a multilabel classifier it is the list of the classes that are true; for a regression of several numbers, their list.

    Args:
        card: the primary's.
        labels_max: most labels in one body.
        candidate: the candidate's card.
        judged: the rollout file's `task`.
        times: limits of plausible times.
    """

    def __init__(
        self,
        card: Card,
        labels_max: int,
        candidate: Card | None = None,
        judged: str = "",
        times: TimeLimits | None = None,
    ) -> None:
        self._times = times or TimeLimits()
        self._classes = label_classes(card.classes, candidate.classes if candidate else None)
        self._task, self._labels_max = "agreement" if judged == "agreement" else card.task, labels_max
        widths = [output.width for output in card.outputs if output.role == "value"]
        self._width = widths[0] if widths else 1
        self._decode = msgspec.json.Decoder(FeedbackRequest).decode

    def decode(self, body: bytes, now: float) -> list[LabelReport]:
        """Decode the labels in a body.

        Args:
            now: the service's time in Unix seconds. It is the time of a label without `at`, and decides which times are
                plausible (see `understudy.times`).

        Raises:
            MalformedRequest: not JSON.
            TooLarge: more labels than `labels_max`.
            InvalidInput: JSON of another form, a label that is no class of the models, or an implausible time.
        """
        # Each label has this key. Its text may also be the label itself, so twice as many are surely too many.
        if body.count(b'"prediction_id"') > 2 * self._labels_max:
            raise TooLarge(f"more than {self._labels_max} labels; one call takes at most so many: send several")
        try:
            items = self._decode(body).labels
        except msgspec.ValidationError as error:
            form = '{"labels": [{"prediction_id": …, "label": …, "at"?: …}, …]}'
            raise InvalidInput([{"row": None, "field": "labels", "problem": f"{error}; the body is {form}"}]) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"the body is not JSON: {error}") from None
        if len(items) > self._labels_max:
            raise TooLarge(f"{len(items)} labels; one call takes at most {self._labels_max}: send several")
        errors: list[InputProblem] = []
        reports: list[LabelReport] = []
        for row, item in enumerate(items):
            try:
                at = now if item.at is None else self._time(item.at, now)
                reports.append(LabelReport(item.prediction_id, self._label(item.label), at, timed=item.at is not None))
            except ValueError as error:
                errors.append({"row": row, "field": str(error.args[0]), "problem": error.args[1]})
        if errors:
            raise InvalidInput(errors)
        return reports

    def _label(self, label: Scalar | list[Scalar]) -> Label:
        """The label as the model names it. If the classes are numbers, `true` and 1.0 are the class 1."""
        if self._task == "agreement":
            raise ValueError(
                "label",
                "is not used: with `task: agreement` the two models' answers are compared with each other. Send no labels",
            )
        if self._task == MULTILABEL:
            return self._set(label)
        if isinstance(label, list):
            return self._vector(label)
        if self._classes:
            if label not in self._classes:
                raise ValueError("label", f"is {label!r}; the model's classes are {self._classes}")
            return self._classes[self._classes.index(label)]  # type: ignore[arg-type]  # membership was just checked
        if self._task == "regression" and (isinstance(label, bool | str)):
            raise ValueError("label", f"is {label!r}; the model predicts a number")
        if self._task == "regression" and self._width not in {1, None}:
            raise ValueError(
                "label", f"is {label!r}; the model predicts {self._width} numbers: the label is a list of them"
            )
        if isinstance(label, int) and abs(label) > WHOLE_MAX:
            raise ValueError("label", "is an integer of more than 64 bits")
        return label

    def _vector(self, label: list[Scalar]) -> Label:
        """The label of a regression that predicts several numbers."""
        if self._task != "regression" or self._width == 1:
            predicted = "one number" if self._task == "regression" else "one class"
            raise ValueError("label", f"is a list; the model predicts {predicted} per row")
        if not label or (self._width is not None and len(label) != self._width):
            raise ValueError("label", f"has {len(label)} numbers; the model predicts {self._width or 'at least one'}")
        if any(isinstance(each, bool | str) for each in label):
            raise ValueError("label", f"is {label!r}; the model predicts numbers")
        try:
            return tuple(float(each) for each in label)
        except OverflowError:
            raise ValueError("label", "has a number that is too large") from None

    def _set(self, label: Scalar | list[Scalar]) -> Label:
        """The classes that are true, in the models' order. Classes with names may also be a list of 0 and 1."""
        if not isinstance(label, list):
            raise ValueError(
                "label", f"is {label!r}; it takes the list of the classes that are true, which may be empty"
            )
        if not self._classes:
            raise ValueError(
                "label", "cannot be checked: the models' classes have no names. Add `classes` to the rollout file"
            )
        named = all(isinstance(each, str) for each in self._classes)
        if named and len(label) == len(self._classes) and all(each in (0, 1) for each in label):
            return tuple(name for name, is_true in zip(self._classes, label, strict=True) if is_true)
        unknown = [each for each in label if each not in self._classes]
        if unknown:
            raise ValueError("label", f"has {unknown[0]!r}; the models' classes are {self._classes}")
        return tuple(name for name in self._classes if name in label)

    def _time(self, at: float | str, now: float) -> float:
        moment = _unix(at)
        if problem := self._times.problem(moment, now):
            raise ValueError("at", problem)
        return moment


def _unix(at: float | str) -> float:
    if isinstance(at, str):
        try:
            moment = datetime.datetime.fromisoformat(at)
        except ValueError:
            raise ValueError(
                "at", f"is {at!r}; it takes Unix seconds or RFC 3339, such as 2013-07-01T12:00:00Z"
            ) from None
        if moment.tzinfo is None:
            raise ValueError("at", f"is {at!r}; it needs a time zone, such as 2013-07-01T12:00:00Z")
        return moment.timestamp()
    return float(at)
