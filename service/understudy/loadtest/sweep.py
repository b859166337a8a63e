"""Compares settings of the service: its capacity with each of them, and which one meets the goals best."""

import contextlib
import html
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from understudy.domain import JsonObject
from understudy.errors import ConfigurationError
from understudy.loadtest.capacity import Capacity
from understudy.settings import Settings

SETTINGS_MAX = 32


@dataclass(frozen=True)
class Point:
    """One setting and the capacity with it."""

    setting: dict[str, str]
    capacity: Capacity

    @property
    def name(self) -> str:
        """The setting as it is typed on the command line."""
        return " ".join(f"{name}={value}" for name, value in self.setting.items())


def settings(axes: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of axes such as "workers=1,2".

    Raises:
        ConfigurationError: an axis names no setting of the service, or there are too many combinations.
    """
    known = {
        name for name in Settings.model_fields if name not in {"rollout_file", "state_dir", "store_url", "tokens_file"}
    } | {"device"}
    parsed: list[list[tuple[str, str]]] = []
    for axis in axes:
        name, _, values = axis.partition("=")
        if name not in known or not values:
            near = ", ".join(
                sorted(known & {"workers", "threads", "batch_max_rows", "flush_interval_ms", "inline_max_ms", "device"})
            )
            raise ConfigurationError(
                f"cannot sweep over {axis!r}: use NAME=VALUE,VALUE with the name of a setting ({near}, …)"
            )
        parsed.append([(name, value.strip()) for value in values.split(",") if value.strip()])
    combinations = [dict(combination) for combination in itertools.product(*parsed)]
    if len(combinations) > SETTINGS_MAX:
        raise ConfigurationError(f"{len(combinations)} combinations are more than {SETTINGS_MAX}: use fewer values")
    return combinations


def environment(setting: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a setting; the device is in the rollout file."""
    return {f"UNDERSTUDY_{name.upper()}": value for name, value in setting.items() if name != "device"}


@contextlib.contextmanager
def rollout_with(file: Path, setting: Mapping[str, str]) -> Iterator[Path]:
    """A copy of the rollout file with the setting's device; the file itself if the setting has none."""
    if "device" not in setting:
        yield file
        return
    data = yaml.safe_load(file.read_text(encoding="utf-8")) | {"device": setting["device"]}
    for name in ("primary", "candidate"):
        source = data.get(name)
        if source and not source.startswith("bentoml:") and not Path(source).exists():
            data[name] = str(file.parent / source)
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / "rollout.yaml"
        changed.write_text(yaml.safe_dump(data), encoding="utf-8")
        yield changed


def sweep(settings: Sequence[dict[str, str]], measure: Callable[[dict[str, str]], Capacity]) -> list[Point]:
    """The capacity with each setting, in order."""
    return [Point(setting, measure(setting)) for setting in settings]


def best(points: Sequence[Point], goal_rps: float | None) -> Point | None:
    """The best setting: the lowest p99 among those whose capacity is within the search's precision of the highest.

    Args:
        goal_rps: leave out settings that do not reach this rate.
    """
    enough = [p for p in points if p.capacity.rate and (goal_rps is None or p.capacity.rate >= goal_rps)]
    if not enough:
        return None
    top = max(p.capacity.rate for p in enough)
    level = [p for p in enough if p.capacity.rate * (1 + p.capacity.precision) >= top]
    return min(level, key=lambda p: (_p99(p) or float("inf"), -p.capacity.rate))


def _p99(point: Point) -> float | None:
    return point.capacity.best.record.measured.latency.p99_ms if point.capacity.best else None


def rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """The table: setting, capacity, p99 at it, cores used, cost of a million predictions, bottleneck."""
    table: list[tuple[str, ...]] = []
    for p in points:
        record = p.capacity.best.record if p.capacity.best else None
        cost = record.measured.cost_per_million if record else None
        cores = sum(record.service.get("cores", {}).values()) if record else None
        table.append(
            (
                p.name,
                f"{p.capacity.rate:,.0f}{'+' if p.capacity.invalid else ''}",
                _formatted(_p99(p), "{:.1f}"),
                _formatted(cores, "{:.2f}"),
                _formatted(cost, "{:.4f}"),
                p.capacity.invalid or p.capacity.bottleneck,
            )
        )
    return table


HEAD = ("setting", "requests/s", "p99 ms", "cores", "a million", "bottleneck")
"""The setting; its capacity; p99, cores and the cost of a million predictions at that rate; and the bottleneck."""


def _formatted(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def picture(points: Sequence[Point], chosen: Point | None) -> str:
    """A bar chart of the capacities as SVG, with the best setting in another colour."""
    width, bar, left = 720, 26, 260
    most = max((p.capacity.rate for p in points), default=0.0) or 1.0
    parts = []
    for number, p in enumerate(points):
        y, length = 8 + number * bar, p.capacity.rate / most * (width - left - 90)
        colour = "#3a8f4d" if p is chosen else "#2f6fb3"
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{html.escape(p.name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{max(length, 1):.1f}" height="{bar - 8}" fill="{colour}"/>')
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 14}">{p.capacity.rate:,.0f}/s</text>')
    height = 16 + bar * len(points)
    label = "Capacity by setting, requests a second"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    return f"{head}{''.join(parts)}</svg>"


def page(points: Sequence[Point], chosen: Point | None, style: str) -> str:
    """The sweep as one HTML file."""
    table = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(points))
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEAD)
    result = f"best setting: {chosen.name}" if chosen else "no setting meets the goals"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sweep</title><style>{style}</style>'
        f"<h1>Capacity by setting</h1><p>{html.escape(result)}</p><figure>{picture(points, chosen)}</figure>"
        f"<table><tr>{top}</tr>{table}</table></html>\n"
    )


def as_json(points: Sequence[Point], chosen: Point | None) -> JsonObject:
    """As JSON."""
    return {
        "points": [{"setting": p.setting, **p.capacity.as_json()} for p in points],
        "best": chosen.setting if chosen else None,
    }
