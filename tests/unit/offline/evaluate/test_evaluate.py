"""Evaluations of a model known by heart and of the flights; what is wrong with the data is named."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from models import data, features
from tests.unit.drift.world import FOLDER, cards
from tests.unit.offline.evaluate.world import csv_file, json_lines, records, sigmoid_model
from understudy import cli, loading
from understudy.domain import Status
from understudy.errors import ConfigurationError
from understudy.inference import OutputReader
from understudy.inference.decoding import Decoder, Field
from understudy.inference.onnx import OnnxEngine
from understudy.offline.evaluate.data import ColumnNames, Sample, read_file, sample_of
from understudy.offline.evaluate.problems import skew
from understudy.offline.evaluate.run import EvaluationRequest, run
from understudy.rollout import losses
from understudy.rollout.policy import Policy, parse

WANTED = ColumnNames("late", "when", None, ("place",))


def policy(model: Path, *, target: float = 0.2, margin: float = 0.01) -> Policy:
    quality = {"loss": "brier", "margin": margin, "poc_target": target}
    return parse(
        json.dumps(
            {"model": "m", "task": "binary-classification", "primary": str(model), "goals": {"quality": quality}}
        )
    )


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return sigmoid_model(tmp_path / "good.onnx")


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    return sigmoid_model(tmp_path / "shifted.onnx", 1.5)


ROWS = records(3_000)


@pytest.fixture
def evaluated(tmp_path: Path, good: Path, shifted: Path) -> Any:
    """A model beside its target, and a worse one beside it."""
    file = json_lines(tmp_path / "d.jsonl", ROWS)
    return run(EvaluationRequest([str(good), str(shifted)], policy(good), file, WANTED))


def test_the_figures_are_the_mean_losses_of_the_rows(evaluated: Any) -> None:
    by_hand = np.mean([(1 / (1 + math.exp(-row["x"])) - row["late"]) ** 2 for row in ROWS])
    everything = evaluated.everything

    assert everything.loss[0].mean == pytest.approx(by_hand, abs=1e-6)
    assert everything.difference.mean == pytest.approx(everything.loss[1].mean - by_hand, abs=1e-6)


def test_the_goals_are_answered_with_the_intervals(evaluated: Any) -> None:
    assert [answer.answer for answer in evaluated.answers] == ["yes", "no", "no"]
    assert "leaving out one day at a time" in evaluated.method


def test_calibration_tells_a_shifted_model_from_a_good_one(evaluated: Any) -> None:
    """A shift changes no order, and so not the AUC."""
    good, shifted = evaluated.calibration_errors
    assert good < 0.05 < shifted
    assert evaluated.everything.expected_accuracy[0] == pytest.approx(evaluated.everything.accuracy[0].mean, abs=0.03)
    assert evaluated.auc[0] == pytest.approx(evaluated.auc[1], abs=1e-9)


def test_every_row_is_in_a_month_and_in_a_segment(evaluated: Any) -> None:
    assert sum(part.rows for part in evaluated.months) == 3_000
    assert {part.name for part in evaluated.segments["place"]} == {"north", "south"}


def test_without_a_profile_drift_is_said_to_be_unknown(evaluated: Any) -> None:
    assert "profile" in evaluated.drift[0]


def test_csv_and_json_say_the_same(tmp_path: Path, good: Path) -> None:
    """Whichever way a row is written; columns that are neither inputs nor asked for are left out."""
    rows = records(400)
    rows[7]["late"] = None
    lines = run(EvaluationRequest([str(good)], None, json_lines(tmp_path / "d.jsonl", rows), WANTED))
    table = run(EvaluationRequest([str(good)], None, csv_file(tmp_path / "d.csv", rows), WANTED))

    ours, theirs = lines.as_dict(), table.as_dict()
    assert ours.pop("source").endswith("d.jsonl")
    assert theirs.pop("source").endswith("d.csv")
    assert ours == theirs
    assert lines.labelled == 399
    assert lines.answers == []
    assert "1 of 400 rows have no label" in lines.problems[0]


def test_rows_that_the_service_would_refuse_are_counted_and_named(tmp_path: Path, good: Path) -> None:
    """By line, field and problem, as a caller would be told; the others are evaluated."""
    rows = records(300)
    rows[3]["x"] = "warm"
    rows[5].pop("place")
    found = run(EvaluationRequest([str(good)], None, json_lines(tmp_path / "d.jsonl", rows), ColumnNames("late")))

    assert found.rows == 298
    assert found.problems[0].startswith("the service would reject 2 rows: line 4: x takes a number")
    assert "line 6: place is missing" in found.problems[0]
    assert "30 runs of consecutive rows" in found.method
    assert found.months == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"late": 7}, "line 1: the label 7 is none of the model's classes [0, 1]"),
        ({"when": "yesterday"}, "line 1: when is 'yesterday'; a time is Unix seconds or ISO 8601"),
        ({"score": "high"}, "line 1: score is 'high', not a number"),
    ],
)
def test_a_cell_that_is_wrong_is_named_with_its_line(
    tmp_path: Path, good: Path, change: dict[str, Any], told: str
) -> None:
    """And with what it should be."""
    rows = [record | {"score": 0.5} | change for record in records(5)]
    with pytest.raises(ConfigurationError, match="line 1") as refused:
        run(
            EvaluationRequest(
                [str(good)], None, json_lines(tmp_path / "d.jsonl", rows), ColumnNames("late", "when", "score")
            )
        )
    assert told in refused.value.detail


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    """So is a file that is no table, and one without a row that fits."""
    decoder = Decoder([Field("x", "float32")], rows_max=1_000, key_max_chars=100)

    def refused(text: str, wanted: ColumnNames, name: str = "d.csv") -> str:
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigurationError) as error:
            read_file(tmp_path / name, decoder, wanted, [0, 1])
        return error.value.detail

    assert "has no column 'label'; it has x, y" in refused("x,y\n1,2\n", ColumnNames("label"))
    assert "line 2: the number of cells differs from the header" in refused("x,y\n1,2,3\n", ColumnNames("y"))
    assert "line 1 is not JSON" in refused("{\n", ColumnNames("y"), "d.jsonl")
    assert "line 1 is not an object" in refused("[1]\n", ColumnNames("y"), "d.jsonl")
    assert "no row that the service would accept: line 2: x takes a number" in refused("x,y\nhot,1\n", ColumnNames("y"))
    assert "no row that the service would accept" in refused("x,y\n", ColumnNames("y"))


def test_cells_are_read_as_what_the_model_takes(tmp_path: Path) -> None:
    """Numbers, booleans, arrays, missing values in the ways tools write them; times with a zone or without; any order."""
    fields = [
        Field("x", "float32", nullable=True),
        Field("n", "int64"),
        Field("b", "bool"),
        Field("v", "float32", (2,)),
        Field("s", "string", nullable=True),
    ]
    decoder = Decoder(fields, rows_max=1_000, key_max_chars=100)
    (tmp_path / "d.tsv").write_text(
        "x\tn\tb\tv\ts\ty\tt\nNaN\t2.0\ttrue\t[1, 2]\t\t1\t2024-01-02T00:00:00+00:00\n1.5\t3\t0\t[0.5, 2]\tq\t0\t2024-01-01\n"
    )
    sample = read_file(tmp_path / "d.tsv", decoder, ColumnNames("y", "t", None, ("s",)), ["0", "1"])

    assert sample.rows == [(1.5, 3, False, [0.5, 2.0], "q"), (None, 2, True, [1.0, 2.0], None)]
    assert sample.labels == ["0", "1"]
    assert sample.segments == {"s": ["q", "(missing)"]}
    assert sample.months == ["2024-01", "2024-01"]
    assert sample.at is not None
    assert np.diff(sample.at).tolist() == [86_400]


def test_predictions_of_the_training_pipeline_are_held_against_serving(tmp_path: Path, good: Path) -> None:
    """The same are no skew; one that differs is named with its row and both numbers."""
    rows = [row | {"said": 1 / (1 + math.exp(-row["x"]))} for row in records(50)]
    wanted = ColumnNames("late", None, "said")
    agreed = run(EvaluationRequest([str(good)], None, json_lines(tmp_path / "a.jsonl", rows), wanted))
    rows[4]["said"] += 0.01
    differs = run(EvaluationRequest([str(good)], None, json_lines(tmp_path / "b.jsonl", rows), wanted))

    assert (agreed.skew, agreed.skew_checked) == ([], True)
    assert "differs from the training pipeline in 1 of 50 rows, by up to 0.01; row 5" in differs.skew[0]


def october(limit: int) -> tuple[Sample, dict[str, Any], Any]:
    """October's first flights through the serving path, the same from the training pipeline, and the columns served."""
    frame = data.month_of(data.load(), 10).head(limit)
    decoder = Decoder(
        loading.fields_of(next(iter(cards().values())), None), context=["tailnum"], rows_max=1_000, key_max_chars=99
    )
    records_ = ((i, flight.row | {"y": flight.label}) for i, flight in enumerate(data.flights(frame)))
    sample = sample_of("october", records_, decoder, ColumnNames("y"), [0, 1])
    return (
        sample,
        features.feeds(frame),
        loading.inputs_of(next(iter(cards().values())), decoder.positions).build(sample.rows),
    )


