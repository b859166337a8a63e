"""`understudy init --data`: two models and a table make a rollout that `check` accepts, and cards."""

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.commands import done, refused, understudy
from tests.support.graphs import FLOAT, INT64, STRING, classifier, save, summing
from tests.support.own_models import PAIRS, torch_like, write
from understudy.cli import init as init_command
from understudy.inference.card_schema import card_schema
from understudy.inference.cards import Card
from understudy.rollout.policy import Policy, parse


def started(*options: Any) -> tuple[str, Policy]:
    """What `init` printed, and the file that it wrote, which `check` accepts."""
    said = done("init", "poc.onnx", "better.onnx", "--data", "held-out.csv", *options)
    assert done("check").splitlines()[-1] == "ready to serve"
    return said, parse(Path("rollout.yaml").read_text(encoding="utf-8"))


def card(name: str = "poc") -> Card:
    return Card.model_validate_json(Path(f"{name}.card.json").read_text(encoding="utf-8"))


def refuses(*options: Any) -> str:
    return refused("init", "poc.onnx", "better.onnx", "--data", "held-out.csv", *options)


@pytest.mark.parametrize("name", PAIRS)
def test_models_of_any_tool_and_a_table_make_a_rollout(tmp_path: Path, name: str) -> None:
    """The next command is said, cards fit the schema, and goals have numbers from the data."""
    make, options = PAIRS[name]
    make(tmp_path)
    said, policy = started(*options)

    assert policy.goals.quality is not None
    assert policy.goals.quality.loss == ("absolute_error" if name == "prices" else "brier")
    assert (policy.goals.quality.clip is not None) is (name == "prices")
    assert "better.onnx is better than poc.onnx" in said
    assert "written to poc.card.json, better.card.json" in said
    assert said.splitlines()[-1].startswith("Next: ")
    assert "`understudy check`" in said.splitlines()[-1]
    for each in ("poc", "better"):
        jsonschema.validate(json.loads(Path(f"{each}.card.json").read_text(encoding="utf-8")), card_schema())
    assert "# A guess" in Path("rollout.yaml").read_text(encoding="utf-8")


def test_missing_values_times_and_keys_are_worked_out(tmp_path: Path) -> None:
    """Of which the card says what may be missing, with profiles for drift."""
    make, options = PAIRS["churn"]
    make(tmp_path)
    said, policy = started(*options)

    assert "`age` is missing in" in said
    assert {spec.name: spec.nullable for spec in card().inputs} == {"age": True, "usage": False}
    age = card().inputs[0].profile
    assert age is not None
    assert age.missing > 0
    assert age.windows is not None
    measured = card().measured
    assert measured is not None
    assert (measured.data, measured.start, measured.rows) == ("held-out.csv", "2024-01-01", 4_000)
    assert set(measured.metrics) == {"brier", "log_loss", "zero_one"}
    assert policy.route_by == "customer"
    assert policy.unit is None, "no customer came twice on a day"


def test_a_key_that_repeats_within_a_day_is_the_unit(tmp_path: Path) -> None:
    make, _ = PAIRS["churn"]
    make(tmp_path)
    _, policy = started("--label", "churned", "--key", "customer")
    assert policy.unit == "customer"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_classes_that_nothing_names_are_worked_out_from_the_labels(tmp_path: Path, order: tuple[int, ...]) -> None:
    """In the order in which the models are right; the file says how sure that is, and the evidence depends on it."""
    torch_like(tmp_path, order)
    said, policy = started("--label", "kind")

    assert policy.classes == [["cat", "dog", "eel"][i] for i in order]
    assert "likeliest class is right" in said
    text = " ".join(Path("rollout.yaml").read_text(encoding="utf-8").replace("# ", "").split())
    assert "the labels of held-out.csv in" in text
    assert card().classes == [], "the rollout file has them, where they can be corrected"


def test_two_models_with_different_orders_get_them_on_their_cards(tmp_path: Path) -> None:
    """The rollout file has one order for both."""
    torch_like(tmp_path, (1, 0, 2))
    turned = (tmp_path / "poc.onnx").read_bytes()
    torch_like(tmp_path)
    (tmp_path / "poc.onnx").write_bytes(turned)
    _, policy = started("--label", "kind")

    assert policy.classes == []
    assert card("poc").classes == ["dog", "cat", "eel"]
    assert card("better").classes == ["cat", "dog", "eel"]


