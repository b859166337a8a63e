"""`make gpu-check`: what a machine's GPU does with this service, in under 8 minutes and without a network.

Each part runs in a process of its own with a limit on its time. The result is written after each part, so it is there even if one
hangs, fails or kills its process. `--device cpu` rehearses all of it on a machine without a GPU; its result says so and goes to a
temporary folder.
"""

import datetime
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from loadtests import gpu_models

ROOT = Path(__file__).parents[1]
LIMITS_S = {"environment": 40, "refusal": 60, "parity": 90, "iobinding": 60, "speed": 80, "rollout": 100}
"""The parts, in order, with the seconds that each may take; 430 in all."""
STOP_S = 40
"""How long a part may take to stop what it started."""
SIZES = (1, 4, 16, 64, 256)
TOLERANCE = {"float32": 2e-2, "float16": 5e-2}
"""Largest difference to the CPU, relative to the largest answer. TensorFloat-32 and float16 have about three decimal digits."""
Lines = list[str]


class PartFailed(Exception):
    """A check did not hold; what was found before it is part of the result."""


def environment(_: Path, device: str, _short: bool) -> Lines:
    """Driver, GPU, runtime, and the libraries that are found and missing."""
    lines = ["GPU: " + _nvidia("--query-gpu=name,driver_version,memory.total,compute_cap")]
    try:
        import onnxruntime as ort

        from understudy.inference import devices
    except ImportError as error:
        raise PartFailed("\n".join([*lines, f"missing: {error.name}"])) from error
    cuda = getattr(ort, "cuda_version", "") or "none"
    lines.append(f"ONNX Runtime {ort.__version__}, CUDA {cuda}; providers {', '.join(ort.get_available_providers())}")
    lines.append(f"libraries missing: {', '.join(devices.missing_libraries('tensorrt')) or 'none'}")
    if device != "cpu" and (missing := devices.missing_libraries(device)):
        raise PartFailed("\n".join([*lines, f"`device: {device}` cannot work here: {missing[0]} is missing"]))
    return lines


def refusal(folder: Path, device: str, _short: bool) -> Lines:
    """A GPU is asked for, and its libraries are hidden: the session must be refused with a name, and not run on the CPU."""
    wanted = "cuda" if device == "cpu" else device
    model = gpu_models.mlp(folder / "refused.onnx")
    hidden = folder / "hidden"
    hidden.mkdir(exist_ok=True)
    for name in ("libcudart.so.12", "libcudart.so.13", "libcudnn.so.9", "libcublasLt.so.12", "libcublasLt.so.13"):
        (hidden / name).write_bytes(b"not a library")
    code = (
        "import sys, onnxruntime as ort\n"
        "if hasattr(ort, 'preload_dlls'): ort.preload_dlls = lambda *a, **k: None\n"
        "from understudy.errors import ConfigurationError\n"
        "from understudy.inference.onnx import OnnxEngine\n"
        "try:\n    print('SERVED on', OnnxEngine(sys.argv[1], device=sys.argv[2], warm_max_rows=1).device)\n"
        "except ConfigurationError as error:\n    print('refused:', error.detail.replace(sys.argv[1], 'model.onnx'))\n"
    )
    lines = []
    for what, env in (
        ("broken libraries first on the path", {"LD_LIBRARY_PATH": str(hidden)}),
        ("no GPU visible", {"CUDA_VISIBLE_DEVICES": "-1"}),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code, str(model), wanted],
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=25,
            check=False,
        )
        lines.append(f"{what}: {_last(run.stdout) or _last(run.stderr) or 'no output'}")
    if not all("refused:" in line for line in lines):
        raise PartFailed("\n".join([*lines, "a session that asked for a GPU was not refused"]))
    return lines


def parity(folder: Path, device: str, _short: bool) -> Lines:
    """The same rows on the CPU and on the device, for every model."""
    from understudy.inference.onnx import OnnxEngine

    lines, bad = ["| model | dtype | rows | largest difference, relative |", "|---|---|---|---|"], []
    for name, path in _models(folder).items():
        cpu, other = (OnnxEngine(path, device=each, warm_max_rows=1) for each in ("cpu", device))
        for rows in (1, 7, 64):
            columns = gpu_models.rows_of(cpu.card.inputs, rows)
            expected, found = cpu.run(columns), other.run(columns)
            worst, dtype = 0.0, cpu.card.inputs[0].dtype
            for output, values in expected.items():
                if values.dtype.kind == "f":
                    scale = max(float(np.abs(values.astype(np.float64)).max()), 1e-6)
                    off = np.abs(values.astype(np.float64) - found[output].astype(np.float64)).max()
                    worst = max(worst, float(off) / scale)
            lines.append(f"| {name} | {dtype} | {rows} | {worst:.2e} |")
            if not worst <= TOLERANCE.get(dtype, 2e-2):
                bad.append(f"{name} at {rows} rows: {worst:.2e}")
    if bad:
        raise PartFailed("\n".join([*lines, "", "differs from the CPU: " + "; ".join(bad)]))
    return lines


