"""A label could only be one class or one number. For a regression of several numbers it is a list of numbers now, and for a
multilabel classifier the list of the classes that are true; a rollout judged by agreement refuses labels in words.
"""

import json
from typing import Any

import pytest

from understudy.api.feedback import FeedbackDecoder
from understudy.domain import Label, LabelReport
from understudy.errors import InvalidInput
from understudy.inference.cards import OutputSpec
from understudy.records.client import LabelBatch, pack_labels, unpack_labels
from understudy.testing import card

TOPICS: list[int | str] = ["sport", "politics", "weather"]


def value(*shape: int | None) -> Any:
    outputs = [OutputSpec(name="y", dtype="float32", shape=[None, *shape], role="value")]
    return card(task="regression", classes=[], positive=None, outputs=outputs)


def topics(classes: list[int | str]) -> Any:
    outputs = [OutputSpec(name="p", dtype="float32", shape=[None, len(classes)], role="probabilities")]
    return card(task="multilabel-classification", classes=classes, positive=None, outputs=outputs)


VECTOR, OPEN, NUMBER = (FeedbackDecoder(value(*shape), 10) for shape in ((3,), (None,), ()))
SET, NUMBERED = FeedbackDecoder(topics(TOPICS), 10), FeedbackDecoder(topics([0, 1, 2]), 10)


def read(decoder: FeedbackDecoder, label: Any) -> Label:
    body = json.dumps({"labels": [{"prediction_id": "p", "label": label}]}).encode()
    return decoder.decode(body, 1.0)[0].label


def problem(decoder: FeedbackDecoder, label: Any) -> str:
    with pytest.raises(InvalidInput) as refused:
        read(decoder, label)
    return str(refused.value.errors[0]["problem"])


def test_a_vector_is_a_list_of_numbers() -> None:
    assert repr(read(VECTOR, [1, 2.5, -3])) == "(1.0, 2.5, -3.0)"
    assert read(OPEN, [1, 2]) == (1.0, 2.0)
    assert read(OPEN, 1.5) == 1.5


def test_a_set_is_the_list_of_the_true_classes_in_the_models_order() -> None:
    assert read(SET, ["weather", "sport", "sport"]) == ("sport", "weather")
    assert read(SET, []) == ()
    assert read(SET, [1, 0, True]) == ("sport", "weather"), "or 0 and 1 for each class"
    assert read(NUMBERED, [2, 0]) == (0, 2), "unless classes are numbers: then they are names"
    assert read(NUMBERED, [0, 0, 1]) == (0, 1)


@pytest.mark.parametrize(
    ("decoder", "label", "says"),
    [
        (VECTOR, [1, 2], "has 2 numbers; the model predicts 3"),
        (VECTOR, 1.0, "the model predicts 3 numbers: the label is a list of them"),
        (VECTOR, [1, "2", 3], "the model predicts numbers"),
        (VECTOR, [1, True, 3], "the model predicts numbers"),
        (VECTOR, [1, 10**400, 3], "has a number that is too large"),
        (OPEN, [], "has 0 numbers; the model predicts at least one"),
        (NUMBER, [1.0], "is a list; the model predicts one number per row"),
        (FeedbackDecoder(card(), 10), [1], "is a list; the model predicts one class per row"),
        (SET, "sport", "it takes the list of the classes that are true"),
        (SET, ["music"], "has 'music'; the models' classes are"),
        (SET, [1, 0], "has 1; the models' classes are"),
        (FeedbackDecoder(topics([]), 10), ["sport"], "the models' classes have no names"),
        (FeedbackDecoder(value(8), 10, judged="agreement"), 1, "the two models' answers are compared with each other"),
    ],
)
def test_another_form_is_refused_in_words(decoder: FeedbackDecoder, label: Any, says: str) -> None:
    assert says in problem(decoder, label)


def test_such_labels_reach_the_records_process_as_they_are() -> None:
    reports = [
        LabelReport("a", (1.0, 2.5), 1.0),
        LabelReport("b", ("sport",), 2.0),
        LabelReport("c", (), 3.0),
        LabelReport("d", 1, 4.0),
    ]
    assert unpack_labels(pack_labels(LabelBatch(reports, "x", 0.0))).reports == reports