def sigmoid(path: Path, weight: float, node: str = "Sigmoid") -> None:
    constant = numpy_helper.from_array(np.full((2, 1), weight, np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node(node, ["z"], ["y"])]
    save(path, nodes, [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 1])], [constant])


def two_labels(names: tuple[str, str], rows: int = 600) -> None:
    chance = np.random.default_rng(1)
    x = chance.normal(size=(rows, 2))
    second = chance.random(rows) < 1 / (1 + np.exp(-2 * x.sum(axis=1)))
    write(Path("held-out.csv"), {"x0": x[:, 0], "x1": x[:, 1], "y": [names[int(each)] for each in second]})


def test_one_number_from_0_to_1_is_a_probability_if_the_labels_have_two_values(tmp_path: Path) -> None:
    for name, weight in (("poc", 1.0), ("better", 2.0)):
        sigmoid(tmp_path / f"{name}.onnx", weight)
    two_labels(("no", "yes"))
    said, policy = started("--label", "y")

    assert (policy.task, policy.classes) == ("binary-classification", ["no", "yes"])
    assert "better.onnx is better than poc.onnx" in said


def test_a_number_from_0_to_1_is_a_number_if_the_labels_have_many_values(tmp_path: Path) -> None:
    """A share, predicted by a Sigmoid; the card says that it is a regression."""
    for name, weight in (("poc", 1.0), ("better", 2.0)):
        sigmoid(tmp_path / f"{name}.onnx", weight)
    x = np.random.default_rng(1).normal(size=(600, 2))
    write(Path("held-out.csv"), {"x0": x[:, 0], "x1": x[:, 1], "y": 1 / (1 + np.exp(-1.8 * x.sum(axis=1)))})
    _, policy = started("--label", "y")

    assert policy.task == "regression"
    assert card().task == "regression"


def test_numbers_that_are_no_probabilities_are_refused_for_labels_of_texts(tmp_path: Path) -> None:
    """And are a regression where the labels are numbers."""
    for name in ("poc", "better"):
        sigmoid(tmp_path / f"{name}.onnx", 1.0, "Identity")
    two_labels(("no", "yes"))
    assert "if they are logits, end the graph with a Sigmoid" in refuses("--label", "y")
    two_labels(("0", "1"))
    _, policy = started("--label", "y")
    assert policy.task == "regression"


def test_an_input_without_which_the_model_has_no_answer_may_not_be_missing(tmp_path: Path) -> None:
    """A sum with NaN is NaN: such rows are rejected, which is said."""
    for name in ("poc", "better"):
        nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
        save(tmp_path / f"{name}.onnx", nodes, [("a", FLOAT, ["n"]), ("b", FLOAT, ["n"])], [("y", FLOAT, ["n"])])
    a = ["" if i % 9 == 0 else str(i) for i in range(400)]
    write(Path("held-out.csv"), {"a": a, "b": range(400), "y": [2.0 * i + i % 5 for i in range(400)]})
    said, _ = started("--label", "y")

    assert "`a` is missing in 45 of 400 rows, and poc.onnx gives no finite answer then" in said
    assert [spec.nullable for spec in card().inputs] == [False, False]


def test_a_whole_number_cannot_be_missing(tmp_path: Path) -> None:
    for name in ("poc", "better"):
        nodes = [helper.make_node("Cast", ["n"], ["y"], to=FLOAT)]
        save(tmp_path / f"{name}.onnx", nodes, [("n", INT64, ["b"])], [("y", FLOAT, ["b"])])
    values = ["NA" if i == 7 else str(i) for i in range(400)]
    write(Path("held-out.csv"), {"n": values, "y": [i + 0.5 for i in range(400)]})
    said, _ = started("--label", "y")
    assert "`n` is missing in 1 of 400 rows, and cannot be missing in a request (a whole number (int64))" in said


def test_the_target_of_the_proof_of_concept_is_judged(tmp_path: Path) -> None:
    torch_like(tmp_path)
    said, policy = started("--label", "kind", "--target", "0.3")
    assert "does poc.onnx reach the target of the proof of concept (brier 0.3)? yes" in said
    assert policy.goals.quality is not None
    assert policy.goals.quality.poc_target == 0.3


