"""Text operators were refused in the runtime's own words where the locale en_US.UTF-8 is missing, and the images had none.

The images install it; elsewhere the error says which command or variable brings it.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer

from tests.support.service import ROOT

OPEN = """
import sys
from pathlib import Path
import numpy as np
from understudy.errors import ConfigurationError
from understudy.inference.cards import read_model
from understudy.inference.devices import open_session
path = Path(sys.argv[1])
try:
    session, _ = open_session(path, "cpu", 1, read_model(path))
except ConfigurationError as error:
    sys.exit(str(error))
print(session.run(None, {"x": np.array(eval(sys.argv[2]), object)})[0].tolist())
"""


def normalizer(path: Path) -> str:
    """A graph that turns texts into lower case."""
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="en_US.UTF-8")
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, ["N"]) for name in "xy")
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opset, ir_version=8), path)
    return "['ÄB']"


def tfidf(path: Path) -> str:
    """A vectorizer as scikit-learn's converter exports it."""
    fitted = TfidfVectorizer().fit(["red house", "blue house"])
    path.write_bytes(to_onnx(fitted, initial_types=[("x", StringTensorType([None, 1]))]).SerializeToString())
    return "[['Red house']]"


def opened(path: Path, rows: str, locales: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LOCPATH": str(locales)}
    return subprocess.run(
        [sys.executable, "-c", OPEN, str(path), rows], env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("write", [normalizer, tfidf])
def test_without_the_locale_the_error_says_how_to_install_it(write, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = opened(tmp_path / "m.onnx", write(tmp_path / "m.onnx"), tmp_path / "none")
    assert done.returncode == 1
    assert "`apt-get install locales && localedef -i en_US -f UTF-8 en_US.UTF-8`" in done.stderr
    assert "string_normalizer.cc" not in done.stderr


@pytest.mark.parametrize("write", [normalizer, tfidf])
def test_with_the_locale_the_model_runs(write, tmp_path: Path) -> None:
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/en_US").exists():
        pytest.skip("NO LOCALE SOURCES: install the package locales")
    (tmp_path / "l").mkdir()
    subprocess.run(["localedef", "-i", "en_US", "-f", "UTF-8", str(tmp_path / "l/en_US.UTF-8")], check=True)
    done = opened(tmp_path / "m.onnx", write(tmp_path / "m.onnx"), tmp_path / "l")
    assert done.returncode == 0, done.stderr
    if write is normalizer:
        assert done.stdout.strip() == "['äb']"


def test_both_images_install_the_locale() -> None:
    command = "localedef -i en_US -f UTF-8 en_US.UTF-8"
    last = (ROOT / "k8s/Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"apt-get install [^&]*\blocales\b", last)
    assert command in last
    docker = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["bentoml"]["build"]["docker"]
    assert docker["system_packages"] == ["locales"]
    assert command in (ROOT / docker["setup_script"]).read_text()
