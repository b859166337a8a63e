"""Labels are taken as the model names them, at the moment they became known, or refused by row and field."""

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.api.feedback import FeedbackDecoder
from understudy.domain import LabelReport
from understudy.errors import InvalidInput, MalformedRequest, TooLarge
from understudy.testing import card

NOW = 1_372_680_000.0
BINARY = FeedbackDecoder(card(), 100)
WORDS = FeedbackDecoder(card(classes=["bird", "cat"], positive=None, task="multiclass-classification"), 100)
NUMBER = FeedbackDecoder(card(classes=[], positive=None, task="regression"), 100)
ANYTHING = FeedbackDecoder(card(classes=[], positive=None, task="other"), 100)


def body(*labels: Any) -> bytes:
    return json.dumps({"labels": list(labels)}).encode()


def one(decoder: FeedbackDecoder, label: Any, **more: Any) -> LabelReport:
    (report,) = decoder.decode(body({"prediction_id": "a-0", "label": label, **more}), NOW)
    return report


def errors(decoder: FeedbackDecoder, raw: bytes) -> list[dict[str, Any]]:
    with pytest.raises(InvalidInput) as caught:
        decoder.decode(raw, NOW)
    return caught.value.errors


@pytest.mark.parametrize(
    ("decoder", "sent", "kept"),
    [
        (BINARY, 1, 1),
        (BINARY, True, 1),
        (BINARY, 1.0, 1),
        (BINARY, False, 0),
        (WORDS, "cat", "cat"),
        (NUMBER, 2, 2),
        (NUMBER, -1.5, -1.5),
        (ANYTHING, True, True),
        (ANYTHING, "x", "x"),
        (ANYTHING, 0.5, 0.5),
    ],
)
def test_a_label_is_kept_as_the_model_names_its_class(decoder: FeedbackDecoder, sent: Any, kept: Any) -> None:
    """`true` and 1.0 are the class 1; the type is the class's own, so that the store's texts agree."""
    report = one(decoder, sent)

    assert report == LabelReport("a-0", kept, NOW)
    assert type(report.label) is type(kept)


@pytest.mark.parametrize(
    ("decoder", "sent", "says"),
    [
        (BINARY, 2, "classes are [0, 1]"),
        (BINARY, "1", "classes are [0, 1]"),
        (BINARY, 0.5, "classes are [0, 1]"),
        (BINARY, "", "classes are [0, 1]"),
        (WORDS, 1, "['bird', 'cat']"),
        (WORDS, "Cat", "['bird', 'cat']"),
        (NUMBER, "3", "predicts a number"),
        (NUMBER, True, "predicts a number"),
        (NUMBER, 2**63, "more than 64 bits"),
        (ANYTHING, -(10**30), "more than 64 bits"),
    ],
)
def test_a_label_of_another_kind_is_refused_with_what_the_model_knows(
    decoder: FeedbackDecoder, sent: Any, says: str
) -> None:
    """Row and field are named."""
    (error,) = errors(decoder, body({"prediction_id": "a-0", "label": sent}))

    assert (error["row"], error["field"]) == (0, "label")
    assert says in error["problem"]


@pytest.mark.parametrize("item", [{"label": None}, {"label": [[1]]}, {"label": {}}, {}])
def test_what_is_no_label_is_refused_with_the_form_of_the_body(item: dict[str, Any]) -> None:
    """null, a list of lists, an object, and none at all."""
    (error,) = errors(BINARY, body({"prediction_id": "a-0", **item}))

    assert "prediction_id" in error["problem"]


def test_every_bad_label_of_a_batch_is_named_and_none_is_taken() -> None:
    """Two of four, one for its label and one for its time."""
    found = errors(
        BINARY,
        body(
            {"prediction_id": "a", "label": 1},
            {"prediction_id": "b", "label": 7},
            {"prediction_id": "c", "label": 0},
            {"prediction_id": "d", "label": 0, "at": "yesterday"},
        ),
    )

    assert [(error["row"], error["field"]) for error in found] == [(1, "label"), (3, "at")]