def test_cards_are_kept_unless_told(tmp_path: Path) -> None:
    torch_like(tmp_path)
    started("--label", "kind")
    own = Path("poc.card.json").read_text(encoding="utf-8").replace('"version": "0"', '"version": "9"')
    Path("poc.card.json").write_text(own, encoding="utf-8")
    Path("rollout.yaml").unlink()
    said, _ = started("--label", "kind")
    assert "poc.card.json exists and is kept; --force writes a new one" in said
    assert card().version == "9"
    started("--label", "kind", "--force")
    assert card().version == "0"


def test_force_replaces_the_card_of_an_earlier_model(tmp_path: Path) -> None:
    """Its digest is another one."""
    torch_like(tmp_path)
    started("--label", "kind")
    torch_like(tmp_path, (2, 0, 1))
    assert "is not the file that its card describes" in refuses("--label", "kind", "-o", "r.yaml")
    started("--label", "kind", "--force")


def test_multilabel_answers_are_not_compared_with_a_column(tmp_path: Path) -> None:
    """A vector has no single label; the rest is still worked out."""
    for name in ("poc", "better"):
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        save(tmp_path / f"{name}.onnx", nodes, [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])])
    write(Path("held-out.csv"), {"a": range(50), "b": range(50), "y": range(50)})
    said, policy = started("--label", "y")
    assert "labels were not looked at" in said
    assert policy.goals.quality is not None
    assert policy.goals.quality.loss == "disagreement"


