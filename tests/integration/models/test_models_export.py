"""The graphs: what goes in and out, the same bytes every time, and the same answers as the Python model."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from models import export, train
from models.features import CATEGORICAL, NAMES, NULLABLE, NUMERIC, feeds

REBUILD = """
import hashlib, numpy as np
from models import data, export, train
rows = train.training_rows(data.load(), train.POC)
rows = rows.iloc[np.linspace(0, len(rows) - 1, 2_000).astype(int)].reset_index(drop=True)
for fitted, name in ((train.fit_poc(rows), "poc"), (train.fit_candidate(rows, trees=20), "candidate")):
    print(hashlib.sha256(export.to_onnx(fitted, name)).hexdigest())
"""


@pytest.mark.parametrize("name", ["poc", "candidate"])
def test_inputs_are_raw_and_named_and_outputs_are_label_and_probabilities(graphs, name):
    running = export.session(graphs[name])
    assert [(one.name, one.type, one.shape) for one in running.get_inputs()] == [
        *((column, "tensor(float)", [None, 1]) for column in NUMERIC),
        *((column, "tensor(string)", [None, 1]) for column in CATEGORICAL),
    ]
    assert [(one.name, one.type, one.shape) for one in running.get_outputs()] == [
        ("label", "tensor(int64)", [None]),
        ("probabilities", "tensor(float)", [None, 2]),
    ]


def test_the_same_rows_give_the_same_bytes_here_and_in_another_process(graphs, january):
    again = export.to_onnx(train.fit_poc(january), "poc")
    assert again == graphs["poc"]
    environment = os.environ | {"PYTHONHASHSEED": "4242"}
    done = subprocess.run([sys.executable, "-c", REBUILD], env=environment, capture_output=True, text=True, check=True)
    import hashlib

    assert done.stdout.split() == [hashlib.sha256(graph).hexdigest() for graph in graphs.values()]


def test_no_graph_says_by_whom_and_when_it_was_made(graphs):
    for graph in graphs.values():
        model = onnx.load_from_string(graph)
        assert (model.producer_version, model.doc_string, list(model.metadata_props)) == ("", "", [])


@pytest.mark.parametrize("name", ["poc", "candidate"])
def test_the_graph_answers_as_the_python_model_with_holes_and_unknown_names(graphs, name, request, small_year):
    result = export.parity(request.getfixturevalue(name), graphs[name], small_year, rows=4_000)
    assert result.rows == 4_000
    assert result.difference < 1e-5
    assert result.flips == 0


def test_a_value_on_a_cut_takes_the_same_branch_in_the_graph(candidate, graphs, january):
    # Every cut of every tree, as the float32 nearest to it: rounding up puts half of them on the other side.
    trees = candidate[-1].booster_.trees_to_dataframe().dropna(subset=["split_feature"])
    for index, name in enumerate(NUMERIC):
        cuts = trees.loc[trees["split_feature"] == f"Column_{index}", "threshold"].astype(np.float64).unique()
        rows = january.iloc[np.arange(len(cuts)) % len(january)].assign(**{name: cuts.astype(np.float32)})
        if len(rows):
            _, scores = export.predict(export.session(graphs["candidate"]), rows)
            np.testing.assert_allclose(scores, train.probabilities(candidate, rows), atol=1e-6, rtol=0)


def test_parity_samples_hold_missing_values_and_unknown_names(small_year):
    sample = export._with_holes(small_year, seed=0)
    for name in NAMES:
        assert sample[name].isna().any() == (name in NULLABLE)
        assert (name in CATEGORICAL) == bool((sample[name] == "never seen").any())


def test_a_graph_that_answers_otherwise_is_refused(graphs, candidate, small_year):
    wrong = export.with_false_prior_correction(graphs["candidate"], "broken")
    with pytest.raises(export.ParityError, match="is not the Python model"):
        export.parity(candidate, wrong, small_year, rows=500)


def test_a_graph_that_answers_nan_is_refused(graphs, poc, small_year, monkeypatch):
    monkeypatch.setattr(export, "predict", lambda _, rows: (np.zeros(len(rows), np.int64), np.full(len(rows), np.nan)))
    with pytest.raises(export.ParityError):
        export.parity(poc, graphs["poc"], small_year, rows=100)


def test_the_broken_graph_keeps_the_order_and_takes_its_odds_for_a_hundredth(graphs, january):
    broken = export.with_false_prior_correction(graphs["candidate"], "broken")
    _, scores = export.predict(export.session(graphs["candidate"]), january)
    labels, found = export.predict(export.session(broken), january)
    np.testing.assert_allclose(found / (1 - found), 0.01 * scores / (1 - scores), rtol=1e-4)
    np.testing.assert_array_equal(labels, found > 0.5)
    assert broken == export.with_false_prior_correction(graphs["candidate"], "broken")
    signature = [(one.name, one.type, one.shape) for one in export.session(broken).get_outputs()]
    assert signature == [("label", "tensor(int64)", [None]), ("probabilities", "tensor(float)", [None, 2])]


def test_what_is_constant_in_january_neither_divides_by_zero_nor_moves_the_poc(graphs, january):
    running = export.session(graphs["poc"])
    _, july = export.predict(running, january.assign(month=7.0))
    _, same = export.predict(running, january)
    assert np.isfinite(july).all()
    np.testing.assert_array_equal(july, same)


@pytest.mark.parametrize("name", ["poc", "candidate"])
def test_a_row_with_every_hole_and_names_nobody_knows_gets_a_finite_answer(graphs, name, january):
    row = january.head(1).assign(**dict.fromkeys(NULLABLE, np.nan), **dict.fromkeys(CATEGORICAL, ""))
    _, probabilities = export.session(graphs[name]).run(None, feeds(row))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-6)
