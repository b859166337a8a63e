"""The peers that `make bench` measures the service beside, each as its own documentation shows it, in its own environment."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
_RUNTIME = ("numpy", "onnxruntime")


@dataclass(frozen=True)
class Peer:
    """Someone else's server around the same model (`PEER_MODEL`), on `{port}`.

    Attributes:
        packages: what its environment holds; none: this project's own environment.
        module: what is run with `python -m`, with its arguments.
        protocol: what it is asked in: "rows" as `POST /predict` takes them, or "v2" JSON.
        numbers_only: it takes tensors of numbers, so no flights.
    """

    name: str
    packages: tuple[str, ...]
    module: tuple[str, ...]
    path: str = "/predict"
    ready: str = "/readyz"
    protocol: str = "rows"
    numbers_only: bool = False

    @property
    def folder(self) -> Path:
        """Its environment."""
        return ENVIRONMENTS / self.name.lower().replace(" ", "-")

    @property
    def command(self) -> list[str]:
        """What starts it."""
        python = str(self.folder / "bin" / "python") if self.packages else sys.executable
        return [python, "-m", *self.module]

    def install(self) -> str:
        """Make its environment, if it is not there; what it runs on, in words.

        Raises:
            CalledProcessError: when it does not install.
        """
        if not self.packages:
            return self.name
        python = self.folder / "bin" / "python"
        mark = self.folder / ".ready"
        if not mark.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *self.packages, *_RUNTIME], check=True)
            mark.touch()
        ask = f"import importlib.metadata as m; print(m.version({self.packages[0].partition('[')[0]!r}))"
        version = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
        return f"{self.name} {version}"


_UVICORN = ("--no-access-log", "--port", "{port}")
_V2 = "/v2/models/peer"
BARE = Peer("bare uvicorn + orjson", (), ("uvicorn", "loadtests.peers.bare:app", *_UVICORN), ready="/")
LEAN = Peer("the bare handler on our connection", (), ("loadtests.peers.bare_lean",), ready="/")
PEERS = (
    Peer(
        "FastAPI",
        ("fastapi", "uvicorn[standard]"),
        ("uvicorn", "loadtests.peers.fastapi_app:app", *_UVICORN),
        ready="/docs",
    ),
    Peer(
        "BentoML",
        (),
        ("bentoml", "serve", "--host", "127.0.0.1", "--port", "{port}", "loadtests.peers.bentoml_api:Peer"),
    ),
    Peer("LitServe", ("litserve",), ("loadtests.peers.litserve_app",), ready="/health"),
    Peer("MLServer", ("mlserver",), ("loadtests.peers.mlserver_app",), f"{_V2}/infer", f"{_V2}/ready", "v2", True),
    Peer("KServe", ("kserve",), ("loadtests.peers.kserve_app",), f"{_V2}/infer", f"{_V2}/ready", "v2", True),
    Peer("Ray Serve", ("ray[serve]",), ("loadtests.peers.ray_app",), "/", "/"),
)
