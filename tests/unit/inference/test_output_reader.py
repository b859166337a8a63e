"""What an engine's arrays mean: labels, probabilities, values, and when they are not what the model promised."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.domain import Attempt, Status
from understudy.errors import WrongShape
from understudy.inference import OutputReader, Scores, ended
from understudy.inference.cards import OutputSpec
from understudy.testing import card


def output(name: str, role: Any, dtype: Any = "float32") -> OutputSpec:
    return OutputSpec(name=name, dtype=dtype, shape=[None], role=role)


BINARY = OutputReader(card())
ANIMALS = OutputReader(
    card(
        task="multiclass-classification",
        classes=["bird", "cat", "dog"],
        positive=None,
        outputs=[output("p", "probabilities")],
    )
)
NUMBER = OutputReader(card(task="regression", classes=[], positive=None, outputs=[output("y", "value")]))
OTHER = OutputReader(
    card(task="other", classes=[], positive=None, outputs=[output("a", "other"), output("b", "other", "string")])
)


def f32(*rows: Any) -> Any:
    return np.array(rows, dtype=np.float32)


def binary(labels: list[int], *positive: float) -> dict[str, Any]:
    return {"label": np.array(labels), "probabilities": f32(*([1 - p, p] for p in positive))}


def test_a_binary_classifier_gives_labels_and_probabilities_in_plain_values() -> None:
    """Python ints and floats, so that they go into JSON and the store as they are."""
    scores = BINARY.read(binary([0, 1], 0.25, 0.75), 2)

    assert scores == Scores(2, [0, 1], [[0.75, 0.25], [0.25, 0.75]])
    assert scores.labels is not None
    assert {type(label) for label in scores.labels} == {int}
    assert BINARY.attempts(scores, Status.OK, 0.5, 2) == [
        Attempt(Status.OK, 0, 0.25, None, 0.5),
        Attempt(Status.OK, 1, 0.75, None, 0.5),
    ]


def test_the_positive_class_need_not_be_the_last_one() -> None:
    """The score is the probability of the class that the card names."""
    reader = OutputReader(card(classes=["late", "on time"], positive="late", outputs=[output("p", "probabilities")]))
    scores = reader.read({"p": f32([0.75, 0.25])}, 1)

    assert reader.attempts(scores, Status.OK, 0.0, 1) == [Attempt(Status.OK, "late", 0.75)]


def test_labels_of_shape_rows_by_one_are_labels_too() -> None:
    """Some converters give [n, 1]."""
    outputs = binary([0, 1], 0.25, 0.75)
    outputs["label"] = outputs["label"].reshape(2, 1)

    assert BINARY.read(outputs, 2).labels == [0, 1]


def test_without_a_label_output_the_likeliest_class_is_the_label() -> None:
    """By the card's names; every probability is kept, as there is no one positive class."""
    scores = ANIMALS.read({"p": f32([0.5, 0.25, 0.25], [0, 0.25, 0.75])}, 2)

    assert scores.labels == ["bird", "dog"]
    assert ANIMALS.attempts(scores, Status.OK, 0.0, 2) == [
        Attempt(Status.OK, "bird", None, (0.5, 0.25, 0.25)),
        Attempt(Status.OK, "dog", None, (0.0, 0.25, 0.75)),
    ]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_regression_gives_values(shape: tuple[int, ...]) -> None:
    """The score is the value; there is no label."""
    scores = NUMBER.read({"y": f32(1.5, -2, 0).reshape(shape)}, 3)

    assert scores == Scores(3, values=[1.5, -2.0, 0.0])
    assert NUMBER.attempts(scores, Status.OK, 0.0, 3) == [Attempt(Status.OK, score=v) for v in (1.5, -2.0, 0.0)]


def test_other_outputs_are_passed_on_by_name() -> None:
    """Whatever their kind; the record knows only that there was an answer."""
    scores = OTHER.read({"a": f32([1, 2], [3, 4]), "b": np.array(["x", "y"], dtype=object)}, 2)

    assert scores.others == {"a": [[1.0, 2.0], [3.0, 4.0]], "b": ["x", "y"]}
    assert scores.finite
    assert OTHER.attempts(scores, Status.OK, 0.0, 2) == [Attempt(Status.OK)] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_said_to_be_so(bad: float) -> None:
    """One such number in a batch is enough, in a probability and in a value."""
    assert not BINARY.read(binary([0, 1], 0.25, bad), 2).finite
    assert not ANIMALS.read({"p": f32([1, 0, 0], [0, bad, 0])}, 2).finite
    assert not NUMBER.read({"y": f32(1, bad)}, 2).finite


