"""Line charts as SVG, for a self-contained report."""

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 132, 22, 34
COLOURS = ("#2f6fb3", "#c2571a", "#3a8f4d", "#8a4fa3", "#8c6d1f", "#5b6470")

Line = tuple[str, Sequence[tuple[float, float]]]


def chart(
    title: str, lines: Sequence[Line], *, x: str, y: str, goals: Sequence[tuple[str, float]] = (), log: bool = False
) -> str:
    """Draw one chart.

    Args:
        lines: the name and the points of each line; a value that is not finite breaks the line.
        goals: named horizontal lines.
        log: whether the y axis is logarithmic.
    """
    points = [(a, b) for _, line in lines for a, b in line if math.isfinite(b) and (b > 0 or not log)]
    if not points:
        return f'<figure><figcaption>{html.escape(title)}</figcaption><p class="none">nothing was measured</p></figure>'
    xs, ys = [a for a, _ in points], [b for _, b in points] + [value for _, value in goals]
    low_x, high_x = min(xs), max(*xs, min(xs) + 1e-9)
    low_y = min(ys) / 1.2 if log else 0.0
    high_y = max(ys) * (1.3 if log else 1.1) or 1.0

    def place(a: float, b: float) -> tuple[float, float]:
        across = (a - low_x) / (high_x - low_x)
        up = math.log(b / low_y) / math.log(high_y / low_y) if log else (b - low_y) / (high_y - low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in _ticks(low_y, high_y, log=log):
        _, at = place(low_x, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
    for tick in _ticks(low_x, high_x, log=False):
        at, _ = place(tick, high_y)
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:,.6g}</text>'
        )
    for name, value in goals:
        _, at = place(low_x, value)
        parts.append(f'<line class="goal" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="goal" x="{LEFT + 6}" y="{at - 4:.1f}">{html.escape(name)}</text>')
    for number, (name, line) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        for run in _runs(line, log=log):
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(a, b) for a, b in run))
            if len(run) == 1:
                px, py = place(*run[0])
                parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5" fill="{colour}"/>')
            parts.append(f'<polyline points="{path}" stroke="{colour}"/>')
        at = TOP + 6 + 16 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 8}" y="{at - 8}" width="10" height="3" fill="{colour}"/>')
        parts.append(f'<text class="key" x="{WIDTH - RIGHT + 22}" y="{at - 2}">{html.escape(name)}</text>')
    parts.append(
        f'<text class="axis" x="{(WIDTH - RIGHT + LEFT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x)}</text>'
    )
    parts.append(f'<text class="axis" x="{LEFT}" y="12">{html.escape(y)}</text>')
    body = "".join(parts)
    label = html.escape(title, quote=True)
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg></figure>'
    )


def _runs(line: Sequence[tuple[float, float]], *, log: bool) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for a, b in line:
        if math.isfinite(b) and (b > 0 or not log):
            runs[-1].append((a, b))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    """About five round numbers, or 1, 2 and 5 times powers of ten."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
        return found if len(found) <= 7 else [tick for tick in found if f"{tick:e}"[0] == "1"]
    raw = (high - low) / 5 or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    first = math.ceil(low / step) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]
