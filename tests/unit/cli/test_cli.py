"""The command line: help for everyone, one line and exit code 1 when something is wrong, and nothing done by half."""

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import done, example, refused, understudy
from tests.support.graphs import classifier, folder, summing
from understudy import cli
from understudy.cli import start
from understudy.http.auth import Tokens
from understudy.rollout.policy import json_schema, parse

COMMANDS = sorted(c.name or str(c.callback.__name__) for c in cli.app.registered_commands if c.callback is not None)


def test_with_no_arguments_it_shows_what_there_is() -> None:
    """Every command with what it does."""
    result = understudy()

    assert "Usage" in result.output
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", result.output, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_each_of_its_options(name: str) -> None:
    """A sentence of what it does; no option without a word about it."""
    shown = done(name, "--help", COLUMNS="200")

    sentence = shown.split("\n\n")[1].strip()
    assert len(sentence) > 15
    assert sentence[0].isupper()
    options = re.findall(r"^  (--[a-z-]+[^\n]*)$", shown, re.MULTILINE)
    assert options
    assert all(re.search(r"  +\S|>=|<=", option) for option in options), options


# init and check


def test_init_writes_a_file_that_check_accepts(tmp_path: Path) -> None:
    """The signature is shown, and the file is ready to have its goals set."""
    classifier(tmp_path / "poc.onnx")
    classifier(tmp_path / "better.onnx")
    said = done("init", "poc.onnx", "better.onnx")
    policy = parse((tmp_path / "rollout.yaml").read_text(encoding="utf-8"))

    assert "x (an array of shape [2] of float32)" in said
    assert (policy.model, policy.task) == ("poc", "binary-classification")
    assert (policy.primary, policy.candidate) == ("poc.onnx", "better.onnx")
    assert policy.goals.quality is not None
    assert policy.goals.quality.loss == "brier"
    checked = done("check").splitlines()
    assert checked[-1] == "ready to serve"
    assert any(line.startswith("poc.onnx: poc 0 on cpu, one row in ") for line in checked)


@pytest.mark.parametrize(
    ("kind", "task", "loss"), [("folder", "regression", "win_rate"), ("bare", "regression", "win_rate")]
)
def test_init_judges_a_regression_by_which_answer_is_nearer(tmp_path: Path, kind: str, task: str, loss: str) -> None:
    """For a model folder and for a bare file alike: nothing is known of the labels' unit."""
    poc = folder(tmp_path / "poc") if kind == "folder" else summing(tmp_path / "poc.onnx")
    done("init", poc.name, summing(tmp_path / "better.onnx").name, "-o", "mine.yaml")
    policy = parse((tmp_path / "mine.yaml").read_text(encoding="utf-8"))

    assert (policy.model, policy.task) == ("poc", task)
    assert policy.goals.quality is not None
    assert policy.goals.quality.loss == loss
    assert "ready to serve" in done("check", "mine.yaml")


def test_init_overwrites_only_when_it_is_told_to(tmp_path: Path) -> None:
    """What is there stays as it is."""
    file = example(tmp_path)
    file.write_text("mine", encoding="utf-8")

    assert "rollout.yaml exists; use --force to overwrite it" in refused("init", "poc.onnx", "better.onnx")
    assert file.read_text(encoding="utf-8") == "mine"
    done("init", "poc.onnx", "better.onnx", "--force")
    parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("poc", "says"), [("none.onnx", "none.onnx is missing"), ("text.onnx", "text.onnx cannot be loaded")]
)
def test_init_writes_nothing_for_a_model_that_is_none(tmp_path: Path, poc: str, says: str) -> None:
    """Missing, or no graph."""
    (tmp_path / "text.onnx").write_text("hello", encoding="utf-8")
    classifier(tmp_path / "better.onnx")

    assert says in refused("init", poc, "better.onnx")
    assert not (tmp_path / "rollout.yaml").exists()


def test_init_says_where_it_cannot_write(tmp_path: Path) -> None:
    """A folder that is not there."""
    example(tmp_path)

    assert "elsewhere" in refused("init", "poc.onnx", "better.onnx", "-o", "elsewhere/rollout.yaml")


