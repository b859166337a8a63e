"""`understudy evaluate`: scores models on held-out data, against the goals."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from understudy.cli.common import Json, SourceName, app, err, errors_reported, out
from understudy.errors import ConfigurationError
from understudy.offline import sources

if TYPE_CHECKING:
    from understudy.offline.evaluate.figures import Bin, Interval
    from understudy.offline.evaluate.judge import Evaluation, SamplePart

BAR_CHARS = 20
SEGMENTS_SHOWN = 12
STYLES = {"yes": "bold green", "no": "bold red", "not certain": "bold yellow"}


@app.command()
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="models to evaluate, the current one first, or a rollout file; default: the models of rollout.yaml"
        ),
    ] = None,
    file: Annotated[Path, typer.Option(help="the rollout file with the goals and the models")] = Path("rollout.yaml"),
    data: Annotated[
        Path | None,
        typer.Option(help="CSV with a header, one JSON object per line, or Parquet; default: the example's flights"),
    ] = None,
    label: Annotated[str | None, typer.Option(help="the column of --data with the label")] = None,
    at: Annotated[
        str | None,
        typer.Option(help="the column with the time, as Unix seconds or ISO 8601; needed for months, days and drift"),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="a column whose values are segments; default: text inputs with few values"),
    ] = None,
    predicted: Annotated[
        str | None, typer.Option(help="the column with the training pipeline's own prediction, to compare with serving")
    ] = None,
    month: Annotated[
        list[int] | None,
        typer.Option(help="months of the example's flights; default: July to December", min=1, max=12),
    ] = None,
    source: SourceName = sources.FLIGHTS,
    html: Annotated[Path | None, typer.Option(help="also write the tables to this HTML file")] = None,
    as_json: Json = False,
) -> None:
    """Score models offline on held-out data: the proof of concept against its target, and the candidate against both."""
    from understudy import loading
    from understudy.offline.evaluate.data import ColumnNames
    from understudy.offline.evaluate.run import MONTHS, EvaluationRequest, run
    from understudy.settings import read_settings

    with errors_reported():
        if (data is None) != (label is None):
            raise ConfigurationError(
                "--data and --label belong together: --label names the column of --data with the label"
            )
        if models and models[0].endswith((".yaml", ".yml")):
            file, models = Path(models[0]), models[1:]
        settings = read_settings(rollout_file=file)
        policy = loading.load_policy(settings, for_a_clip=True) if file.exists() or not models else None
        of_policy = not models
        if not models:
            assert policy is not None  # otherwise `load_policy` has raised
            named = [policy.primary] + ([policy.candidate] if policy.candidate else [])
            models = [loading.local(model, settings) for model in named]
        wanted = ColumnNames(label, at, predicted, tuple(by or ()))
        with progress(show=not as_json) as step:
            evaluation = run(
                EvaluationRequest(models, policy, data, wanted, tuple(sorted(set(month or MONTHS))), source, of_policy),
                step,
            )
        if as_json:
            print(json.dumps(evaluation.as_dict(), indent=1))
            return
        _show(evaluation, html)


def _show(evaluation: "Evaluation", html: Path | None) -> None:
    """Print the tables, and write them to an HTML file if there is one."""
    page = Console(record=True, highlight=False, emoji=False, width=None if html is None else 150, file=out.file)
    for part in _parts(evaluation):
        page.print(part)
    if html is not None:
        html.write_text(page.export_html(inline_styles=True), encoding="utf-8")
        out.print(f"written to {html}")


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="a model folder, an .onnx file, or bentoml:<tag>")],
    data: Annotated[
        Path, typer.Argument(help="the training data: CSV with a header, one JSON object per line, or Parquet")
    ],
    at: Annotated[
        str | None,
        typer.Option(
            help="the column with the time, as Unix seconds or ISO 8601; then each day is compared with the others"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the model folder to write; default: the model's own")
    ] = None,
) -> None:
    """Write profiles of the training data to a model's card, so that the service can detect drift."""
    from understudy.inference.cards import MODEL_FILE, beside, files_of, write_card
    from understudy.offline.evaluate.profiles import profiled

    with errors_reported():
        bare = Path(model).suffix == ".onnx"
        place = output or (beside(Path(model)) if bare else Path(model))
        if output is None and not bare and not place.is_dir():
            raise ConfigurationError(
                f"{model} is no model folder and no .onnx file: give --output, the folder to write"
            )
        with progress(show=True) as step:
            card, source = profiled(model, data, at, lambda rows: step("reading", rows))
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            if source.resolve() != (output / MODEL_FILE).resolve():
                shutil.copyfile(source, output / MODEL_FILE)
        write_card(place, card)
        rows = card.training.rows if card.training else 0
        profiles = sum(spec.profile is not None for spec in card.inputs)
        out.print(f"{files_of(place)[0]}: profiles of {profiles} inputs from {rows:,} rows")
        if at is None:
            out.print(
                "without --at there are no profiles of single days, so drift is judged by a rule of thumb",
                style="yellow",
            )