def iobinding(folder: Path, device: str, short: bool) -> Lines:
    """Runs with and without IOBinding, interleaved, with the same answers."""
    from understudy.inference.session import bound

    lines = ["| model | rows | plain, ms | IOBinding, ms |", "|---|---|---|---|"]
    for name, path in gpu_models.build(folder).items():
        session = _raw(path, device)
        both = {"plain": session, "bound": bound(session)}
        for rows in SIZES[:2] if short else SIZES:
            feed = gpu_models.feed(session, rows)
            first, second = (np.asarray(each.run(None, feed)[0]) for each in both.values())
            if not np.allclose(first, second, rtol=1e-2, atol=1e-3):
                raise PartFailed(f"{name}: other answers with IOBinding at {rows} rows")
            times: dict[str, list[float]] = {kind: [] for kind in both}
            for _ in range(5 if short else 30):
                for kind, each in both.items():
                    times[kind].append(_ms(functools.partial(each.run, None, feed)))
            lines.append(f"| {name} | {rows} | {np.median(times['plain']):.3f} | {np.median(times['bound']):.3f} |")
    return lines


def speed(folder: Path, device: str, short: bool) -> Lines:
    """The engine on the device, beside the bare session on it, and the engine on the CPU."""
    from understudy.inference.onnx import OnnxEngine

    lines = [
        f"| model | rows | engine on {device}, p50 ms | p99 ms | rows/s | bare `session.run`, p50 ms | engine on CPU, p50 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, path in gpu_models.build(folder).items():
        sizes = SIZES[:2] if short else SIZES
        cpu, other = (OnnxEngine(path, device=each, warm_max_rows=max(sizes)) for each in ("cpu", device))
        session = _raw(path, device)
        for rows in sizes:
            columns = gpu_models.rows_of(cpu.card.inputs, rows)
            runs: list[Callable[[], object]] = [
                functools.partial(other.run, columns),
                functools.partial(session.run, None, columns),
                functools.partial(cpu.run, columns),
            ]
            for run in runs:
                run()
            until = time.monotonic() + (0.2 if short else 2.5)
            times: list[list[float]] = [[] for _ in runs]
            while time.monotonic() < until:
                for run, taken in zip(runs, times, strict=True):
                    taken.append(_ms(run))
            own, bare, beside = (np.percentile(each, (50, 99)) for each in times)
            rate = rows / own[0] * 1000
            lines.append(
                f"| {name} | {rows} | {own[0]:.3f} | {own[1]:.3f} | {rate:,.0f} | {bare[0]:.3f} | {beside[0]:.3f} |"
            )
    return lines


def rollout(folder: Path, device: str, short: bool) -> Lines:
    """Both variants served on the device: shadow, canary, labels."""
    from understudy.loadtest import own
    from understudy.offline.client import Client

    for name, seed in (("poc", 1), ("better", 2)):
        gpu_models.mlp(folder / f"{name}.onnx", seed=seed)
    file = folder / "rollout.yaml"
    file.write_text(gpu_models.ROLLOUT.format(device=device), encoding="utf-8")
    chance, many = np.random.default_rng(0), 40 if short else 400
    lines = []
    with own.service(file, folder / "state") as url, Client(url) as client:
        for phase in ("shadow", "canary"):
            if phase == "canary":
                client.post("/rollout/weight", {"weight": 50, "force": True, "reason": "gpu-check"})
                time.sleep(2)
            answered: dict[str, int] = {}
            labels = []
            for _ in range(many):
                answer = client.post("/predict", {"rows": [{"x": chance.normal(size=16).tolist()}]})
                answered[answer["variant"]] = answered.get(answer["variant"], 0) + 1
                labels.append({"prediction_id": answer["predictions"][0]["prediction_id"], "label": 0.0})
            receipt = client.post("/feedback", {"labels": labels})
            lines.append(f"{phase}: answered by {json.dumps(answered)}; labels {json.dumps(receipt)}")
            if phase == "canary" and len(answered) < 2:
                raise PartFailed("\n".join([*lines, "one of the variants answered nothing"]))
        lines.append(
            f"device in the setup that a load test counts for: {client.get('/rollout/loadtest')['setup']['device']}"
        )
        lines.append("GPU memory by process: " + _nvidia("--query-compute-apps=pid,used_memory"))
    return lines


PARTS: dict[str, Callable[[Path, str, bool], Lines]] = {
    f.__name__: f for f in (environment, refusal, parity, iobinding, speed, rollout)
}


def _models(folder: Path) -> dict[str, Path]:
    """The script's own models, and the example's where they were built."""
    example = {name: ROOT / "models" / name for name in ("flight_poc", "flight_candidate")}
    return gpu_models.build(folder) | {name: path for name, path in example.items() if (path / "model.onnx").exists()}


def _raw(path: Path, device: str) -> Any:
    """A session without the engine; on another device than asked for, its times would be believed."""
    import onnxruntime as ort

    from understudy.inference import devices

    devices.preload()
    wanted = devices.providers_of(device, devices.GpuOptions())
    session = ort.InferenceSession(path, providers=wanted)
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if session.get_providers()[0] != first:
        raise PartFailed(f"a session that asked for {first} got {session.get_providers()[0]}")
    return session


def _ms(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1000


def _nvidia(query: str) -> str:
    try:
        run = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi is not usable here ({type(error).__name__})"
    return "; ".join(run.stdout.split("\n")).strip("; ") or "nothing listed"


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _in_process(name: str, folder: Path, device: str, short: bool, limit_s: float) -> tuple[bool, str, float]:
    """Run a part in a process group of its own: whether it held, its lines, its seconds."""
    command = [sys.executable, "-m", "loadtests.gpu_check", "--part", name, "--folder", str(folder), "--device", device]
    began = time.monotonic()
    with (folder / f"{name}.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, *(["--short"] if short else [])],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it stops the service that it started, which is in a session of its own
            try:
                out, _ = process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, _ = process.communicate()
            return False, f"{out}\nended at its limit of {limit_s:g} s", time.monotonic() - began
        log.seek(0)
        said = _last(log.read())
    if process.returncode and not out.strip():
        out = f"ended with status {process.returncode}: {said}"
    return process.returncode == 0, out.strip(), time.monotonic() - began


def installed(wheels: Path, folder: Path) -> Path:
    """Install wheels from a folder, without a network, into one of its own. Pieces `x.whl.00`, `x.whl.01`, … are joined first."""
    for first in sorted(wheels.glob("*.whl.00")):
        whole = folder / first.name.removesuffix(".00")
        whole.write_bytes(b"".join(p.read_bytes() for p in sorted(wheels.glob(f"{whole.name}.[0-9][0-9]"))))
    files = [*map(str, wheels.glob("*.whl")), *map(str, folder.glob("*.whl"))]
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), *files], check=True, timeout=180)
    return target