@given(
    st.datetimes(datetime.datetime(2000, 1, 2), datetime.datetime(2013, 6, 30)),  # noqa: DTZ001 - a zone comes next
    st.integers(-14 * 60, 14 * 60),
)
def test_a_time_is_unix_seconds_or_rfc_3339(moment: datetime.datetime, offset: int) -> None:
    """The same moment either way, in any zone."""
    zoned = moment.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=offset)))

    assert one(BINARY, 1, at=zoned.isoformat()).at == pytest.approx(zoned.timestamp(), abs=1e-5)
    assert one(BINARY, 1, at=zoned.timestamp()).at == zoned.timestamp()


@pytest.mark.parametrize(
    ("at", "seconds"),
    [("2013-07-01T12:00:00Z", NOW), ("2013-07-01 08:00:00-04:00", NOW), (NOW, NOW), (1e9, 1e9), (None, NOW)],
)
def test_times_as_people_write_them(at: Any, seconds: float) -> None:
    """`Z`, a blank for the `T`, whole seconds, and `null` for now."""
    report = one(BINARY, 1, at=at)

    assert report.at == seconds
    assert type(report.at) is float


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("2013-07-01T12:00:00", "time zone"),
        ("2013-07-01", "time zone"),
        ("noon", "RFC 3339"),
        ("", "RFC 3339"),
        ("1372680000", "RFC 3339"),
        ("2013-02-30T00:00:00Z", "RFC 3339"),
    ],
)
def test_a_time_that_could_mean_two_moments_is_refused(at: str, says: str) -> None:
    """Without a zone nobody knows when it was."""
    (error,) = errors(BINARY, body({"prediction_id": "a", "label": 1, "at": at}))

    assert error["field"] == "at"
    assert says in error["problem"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"labels": []}',
        b"{}",
        b"[]",
        b"1",
        b'{"labels": 1}',
        b'{"labels": [1]}',
        b'{"labels": [{}]}',
        b'{"labels": [{"prediction_id": "", "label": 1}]}',
        b'{"labels": [{"prediction_id": 1, "label": 1}]}',
        b'{"labels": [{"prediction_id": "a", "label": 1, "weight": 2}]}',
        b'{"labels": [], "more": 1}',
        b'{"labels": [{"prediction_id": "a", "label": 1, "at": true}]}',
        b'{"labels": [{"prediction_id": "' + b"a" * 65 + b'", "label": 1}]}',
    ],
)
def test_another_form_is_refused_and_the_form_is_shown(raw: bytes) -> None:
    """422, with the body as it should be."""
    (error,) = errors(BINARY, raw)

    assert 'the body is {"labels": [{"prediction_id"' in error["problem"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"labels": [{"prediction_id": "\xff", "label": 1}]}'])
def test_what_is_no_json_is_malformed(raw: bytes) -> None:
    """400, never an exception of the parser's own."""
    with pytest.raises(MalformedRequest, match="not JSON"):
        BINARY.decode(raw, NOW)


@pytest.mark.parametrize("number", [b"1e400", b"-1e400"])
def test_a_number_beyond_any_float_is_refused(number: bytes) -> None:
    """As a label and as a time: infinity would spoil every mean."""
    for raw in (
        b'{"labels": [{"prediction_id": "a", "label": ' + number + b"}]}",
        b'{"labels": [{"prediction_id": "a", "label": 1, "at": ' + number + b"}]}",
    ):
        with pytest.raises((InvalidInput, MalformedRequest)):
            NUMBER.decode(raw, NOW)


def test_one_call_takes_a_limited_number_of_labels() -> None:
    """Exactly the limit fits; order is kept."""
    items = [{"prediction_id": f"a-{i}", "label": 1} for i in range(101)]

    assert [r.prediction_id for r in BINARY.decode(body(*items[:100]), NOW)] == [f"a-{i}" for i in range(100)]
    with pytest.raises(TooLarge, match="101 labels; one call takes at most 100"):
        BINARY.decode(body(*items), NOW)
