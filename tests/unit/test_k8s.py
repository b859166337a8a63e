"""The manifests render, fit every Kubernetes version we name, and speak of things that exist in the code."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.rollout import policy
from service.settings import Settings

BASE = Path(__file__).parents[2] / "k8s" / "base"
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
