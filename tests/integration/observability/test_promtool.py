"""Prometheus' own tool checks the rules, and runs their tests."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


FOLDER = ROOT / "k8s" / "monitoring"


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("NO PROMTOOL: the rules are not tested here. Install it (Debian: apt-get install prometheus)")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_files_have_no_mistake() -> None:
    """Prometheus' own tool."""
    for arguments in (("check", "rules", FOLDER / "rules.yaml"), ("check", "config", FOLDER / "prometheus.yaml")):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def in_hours(test: dict[str, Any], kind: str, *, days: bool) -> list[dict[str, Any]]:
    """The checks of one test that are made on the first day, or after it."""
    return [check for check in test.get(kind, ()) if (check["eval_time"] in {"26h", "70h", "80h"}) is days]


@pytest.mark.parametrize(("days", "evaluation"), [(False, "1m"), (True, "10m")], ids=["hours", "days"])
def test_the_rules_do_what_they_promise(tmp_path: Path, evaluation: str, *, days: bool) -> None:
    """Every check of rules_test.yaml; what comes after a day is evaluated every ten minutes, since every minute takes minutes."""
    whole: Any = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())
    kinds = ("alert_rule_test", "promql_expr_test")
    tests = [test | {kind: in_hours(test, kind, days=days) for kind in kinds} for test in whole["tests"]]
    chosen = [test for test in tests if any(test[kind] for kind in kinds)]
    assert chosen
    (tmp_path / "rules_test.yaml").write_text(
        yaml.safe_dump(whole | {"tests": chosen, "evaluation_interval": evaluation})
    )
    shutil.copy(FOLDER / "rules.yaml", tmp_path)
    done = promtool("test", "rules", tmp_path / "rules_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_rules_do_what_they_promise_every_minute() -> None:
    """The file as it is."""
    done = promtool("test", "rules", FOLDER / "rules_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_is_wrong_would_be_seen(tmp_path: Path) -> None:
    """A check that cannot fail is none. Only the tests of the rule that is made wrong: the whole file spans days."""
    whole: Any = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())
    tests = [
        {"interval": test["interval"], "input_series": test["input_series"], "alert_rule_test": of_slow}
        for test in whole["tests"]
        if (of_slow := [a for a in test.get("alert_rule_test", ()) if a["alertname"] == "UnderstudySlow"])
    ]
    (tmp_path / "rules_test.yaml").write_text(yaml.safe_dump(whole | {"tests": tests}))
    shutil.copy(FOLDER / "rules.yaml", tmp_path)
    assert promtool("test", "rules", tmp_path / "rules_test.yaml").returncode == 0
    data: Any = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    slow = next(rule for rule in data["groups"][1]["rules"] if rule["alert"] == "UnderstudySlow")
    slow["expr"] = slow["expr"].replace("> 0.05", "> 5")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(data))

    assert promtool("test", "rules", tmp_path / "rules_test.yaml").returncode != 0
