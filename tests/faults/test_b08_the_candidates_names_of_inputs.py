"""A candidate whose input is called `input` where the primary's is `x` passed `check`, and every rehearsal failed.

The rollout file says which is which. `init` finds the pair; without the line, `check` and the start refuse with the line to write.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from onnx import helper

from tests.support.commands import alone, done, refused
from tests.support.doors import Doors
from tests.support.graphs import FLOAT, INT64, passing, save, scaling
from understudy import loading
from understudy.errors import ConfigurationError
from understudy.inference.cards import Card
from understudy.settings import Settings

__all__ = ["alone"]

BASE: dict[str, Any] = {
    "model": "m",
    "task": "agreement",
    "primary": "poc.onnx",
    "candidate": "better.onnx",
    "goals": {"quality": {"loss": "disagreement", "margin": 0.1}},
}


def rollout(folder: Path, **keys: Any) -> Path:
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(BASE | keys, sort_keys=False), encoding="utf-8")
    return file


def test_check_and_start_refuse_it_with_the_line_to_write(tmp_path: Path) -> None:
    scaling(tmp_path / "poc.onnx")
    scaling(tmp_path / "better.onnx", 3.0, x="input")
    file = rollout(tmp_path)

    assert "write `inputs: {x: {rename: input}}` if it is the primary's `x`" in refused("check").replace(
        "Write", "write"
    )
    settings = Settings(rollout_file=file)
    with pytest.raises(ConfigurationError, match="needs the input `input`"):
        loading.read_cards(loading.load_policy(settings), settings)


def test_with_the_line_the_candidate_answers_on_every_door(tmp_path: Path) -> None:
    scaling(tmp_path / "poc.onnx")
    scaling(tmp_path / "better.onnx", 3.0, x="input")
    file = rollout(tmp_path, inputs={"x": {"rename": "input"}})

    assert "names: the input `x` is `input` of the candidate" in done("check")
    doors = Doors(file, candidate=True)
    status, said = doors.predict({"x": [1, 2, 3]})
    assert (status, said["variant"], said["predictions"][0]["outputs"]) == (200, "candidate", {"y": [3.0, 6.0, 9.0]})
    status, said = doors.v2(x=("FP32", [1, 3], [1, 2, 3]))
    assert (status, said["outputs"][0]["data"]) == (200, [3.0, 6.0, 9.0])


def test_init_finds_the_pair_and_writes_the_line(tmp_path: Path) -> None:
    """Two inputs of two kinds: each has one that fits."""
    for name, a, b in (("poc.onnx", "a", "b"), ("better.onnx", "number", "count")):
        nodes = [helper.make_node("Identity", [a], ["y"]), helper.make_node("Identity", [b], ["z"])]
        inputs = [(a, FLOAT, ["n", 3]), (b, INT64, ["n", 1])]
        save(tmp_path / name, nodes, inputs, [("y", FLOAT, ["n", 3]), ("z", INT64, ["n", 1])])
    done("init", "poc.onnx", "better.onnx")

    text = (tmp_path / "rollout.yaml").read_text(encoding="utf-8")
    assert "inputs: {a: {rename: number}, b: {rename: count}} # a guess" in text
    assert done("check").splitlines()[-1] == "ready to serve"


def test_init_does_not_guess_where_two_fit(tmp_path: Path) -> None:
    for name, names in (("poc.onnx", "ab"), ("better.onnx", "cd")):
        node = helper.make_node("Add", list(names), ["y"])
        save(tmp_path / name, [node], [(each, FLOAT, ["n", 3]) for each in names], [("y", FLOAT, ["n", 3])])

    assert "needs the input `c` (float32 [n, 3])" in (line := refused("init", "poc.onnx", "better.onnx"))
    assert "the primary's inputs are `a` (float32 [n, 3]), `b` (float32 [n, 3])" in line


def test_an_input_that_only_the_candidate_has_is_declared(tmp_path: Path) -> None:
    """A line says that callers send it; `init` writes that line."""
    passing(tmp_path / "poc.onnx", ("x", FLOAT, ["n", 3]))
    nodes = [helper.make_node("Add", ["x", "more"], ["x_out"])]
    save(
        tmp_path / "better.onnx",
        nodes,
        [("x", FLOAT, ["n", 3]), ("more", FLOAT, ["n", 1])],
        [("x_out", FLOAT, ["n", 3])],
    )
    rollout(tmp_path)
    assert "write `inputs: {more: {nullable: false}}` if callers send it as a field of its own" in refused("check")

    file = rollout(tmp_path, inputs={"more": {"nullable": False}})
    assert "only the candidate reads `more`, which requests may leave out" in done("check")
    status, said = Doors(file, candidate=True).predict({"x": [1, 2, 3], "more": 1})
    assert (status, said["predictions"][0]["outputs"]) == (200, {"x_out": [2.0, 3.0, 4.0]})
    done("init", "poc.onnx", "better.onnx", "--force")
    assert "inputs: {more: {}} # only the candidate reads `more`" in file.read_text(encoding="utf-8")
    assert done("check").splitlines()[-1] == "ready to serve"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"inputs": {"X": {"rename": "input"}}}, "`inputs.X`: the primary has no input `X`: it has `x`"),
        (
            {"inputs": {"x": {"rename": "in"}}},
            "the candidate's input `in`, and the candidate has no such input: it has `input`",
        ),
        ({"inputs": {"z": {"nullable": True}}}, "`inputs.z`: the primary has no input `z`: it has `x`"),
        (
            {"inputs": {"x": {"rename": "input"}}, "outputs": {"Y": "y"}},
            "`outputs.Y`: the primary has no output `Y`: it has `y`",
        ),
        (
            {"inputs": {"x": {"rename": "input"}}, "outputs": {"y": "z"}},
            "the candidate's output `z`, and the candidate has no such output: it has `y`",
        ),
    ],
)
def test_a_key_that_names_nothing_is_refused_with_what_there_is(tmp_path: Path, keys: Any, says: str) -> None:
    scaling(tmp_path / "poc.onnx")
    scaling(tmp_path / "better.onnx", 3.0, x="input")
    rollout(tmp_path, **keys)

    assert says in refused("check")


def test_two_names_may_change_places(tmp_path: Path) -> None:
    """The candidate calls the primary's `a` `b`, and the other way round."""
    for name, (first, second) in (("poc.onnx", "ab"), ("better.onnx", "ba")):
        node = helper.make_node("Sub", [first, second], ["y"])
        save(tmp_path / name, [node], [(each, FLOAT, ["n", 3]) for each in "ab"], [("y", FLOAT, ["n", 3])])
    file = rollout(tmp_path, inputs={"a": {"rename": "b"}, "b": {"rename": "a"}})

    _, said = Doors(file, candidate=True).predict({"a": [3, 3, 3], "b": [1, 1, 1]})
    assert said["predictions"][0]["outputs"] == {"y": [2.0, 2.0, 2.0]}
    assert "the candidate has an input `a` of its own: rename that one as well" in _with(
        tmp_path, {"a": {"rename": "b"}}
    )