@contextlib.contextmanager
def progress(*, show: bool) -> Iterator[Callable[[str, int], None]]:
    """Show activities on stderr; the function is called with an activity and the number of rows done since its last call."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not (show and err.is_terminal), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def step(what: str, rows: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, total=1, completed=1)
                tasks[what] = bar.add_task(what, total=None, rows="")
            done = bar.tasks[tasks[what]].fields.get("done", 0) + rows
            bar.update(tasks[what], done=done, rows=f"{done:,} rows" if done else "")

        yield step


def _parts(found: "Evaluation") -> Iterator[RenderableType]:
    names = [model["name"] for model in found.models]
    yield Text(f"{found.labelled:,} labelled rows of {found.source}", style="bold")
    yield Text("\n".join([found.method, *found.notes]) + "\n", style="dim")
    if found.answers:
        answers = Table("goal", "", "why", box=None, title="Goals", title_justify="left")
        for each in found.answers:
            answers.add_row(each.question, Text(each.answer, style=STYLES[each.answer]), each.reason)
        yield answers
    yield _means(f"{found.loss} (less is better)", names, [found.everything, *found.months])
    for name, parts in found.segments.items():
        if parts:
            yield _means(f"{found.loss} by {name}", names, parts[:SEGMENTS_SHOWN], left_out=parts[SEGMENTS_SHOWN:])
    if any(each is not None for each in found.everything.expected_accuracy):
        yield _expectations(found, names)
    for i, bins in enumerate(found.calibration):
        if bins:
            ranks = "" if found.auc[i] is None else f", AUC {found.auc[i]:.4f}"
            yield Text(
                f"\nCalibration of {names[i]}: expected calibration error {found.calibration_errors[i]:.4f}{ranks}",
                "bold",
            )
            yield _calibration(bins)
    for title, lines, none in (
        ("Problems in the data", found.problems, "none found"),
        ("Days with drift, as the service would have raised an alarm", found.drift, "none"),
        (
            "Training/serving skew",
            found.skew,
            "none: serving and training agree on every row"
            if found.skew_checked
            else "not checked: give --predicted, the column with the training pipeline's predictions",
        ),
    ):
        yield Text(f"\n{title}", style="bold")
        yield Text("\n".join(f"- {line}" for line in lines) or none)


def _means(
    title: str, names: Sequence[str], parts: "Sequence[SamplePart]", left_out: "Sequence[SamplePart]" = ()
) -> Table:
    head = ["", "rows", *(["positive"] if parts[0].base_rate is not None else []), *names]
    if len(names) > 1:
        head.append(f"{names[1]} − {names[0]}")
    caption = f"and {len(left_out)} smaller ones (--json lists all)" if left_out else None
    table = Table(*head, box=None, title=f"\n{title}", title_justify="left", caption=caption, caption_justify="left")
    for part in parts:
        row: list[str | Text] = [part.name, f"{part.rows:,}"]
        if parts[0].base_rate is not None:
            row.append("-" if part.base_rate is None else f"{part.base_rate:.1%}")
        row += [_interval(each) for each in part.loss]
        if part.difference is not None:
            worse = part.difference.low is not None and part.difference.low > 0
            better = part.difference.high is not None and part.difference.high < 0
            style = "red" if worse else "green" if better else ""
            row.append(Text(_interval(part.difference, "+"), style=style))
        table.add_row(*row)
    return table


def _interval(found: "Interval", sign: str = "") -> str:
    if found.rows == 0:
        return "-"
    whole = len(f"{abs(found.mean):.0f}")  # digits before the point; decimals of a large loss are noise
    form = f"{sign},.{4 if whole == 1 else max(0, 4 - whole)}f"
    between = "" if found.low is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.mean:{form}}{between}".replace("[", "\\[") if not sign else f"{found.mean:{form}}{between}"


def _expectations(found: "Evaluation", names: Sequence[str]) -> Table:
    title = "\nAccuracy that the models expected without labels, and their real accuracy (weak evidence)"
    head = [f"{name}: {what}" for name in names for what in ("expected", "real", "difference")]
    table = Table("", *head, box=None, title=title, title_justify="left")
    for part in (found.everything, *found.months):
        cells = []
        for expected, real in zip(part.expected_accuracy, part.accuracy, strict=True):
            if expected is None or not real.rows:
                cells += ["-"] * 3
            else:
                cells += [f"{expected:.4f}", f"{real.mean:.4f}", f"{expected - real.mean:+.4f}"]
        table.add_row(part.name, *cells)
    return table


def _calibration(bins: "Sequence[Bin]") -> Table:
    """Predicted probability and observed frequency; the light part of a bar is the difference."""
    table = Table("rows", "predicted", "observed", "", box=None)
    for each in bins:
        low, high = sorted((round(each.said * BAR_CHARS), round(each.happened * BAR_CHARS)))
        bar = Text("█" * low)
        bar.append("░" * (high - low), style="red" if each.said > each.happened else "yellow")
        table.add_row(f"{each.rows:,}", f"{each.said:.3f}", f"{each.happened:.3f}", bar)
    return table
