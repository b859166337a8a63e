"""A candidate that is good by night and bad by day was promoted in its first night. `init` gives each step a day at least, and
`check` warns of a step that may be shorter.
"""

from pathlib import Path

from tests.support.commands import alone, done
from tests.support.graphs import classifier
from understudy.rollout.policy import CanaryStep, ShadowStep, parse

__all__ = ["alone"]

DAY_S = 86_400.0


def test_init_gives_each_step_a_day_and_check_warns_of_less(tmp_path: Path) -> None:
    """The warning names the first step's line, and does not keep the service from starting."""
    for name in ("poc.onnx", "better.onnx"):
        classifier(tmp_path / name)
    done("init", "poc.onnx", "better.onnx")
    file = tmp_path / "rollout.yaml"
    text = file.read_text(encoding="utf-8")

    for step in parse(text).steps:
        if isinstance(step, ShadowStep | CanaryStep):
            assert step.until is not None
            assert step.until.duration == DAY_S
    assert "warning" not in done("check")
    file.write_text(text.replace("duration: 24h", "duration: 2h"), encoding="utf-8")
    line = text[: text.index("- shadow")].count("\n") + 1
    said = done("check")
    assert f"warning: line {line}, steps.0: every step may end within a day" in said
    assert said.splitlines()[-1] == "ready to serve"
