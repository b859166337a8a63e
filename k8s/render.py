"""Renders every overlay into k8s/rendered/, with the kustomize that kubectl brings.

Before that it wraps the rules and the dashboard of k8s/monitoring/ into the kinds that Prometheus' operator and Grafana's sidecar
look for: there is one set of rules, and `understudy monitoring` writes it.

What is rendered is committed: it is what a reviewer reads and what is validated, also where kubectl is not installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

K8S = Path(__file__).parent
OVERLAYS = sorted(path.parent for path in (K8S / "overlays").glob("*/kustomization.yaml"))


def rendered(overlay: Path) -> str | None:
    """The overlay's manifests as one YAML text; None where kubectl is not installed."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return None
    done = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{overlay}: {done.stderr}")
    return done.stdout


def wrapped() -> dict[str, str]:
    """File name in components/monitoring → its text."""

    def kind(version: str, name: str, own: dict[str, str], **body: object) -> str:
        labels = {"app.kubernetes.io/part-of": "understudy"} | own
        head = {
            "apiVersion": version,
            "kind": name,
            "metadata": {"name": "understudy", "namespace": "understudy", "labels": labels},
        }
        return "# Written by `make manifests` from k8s/monitoring/.\n" + yaml.safe_dump(
            head | body, sort_keys=False, width=130
        )

    rules = yaml.safe_load((K8S / "monitoring" / "rules.yaml").read_text(encoding="utf-8"))
    board = (K8S / "monitoring" / "grafana-dashboard.json").read_text(encoding="utf-8")
    return {
        "rules.yaml": kind("monitoring.coreos.com/v1", "PrometheusRule", {}, spec=rules),
        "grafana.yaml": kind("v1", "ConfigMap", {"grafana_dashboard": "1"}, data={"understudy.json": board}),
    }


def main() -> None:
    """Write what has changed."""
    for name, text in wrapped().items():
        (K8S / "components" / "monitoring" / name).write_text(text, encoding="utf-8")
    for overlay in OVERLAYS:
        text = rendered(overlay)
        if text is None:
            sys.stderr.write("kubectl is not installed: k8s/rendered/ is checked as it was committed\n")
            return
        (K8S / "rendered").mkdir(exist_ok=True)
        (K8S / "rendered" / f"{overlay.name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
