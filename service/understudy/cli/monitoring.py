"""`understudy monitoring`: writes the files for Prometheus and Grafana."""

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.common import File, app, errors_reported, out


@app.command()
def monitoring(
    file: File = Path("rollout.yaml"),
    target: Annotated[str, typer.Option(help="host:port at which Prometheus reaches the service")] = "localhost:3000",
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the files")] = Path("monitoring"),
) -> None:
    """Write Prometheus rules with this rollout's goals, a scrape config, and a Grafana dashboard."""
    from understudy import loading
    from understudy.observability.monitoring import files
    from understudy.settings import read_settings

    with errors_reported():
        policy = loading.load_policy(read_settings(rollout_file=file))
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files(policy, target, file.name).items():
            (output / name).write_text(text, encoding="utf-8")
            out.print(str(output / name), markup=False, soft_wrap=True)
        out.print(f"prometheus --config.file={output / 'prometheus.yaml'}", style="dim", markup=False, soft_wrap=True)
