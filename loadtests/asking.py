"""What the benchmarks ask, in each protocol's form, and this service's own rollout files for them."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from loadtests import matrix
from loadtests.measuring import Server, script
from models.data import replay_rows
from understudy.domain import JsonObject

_HELD = {"until": {"requests": 1_000_000_000_000}}
"""So many requests never come, so the step stays as it is: without this the judge would go on, and measure another one."""
_STEPS: dict[str, list[JsonObject | str]] = {
    "shadow 100 %": [{"shadow": 100, **_HELD}, "promote"],
    "canary 50 %": [{"canary": 50, **_HELD}, "promote"],
}


@dataclass(frozen=True)
class Rollout:
    """A model and a candidate, served in one of three ways. Requests are routed by their own ids, so that one body is enough."""

    model: str
    primary: Path
    candidate: Path

    def server(self, folder: Path, how: str, path: str) -> Server:
        """This service: "primary only", "shadow 100 %" or "canary 50 %"."""
        rollout: JsonObject = {
            "model": self.model,
            "task": "binary-classification",
            "primary": str(self.primary),
            "goals": {"latency": {"p99_ms": 500, "deadline_ms": 5000}},
        }
        if how in _STEPS:
            rollout |= {"candidate": str(self.candidate), "steps": _STEPS[how]}
        name = f"{self.model}-{how.split(maxsplit=1)[0]}"
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(rollout), encoding="utf-8")
        return Server(
            f"understudy, {how}",
            [sys.executable, "-m", "understudy.cli", "serve", "--port", "{port}", str(folder / f"{name}.yaml")],
            {"UNDERSTUDY_STATE_DIR": str(folder / f"state-{name}")},
            path,
            candidate=how in _STEPS,
        )


def flight_body() -> bytes:
    """One July flight, without what only routes and counts: no rollout here names it."""
    row = replay_rows(7, 1)[0].row
    return msgspec.json.encode({"rows": [{name: value for name, value in row.items() if name != "tailnum"}]})


def matrix_bodies(count: int) -> dict[str, bytes]:
    """Rows of the matrix model by protocol."""
    x = [[round(value, 4) for value in row] for row in matrix.rows(count).tolist()]
    flat = [value for row in x for value in row]
    tensor = {"name": "x", "datatype": "FP32", "shape": [count, matrix.COLUMNS], "data": flat}
    return {
        "rows": json.dumps({"rows": [{"x": row} for row in x]}).encode(),
        "v2": json.dumps({"inputs": [tensor]}).encode(),
    }


def matrix_binary(count: int) -> tuple[bytes, dict[str, str]]:
    """Rows of the matrix model as a raw tensor of V2, answered as one: the body and its headers."""
    raw = matrix.rows(count).astype("<f4").tobytes()
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [count, matrix.COLUMNS],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + raw, {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }


def scripts(folder: Path, name: str, bodies: dict[str, bytes]) -> dict[str, Path]:
    """Wrk's scripts by protocol."""
    kind = {"Content-Type": "application/json"}
    return {protocol: script(folder, f"{name}-{protocol}", body, kind) for protocol, body in bodies.items()}