def _with(folder: Path, inputs: Any) -> str:
    rollout(folder, inputs=inputs)
    return refused("check")


def test_a_card_keeps_the_names_of_its_graph(tmp_path: Path) -> None:
    """What `init --data` writes beside the candidate describes the file, whatever a rollout calls its inputs."""
    scaling(tmp_path / "poc.onnx", width=1)
    scaling(tmp_path / "better.onnx", 3.0, x="input", y="output", width=1)
    lines = "".join(f"{n},{n + n}\n" for n in range(40))
    (tmp_path / "held-out.csv").write_text(f"x,label\n{lines}", encoding="utf-8")
    done("init", "poc.onnx", "better.onnx", "--data", "held-out.csv", "--label", "label")

    card = Card.model_validate(json.loads((tmp_path / "better.card.json").read_bytes()))
    assert ([i.name for i in card.inputs], [o.name for o in card.outputs]) == (["input"], ["output"])
    assert done("check").splitlines()[-1] == "ready to serve"


def test_evidence_begins_anew_when_the_names_change(tmp_path: Path) -> None:
    """Other names are other answers; a file without the keys keeps its evidence."""
    policy = loading.load_policy(Settings(rollout_file=rollout(tmp_path)))
    renamed = loading.load_policy(Settings(rollout_file=rollout(tmp_path, inputs={"x": {"rename": "input"}})))
    assert policy.key("a", "b") != renamed.key("a", "b")
    assert policy.key("a", "b") == loading.load_policy(Settings(rollout_file=rollout(tmp_path, inputs={}))).key(
        "a", "b"
    )


def test_evaluate_reads_the_names_of_the_rollout_file(tmp_path: Path) -> None:
    """The table has the primary's names, and the candidate's graph has others; only the candidate is right."""
    scaling(tmp_path / "poc.onnx", width=1)
    scaling(tmp_path / "better.onnx", 3.0, x="input", y="output", width=1)
    rollout(
        tmp_path,
        task="regression",
        goals={"quality": {"loss": "win_rate", "margin": 0.1}},
        inputs={"x": {"rename": "input"}},
        outputs={"y": "output"},
    )
    lines = "".join(f"{n},{3 * n}\n" for n in range(1, 40))
    (tmp_path / "held-out.csv").write_text(f"x,label\n{lines}", encoding="utf-8")

    said = json.loads(done("evaluate", "--data", "held-out.csv", "--label", "label", "--json"))
    assert [model["failed"] for model in said["models"]] == [0, 0]
    assert (said["everything"]["difference"]["mean"], said["everything"]["difference"]["rows"]) == (-1.0, 39)
