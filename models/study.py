"""The numbers in README.md: held-out metrics, paired differences with honest errors, and the mistakes weighed.

Nothing that is served needs this module; `python -m models --study` prints what it returns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from onnxruntime import InferenceSession

from models import build, data, export, train
from models.cards import HELD_OUT_MONTHS
from models.data import Frame, labelled, month_of
from models.features import CATEGORICAL, NULLABLE, NUMERIC
from understudy.inference.cards import MODEL_FILE, read_card

MONTHS: Final = ("Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Scores = npt.NDArray[np.float64]
Edit = Callable[[Frame, Frame], Frame]
"""(rows, training rows) to the rows as a graph with a mistake in its preprocessing would see them."""


def tables(root: Path) -> str:
    """All tables as Markdown, from the three folders under `root` and the flights.

    Raises:
        ConfigurationError: when a folder or the data is missing or changed.
    """
    frame = data.load()
    rows = {month: labelled(month_of(frame, month)) for month in HELD_OUT_MONTHS}
    sessions = {
        example.name: export.session((root / example.name / MODEL_FILE).read_bytes())
        for example in build.EXAMPLES
        if read_card(root / example.name)
    }
    parts = (
        ("Held out, by month (POC / candidate / broken)", _held_out(root)),
        ("Brier loss of the POC minus the candidate's, on the same flights", _paired(sessions, rows, build.CANDIDATE)),
        ("Brier loss of the POC minus the broken model's, on the same flights", _paired(sessions, rows, build.BROKEN)),
        ("Brier loss of plausible mistakes at export", _mistakes(sessions, rows, frame)),
        ("Brier loss of a control: the POC's algorithm on the candidate's months", _control(rows, frame)),
    )
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in parts)


def _held_out(root: Path) -> str:
    cards = [read_card(root / example.name) for example in build.EXAMPLES]
    lines = []
    for name, months in zip(MONTHS, zip(*(card.held_out for card in cards), strict=True), strict=True):
        cells = [
            " / ".join(f"{getattr(month, metric):.4f}" for month in months)
            for metric in ("accuracy", "auc", "log_loss", "brier", "mean_probability")
        ]
        lines.append([name, f"{months[0].rows:,}", f"{months[0].base_rate:.4f}", *cells])
    return _table(["month", "rows", "late", "accuracy", "AUC", "log-loss", "Brier", "mean probability"], lines)


def _paired(sessions: Mapping[str, InferenceSession], rows: Mapping[int, Frame], other: build.Example) -> str:
    """The difference of Brier losses with two standard errors: of independent rows, and of independent days."""
    lines = []
    for name, frame in zip(MONTHS, rows.values(), strict=True):
        late = frame["label"].to_numpy()
        poc, theirs = ((export.predict(sessions[one.name], frame)[1] - late) ** 2 for one in (build.POC, other))
        gain = poc - theirs
        day = frame["day"].to_numpy(dtype=np.int64) - 1
        per_day, flown = np.bincount(day, gain), np.bincount(day)
        by_rows = gain.std() / np.sqrt(gain.size)
        by_days = np.sqrt(((per_day - gain.mean() * flown) ** 2).sum()) / gain.size
        better = f"{np.count_nonzero(per_day > 0)} of {per_day.size}"
        first = [f"{gain[:count].mean():+.4f}" for count in (500, 2_000)]
        lines.append([name, f"{gain.mean():+.4f}", f"{by_rows:.4f}", f"{by_days:.4f}", better, *first])
    head = ["month", "gain", "error if rows were independent", "error if days are", "days better"]
    return _table([*head, "first 500", "first 2,000"], lines)


def _mistakes(sessions: Mapping[str, InferenceSession], rows: Mapping[int, Frame], frame: Frame) -> str:
    """What each mistake would cost, beside the POC and the good candidate."""
    fitted = train.training_rows(frame, train.CANDIDATE)
    good = sessions[build.CANDIDATE.name]
    lines = []
    for example in build.EXAMPLES:
        scores = [export.predict(sessions[example.name], month)[1] for month in rows.values()]
        lines.append(_brier(example.name, rows, scores))
    for name, edit in MISTAKES.items():
        scores = [export.predict(good, edit(month, fitted))[1] for month in rows.values()]
        lines.append(_brier(name, rows, scores))
    swapped = [1 - export.predict(good, month)[1] for month in rows.values()]
    lines.append(_brier("the two probabilities swapped", rows, swapped))
    return _table(["", *MONTHS], lines)


def _control(rows: Mapping[int, Frame], frame: Frame) -> str:
    """How much of the gain is more months rather than another algorithm."""
    estimator = train.fit_poc(train.training_rows(frame, train.CANDIDATE))
    scores = [train.probabilities(estimator, month) for month in rows.values()]
    return _table(["", *MONTHS], [_brier("logistic regression, January to June", rows, scores)])


def _brier(name: str, rows: Mapping[int, Frame], scores: Sequence[Scores]) -> list[str]:
    """A line of the table: the mean Brier loss of each month's scores, float64 of shape [rows of that month]."""
    months = zip(rows.values(), scores, strict=True)
    return [name, *(f"{((found - month['label'].to_numpy()) ** 2).mean():.4f}" for month, found in months)]


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def _celsius(rows: Frame, _: Frame) -> Frame:
    return rows.assign(**{name: (rows[name] - 32) * 5 / 9 for name in ("temp", "dewp")})


def _fahrenheit_twice(rows: Frame, _: Frame) -> Frame:
    return rows.assign(**{name: rows[name] * 9 / 5 + 32 for name in ("temp", "dewp")})


def _utc(rows: Frame, _: Frame) -> Frame:
    """New York's summer time is four hours behind UTC."""
    return rows.assign(**{name: (rows[name] + 4) % 24 for name in ("sched_hour", "sched_arr_hour")})


def _alphabetical(rows: Frame, _: Frame) -> Frame:
    return rows.assign(**{name: rows[other] for name, other in zip(NUMERIC, sorted(NUMERIC), strict=True)})


def _zero_for_missing(rows: Frame, _: Frame) -> Frame:
    return rows.assign(**{name: rows[name].fillna(0.0) for name in NULLABLE})


def _names_by_frequency(rows: Frame, fitted: Frame) -> Frame:
    """Training numbers the names in alphabetical order, the export in order of frequency."""
    columns = {}
    for name in CATEGORICAL:
        frequent = list(fitted[name].value_counts().index)
        wrong = dict(zip(frequent, sorted(frequent), strict=True))
        columns[name] = rows[name].map(wrong).fillna("").astype(object)
    return rows.assign(**columns)


MISTAKES: Final[Mapping[str, Edit]] = {
    "temperature and dew point in Celsius": _celsius,
    "Fahrenheit converted twice": _fahrenheit_twice,
    "hours in UTC": _utc,
    "numeric columns in alphabetical order": _alphabetical,
    "zero for missing": _zero_for_missing,
    "names numbered by frequency": _names_by_frequency,
}
