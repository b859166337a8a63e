"""The load test's manifests: what they say exists in the code, and fits the schemas, unknown fields refused."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from understudy import cli
from understudy.loadtest.generator import MASTER_PORT

K8S = Path(__file__).parents[3] / "k8s"
LOAD = K8S / "loadtest"
VERSIONS = [f"1.{minor}" for minor in range(29, 35)]
LOAD_DOCUMENTS = {p.stem: yaml.safe_load(p.read_text()) for p in LOAD.glob("*.yaml") if p.stem != "kustomization"}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_load_test_s_manifests_fit_the_schema(version: str) -> None:
    """The master, its address, and the workers."""
    for document in LOAD_DOCUMENTS.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_load_test_s_manifests_speak_of_what_there_is() -> None:
    """Options of the command and of the locustfile, ports, names and how many workers: each said twice, and alike."""
    master, workers, service = (LOAD_DOCUMENTS[name] for name in ("master", "workers", "service"))
    (main,) = master["spec"]["template"]["spec"]["containers"]
    (worker,) = workers["spec"]["template"]["spec"]["containers"]
    options: Any = typer.main.get_command(cli.app)
    known = {name for parameter in options.commands["loadtest"].params for name in parameter.opts}
    said = [word for word in main["args"] if word.startswith("--")]

    assert set(said) <= known
    assert main["command"][1] == "loadtest"
    assert main["args"][main["args"].index("--workers-elsewhere") + 1] == str(workers["spec"]["completions"])
    assert workers["spec"]["parallelism"] == workers["spec"]["completions"]
    assert (K8S.parent / worker["command"][2]).is_file()
    assert worker["args"][worker["args"].index("--master-host") + 1] == service["metadata"]["name"]
    assert service["spec"]["ports"][0]["port"] == main["ports"][0]["containerPort"] == MASTER_PORT
    base = next(yaml.safe_load_all((K8S / "base" / "service.yaml").read_text()))["metadata"]["name"]
    assert main["args"][main["args"].index("--url") + 1] == worker["args"][-1] == f"http://{base}"
    said_resources = set(yaml.safe_load((LOAD / "kustomization.yaml").read_text())["resources"])
    assert said_resources == {f"{name}.yaml" for name in LOAD_DOCUMENTS}


def test_kustomize_renders_the_load_test() -> None:
    """The service finds the master's pod by the labels that kustomize has put there."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: the manifests are validated, but not rendered by kustomize itself")
    rendered = subprocess.run([kubectl, "kustomize", str(LOAD)], capture_output=True, text=True, check=True).stdout
    documents = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(rendered)}
    for document in documents.values():
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        assert document["metadata"]["namespace"] == "understudy"
    selector = documents["Service", "understudy-load"]["spec"]["selector"]
    labels = documents["Job", "understudy-load"]["spec"]["template"]["metadata"]["labels"]
    others = documents["Job", "understudy-load-workers"]["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert not selector.items() <= others.items()
