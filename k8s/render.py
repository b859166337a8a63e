"""Renders every overlay into k8s/rendered/, with the kustomize that kubectl brings.

What is rendered is committed: it is what a reviewer reads and what is validated, also where kubectl is not installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

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


def main() -> None:
    """Write what has changed."""
    for overlay in OVERLAYS:
        text = rendered(overlay)
        if text is None:
            sys.stderr.write("kubectl is not installed: k8s/rendered/ is checked as it was committed\n")
            return
        (K8S / "rendered").mkdir(exist_ok=True)
        (K8S / "rendered" / f"{overlay.name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
