"""Data sources by name: labelled history for `replay`, `demo`, `evaluate` and `loadtest`.

A source is an object with the methods of `Source`. It is found by name in the entry points of installed packages (group
`understudy.sources`), in the current folder's pyproject.toml (`[tool.understudy.sources]`), or directly as `module:object`. The
example's flights are such a source. The repository registers it; it is not part of the package.
"""

import importlib
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from understudy.domain import JsonObject, Label
from understudy.errors import ConfigurationError
from understudy.inference.decoding import Array

GROUP = "understudy.sources"
FLIGHTS = "flights"
"""Name of the example's source, the default of the commands."""


class Moment(Protocol):
    """One request of history, and its label."""

    @property
    def row(self) -> JsonObject:
        """The request's row."""
        ...

    @property
    def scheduled_at(self) -> float:
        """Time of the request, Unix seconds."""
        ...

    @property
    def label(self) -> Label | None:
        """The label; None if it never became known."""
        ...

    @property
    def label_at(self) -> float | None:
        """Time at which the label became known, Unix seconds."""
        ...


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows that no model was trained on, for `understudy evaluate`.

    Attributes:
        name: name in the report.
        moments: each request with its month, as in 2013-07.
        segments: fields whose values are segments of the report.
        classes: possible labels.
        feeds: model input → values that the training pipeline computes for the same rows, to compare with serving.
    """

    name: str
    moments: Iterable[tuple[Moment, str]]
    segments: Sequence[str] = ()
    classes: Sequence[int | str] = ()
    feeds: Mapping[str, Array] = field(default_factory=dict)


class Source(Protocol):
    """Labelled history by month."""

    @property
    def fields(self) -> Sequence[str]:
        """The fields of its rows."""
        ...

    def moments(self, month: int, limit: int | None = None) -> Sequence[Moment]:
        """The first `limit` requests of a month (1 to 12), in time order."""
        ...

    def held_out(self, months: Sequence[int]) -> HeldOut:
        """The rows of some months."""
        ...


def find(name: str) -> Source:
    """The data source of this name, or `module:object`.

    Raises:
        ConfigurationError: if there is none, or it cannot be imported. The message says what to do.
    """
    if ":" in name:
        return _imported(name, name)
    for entry in importlib.metadata.entry_points(group=GROUP, name=name):
        return _imported(name, entry.value)
    known = _of_this_folder()
    if name in known:
        return _imported(name, str(known[name]))
    own = (
        ""
        if name != FLIGHTS
        else "; the example's flights are in the repository of Understudy: run the command in a checkout"
    )
    raise ConfigurationError(
        f"there is no data source `{name}` here: name one with --source module:object, or register it in pyproject.toml under "
        f"[tool.understudy.sources]{own}"
    )


def _of_this_folder() -> Mapping[str, object]:
    """Name → `module:object`, from the current folder's pyproject.toml.

    Raises:
        ConfigurationError: if the file is not TOML.
    """
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"pyproject.toml, which may register data sources, cannot be read: {error}") from error
    registered = project.get("tool", {}).get("understudy", {}).get("sources", {})
    return registered if isinstance(registered, dict) else {}


def _imported(name: str, place: str) -> Source:
    """Import an object. The current folder is last on the path, so that it cannot hide a package."""
    module, _, attribute = place.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        source: Source = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        also = " (pip install 'understudy[models]' brings what the example needs)" if name == FLIGHTS else ""
        raise ConfigurationError(
            f"the data source `{name}` needs {error.name}, which is not installed{also}"
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"the data source `{name}` is {place}, and {module} has no {attribute}") from error
    return source