def report(device: str, short: bool, found: Sequence[tuple[str, bool, str, float]]) -> str:
    """The result, in Markdown."""
    title = (
        "# Rehearsal on the CPU: not a GPU result"
        if device == "cpu"
        else f"# The service on a GPU (`device: {device}`)"
    )
    left = [name for name in LIMITS_S if name not in {each[0] for each in found}]
    failed = [name for name, held, _, _ in found if not held]
    summary = f"Failed: {', '.join(failed)}." if failed else "Every part that ran held."
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [
        title,
        "",
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d %H:%M} UTC, revision {run.stdout.strip() or 'unknown'}",
        "",
    ]
    lines += [
        f"Written by `make gpu-check`{' (short)' if short else ''}. {summary} Not run: {', '.join(left) or 'none'}."
    ]
    for name, held, text, seconds in found:
        body = text if text.startswith("| ") else "\n".join(f"{line}  " if line else "" for line in text.splitlines())
        lines += ["", f"## {name}: {'held' if held else 'FAILED'}, {seconds:.0f} s", "", body.rstrip()]
    return "\n".join(lines) + "\n"


def main(
    device: Annotated[str, typer.Option(help="cuda, tensorrt, or cpu for a rehearsal")] = "cuda",
    short: Annotated[bool, typer.Option(help="few runs: for a test of this script")] = False,
    wheels: Annotated[
        Path | None, typer.Option(help="install the wheels in this folder first, without a network")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="where the result is written")] = None,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Check the service on this machine's GPU. Exits with 1 if a part failed."""
    if device not in ("cpu", "cuda", "tensorrt"):
        raise typer.BadParameter(f"{device} is not cuda, tensorrt or cpu")
    if part is not None and folder is not None:
        try:
            print("\n".join(PARTS[part](folder, device, short)))
        except PartFailed as failed:
            print(failed)
            raise typer.Exit(1) from None
        except ImportError as error:
            print(f"missing: {error.name or error}; install it, or give --wheels a folder that has it")
            raise typer.Exit(1) from None
        except Exception as error:
            # Whatever it is, its reason belongs in the result; the traceback is in the part's log.
            detail = getattr(error, "detail", str(error)) or "no reason given"
            print(f"{type(error).__name__}: {' '.join(detail.split())}")
            raise
        return
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    today = datetime.datetime.now(tz=datetime.UTC).date()
    to = output or (work / "rehearsal.md" if device == "cpu" else ROOT / "loadtests" / "results" / f"{today}-gpu.md")
    paths = [str(installed(wheels, work))] if wheels is not None else []
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, str(ROOT / "service"), os.environ.get("PYTHONPATH", "")])
    found: list[tuple[str, bool, str, float]] = []
    for name, limit_s in LIMITS_S.items():
        print(f"{name} (at most {limit_s} s) …", flush=True)
        held, text, seconds = _in_process(name, work, device, short, limit_s)
        found.append((name, held, text, seconds))
        print(f"  {'held' if held else 'FAILED: ' + _last(text)} after {seconds:.0f} s", flush=True)
        to.write_text(report(device, short, found), encoding="utf-8")
    print(f"written to {to}")
    raise typer.Exit(0 if all(held for _, held, _, _ in found) else 1)


if __name__ == "__main__":
    typer.run(main)
