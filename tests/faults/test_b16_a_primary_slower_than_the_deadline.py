"""B16: a primary that takes 500 ms beside a deadline of 250 ms was served, and answered 504 to everything."""

from pathlib import Path

import pytest

from tests.faults.models import pair_rollout
from tests.support.graphs import attention
from understudy.errors import ConfigurationError
from understudy.loading.preflight import preflight
from understudy.settings import Settings


def test_check_and_start_refuse_it_with_the_line_to_change(tmp_path: Path) -> None:
    """With what one row takes, the deadline, and a deadline that leaves room."""
    rollout = pair_rollout(tmp_path, lambda path, number: attention(path, width=128, words=10 + number), 0.01)
    settings = Settings(rollout_file=rollout, state_dir=tmp_path / "state")
    with pytest.raises(ConfigurationError) as refused:
        preflight(settings)

    line = next(n for n, text in enumerate(rollout.read_text().splitlines(), 1) if "deadline_ms" in text)
    said = refused.value.detail
    assert f"line {line}" in said
    assert "for one row on this machine, and the deadline is 0.01 ms" in said
    assert "Write `deadline_ms: " in said
