"""Models in BentoML's model store: import, export, list."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.cli.common import app, errors_reported, out
from understudy.errors import ConfigurationError

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models in BentoML's model store.")
app.add_typer(models, name="models")


@models.command("import")
def import_model(
    source: Annotated[Path, typer.Argument(help="a model folder or an .onnx file")],
    name: Annotated[
        str | None, typer.Option(help="NAME or NAME:VERSION in the store; default: the card's or the file's name")
    ] = None,
) -> None:
    """Check a model, copy it into BentoML's model store, and print its tag."""
    from understudy.inference import bentoml_store
    from understudy.inference.cards import beside
    from understudy.inference.locate import resolve
    from understudy.loading.trial import Untried, tried_one
    from understudy.settings import read_settings

    with errors_reported():
        if str(source).startswith(bentoml_store.PREFIX):
            raise ConfigurationError(f"{source} is in BentoML's model store; give a model folder or an .onnx file")
        if source.is_file() and source.suffix != ".onnx":
            raise ConfigurationError(f"{source} is no model folder and no .onnx file")
        path, card = resolve(source)
        tag = bentoml_store.tag_for(name or (card.name if card else path.stem), given=name is not None)
        found = tried_one(Untried(str(source)), read_settings()).card
        task, digest = found.task, found.digest
        place = None if card is None else source if source.is_dir() else beside(path)
        stored = bentoml_store.store(path, place, tag, digest=digest, task=task if card else "")
        out.print(f"stored as {stored}, {digest[:19]}…; in the rollout file:", markup=False, soft_wrap=True)
        out.print(f"  primary: bentoml:{stored}  # or candidate:", markup=False, soft_wrap=True)


@models.command("export")
def export_model(
    tag: Annotated[str, typer.Argument(help="the model's tag, as `understudy models list` shows it")],
    folder: Annotated[Path, typer.Argument(help="the folder to write")],
    force: Annotated[bool, typer.Option("--force", help="replace a model that is in the folder")] = False,
) -> None:
    """Copy a model from BentoML's model store into a folder, and check its digest."""
    from understudy.inference import bentoml_store

    with errors_reported():
        source = bentoml_store.export(tag, folder, force=force)
        out.print(f"wrote {folder}; a rollout file names it as {source}", markup=False, soft_wrap=True)


@models.command("list")
def list_models() -> None:
    """List the models in BentoML's model store, and why some cannot be served."""
    from understudy.inference import bentoml_store

    with errors_reported():
        table = Table("tag", "task", "KiB", "digest", "created", box=None, pad_edge=False)
        stored = list(bentoml_store.stored_models())
        for model in stored:
            size, created = f"{model.size / 1024:,.1f}", f"{model.created:%Y-%m-%d %H:%M}"
            cells = (model.tag, model.task or "-", size, model.digest[:19] or "cannot be served", created)
            table.add_row(*(Text(cell, overflow="fold") for cell in cells))
        if not stored:
            out.print("BentoML's model store is empty; `understudy models import SOURCE` stores a model")
            return
        # Of the table's own width where nobody looks at it: tags are read by scripts.
        wide = out if out.is_terminal else Console(highlight=False, emoji=False, width=240)
        wide.print(table)
        for model in stored:
            if model.problem:
                out.print(f"{model.tag} cannot be served: {model.problem}", markup=False, soft_wrap=True)
