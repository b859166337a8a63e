"""`make bench`: this service beside its peers, one run, interleaved rounds, the server on one core and wrk on the other.

What is measured is in `cases`; how, in `loadtests.measuring`; who the peers are, in `loadtests.peers`. A peer that does not
install or start is left out, and the report says so.
"""

import dataclasses
import datetime
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from loadtests import asking, matrix
from loadtests.measuring import LOAD_CPU, RESULTS, ROOT, SERVER_CPU, Server, machine, measure, need_tools
from loadtests.peers import BARE, LEAN, PEERS, Peer
from understudy.errors import ConfigurationError

console = Console(highlight=False)
ANSWERS = "Understudy"
"""The BentoML service that answers: its CPU is told apart from that of the processes beside it."""


@dataclass
class Case:
    """One model asked in one way, by so many connections at a time.

    Attributes:
        scripts: wrk's, by protocol.
    """

    title: str
    servers: list[tuple[Server, str]]
    scripts: dict[str, Path]
    connections: int = 16
    failed: dict[str, str] = field(default_factory=dict)

    def round(self, seconds: int) -> None:
        """Measure every server once; one that fails is not asked again."""
        for server, protocol in self.servers:
            if server.name in self.failed:
                continue
            try:
                measure(server, self.scripts[protocol], seconds, self.connections)
            except (ConfigurationError, subprocess.SubprocessError, AssertionError) as error:
                self.failed[server.name] = str(error).splitlines()[0][:200]


def cases(folder: Path, peers: Sequence[Peer], *, quick: bool) -> list[Case]:
    """What is measured."""
    matrix.logistic(folder / "float.onnx")
    flights = ROOT / "models" / "flight_poc" / "model.onnx"
    one, many = asking.matrix_bodies(1), asking.matrix_bodies(1_000)
    scripts = {
        "float": asking.scripts(folder, "float", one),
        "many": asking.scripts(folder, "many", many),
        "flight": asking.scripts(folder, "flight", {"rows": asking.flight_body()}),
    }
    numbers = [(_peer(peer, folder / "float.onnx"), peer.protocol) for peer in (BARE, LEAN, *peers)]
    strings = [(_peer(peer, flights), peer.protocol) for peer in (BARE, LEAN, *peers) if not peer.numbers_only]
    float_model = asking.Rollout("float", folder / "float.onnx", folder / "float.onnx")
    flight_model = asking.Rollout("flights", flights.parent, ROOT / "models" / "flight_candidate")
    kinds = ("primary only", "shadow 100 %", "canary 50 %")

    def ours(
        rollout: asking.Rollout, *names: str, path: str = "/predict", protocol: str = "rows"
    ) -> list[tuple[Server, str]]:
        return [(rollout.server(folder, name, path), protocol) for name in names]

    v2 = "/v2/models/float/infer"
    found = [
        Case(
            "One row of a 16-column float model, 16 connections", ours(float_model, *kinds) + numbers, scripts["float"]
        ),
        Case(
            "One flight (18 named fields, strings), 16 connections",
            ours(flight_model, *kinds) + strings,
            scripts["flight"],
        ),
        Case("One flight, 1 connection", ours(flight_model, kinds[0], kinds[2]) + strings[:1], scripts["flight"], 1),
    ]
    if not quick:
        bare = numbers[:1]
        found += [
            Case(
                "One row of the float model, 64 connections", ours(float_model, kinds[0]) + bare, scripts["float"], 64
            ),
            Case(
                "One row of the float model over V2 JSON, 16 connections",
                ours(float_model, kinds[0], path=v2, protocol="v2") + [n for n in numbers if n[1] == "v2"],
                scripts["float"],
            ),
            Case(
                "1,000 rows of the float model in JSON, 16 connections",
                ours(float_model, kinds[0]) + bare,
                scripts["many"],
            ),
        ]
    # Each case has servers of its own: a server's samples are one case's.
    return [Case(c.title, [(_again(s), p) for s, p in c.servers], c.scripts, c.connections) for c in found]


