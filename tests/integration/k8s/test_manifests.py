"""The manifests render, fit every Kubernetes version we name, and speak of things that exist in the code."""

import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from understudy.cli import app
from understudy.observability.metrics import TABLE
from understudy.rollout import policy
from understudy.settings import Settings

K8S = Path(__file__).parents[3] / "k8s"
VERSIONS = [f"1.{minor}" for minor in range(29, 35)]
OVERLAYS = sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml"))
CUSTOM = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
"""Kinds of others, which Kubernetes' schemas do not have."""


@cache
def parsed(overlay: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((K8S / "rendered" / f"{overlay}.yaml").read_text()) if each]


def documents(overlay: str) -> list[dict[str, Any]]:
    """The caller's own copy."""
    return deepcopy(parsed(overlay))


def of_kind(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    return [each for each in documents(overlay) if each["kind"] in kinds]


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each workload's name, its pod and that pod's container."""
    for each in of_kind(overlay, "Deployment", "Job"):
        pod = each["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        yield each["metadata"]["name"], pod, container


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema_with_unknown_fields_refused(overlay: str, version: str) -> None:
    """Strictly, against that version's own schema."""
    known = [each for each in documents(overlay) if each["kind"] not in CUSTOM]
    assert len(known) >= 6
    for document in known:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_sees_unknown_fields() -> None:
    """A check that cannot fail is none."""
    broken = of_kind("cpu", "Deployment")[0]
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_committed_is_what_kustomize_renders(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(K8S))
    import render

    text = render.rendered(K8S / "overlays" / overlay)
    if text is None:
        pytest.skip("kubectl is not installed: what is committed is validated, but not rendered anew")
    assert list(yaml.safe_load_all(text)) == documents(overlay), "`make manifests` renders it"


def test_no_manifest_is_forgotten() -> None:
    for folder in [K8S / "base", *(K8S / "components").iterdir()]:
        said = set(yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"])
        assert said == {p.name for p in folder.glob("*.yaml")} - {"kustomization.yaml", "rollout.yaml"}, folder


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_environment_variables_commands_ports_and_probes_exist_in_the_code(overlay: str) -> None:
    """A renamed setting, command or path would otherwise be found out by a pod that does not start."""
    fields = {f"UNDERSTUDY_{name.upper()}" for name in Settings.model_fields}
    commands = {each.name or (each.callback.__name__ if each.callback else "") for each in app.registered_commands}
    for name, _, container in pods(overlay):
        said = {each["name"] for each in container["env"] if each["name"].startswith("UNDERSTUDY_")}
        assert said <= fields, name
        assert container["args"][0] in commands, name
        if "readinessProbe" not in container:
            continue
        probes = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
        assert probes == {"/readyz", "/livez"}
        assert container["ports"] == [{"name": "http", "containerPort": 3001 if "candidate" in name else 3000}]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_locked_down_and_drains_within_its_grace(overlay: str) -> None:
    for name, pod, container in pods(overlay):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        if "lifecycle" in container:
            (drain,) = (float(e["value"]) for e in container["env"] if e["name"] == "UNDERSTUDY_DRAIN_S")
            before = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
            # What is asked outlives who asks by 3 s, and has 15 s to empty its spool: see understudy.app and store.spool.
            assert before + drain + 3 + 15 < pod["terminationGracePeriodSeconds"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_come_by_reference_only(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for _, _, container in pods(overlay):
        for each in container["env"]:
            assert "valueFrom" in each or not re.search("token=|password|:[^/@]+@", each["value"].lower())


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "local"])
def test_what_selects_finds_something(overlay: str) -> None:
    """Services, budgets, autoscalers and policies speak of Deployments that are there."""
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in of_kind(overlay, "Deployment", "Job")]
    names = {each["metadata"]["name"] for each in of_kind(overlay, "Deployment")}
    for each in of_kind(overlay, "Service"):
        assert any(each["spec"]["selector"].items() <= one.items() for one in labels)
    for each in of_kind(overlay, "PodDisruptionBudget"):
        assert any(each["spec"]["selector"]["matchLabels"].items() <= one.items() for one in labels)
    for each in of_kind(overlay, "NetworkPolicy"):
        assert any(each["spec"]["podSelector"].get("matchLabels", {}).items() <= one.items() for one in labels)
    assert {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(overlay, "HorizontalPodAutoscaler")} == names
    (url,) = (e["value"] for _, _, c in pods(overlay) for e in c["env"] if e["name"] == "UNDERSTUDY_CANDIDATE_URL")
    (candidate,) = (each for each in of_kind(overlay, "Service") if f"/{each['metadata']['name']}:" in url)
    assert url == f"http://{candidate['metadata']['name']}:{candidate['spec']['ports'][0]['port']}"


def test_the_operator_s_rules_and_dashboard_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(K8S))
    import render

    for name, text in render.wrapped().items():
        assert (K8S / "components/monitoring" / name).read_text() == text, "`make manifests` writes it"
    (found,) = of_kind("production", "PrometheusRule")
    assert found["spec"] == yaml.safe_load((K8S / "monitoring/rules.yaml").read_text())


def test_the_adapter_names_metrics_and_labels_that_exist() -> None:
    specs = {spec.name: spec for spec in TABLE}
    text = (K8S / "examples/prometheus-adapter.yaml").read_text()
    found = 0
    for name, labels in re.findall(r"(understudy_[a-z_]+)\b(?:{([^}]*)})?", text):
        if name == "understudy_requests_per_second":  # what the adapter makes
            continue
        spec = specs.get(name) or specs[re.sub("_(bucket|sum|count)$", "", name)]
        said = set(re.findall(r'(\w+)\s*[=!]~?"', labels))
        assert said <= {*spec.labels, "namespace", "pod"}, name
        found += 1
    assert found


def test_the_rollout_files_are_the_example_s() -> None:
    """One rollout file, here and on one machine; the GPU one asks for the GPU."""
    example = (K8S.parent / "rollout.yaml").read_text()
    assert (K8S / "base/rollout.yaml").read_text() == example
    assert (K8S / "overlays/gpu/rollout.yaml").read_text() == example.replace("device: auto", "device: cuda")
    assert policy.parse((K8S / "overlays/gpu/rollout.yaml").read_text()).device == "cuda"


def test_models_from_an_object_store_have_room_and_a_way_out() -> None:
    """The rollout file is the example's but for where the models are; what is fetched fits into the volume that it goes to."""
    text = (K8S / "overlays/objects/rollout.yaml").read_text()
    fetched = policy.parse(text)
    example = policy.parse((K8S.parent / "rollout.yaml").read_text())
    assert fetched.model_copy(update={"primary": example.primary, "candidate": example.candidate}) == example
    (way_out,) = (e for e in of_kind("objects", "NetworkPolicy") if e["metadata"]["name"] == "understudy-objects")
    (names,) = (e["values"] for e in way_out["spec"]["podSelector"]["matchExpressions"])
    assert set(names) == {each["metadata"]["name"] for each in of_kind("objects", "Deployment")}
    for name, pod, container in pods("objects"):
        if name not in names:
            continue
        env = {each["name"]: each.get("value", "") for each in container["env"]}
        (mount,) = (e for e in container["volumeMounts"] if e["mountPath"] == env["UNDERSTUDY_MODEL_CACHE_DIR"])
        (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
        room = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))
        assert int(env["UNDERSTUDY_MODEL_CACHE_MAX_MIB"]) < room * 1024
        assert room < int(container["resources"]["limits"]["ephemeral-storage"].removesuffix("Gi"))