LABELS = OutputReader(card(outputs=[output("label", "label", "int64")]))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("reader", "outputs"),
    [
        (BINARY, binary([0, 1], 0.25, 0.75)),
        (ANIMALS, {"p": f32([1, 0, 0], [0, 1, 0])}),
        (NUMBER, {"y": f32(1, 2)}),
        (LABELS, {"label": np.array([0, 1])}),
        (OTHER, {"a": f32([1, 2], [3, 4]), "b": np.array(["x", "y"], dtype=object)}),
    ],
)
def test_another_number_of_rows_than_asked_for_is_not_an_answer(reader: OutputReader, outputs: Any, rows: int) -> None:
    """Two rows of answers to one, or to three, rows of questions: nothing says which is whose."""
    with pytest.raises(WrongShape, match=f"for {rows} rows"):
        reader.read(outputs, rows)


@pytest.mark.parametrize("array", [f32([1, 2, 3]), np.float32(1), f32([1], [2]), f32([1, 2], [3, 4], [5, 6])])
def test_the_first_axis_of_an_output_is_the_rows(array: Any) -> None:
    """Three values for three rows, but of shape [1, 3]: cut by rows they would be somebody else's. So would two values a row."""
    with pytest.raises(WrongShape, match="'y'"):
        NUMBER.read({"y": np.asarray(array)}, 3)


def test_more_or_fewer_probabilities_than_classes_are_not_an_answer() -> None:
    """The front door could not name them."""
    for row in ([0.25] * 4, [0.5] * 2):
        with pytest.raises(WrongShape, match="3 classes"):
            ANIMALS.read({"p": f32(row)}, 1)
    with pytest.raises(WrongShape):
        BINARY.read({"label": np.array([0]), "probabilities": f32(0.5)}, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_that_row_alone(bad: float) -> None:
    """In whichever output of numbers; each part of the run asks about its own rows, and each row is recorded as what it was."""
    scores = BINARY.read(binary([0, 1, 0], 0.25, bad, 0.5), 3)
    assert (scores.bad_rows, scores.slice(0, 1).finite, scores.slice(1, 2).bad_rows) == ([1], True, [0])
    assert ended(scores.slice(2, 1)) == (Status.OK, scores.slice(2, 1))
    assert ended(scores.slice(1, 1)) == (Status.INVALID, None), "none of its rows has an answer to keep"
    status, kept = ended(scores.slice(1, 2))
    assert status is Status.INVALID
    assert BINARY.attempts(kept, status, 0.5, 2) == [
        Attempt(Status.INVALID, seconds=0.5),
        Attempt(Status.WITHHELD, 0, 0.5, None, 0.5),
    ]
    assert OTHER.read({"a": f32([1, bad], [3, 4]), "b": np.array(["x", "y"], dtype=object)}, 2).bad_rows == [0]
    assert NUMBER.read({"y": f32(1, bad)}, 2).bad_rows == [1]


def test_a_nullable_output_may_hold_nan() -> None:
    """The card says that it is an answer; of a label, a probability or a value it never is."""
    masks = OutputReader(
        card(outputs=[OutputSpec(name="m", dtype="float32", shape=[None, 2], nullable=True)], classes=[])
    )
    assert masks.read({"m": f32([1, np.nan])}, 1).finite
    value = OutputReader(
        card(outputs=[OutputSpec(name="y", dtype="float32", shape=[None], role="value", nullable=True)])
    )
    assert not value.read({"y": f32(np.nan)}, 1).finite


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMEOUT, Status.DROPPED, Status.NONE])
def test_an_attempt_without_scores_is_recorded_row_by_row(status: Status) -> None:
    """With how it ended and how long it took, and nothing else."""
    assert BINARY.attempts(None, status, 0.25, 3) == [Attempt(status, seconds=0.25)] * 3


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.data())
def test_a_slice_holds_the_answers_of_its_rows(values: list[float], data: st.DataObject) -> None:
    """Of every kind of output, and the whole is itself."""
    start = data.draw(st.integers(0, len(values) - 1))
    rows = data.draw(st.integers(1, len(values) - start))
    whole = Scores(
        len(values), [int(v > 0.5) for v in values], [[1 - v, v] for v in values], list(values), {"o": list(values)}
    )
    part = whole.slice(start, rows)

    assert part.rows == rows
    assert part.labels == [int(v > 0.5) for v in values[start : start + rows]]
    assert part.probabilities == [[1 - v, v] for v in values[start : start + rows]]
    assert part.values == part.others["o"] == values[start : start + rows]  # type: ignore[index]
    assert whole.slice(0, len(values)) is whole
    assert Scores(len(values), bad=np.ones(len(values), bool)).slice(start, rows).labels is None


