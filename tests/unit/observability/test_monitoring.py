"""What Prometheus and Grafana are given is what the code and the rollout file say, and the rules do what they promise."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from understudy import cli
from understudy.observability.metrics import TABLE
from understudy.observability.monitoring import files
from understudy.observability.monitoring.grafana import WIDTH, dashboard
from understudy.observability.monitoring.rules import rules
from understudy.rollout.policy import Policy, parse

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "k8s" / "monitoring"
GENERATED = ("rules.yaml", "prometheus.yaml", "grafana-dashboard.json")
SUFFIXES = {"counter": [""], "gauge": [""], "summary": ["_sum", "_count"], "histogram": ["_bucket", "_sum", "_count"]}
SAMPLES = {spec.name + suffix for spec in TABLE for suffix in SUFFIXES[spec.kind]}


def example() -> Policy:
    return parse((ROOT / "rollout.yaml").read_text())


def expressions() -> Iterator[str]:
    """Every PromQL expression that the files have."""
    for group in rules(example())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in dashboard(example())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


@pytest.mark.parametrize("name", GENERATED)
def test_the_files_are_what_the_command_writes(name: str) -> None:
    """From the example's rollout file: `understudy monitoring --output k8s/monitoring`."""
    assert (FOLDER / name).read_text() == files(example(), "localhost:3000", "rollout.yaml")[name]


def test_the_command_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the goals of the rollout file that is named, and the service's address."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "rollout.yaml").read_text().replace("p99_ms: 50", "p99_ms: 7")
    (tmp_path / "mine.yaml").write_text(text)
    done = CliRunner().invoke(cli.app, ["monitoring", "mine.yaml", "--target", "flights:80", "-o", "here"])

    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "here").iterdir()} == set(GENERATED)
    assert "p99_rate5m > 0.007" in (tmp_path / "here" / "rules.yaml").read_text()
    assert "flights:80" in (tmp_path / "here" / "prometheus.yaml").read_text()


def test_every_metric_that_is_asked_for_exists() -> None:
    """In the table of metrics, or as a recorded rule; a metric that was renamed would otherwise be an empty panel."""
    recorded = {rule["record"] for rule in rules(example())["groups"][0]["rules"]}
    for expression in expressions():
        bare = re.sub(r'"[^"]*"', "", expression)
        asked = set(re.findall(r"understudy[:\w]*", bare))
        assert asked <= SAMPLES | recorded, expression
    assert "understudy_no_such_total" not in SAMPLES


def test_every_metric_has_a_panel() -> None:
    """Nobody has to write a query to see one."""
    asked = " ".join(t["expr"] for p in dashboard(example())["panels"] for t in p.get("targets", ()))

    for spec in TABLE:
        assert re.search(rf"\b{spec.name}(_bucket|_sum)?\b", asked), spec.name


def test_panels_do_not_overlap_and_fit_the_page() -> None:
    """Each has a place and an id of its own."""
    panels = dashboard(example())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= WIDTH
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_goals_that_are_not_set_make_no_rule_and_no_line() -> None:
    """A rollout file without a target has no alert about one."""
    bare = parse("model: m\ntask: regression\nprimary: a\n")
    alerts = {rule["alert"] for rule in rules(bare)["groups"][1]["rules"]}

    assert "UnderstudyTargetMissed" not in alerts
    assert "UnderstudySlow" in alerts
    assert not any("less is better" in panel["title"] for panel in dashboard(bare)["panels"])
    json.dumps(dashboard(bare))


def test_every_alert_is_tested() -> None:
    """In rules_test.yaml: that it rings."""
    tested = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    rings = {a["alertname"] for test in tested for a in test.get("alert_rule_test", ()) if a["exp_alerts"]}

    assert rings == {rule["alert"] for rule in rules(example())["groups"][1]["rules"]}
