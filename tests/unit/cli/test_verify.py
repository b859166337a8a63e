"""`understudy verify`: which rollout it looks at, what it says of a policy that was not judged by, and of rows that are gone."""

import json
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import alone, done, refused, understudy
from tests.support.controllers import RAMP, Process
from tests.support.graphs import classifier
from tests.unit.rollout.world import World
from understudy import loading
from understudy.domain import Variant
from understudy.inference.cards import Card
from understudy.rollout.identity import identity
from understudy.rollout.policy import Policy
from understudy.settings import read_settings
from understudy.store import Retention
from understudy.store.sql import SqlStore

__all__ = ["alone"]
STEPS = [{"shadow": 100, "until": {"labels": 20}}, {"canary": 5}, {"canary": 25}, "promote"]
DECIDED = [("advance", 2), ("advance", 3), ("finish", 4)]


def write(margin: float = 0.5, name: str = "rollout.yaml", **changes: Any) -> Path:
    """A rollout file whose goals a few good pairs reach."""
    if not Path("poc.onnx").exists():
        classifier(Path("poc.onnx"))
        classifier(Path("better.onnx"))
    data = {
        "model": "m",
        "task": "binary-classification",
        "primary": "poc.onnx",
        "candidate": "better.onnx",
        "steps": STEPS,
        "goals": {"quality": {"loss": "zero_one", "margin": margin}},
        "labels": {"wait": 3600},
    } | changes
    Path(name).write_text(yaml.safe_dump(data), encoding="utf-8")
    return Path(name)


def decided(file: Path, *, rows: int = 0, keep: bool = True) -> str:
    """A rollout of this file in the store, promoted; retention took the first `rows`. Returns its key."""
    settings = read_settings(rollout_file=file)
    policy = loading.load_policy(settings)
    cards = loading.read_cards(policy, settings)
    key = loading.rollout_key(policy, cards)
    database = settings.state_dir / "understudy.db"
    if database.exists():  # a second rollout in the same store
        played(policy, cards, key, database, keep=keep)
    else:
        settings.state_dir.mkdir(exist_ok=True)
        if (key, keep) not in PLAYED:
            played(policy, cards, key, database, keep=keep)
            PLAYED[key, keep] = database.read_bytes()
        database.write_bytes(PLAYED[key, keep])
    if rows:
        store = SqlStore(settings.resolved_store_url(), key, lambda outcome: {})
        at = store.outcomes(limit=rows + 1)[rows][1].at
        store.prune(Retention(0.0, sys.maxsize), now=at)
        store.close()
    return key


PLAYED: dict[tuple[str, bool], bytes] = {}
"""The database of a rollout that was played for one test, for the others: by its key, and by whether its identity was kept."""


def played(policy: Policy, cards: Mapping[Variant, Card], key: str, database: Path, *, keep: bool) -> None:
    """Play the rollout into the database."""
    store = SqlStore(f"sqlite:///{database}", key, lambda outcome: {})
    if keep:
        store.keep_identity(identity(policy, cards))
    world = World(policy, store)
    process = Process(world)
    for n in (640, 640, 640):
        world.serve(n)
        process.tick()
    assert world.kinds == RAMP
    store.close()
    assert not list(database.parent.glob("*-wal")), "everything is in the one file"


def lines(*arguments: Any, code: int) -> list[str]:
    result = understudy("verify", *arguments, COLUMNS="400")
    assert result.exit_code == code, result.output
    return result.stdout.splitlines()


def test_what_was_decided_is_reached_again() -> None:
    """The file is the one that was judged by."""
    key = decided(write())
    assert lines(code=0)[-1] == "3 decisions, all agree"
    told = json.loads(done("verify", "--json"))
    assert (told["rollout"], told["agrees"], told["policy_differs"], told["pruned"]) == (key, True, [], None)
    assert [(d["event"], d["id"]) for d in told["decisions"]] == DECIDED


def test_a_changed_margin_is_named_and_the_rollout_is_checked_as_it_was_judged() -> None:
    """Only one rollout of this model is there; the exit code is that of a change. No rollout is added by looking."""
    key = decided(write(0.5))
    write(0.25, labels={"wait": 3600, "count": "on_arrival"})
    said = lines(code=1)
    assert said[:3] == [
        f"rollout.yaml differs from the goals and models that {key} was judged with:",
        "  goals.quality.margin was 0.5, is now 0.25",
        "  labels.count was settled, is now on_arrival",
    ]
    assert said[-1] == "3 decisions, all agree"
    told = understudy("verify", "--json")
    assert told.exit_code == 1
    assert len(json.loads(told.stdout)["policy_differs"]) == 2
    assert [r["rollout"] for r in json.loads(done("verify", "--list", "--json"))] == [key]