def test_parts_of_a_run_share_its_lists_and_views_of_its_arrays() -> None:
    """Lists are made once for everybody; an array is never copied."""
    outputs = binary([0, 1, 1], 0.25, 0.75, 1.0)
    whole = BINARY.read(outputs, 3)
    part = whole.slice(1, 2).slice(1, 1)

    assert part.labels == [1]
    assert np.shares_memory(part.array("probabilities"), outputs["probabilities"])
    assert part.array("probabilities").tolist() == [[0.0, 1.0]]
    assert whole.probabilities is not None
    assert part.probabilities is not None
    assert part.probabilities[0] is whole.slice(1, 2).probabilities[1]  # type: ignore[index]


def vectors(shape: list[int | None]) -> OutputReader:
    outputs = [OutputSpec(name="y", dtype="float32", shape=shape, role="value")]
    return OutputReader(card(task="regression", classes=[], positive=None, outputs=outputs))


@pytest.mark.parametrize("shape", [[None, 3], [None, None]])
def test_a_regression_of_several_numbers_gives_vectors(shape: list[int | None]) -> None:
    reader = vectors(shape)
    scores = reader.read({"y": f32([1, 2, 3], [4, 5, 6])}, 2)

    assert scores == Scores(2, values=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert reader.attempts(scores.slice(1, 1), Status.OK, 0.5, 1) == [
        Attempt(Status.OK, seconds=0.5, vector=(4.0, 5.0, 6.0))
    ]


@pytest.mark.parametrize("wrong", [[[1, 2]], [[1, 2, 3], [4, 5, 6]], [1, 2, 3], [[[1, 2, 3]]]])
def test_a_vector_of_another_width_is_not_what_was_promised(wrong: Any) -> None:
    with pytest.raises(WrongShape, match="'y'"):
        vectors([None, 3]).read({"y": np.array(wrong, np.float32)}, 1)
    assert vectors([None, 3]).read({"y": f32([1, 2, 3], [1, 2, np.nan])}, 2).bad_rows == [1]


def test_a_width_that_the_graph_leaves_open_may_be_one() -> None:
    reader = vectors([None, None])
    scores = reader.read({"y": f32([1], [2])}, 2)

    assert scores.values == [1.0, 2.0]
    assert reader.attempts(scores, Status.OK, 0.0, 2)[0].score == 1.0


TOPICS = ["sport", "politics", "weather"]


def topics(*outputs: OutputSpec) -> OutputReader:
    return OutputReader(card(task="multilabel-classification", classes=TOPICS, positive=None, outputs=list(outputs)))


def test_a_multilabel_classifier_gives_the_set_of_classes_that_are_true() -> None:
    """From the label output, of 0 and 1 by class; the probabilities need not add up to 1."""
    reader = topics(output("l", "label", "int64"), output("p", "probabilities"))
    scores = reader.read({"l": np.array([[1, 0, 1], [0, 0, 0]]), "p": f32([0.5, 0.25, 0.75], [0, 0.25, 0.5])}, 2)

    assert scores.labels == [("sport", "weather"), ()]
    assert reader.attempts(scores, Status.OK, 0.0, 2) == [
        Attempt(Status.OK, ("sport", "weather"), None, (0.5, 0.25, 0.75)),
        Attempt(Status.OK, (), None, (0.0, 0.25, 0.5)),
    ]


def test_a_multilabel_classifier_without_a_label_output_predicts_what_is_likelier_than_not() -> None:
    reader = topics(output("p", "probabilities"))
    scores = reader.read({"p": f32([0.5, 0.25, 0.75])}, 1)

    assert scores.labels == [("sport", "weather")]


def test_a_multilabel_classifier_of_two_classes_has_no_positive_one() -> None:
    reader = OutputReader(
        card(task="multilabel-classification", classes=["a", "b"], positive="b", outputs=[output("p", "probabilities")])
    )
    answers = reader.attempts(reader.read({"p": f32([0.75, 0.5])}, 1), Status.OK, 0.0, 1)

    assert answers == [Attempt(Status.OK, ("a", "b"), None, (0.75, 0.5))]


@pytest.mark.parametrize("labels", [[[1, 0]], [1, 0, 1], [[1, 0, 1], [1, 0, 1]]])
def test_multilabel_labels_of_another_shape_are_not_what_was_promised(labels: Any) -> None:
    reader = topics(output("l", "label", "int64"))

    with pytest.raises(WrongShape, match="'l'"):
        reader.read({"l": np.array(labels)}, 1)
