"""`understudy evaluate`: models beside the goals, on data that they have not seen."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from understudy.cli.common import Json, SourceName, app, err, out, said
from understudy.errors import ConfigurationError
from understudy.offline import sources

BAR_CHARS = 20
SEGMENTS_SHOWN = 12
STYLES = {"yes": "bold green", "no": "bold red", "not certain": "bold yellow"}


@app.command()
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="models to evaluate, the one that is there first, or a rollout file; rollout.yaml's two, if left out"
        ),
    ] = None,
    file: Annotated[Path, typer.Option(help="the rollout file: its goals, and its models")] = Path("rollout.yaml"),
    data: Annotated[
        Path | None,
        typer.Option(help="CSV with a header, or one JSON object a line; the example's flights, if left out"),
    ] = None,
    label: Annotated[str | None, typer.Option(help="the column of --data that says what happened")] = None,
    at: Annotated[
        str | None, typer.Option(help="the column that says when: Unix seconds or ISO 8601; for months, days and drift")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="a column whose values are segments; text inputs with few values, if left out"),
    ] = None,
    predicted: Annotated[
        str | None, typer.Option(help="the column with the training pipeline's own prediction, held against serving")
    ] = None,
    month: Annotated[
        list[int] | None,
        typer.Option(help="months of the example's flights; July to December, if left out", min=1, max=12),
    ] = None,
    source: SourceName = sources.FLIGHTS,
    html: Annotated[Path | None, typer.Option(help="write the tables to an HTML file as well")] = None,
    as_json: Json = False,
) -> None:
    """Score models offline on held-out data: the proof of concept against its target, the candidate beside it."""
    from understudy import loading
    from understudy.offline.evaluate.data import Wanted
    from understudy.offline.evaluate.run import MONTHS, EvaluationRequest, run
    from understudy.settings import read_settings

    with said():
        if (data is None) != (label is None):
            raise ConfigurationError(
                "--data needs --label, the column that says what happened, and --label needs --data"
            )
        if models and models[0].endswith((".yaml", ".yml")):
            file, models = Path(models[0]), models[1:]
        settings = read_settings(rollout_file=file)
        policy = loading.load_policy(settings, for_a_clip=True) if file.exists() or not models else None
        if not models:
            assert policy is not None  # `load_policy` has said that there is none
            named = [policy.primary] + ([policy.candidate] if policy.candidate else [])
            models = [loading.local(model, settings) for model in named]
        wanted = Wanted(label, at, predicted, tuple(by or ()))
        with _progress(show=not as_json) as step:
            found = run(
                EvaluationRequest(models, policy, data, wanted, tuple(sorted(set(month or MONTHS))), source), step
            )
        if as_json:
            print(json.dumps(found.as_dict(), indent=1))
            return
        page = Console(record=True, highlight=False, width=None if html is None else 150, file=out.file)
        for part in _parts(found):
            page.print(part)
        if html is not None:
            html.write_text(page.export_html(inline_styles=True), encoding="utf-8")
            out.print(f"written to {html}")


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="a model folder, an .onnx file, or bentoml:<tag>")],
    data: Annotated[
        Path, typer.Argument(help="the rows it was trained on: CSV with a header, or one JSON object a line")
    ],
    at: Annotated[
        str | None,
        typer.Option(help="the column that says when: Unix seconds or ISO 8601; days are then held against the rest"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the model folder to write; the model's own, if left out")
    ] = None,
) -> None:
    """Write reference profiles of the training data onto a model's card, so that the service can tell drift."""
    from understudy.inference.cards import MODEL_FILE, write_card
    from understudy.offline.evaluate.profiles import profiled

    with said():
        folder = output or Path(model)
        if output is None and not folder.is_dir():
            raise ConfigurationError(f"{model} is not a model folder: --output names the folder to write")
        with _progress(show=True) as step:
            card, source = profiled(model, data, at, lambda rows: step("reading", rows))
        folder.mkdir(parents=True, exist_ok=True)
        if source.resolve() != (folder / MODEL_FILE).resolve():
            shutil.copyfile(source, folder / MODEL_FILE)
        write_card(folder, card)
        rows = card.training.rows if card.training else 0
        out.print(f"{folder}: profiles of {sum(i.profile is not None for i in card.inputs)} inputs from {rows:,} rows")
        if at is None:
            out.print("without --at nothing is known of single days: drift is told by a rule of thumb", style="yellow")


@contextlib.contextmanager
def _progress(*, show: bool) -> Iterator[Callable[[str, int], None]]:
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not show, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def step(what: str, rows: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, total=1, completed=1)
                tasks[what] = bar.add_task(what, total=None, rows="")
            done = bar.tasks[tasks[what]].fields.get("done", 0) + rows
            bar.update(tasks[what], done=done, rows=f"{done:,} rows" if done else "")

        yield step


def _parts(found: Any) -> Iterator[Any]:
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
        yield _beliefs(found, names)
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
        ("Days unlike training, as the service would have rung", found.drift, "none"),
        (
            "Training/serving skew",
            found.skew,
            "none: serving makes of every row what training does"
            if found.skew_checked
            else "not checked: --predicted names the column with the training pipeline's own predictions",
        ),
    ):
        yield Text(f"\n{title}", style="bold")
        yield Text("\n".join(f"- {line}" for line in lines) or none)


def _means(title: str, names: Sequence[str], parts: Sequence[Any], left_out: Sequence[Any] = ()) -> Table:
    head = ["", "rows", *(["positive"] if parts[0].base_rate is not None else []), *names]
    if len(names) > 1:
        head.append(f"{names[1]} − {names[0]}")
    caption = f"and {len(left_out)} smaller ones (--json has all)" if left_out else None
    table = Table(*head, box=None, title=f"\n{title}", title_justify="left", caption=caption, caption_justify="left")
    for part in parts:
        row: list[Any] = [part.name, f"{part.rows:,}"]
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


def _interval(found: Any, sign: str = "") -> str:
    if found.rows == 0:
        return "-"
    whole = len(f"{abs(found.mean):.0f}")  # digits before the point: of a large loss decimals say nothing
    form = f"{sign},.{4 if whole == 1 else max(0, 4 - whole)}f"
    between = "" if found.low is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.mean:{form}}{between}".replace("[", "\\[") if not sign else f"{found.mean:{form}}{between}"


def _beliefs(found: Any, names: Sequence[str]) -> Table:
    title = "\nWhat the models expected of their accuracy without labels, and what it was (weak evidence)"
    head = [f"{name}: {what}" for name in names for what in ("believed", "was", "off by")]
    table = Table("", *head, box=None, title=title, title_justify="left")
    for part in (found.everything, *found.months):
        cells = []
        for believed, was in zip(part.expected_accuracy, part.accuracy, strict=True):
            known = believed is not None and was.rows
            cells += [f"{believed:.4f}", f"{was.mean:.4f}", f"{believed - was.mean:+.4f}"] if known else ["-"] * 3
        table.add_row(part.name, *cells)
    return table


def _calibration(bins: Sequence[Any]) -> Table:
    """How sure the model was beside how often it happened; the light part of a bar is what it was wrong by."""
    table = Table("rows", "said", "happened", "", box=None)
    for each in bins:
        low, high = sorted((round(each.said * BAR_CHARS), round(each.happened * BAR_CHARS)))
        bar = Text("█" * low)
        bar.append("░" * (high - low), style="red" if each.said > each.happened else "yellow")
        table.add_row(f"{each.rows:,}", f"{each.said:.3f}", f"{each.happened:.3f}", bar)
    return table
