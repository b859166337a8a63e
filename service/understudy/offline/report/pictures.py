"""Pictures for the report, as SVG text: the band of a metric over its pairs, and losses by month. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from understudy.offline.report.words import METRICS, share

WIDTH, HEIGHT = 720, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 22, 36

Point = tuple[float, float]


_FLOORS = {
    "latency": 0.0,
    "poc_target": 0.0,
    **dict.fromkeys(("log_loss", "absolute_error", "squared_error"), -math.inf),
}
"""The least value that there can be, where it is not -1."""


def band(metric: Mapping[str, Any], bands: Sequence[Mapping[str, Any]], goals: Mapping[str, Any]) -> Markup:
    """One metric over the pairs (logarithmic): estimate, band, zero and margin; empty where nothing was counted."""
    points = [
        (m["n"], m["estimate"], m["low"], m["high"], point["revision"])
        for point in bands
        for m in point["metrics"]
        if m["metric"] == metric["metric"] and m["n"] and None not in (m["estimate"], m["low"], m["high"])
    ]
    if not points:
        return Markup()
    name, line = metric["metric"], metric["line"]
    most = 0
    xs = [most := max(most, p[0]) for p in points]
    low, high = _range(points, line, floor=_FLOORS.get(name, -1.0))
    in_percent = name in {"errors", "latency", "win_rate"}
    frame = _Frame(math.log(max(xs[0], 10)), math.log(max(xs[-1], 20)), low, high)

    def x(n: float) -> float:
        return frame.x(math.log(max(n, xs[0], 10)))

    upper = [(x(n), frame.y(p[3])) for n, p in zip(xs, points, strict=True)]
    lower = [(x(n), frame.y(p[2])) for n, p in zip(xs, points, strict=True)]
    middle = [(x(n), frame.y(p[1])) for n, p in zip(xs, points, strict=True)]
    zero = "" if name in {"latency", "poc_target"} else _line("zero", frame.y(0.0))
    words = {
        "errors": f"margin: {share(line, 1)} more often",
        "poc_target": f"target: {line:,.10g}",
        "win_rate": f"margin: {share(line, 1)} more often farther",
        "latency": f"allowed: {share(line, 0)} later than {goals['latency']['p99_ms']:g} ms or missing",
    }.get(name, f"margin: {line:,.10g} worse")
    steps = [x(n) for n, p, before in zip(xs[1:], points[1:], points, strict=False) if p[4] != before[4]]
    parts = [
        f'<rect class="beyond" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{max(0.0, frame.y(line) - TOP):.1f}"/>',
        *(_tick_y(frame.y(t), share(t, 2) if in_percent else _written(t, high - low)) for t in _ticks(low, high)),
        *(_tick_x(x(t), f"{t:,}") for t in _log_ticks(max(xs[0], 10), max(xs[-1], 20))),
        *(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>' for at in steps),
        f'<path class="area" d="{_path(upper)}{_path(lower[::-1]).replace("M", "L", 1)}Z"/>',
        zero,
        _line("margin", frame.y(line)),
        f'<text class="margin-note" x="{LEFT + 6}" y="{frame.y(line) - 5:.1f}">{words}</text>',
        f'<path class="estimate" d="{_path(middle)}"/>',
        f'<line class="whisker" x1="{upper[-1][0]:.1f}" x2="{upper[-1][0]:.1f}" y1="{upper[-1][1]:.1f}" y2="{lower[-1][1]:.1f}"/>',
        f'<circle class="end {metric["answer"]}" cx="{middle[-1][0]:.1f}" cy="{middle[-1][1]:.1f}" r="5"/>',
        f'<text class="axis" x="{LEFT}" y="13">↑ worse</text>',
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">pairs or requests counted</text>',
    ]
    return _svg(f"{METRICS.get(name, name)}: {metric['reason']}", parts)


def months(rows: Sequence[Mapping[str, Any]], loss: str = "brier", title: str = "") -> Markup:
    """A loss of both models by held-out month, as two lines; empty without months of both.

    Args:
        loss: its key in a row; title: what it is called, if that is not known by the key.
    """
    series = {v: [(i, row[v][loss]) for i, row in enumerate(rows) if row.get(v)] for v in ("primary", "candidate")}
    values = [value for points in series.values() for _, value in points]
    if len(rows) < 2 or not values:
        return Markup()
    frame = _Frame(0, len(rows) - 1, 0.0, max(values) * 1.15)
    lines = [
        f'<path class="line {name}" d="{_path([(frame.x(i), frame.y(value)) for i, value in points])}"/>'
        + "".join(f'<circle class="dot {name}" cx="{frame.x(i):.1f}" cy="{frame.y(v):.1f}" r="4"/>' for i, v in points)
        for name, points in series.items()
    ]
    parts = [
        *(_tick_y(frame.y(t), f"{t:.2f}") for t in _ticks(0.0, max(values) * 1.15)),
        *(_tick_x(frame.x(i), row["month"]) for i, row in enumerate(rows)),
        *lines,
        f'<text class="axis" x="{LEFT}" y="13">↑ worse</text>',
    ]
    said = "; ".join(f"{name}: {', '.join(f'{v:.3f}' for _, v in points)}" for name, points in series.items())
    return _svg(f"{title or METRICS.get(loss, loss)} by month. {said}", parts)


class _Frame:
    """From values to places in the picture, kept inside it."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self._x, self._y = (x_low, x_high), (y_low, y_high)

    def x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        inside = min(max(value, low), high)
        return HEIGHT - BOTTOM - (inside - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)


def _range(points: Sequence[tuple[float, ...]], line: float, *, floor: float) -> tuple[float, float]:
    """All of the newest band and the line, and no more of the early, wide bands than that needs."""
    last = points[-1]
    settled = [p[1] for p in points[len(points) // 3 :]]
    low = min(-1.5 * abs(line), last[2], *settled)
    high = max(2.5 * abs(line), last[3], *settled)
    room = max(3 * abs(line), (last[3] - last[2]) * 1.3) / 4
    return max(low - room, floor), high + room


def _written(tick: float, span: float) -> str:
    """A tick of an axis that spans so much: three decimals, of large numbers none."""
    return f"{tick:.3f}" if span < 10 else f"{tick:,.{0 if span > 50 else 1}f}"


def _ticks(low: float, high: float, most: int = 4) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size for digit in (1, 2, 5, 10) if (size := digit * power) >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[int]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [t for power in powers for digit in (1, 2, 5) if low <= (t := digit * 10**power) <= high]
    return found if len(found) <= 9 else [t for t in found if str(t)[0] == "1"]


def _path(points: Sequence[Point]) -> str:
    return "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))


def _line(name: str, y: float) -> str:
    return f'<line class="{name}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _tick_y(y: float, text: str) -> str:
    return f'{_line("gridline", y)}<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _tick_x(x: float, text: str) -> str:
    anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{text}</text>'


def _svg(label: str, parts: Sequence[str]) -> Markup:
    """The parts are of numbers and of our own words; the label is somebody's text."""
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return head + Markup("".join(parts)) + Markup("</svg>")  # noqa: S704 - see above