def test_serving_makes_of_a_flight_what_training_made_of_it() -> None:
    """Every feature of 3,000 flights, but for float32's last digit; a pipeline that differs is named by feature and row."""
    _, pipeline, served = october(3_000)
    assert skew(served, pipeline) == []
    wrong = copy.deepcopy(pipeline)
    wrong["temp"] = (wrong["temp"] - 32) * 5 / 9
    wrong["carrier"][7] = "XX"
    del wrong["dow"]
    wrong["gate"] = wrong["origin"]
    said = skew(served, wrong)

    assert [line.split()[0] for line in said] == ["carrier", "dow", "gate", "temp"]
    assert "differs in 1 of 3,000 rows; row 8" in said[0]
    assert "only in the serving path" in said[1]
    assert "only in the training pipeline" in said[2]


def test_the_flights_say_what_the_cards_say() -> None:
    """July with both models: Brier, accuracy and AUC equal the cards' held-out figures; drift is what the service would ring on."""
    models = [str(FOLDER / name) for name in ("flight_poc", "flight_candidate")]
    found = run(EvaluationRequest(models, None, None, ColumnNames(None), months=[7]))

    for i, card in enumerate(cards().values()):
        july = next(month for month in card.held_out if month.month == "2013-07")
        assert found.everything.loss[i].mean == pytest.approx(july.brier, abs=1e-9)
        assert found.everything.accuracy[i].mean == pytest.approx(july.accuracy, abs=1e-9)
        assert found.auc[i] == pytest.approx(july.auc, abs=1e-6)
    assert [part.name for part in found.months] == ["2013-07"]
    assert found.everything.difference is not None
    assert found.everything.difference.high is not None
    assert found.everything.difference.high < 0
    assert (found.skew, found.skew_checked) == ([], True)
    assert any(line.startswith("2013-07-03: temp is unlike flight_poc's training: 100%") for line in found.drift)
    assert len(found.segments["origin"]) == 3


