"""B5: `check` refused a model of two dynamic axes ("Got: 1 Expected: 2") that could be served. Right: checked and served."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support import layouts
from understudy.cli import app
from understudy.inference.onnx import OnnxEngine
from understudy.offline import samples


def drawn_lengths(path: Path) -> list[tuple[int, int]]:
    specs = OnnxEngine(path, device="cpu", warm_max_rows=1).card.inputs
    return [(len(ids), len(mask)) for ids, mask in samples.drawn(specs, 6)]


@pytest.mark.parametrize("names", [("batch", "seq"), (None, None)])
def test_sample_rows_have_several_lengths_that_agree(tmp_path: Path, names: tuple[Any, Any]) -> None:
    """Of token ids and their mask."""
    lengths = drawn_lengths(layouts.text(tmp_path / "m.onnx", names))
    assert len(set(lengths)) == 3
    assert all(ids == mask for ids, mask in lengths)


@pytest.mark.parametrize("made", [layouts.text, layouts.image, layouts.sequence])
def test_check_compares_models_of_several_dynamic_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: layouts.Made
) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("poc.onnx"))
    Path("better.onnx").write_bytes(Path("poc.onnx").read_bytes())
    Path("rollout.yaml").write_text(
        json.dumps(
            {"model": "m", "task": "agreement", "primary": "poc.onnx", "candidate": "better.onnx"}
            | {"goals": {"quality": {"loss": "disagreement", "margin": 0.01}}}
        ),
        encoding="utf-8",
    )
    result = CliRunner().invoke(app, ["check"])
    assert "0 of 512 rows outside the tolerance" in result.output, result.output
