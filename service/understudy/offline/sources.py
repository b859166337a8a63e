"""Data sources by name: where `replay`, `demo`, `evaluate` and `loadtest` take labelled history from.

A source is an object with the methods of `Source`. It is found by name among the entry points of installed packages (group
`understudy.sources`) and in the current folder's pyproject.toml (`[tool.understudy.sources]`), or directly as `module:object`.
The example's flights are one, registered by the repository and not part of the package.
"""

import importlib
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from understudy.errors import ConfigurationError
from understudy.inference.decoding import Array

GROUP = "understudy.sources"
FLIGHTS = "flights"
"""The example's source: what the commands use when none is named."""


class Moment(Protocol):
    """One request of history, and what became known later."""

    @property
    def row(self) -> dict[str, Any]:
        """The request's row."""
        ...

    @property
    def scheduled_at(self) -> float:
        """When it was asked, Unix seconds."""
        ...

    @property
    def label(self) -> Any:
        """What happened, or None where that never became known."""
        ...

    @property
    def label_at(self) -> float | None:
        """When it became known, Unix seconds."""
        ...


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows that no model was trained on, for `understudy evaluate`.

    Attributes:
        name: what the report calls them.
        moments: each with the name of the month that it counts to, as in 2013-07.
        segments: fields whose values are segments of the report.
        classes: what a label may be.
        feeds: by model input, what the training pipeline makes of the same rows, for the comparison with serving.
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
        """What its rows have."""
        ...

    def moments(self, month: int, limit: int | None = None) -> Sequence[Moment]:
        """The requests of a month (1 to 12) in time order; the first `limit` of them."""
        ...

    def held_out(self, months: Sequence[int]) -> HeldOut:
        """The rows of some months."""
        ...


def find(name: str) -> Source:
    """The data source of this name, or `module:object`.

    Raises:
        ConfigurationError: there is none, or it cannot be imported; the message says what to do.
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
        else "; the example's flights are in the repository of Understudy: run the command in a checkout of it"
    )
    raise ConfigurationError(
        f"there is no data source `{name}` here: name one with --source module:object, or register it in pyproject.toml under "
        f"[tool.understudy.sources]{own}"
    )


def _of_this_folder() -> Mapping[str, Any]:
    """Name → `module:object`, as the current folder's pyproject.toml registers them.

    Raises:
        ConfigurationError: the file is no TOML.
    """
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"pyproject.toml, which may register data sources, cannot be read: {error}") from error
    found = project.get("tool", {}).get("understudy", {}).get("sources", {})
    return found if isinstance(found, dict) else {}


def _imported(name: str, place: str) -> Source:
    """Import an object. The current folder comes last on the path, so that nothing in it takes the place of a package."""
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
