"""The manifests render, fit every Kubernetes version we name, and speak of things that exist in the code."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from loadtests.run import MASTER_PORT
from service import cli
from service.rollout import policy
from service.settings import Settings

BASE = Path(__file__).parents[2] / "k8s" / "base"
LOAD = BASE.parent / "loadtest"
VERSIONS = [f"1.{minor}" for minor in range(29, 35)]
DOCUMENTS = [
    document
    for path in sorted(BASE.glob("*.yaml"))
    if path.name not in {"kustomization.yaml", "rollout.yaml"}
    for document in yaml.safe_load_all(path.read_text())
]


def container() -> dict[str, Any]:
    deployment = next(d for d in DOCUMENTS if d["kind"] == "Deployment")
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


def with_selector(document: dict[str, Any]) -> dict[str, Any]:
    """What kustomize's `labels` adds, for the kinds whose schema demands it."""
    if document["kind"] != "Deployment":
        return document
    labels = {"app.kubernetes.io/name": "understudy"}
    template = document["spec"]["template"]
    metadata = template["metadata"] | {"labels": labels}
    return document | {
        "spec": document["spec"] | {"selector": {"matchLabels": labels}, "template": template | {"metadata": metadata}}
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema_with_unknown_fields_refused(version: str) -> None:
    """Strictly, against that version's own schema."""
    for document in DOCUMENTS:
        kubernetes_validate.validate(with_selector(document), version, strict=True)


def test_the_validator_sees_unknown_fields() -> None:
    """A check that cannot fail is none."""
    broken = with_selector(next(d for d in DOCUMENTS if d["kind"] == "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0] = container() | {"imagePullPolice": "Always"}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_kustomize_renders_the_base() -> None:
    """With kubectl's own kustomize; every resource lands in the namespace with the labels."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: the base is validated, but not rendered by kustomize itself")
    rendered = subprocess.run([kubectl, "kustomize", str(BASE)], capture_output=True, text=True, check=True).stdout
    documents = list(yaml.safe_load_all(rendered))

    assert {d["kind"] for d in documents} == {
        "Namespace",
        "ConfigMap",
        "Deployment",
        "Service",
        "PersistentVolumeClaim",
    }
    for document in documents:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        assert document["metadata"]["labels"]["app.kubernetes.io/name"] == "understudy"


def test_resources_of_the_kustomization_are_all_there() -> None:
    """No manifest is forgotten, none is missing."""
    said = set(yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"])

    assert said == {p.name for p in BASE.glob("*.yaml")} - {"kustomization.yaml", "rollout.yaml"}


def test_environment_variables_and_probes_exist_in_the_code() -> None:
    """A renamed setting or path would otherwise be found out by a pod that does not start."""
    fields = {f"UNDERSTUDY_{name.upper()}" for name in Settings.model_fields}
    named = {e["name"] for e in container()["env"] if e["name"].startswith("UNDERSTUDY_")}
    probes = {container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}

    assert named <= fields
    assert probes == {"/readyz", "/livez"}


def test_the_rollout_file_is_the_example_s() -> None:
    """One rollout file, here and on one machine."""
    mine, example = BASE / "rollout.yaml", BASE.parents[1] / "rollout.yaml"

    assert mine.read_text() == example.read_text()
    policy.parse(mine.read_text())


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
    assert (BASE.parents[1] / worker["command"][2]).is_file()
    assert worker["args"][worker["args"].index("--master-host") + 1] == service["metadata"]["name"]
    assert service["spec"]["ports"][0]["port"] == main["ports"][0]["containerPort"] == MASTER_PORT
    base = next(d for d in DOCUMENTS if d["kind"] == "Service")["metadata"]["name"]
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