def _peer(peer: Peer, model: Path) -> Server:
    return Server(peer.name, peer.command, {"PEER_MODEL": str(model)}, peer.path, peer.ready)


def _again(server: Server) -> Server:
    return dataclasses.replace(server, samples=[])


def table(case: Case) -> list[str]:
    """One case as Markdown."""
    bare = next((s for s, _ in case.servers if s.name == BARE.name and s.samples), None)
    lines = [
        f"## {case.title}",
        "",
        "| server | requests/s | × bare | p50 ms | p99 ms | p99.9 ms | CPU µs a request: answering, all | memory MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for server, _ in case.servers:
        if not server.samples:
            continue
        rates, rate = [sample.rate for sample in server.samples], server.median("rate")
        answering = server.cpu(ANSWERS) or server.cpu()
        ratio = f"{rate / bare.median('rate'):.2f}" if bare else ""
        lines.append(
            f"| {server.name} | {rate:,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | {ratio} | {server.median('p50_ms'):.2f} | "
            f"{server.median('p99_ms'):.2f} | {server.median('p999_ms'):.2f} | {answering:.0f}, {server.cpu():.0f} | "
            f"{server.median('memory_mib'):,.0f} |"
        )
    return [*lines, *(f"\n{name} was left out: {why}" for name, why in case.failed.items()), ""]


def report(found: Sequence[Case], on: str, rounds: int, seconds: int) -> str:
    """The run as Markdown: method and machine first."""
    method = (
        f"{rounds} interleaved rounds of {seconds} s after a second of warm-up; the server and all its processes on core "
        f"{SERVER_CPU}, wrk on core {LOAD_CPU}. Everything on: validation, routing, ids, metrics, records, and with a candidate "
        f"its rehearsals, pairing and the judge. Load at the end: {os.getloadavg()[1]:.1f}."
    )
    lines = [
        f"# Benchmark, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "",
        method,
        on,
        "Made by `make bench`. Medians (lowest to highest); absolute figures belong to this machine and hour.",
        "",
    ]
    return "\n".join([*lines, *(line for case in found for line in table(case))])


def installed(names: Sequence[str]) -> tuple[list[Peer], list[str]]:
    """The chosen peers that install, and what they run on."""
    chosen, said = [], []
    for peer in PEERS:
        if names and not any(name.lower() in peer.name.lower() for name in names):
            continue
        console.print(f"{peer.name}: {peer.folder.relative_to(ROOT) if peer.packages else 'this environment'}")
        try:
            said.append(peer.install())
        except (OSError, subprocess.CalledProcessError) as error:
            console.print(f"{peer.name} is left out: {error}")
        else:
            chosen.append(peer)
    return chosen, said


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 3,
    seconds: Annotated[int, typer.Option(help="seconds of load per round and server")] = 4,
    quick: Annotated[bool, typer.Option(help="only the cases that the launch figures are about")] = False,
    peers: Annotated[
        list[str] | None, typer.Option(help="only these peers; `none` for none but the bare server")
    ] = None,
    write: Annotated[bool, typer.Option(help="write a dated file to loadtests/results/")] = True,
) -> None:
    """Measure this service beside its peers."""
    need_tools()
    chosen, said = installed(peers or ())
    with tempfile.TemporaryDirectory() as name:
        found = cases(Path(name), chosen, quick=quick)
        for case in track([case for _ in range(rounds) for case in found], description="measuring", console=console):
            case.round(seconds)
    on = f"{machine(('bentoml', 'onnxruntime', 'uvicorn', 'uvloop', 'numpy'))} Peers: {', '.join(said) or 'none'}."
    text = report(found, on, rounds, seconds)
    console.print(text, markup=False)
    if write:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-bench{'-quick' if quick else ''}.md"
        path.write_text(text, encoding="utf-8")
        console.print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    typer.run(main)