def understudy(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "160"})


def test_the_command_prints_tables_json_and_html(
    tmp_path: Path, good: Path, shifted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout file as the argument, or models by themselves."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "r.yaml"
    file.write_text(
        yaml.safe_dump(policy(good).model_dump(mode="json", exclude_none=True) | {"candidate": str(shifted)})
    )
    json_lines(tmp_path / "d.jsonl", records(600))
    common = ("--data", "d.jsonl", "--label", "late", "--at", "when")
    shown = understudy("evaluate", "r.yaml", *common, "--html", "page.html")
    told = understudy("evaluate", good, *common, "--json")

    assert shown.exit_code == 0, shown.output
    for words in (
        "does good reach the target",
        "is shifted at most 0.01 worse than good?",
        "Calibration of shifted",
        "by place",
    ):
        assert words in shown.stdout
        assert words in (tmp_path / "page.html").read_text()
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["labelled"] == 600


def test_what_is_missing_is_said() -> None:
    """Data without a label, a label without data, models that do not read flights."""
    half = understudy("evaluate", "--data", "d.jsonl")
    assert half.exit_code == 1
    assert "--data and --label belong together" in half.output


def test_models_of_something_else_need_data_of_their_own(good: Path) -> None:
    """The example's flights are for the example's models."""
    with pytest.raises(ConfigurationError, match="read place, x, which the data source `flights` does not have"):
        run(EvaluationRequest([str(good)], None, None, ColumnNames(None)))


def test_profiles_of_one_s_own_data_let_drift_be_told(tmp_path: Path, good: Path) -> None:
    """A bare model and its training rows make a folder; the same rows ring nothing, warmer ones do."""
    trained = csv_file(tmp_path / "train.csv", records(6_000, days=30))
    made = understudy("profile", good, trained, "--at", "when", "--output", tmp_path / "own")
    assert made.exit_code == 0, made.output
    assert "profiles of 2 inputs from 6,000 rows" in made.output
    warmer = [row | {"x": row["x"] + 3} for row in records(6_000, seed=1, days=30)]

    def drift(rows: list[dict[str, Any]], name: str) -> list[str]:
        return run(EvaluationRequest([str(tmp_path / "own")], None, json_lines(tmp_path / name, rows), WANTED)).drift

    assert drift(records(6_000, seed=2, days=30), "same.jsonl") == []
    assert any("x is unlike good's training" in line for line in drift(warmer, "warmer.jsonl"))
    refused = understudy("profile", tmp_path / "nothing", trained)
    assert refused.exit_code == 1
    assert "give --output, the folder" in refused.output
    without = understudy("profile", tmp_path / "own", trained)
    assert "rule of thumb" in without.output


def test_losses_by_row_are_those_of_the_judge(tmp_path: Path, good: Path) -> None:
    """One definition: what the service counts of a labelled row is what is averaged here."""
    engine = OnnxEngine(good, device="cpu", warm_max_rows=1)
    reader = OutputReader(engine.card)
    rows = records(20)
    columns = {
        "x": np.array([[r["x"]] for r in rows], dtype=np.float32),
        "place": np.array([[r["place"]] for r in rows], dtype=object),
    }
    answers = reader.attempts(reader.read(engine.run(columns), 20), Status.OK, 0.0, 20)
    by_row = [losses.losses(a, r["late"], [0, 1], 1)["brier"] for a, r in zip(answers, rows, strict=True)]
    engine.close()
    found = run(EvaluationRequest([str(good)], None, json_lines(tmp_path / "d.jsonl", rows), ColumnNames("late")))

    assert found.everything.loss[0].mean == pytest.approx(np.mean(by_row))
