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


def test_what_cannot_be_tested_is_no_failure(tmp_path: Path) -> None:
    """Exit code 2 and one line: no file to serve, a record that is none, a service that is none of ours, a shape there is not."""
    missing = loadtest(tmp_path / "none.yaml", "--url", nowhere())
    (tmp_path / "bad.json").write_text("{}")
    bad = loadtest("--post", tmp_path / "bad.json")
    with serving() as stub:
        other = loadtest("--url", stub.url)
    shape = loadtest("--shape", "wave")
    protocol = loadtest("--protocol", "soap")
    mix = loadtest("--rows", "many")

    for result, says in (
        (missing, "none.yaml"),
        (bad, "validation errors"),
        (other, "404"),
        (shape, "unknown shape 'wave'"),
        (protocol, "unknown protocol 'soap'"),
        (mix, "rows per request cannot be 'many'"),
    ):
        assert result.exit_code == 2, result.output
        assert says in result.output
        assert "Traceback" not in result.output