def change(file: Path, **keys: Any) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | keys), encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"candidate": "gone.onnx"}, "gone.onnx is missing"),
        ({"task": "regression"}, "poc is a binary-classification model, and the rollout file says `task: regression`"),
        ({"device": "cuda"}, "device: cuda was requested"),
        (
            {"candidate": "words.onnx"},
            "the input `x` is float32 [n, 2] of the primary and string [n, 2] of the candidate",
        ),
    ],
)
def test_check_says_what_keeps_the_service_from_starting(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    """The first thing, in one line."""
    from onnx import TensorProto, helper

    from tests.support.graphs import save

    file = example(tmp_path)
    node = helper.make_node("Identity", ["x"], ["y"])
    words = ("x", TensorProto.STRING, ["n", 2]), ("y", TensorProto.STRING, ["n", 2])
    save(tmp_path / "words.onnx", [node], [words[0]], [words[1]])
    change(file, **keys)
    result = understudy("check")

    assert result.exit_code == 1
    assert says in result.stderr
    assert "ready to serve" not in result.stdout


def test_check_names_every_key_that_does_not_fit(tmp_path: Path) -> None:
    """One line each."""
    change(example(tmp_path), workers=0, typo=1)
    result = understudy("check")

    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith("understudy: rollout.yaml does not fit the schema")
    assert sorted(line.strip().partition(":")[0] for line in lines[1:]) == ["typo", "workers"]


def test_check_checks_the_tokens_too(tmp_path: Path) -> None:
    """A typo there would keep the service from starting just as well."""
    example(tmp_path)
    (tmp_path / "tokens").write_text("oops\n", encoding="utf-8")
    result = understudy("check", UNDERSTUDY_TOKENS_FILE="tokens")

    assert result.exit_code == 1
    assert "tokens, line 1" in result.stderr


def test_check_of_a_file_that_is_not_there_says_how_to_make_one() -> None:
    """`init` does."""
    assert "`understudy init POC.onnx CANDIDATE.onnx`" in refused("check", "none.yaml")


def test_a_setting_that_does_not_fit_is_said_in_words(tmp_path: Path) -> None:
    """The variable's name and what it takes."""
    example(tmp_path)

    for command in ("check", "verify"):
        assert "UNDERSTUDY_ROWS_MAX is 'many': input should be a valid integer" in refused(
            command, UNDERSTUDY_ROWS_MAX="many"
        )


def test_the_schema_is_printed_for_editors() -> None:
    """Without any rollout file, as JSON."""
    assert json.loads(done("check", "--schema")) == json_schema()


# serve


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What `serve` would become: its arguments and environment."""
    seen: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, env: seen.append((arguments, env)))
    monkeypatch.setattr(start, "in_use", lambda host, port: False)  # whatever else runs on this machine
    return seen


def test_serve_becomes_the_server(tmp_path: Path, started: list[Any]) -> None:
    """BentoML's own, on loopback, with the file and the workers passed on."""
    example(tmp_path)
    done("serve", "--port", "4000", "--workers", "3", HOME="somewhere")
    ((arguments, env),) = started

    assert arguments == [
        sys.executable,
        "-P",
        "-m",
        "understudy.server",
        "serve",
        "understudy.app:Understudy",
        "--host",
        "127.0.0.1",
        "--port",
        "4000",
    ]
    assert (env["UNDERSTUDY_ROLLOUT_FILE"], env["UNDERSTUDY_WORKERS"], env["HOME"]) == (
        "rollout.yaml",
        "3",
        "somewhere",
    )


def test_serve_takes_the_port_of_the_environment_and_leaves_workers_to_the_file(
    tmp_path: Path, started: list[Any]
) -> None:
    """As platforms set it."""
    example(tmp_path)
    done("serve", PORT="4001")

    assert started[0][0][-1] == "4001"
    assert "UNDERSTUDY_WORKERS" not in started[0][1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_serve_refuses_to_be_reached_by_others_without_tokens(tmp_path: Path, started: list[Any], host: str) -> None:
    """And says how to make one; with a tokens file it is allowed."""
    example(tmp_path)

    assert f"listens on loopback only, not on {host}; make a token with `understudy token`" in refused(
        "serve", "--host", host
    )
    assert not started
    done("serve", "--host", host, UNDERSTUDY_TOKENS_FILE="tokens")
    assert host in started[0][0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_serve_takes_any_name_of_loopback(tmp_path: Path, started: list[Any], host: str) -> None:
    """IPv4, IPv6 and by name."""
    example(tmp_path)
    done("serve", "--host", host)

    assert host in started[0][0]


def test_serve_without_a_rollout_file_says_how_to_make_one(started: list[Any]) -> None:
    """Before anything is started."""
    assert "rollout.yaml does not exist; `understudy init POC.onnx CANDIDATE.onnx` writes one" in refused("serve")
    assert not started


# token


def test_a_token_is_printed_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    """Two are appended to a file that only its owner reads, and both are known to the service."""
    operator = done("token", "ada", "--role", "operator").strip()
    viewer = done("token", "bob").strip()
    file = tmp_path / "tokens"
    text = file.read_text(encoding="utf-8")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(text.splitlines()) == 2
    assert operator not in text
    assert viewer not in text
    assert Tokens(file).operator(f"Bearer {operator}", None).name == "ada"
    assert Tokens(file).actor(f"Bearer {viewer}", None).role == "viewer"


def test_a_token_goes_into_the_file_that_the_service_reads(tmp_path: Path) -> None:
    """The one of the environment, unless another is named."""
    done("token", "ada", UNDERSTUDY_TOKENS_FILE="theirs")
    done("token", "ada", "--file", "mine", UNDERSTUDY_TOKENS_FILE="theirs")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "theirs"]


def test_a_token_is_appended_to_a_file_that_ends_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """Editors leave such files, and two tokens in a line would be none."""
    first = done("token", "ada").strip()
    file = tmp_path / "tokens"
    file.write_text(file.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    second = done("token", "bob").strip()

    assert {Tokens(file).actor(f"Bearer {token}", None).name for token in (first, second)} == {"ada", "bob"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ada", "--role", "root"], "'root'; use viewer or operator"),
        (["Ada Lovelace"], "must be one word"),
        (["ada", "--file", "no/tokens"], "no/tokens"),
    ],
)
def test_a_token_that_cannot_be_made_leaves_no_file(tmp_path: Path, arguments: list[str], says: str) -> None:
    """Another role, a name that would break the file, a folder that is not there."""
    assert says in refused("token", *arguments)
    assert not list(tmp_path.iterdir())
