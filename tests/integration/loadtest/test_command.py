"""`understudy loadtest`: a record is filed and its verdict is the exit code; what cannot be tested is 2, in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.support.http_stub import nowhere, serving
from tests.support.loadtests import record
from understudy import cli

FILED = {"event": 7, "required": True, "met": True, "reason": ""}


def loadtest(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, ["loadtest", *map(str, arguments)])


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("invalid", 2)])
def test_a_record_that_was_taken_elsewhere_is_filed(tmp_path: Path, verdict: str, code: int) -> None:
    """As it is; the exit code is its verdict, and the gate is what the service says."""
    file = tmp_path / "record.json"
    file.write_text(record(verdict).model_dump_json())
    with serving(
        POST_rollout_loadtest=(200, FILED if verdict == "pass" else FILED | {"met": False, "reason": "it failed"})
    ) as stub:
        result = loadtest("--post", file, "--url", stub.url)

    assert result.exit_code == code, result.output
    assert json.loads(stub.asked[0].body) == json.loads(file.read_text())
    assert ("the gate is open" if verdict == "pass" else "the gate is closed: it failed") in result.output


def untested(*arguments: Any) -> str:
    """What is said of a test that could not be made: exit code 2, and no traceback."""
    result = loadtest(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--shape", "wave", "unknown shape 'wave'"),
        ("--protocol", "soap", "unknown protocol 'soap'"),
        ("--rows", "many", "rows per request cannot be 'many'"),
    ],
)
def test_an_option_that_cannot_be_is_named(option: str, value: str, says: str) -> None:
    assert says in untested(option, value)


def test_a_rollout_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "none.yaml" in untested(tmp_path / "none.yaml", "--url", nowhere())


def test_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    assert "validation errors" in untested("--post", tmp_path / "bad.json")


def test_a_service_of_another_kind_is_refused() -> None:
    with serving() as stub:
        assert "404" in untested("--url", stub.url)