def test_the_rollout_that_is_asked_for_is_checked_by_its_own_policy_whatever_the_file_says() -> None:
    """Even without a file and its models: the store says what it was judged by."""
    key = decided(write())
    for path in ("rollout.yaml", "poc.onnx", "better.onnx"):
        Path(path).unlink()
    assert lines("--rollout", key[:6], code=0)[-1] == "3 decisions, all agree"


def test_another_model_is_named_by_its_digest() -> None:
    """The file says the same, the model behind it is another."""
    decided(write())
    classifier(Path("better.onnx"), zipmap="ints")
    said = lines(code=1)
    assert said[1].startswith("  candidate.digest was sha256:")
    assert ", is now sha256:" in said[1]


def test_among_several_rollouts_each_is_told_apart_and_one_must_be_named() -> None:
    """What differs from each, and how to go on."""
    first, second = decided(write(0.5)), decided(write(0.4))
    write(0.3)
    result = understudy("verify")
    assert result.exit_code == 1
    said = result.stderr
    assert "goals.quality.margin was 0.5, is now 0.3" in said
    assert "goals.quality.margin was 0.4, is now 0.3" in said
    assert f"understudy verify --rollout {second}" in said
    assert lines("--rollout", first, code=0)[-1] == "3 decisions, all agree"
    assert f"0 rollouts in the store begin with 'nope'; the store has {first}, {second}" in refused(
        "verify", "--rollout", "nope"
    )


def test_the_rollouts_of_a_store_are_listed() -> None:
    """With their models, since when, and where they stand."""
    key = decided(write())
    (head, row) = lines("--list", code=0)
    assert head.split() == ["rollout", "model", "primary", "candidate", "started", "phase", "revision"]
    assert row.split()[:6] == [key, "m", "poc", "0", "better", "0"]
    assert row.split()[-2:] == ["promoted", "4"]


def test_an_empty_store_and_an_unknown_model_are_said() -> None:
    """And looking makes no store."""
    write()
    assert "has no rollout of m with these goals and models" in refused("verify")
    assert not Path(".understudy").exists()
    key = decided(write())
    write(model="other")
    assert f"It has {key} (m)" in refused("verify")


def test_a_rollout_that_an_older_version_kept_is_checked_by_its_file_alone() -> None:
    """What it was judged by is not in the store."""
    key = decided(write(), keep=False)
    assert lines(code=0)[-1] == "3 decisions, all agree"
    assert "an older version served it" in refused("verify", "--rollout", key)
    write(0.25)
    assert f"It has {key} (its goals and models were not stored" in refused("verify")


def test_pruned_rows_are_no_failure_and_no_success() -> None:
    """One decision is unknown, the others are reached again: exit code 3, and the limits are said."""
    decided(write(), rows=650)
    said = lines(code=3)
    assert said[0].startswith("retention has removed 650 rows up to number 650, last at 1970-01-12")
    assert said[1] == "unknown event 2, advance at revision 2: advance cannot be checked: its rows were pruned"
    assert said[2].startswith("agrees  event 3")
    assert said[-1] == "2 of 3 decisions agree; 1 cannot be checked any more"
    told = json.loads(understudy("verify", "--json").stdout)
    assert told["agrees"] is False
    assert [d["checkable"] for d in told["decisions"]] == [False, True, True]


@pytest.mark.parametrize("rows", [0, 650])
def test_a_changed_row_is_a_failure_also_beside_pruned_ones(rows: int) -> None:
    """The file itself, changed by hand."""
    decided(write(), rows=rows)
    (file,) = Path(".understudy").glob("*.db")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE observations SET candidate_score = 0.7 WHERE seq = 1290")
        connection.commit()
    said = lines(code=1)
    assert said[-1] == "the stored evidence does not support the decisions"
    assert [line[:7] for line in said if "event" in line] == ["unknown" if rows else "agrees ", "agrees ", "DIFFERS"]


@pytest.mark.parametrize("name", ["--rollout", "--list"])
def test_a_store_that_is_none_is_said(name: str) -> None:
    """A URL that does not work here."""
    arguments = [name, "x"] if name == "--rollout" else [name]
    assert "not oracle" in refused("verify", *arguments, "--store", "oracle://x")
    assert "the store's URL is invalid" in refused("verify", *arguments, "--store", "nonsense")