@pytest.mark.parametrize(
    ("table", "options", "told"),
    [
        ("x0,x1,x2,y\n1,2,3,1\n", ["--label", "label"], "has no column 'label' for --label; it has x0, x1, x2, y"),
        ("x0,x1,y\n1,2,1\n", ["--label", "y"], "`x` takes 3 numbers a row, and 2 columns are left for it: `x0`, `x1`"),
        (
            "x0,x1,x2,y\n1,2,hot,1\n",
            ["--label", "y"],
            "line 2, one of the columns 'x0' to 'x2': 'hot' is not what the input",
        ),
        ("", ["--label", "y"], "held-out.csv is empty"),
        ("x0,x1,x2,y\n", ["--label", "y"], "has no rows"),
        (
            "x0,x1,x2,y\n1,2,3,high\n",
            ["--label", "y"],
            "the models predict a number, and the labels are texts such as 'high'",
        ),
        ("x0,x1,x2,y\n1,2,3,\n", ["--label", "y"], "no row has a label"),
        ("x0,x1,x2,y\n1,2,3,1\n", [], "--label names the column of --data with the label"),
        ("x0,x1,x2,y\n1,2,3,1\n", ["--label", "y", "--label-at", "t"], "--label-at needs --at"),
        ("x0,x1,x2,y,t\n1,2,3,1,soon\n", ["--label", "y", "--at", "t"], "line 2: t is 'soon'; a time is Unix seconds"),
        ("x0,x1,x2,y,t\n1,2,3,1,1704067200000\n", ["--label", "y", "--at", "t"], "divide milliseconds by 1,000"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_in_one_line(
    tmp_path: Path, table: str, options: list[str], told: str
) -> None:
    """And nothing is written."""
    for name in ("poc", "better"):
        summing(tmp_path / f"{name}.onnx")
    Path("held-out.csv").write_text(table, encoding="utf-8")

    assert told in refuses(*options)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["better.onnx", "held-out.csv", "poc.onnx"]


def test_classes_that_no_model_has_are_refused(tmp_path: Path) -> None:
    for name in ("poc", "better"):
        classifier(tmp_path / f"{name}.onnx", zipmap=["no", "yes"])
    Path("held-out.csv").write_text("x0,x1,y\n1,2,yes\n1,2,maybe\n", encoding="utf-8")
    assert "the label 'maybe' is none of the model's classes ['no', 'yes']" in refuses("--label", "y")


def test_more_labels_than_probabilities_are_refused(tmp_path: Path) -> None:
    torch_like(tmp_path)
    text = "f0,f1,f2,f3,y\n" + "".join(f"1,2,3,4,{i}\n" for i in range(5))
    Path("held-out.csv").write_text(text, encoding="utf-8")
    assert "the models give 3 probabilities a row, and the labels have 5 different values (0, 1, 2, 3, 4)" in refuses(
        "--label", "y"
    )


def test_columns_of_data_need_data(tmp_path: Path) -> None:
    torch_like(tmp_path)
    assert "--label names a column of --data: give the file too" in refused(
        "init", "poc.onnx", "better.onnx", "--label", "y"
    )


def test_without_data_it_says_what_it_worked_from(tmp_path: Path) -> None:
    torch_like(tmp_path)
    said = done("init", "poc.onnx", "better.onnx")
    assert "made from the models' signatures alone; with --data and --label" in said
    assert not Path("poc.card.json").exists()


def test_questions_need_a_terminal(tmp_path: Path) -> None:
    torch_like(tmp_path)
    assert "there is no terminal to ask them on" in refused("init", "poc.onnx", "better.onnx", "-i")


def test_a_person_is_asked_about_each_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the guess as default; answers replace it."""
    torch_like(tmp_path)
    monkeypatch.setattr(init_command, "at_a_terminal", lambda: True)
    monkeypatch.setattr(
        "typer.prompt",
        lambda question, default: {"margin": "0.03", "deadline": "900"}.get(question.split()[0].rstrip(":"), default),
    )
    result = understudy("init", "poc.onnx", "better.onnx", "--data", "held-out.csv", "--label", "kind", "-i")
    assert result.exit_code == 0, result.output
    policy = parse(Path("rollout.yaml").read_text(encoding="utf-8"))
    assert policy.goals.quality is not None
    assert policy.goals.quality.margin == 0.03
    assert policy.goals.latency.deadline_ms == 900


def test_an_answer_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_like(tmp_path)
    monkeypatch.setattr(init_command, "at_a_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda question, default: "much" if question.startswith("margin") else default)
    result = understudy("init", "poc.onnx", "better.onnx", "-i")
    assert "the margin is a number above 0, not 'much'" in result.stderr


def test_texts_are_inputs_too(tmp_path: Path) -> None:
    """An empty cell is a missing text."""
    for name in ("poc", "better"):
        table = {"keys_strings": ["a", "b", ""], "values_floats": [1.0, 2.0, 0.5], "default_float": 0.0}
        nodes = [helper.make_node("LabelEncoder", ["s"], ["y"], domain="ai.onnx.ml", **table)]
        save(tmp_path / f"{name}.onnx", nodes, [("s", STRING, ["n", 1])], [("y", FLOAT, ["n", 1])])
    texts = ["a", "b", "", "NA"] * 100
    write(Path("held-out.csv"), {"S": texts, "y": [1.1 if text == "a" else 2.2 for text in texts]})
    said, _ = started("--label", "y")
    assert "`s` is missing in 100 of 400 rows" in said
    assert card().inputs[0].nullable


def test_a_poc_that_knows_nothing_is_warned_of(tmp_path: Path) -> None:
    """The wrong label column looks like this."""
    torch_like(tmp_path)
    assert "for comparison, the best answer that is the same for every row has" in done(
        "init", "poc.onnx", "better.onnx", "--data", "held-out.csv", "--label", "kind"
    )
    table = Path("held-out.csv").read_text(encoding="utf-8").splitlines()
    turned = [line.rsplit(",", 1)[0] + "," + ["cat", "dog", "eel"][i % 3] for i, line in enumerate(table[1:])]
    Path("held-out.csv").write_text("\n".join([table[0], *turned]), encoding="utf-8")
    said, _ = started("--label", "kind", "--force")
    assert "warning: the POC is no better than an answer that is the same for every row" in said


def test_a_key_with_few_values_is_warned_of(tmp_path: Path) -> None:
    """Three plans do not tell callers apart, and would leave three rows a day as evidence."""
    make, _ = PAIRS["churn"]
    make(tmp_path)
    said, policy = started("--label", "churned", "--key", "plan")
    assert "warning: `plan` has 3 different values, too few to tell callers apart" in said
    assert policy.unit is None


def test_labels_that_are_all_the_same_are_warned_of(tmp_path: Path) -> None:
    make, _ = PAIRS["churn"]
    make(tmp_path)
    table = Path("held-out.csv").read_text(encoding="utf-8").splitlines()
    Path("held-out.csv").write_text(
        "\n".join([table[0], *(row for row in table[1:] if row.endswith("0"))]), encoding="utf-8"
    )
    said, _ = started("--label", "churned")
    assert "warning: all labels are the same" in said


def test_what_it_says_that_the_rollout_needs_is_what_check_says(tmp_path: Path) -> None:
    """With few rows the latency goal takes most."""
    torch_like(tmp_path)
    table = Path("held-out.csv").read_text(encoding="utf-8").splitlines()
    Path("held-out.csv").write_text("\n".join(table[:200]), encoding="utf-8")
    said, _ = started("--label", "kind")
    assert "805 requests if the models are equal; held-out.csv has 199" in said


def test_an_image_may_be_spread_over_columns(tmp_path: Path) -> None:
    """Row by row, as NumPy flattens it."""
    for name, scale in (("poc", 0.5), ("better", 2.0)):
        weights = numpy_helper.from_array(scale * np.eye(6, 2, dtype=np.float32), "w")
        shape = numpy_helper.from_array(np.array([-1, 6]), "s")
        nodes = [
            helper.make_node("Reshape", ["image", "s"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["z"]),
            helper.make_node("Softmax", ["z"], ["p"], axis=1),
        ]
        save(
            tmp_path / f"{name}.onnx",
            nodes,
            [("image", FLOAT, ["n", 2, 3])],
            [("p", FLOAT, ["n", 2])],
            [weights, shape],
        )
    x = np.random.default_rng(1).normal(size=(500, 6))
    columns = {f"px{i}": x[:, i] for i in range(6)}
    write(Path("held-out.csv"), columns | {"digit": (x[:, 1] > x[:, 0]).astype(int)})
    said, policy = started("--label", "digit")
    assert "input `image` (2 x 3 numbers) is read from the columns `px0`, `px1`" in said
    assert policy.classes == [0, 1]


def test_the_same_model_twice_is_said(tmp_path: Path) -> None:
    torch_like(tmp_path)
    said = done("init", "poc.onnx", "poc.onnx", "--data", "held-out.csv", "--label", "kind")
    assert "warning: both are the same model" in said


def test_rows_that_a_model_does_not_answer_are_counted(tmp_path: Path) -> None:
    """A division by zero."""
    for name in ("poc", "better"):
        nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
        save(tmp_path / f"{name}.onnx", nodes, [("a", FLOAT, ["n"]), ("b", FLOAT, ["n"])], [("y", FLOAT, ["n"])])
    b = [i % 10 for i in range(400)]
    write(Path("held-out.csv"), {"a": range(400), "b": b, "y": [i / (j or 1) + 0.1 for i, j in enumerate(b)]})
    said, _ = started("--label", "y")
    assert "warning: poc.onnx gave no answer, or none that is finite, to 40 of 400 rows" in said


def test_profile_writes_the_card_beside_an_onnx_file(tmp_path: Path) -> None:
    torch_like(tmp_path)
    said = done("profile", "poc.onnx", "held-out.csv")
    assert said.startswith("poc.card.json: profiles of 0 inputs from 4,000 rows")
    assert card().training is not None
    assert "is no model folder and no .onnx file" in refused("profile", "nothing", "held-out.csv")


def test_a_row_of_the_data_is_an_example_of_a_request(tmp_path: Path) -> None:
    """As a shell reads it."""
    make, options = PAIRS["churn"]
    make(tmp_path)
    said, _ = started(*options)
    (line,) = (line for line in said.splitlines() if "curl" in line)
    body = json.loads(shlex.split(line)[-1])
    assert set(body["rows"][0]) == {"age", "usage", "plan", "customer"}


def trees(path: Path, shape: list[Any]) -> None:
    """1 where the third number is large or missing, for any width."""
    attributes: dict[str, Any] = {
        "n_targets": 1,
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [2, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "nodes_missing_value_tracks_true": [0, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [0.25, 1.0],
    }
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    save(path, [node], [("x", FLOAT, shape)], [("y", FLOAT, ["n", 1])])


def test_numbers_of_a_matrix_may_be_missing(tmp_path: Path) -> None:
    """As gradient boosting is trained."""
    for name in ("poc", "better"):
        trees(tmp_path / f"{name}.onnx", ["n", 3])
    third = [-1.0, 1.0, ""] * 200
    write(Path("held-out.csv"), {"a": range(600), "b": range(600), "c": third, "y": [0.3, 0.9, 1.1] * 200})
    said, _ = started("--label", "y")
    assert "some of `x` is missing in 200 of 600 rows, so a request may have null there" in said
    assert card().inputs[0].nullable


def test_a_matrix_of_any_width_gets_that_of_the_data(tmp_path: Path) -> None:
    """Which `check` and the warm-up then use; a width that the model does not take is refused with the columns."""
    for name in ("poc", "better"):
        trees(tmp_path / f"{name}.onnx", ["n", None])
    columns: dict[str, Any] = {"a": range(600), "b": range(600), "c": [-1.0, 1.0] * 300}
    write(Path("held-out.csv"), columns | {"y": [0.3, 0.9] * 300})
    started("--label", "y")
    assert card().inputs[0].tried == [[3]]
    write(Path("held-out.csv"), {"a": range(600), "b": range(600), "y": [0.3, 0.9] * 300})
    said = understudy("init", "poc.onnx", "better.onnx", "--data", "held-out.csv", "--label", "y", "--force")
    assert said.exit_code == 1
    assert (
        "answers no row of held-out.csv (input `x` (2 numbers) is read from the columns `a`, `b`, in this order)"
        in said.stderr
    )


def test_missing_values_are_in_the_rollout_file_where_a_card_is_kept(tmp_path: Path) -> None:
    """It does not say so itself."""
    make, options = PAIRS["churn"]
    make(tmp_path)
    started(*options)
    for name in ("poc", "better"):
        file = Path(f"{name}.card.json")
        file.write_text(
            file.read_text(encoding="utf-8").replace('"nullable": true', '"nullable": false'), encoding="utf-8"
        )
    Path("rollout.yaml").unlink()
    _, policy = started(*options)

    assert [name for name, own in policy.inputs.items() if own.nullable] == ["age"]
    assert "`age` may be missing (null)" in Path("rollout.yaml").read_text(encoding="utf-8")


def test_without_data_a_person_is_asked_what_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that is none is refused."""
    make, _ = PAIRS["churn"]
    make(tmp_path)
    monkeypatch.setattr(init_command, "at_a_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda question, default: "age, plan" if "missing" in question else default)
    assert understudy("init", "poc.onnx", "better.onnx", "-i").exit_code == 0
    policy = parse(Path("rollout.yaml").read_text(encoding="utf-8"))
    assert {name for name, own in policy.inputs.items() if own.nullable} == {"age", "plan"}
    monkeypatch.setattr("typer.prompt", lambda question, default: "size" if "missing" in question else default)
    wrong = understudy("init", "poc.onnx", "better.onnx", "-i", "--force")
    assert "'size' is no input that can be missing; those are age, usage, plan" in wrong.stderr


def test_names_that_differ_between_the_models_are_mapped(tmp_path: Path) -> None:
    """The data are read once, for the primary's names."""
    torch_like(tmp_path)
    model = onnx.load("better.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    model.graph.output[0].name = model.graph.node[1].output[0] = "probs"
    onnx.save(model, "better.onnx")
    said, policy = started("--label", "kind")

    assert policy.inputs["input"].rename == "x"
    assert "better.onnx is better than poc.onnx" in said
    assert card("better").inputs[0].name == "x", "a card has the names of its graph"


def test_check_compares_the_models_on_a_table(tmp_path: Path) -> None:
    """Read as `init` reads it; the label is told from the inputs."""
    make, options = PAIRS["iris"]
    make(tmp_path)
    started(*options)
    said = done("check", "--data", "held-out.csv", "--label", "species")
    assert "(the first of held-out.csv; input `X` (4 numbers) is read from the columns `sepal length`" in said
    assert said.splitlines()[-1] == "ready to serve"
    assert "name it with --label" in understudy("check", "--data", "held-out.csv").stderr
    assert "no column 'kind' for --label" in understudy("check", "--data", "held-out.csv", "--label", "kind").stderr
    assert "give one of them" in refused("check", "--data", "held-out.csv", "--rows", "held-out.csv")
    assert "--label names a column of --data" in refused("check", "--label", "y")


def test_check_counts_rows_of_a_table_that_the_service_rejects(tmp_path: Path) -> None:
    make, options = PAIRS["churn"]
    make(tmp_path)
    started(*options)
    table = Path("held-out.csv").read_text(encoding="utf-8").splitlines()[:50]
    cells = table[3].split(",")
    cells[3] = ""
    Path("d.csv").write_text("\n".join([*table[:3], ",".join(cells), *table[4:]]), encoding="utf-8")
    assert "the service would reject 1 rows: line 4: usage takes a number, not null" in done("check", "--data", "d.csv")
