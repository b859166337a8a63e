"""Draw docs/explanation/statistics-band.svg: one rollout of equal models, its band and its verdict. Text in, text out.

`python -m tests.statistics.picture docs/explanation/statistics-band.svg`
"""

import math
import random
import sys
from pathlib import Path

from understudy.rollout.sequential import MeanEvidence, crossed

ALPHA, MARGIN, LABELS = 0.05, 0.02, 4_000
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 360, 62, 745, 20, 310
FIRST, POINTS = 30, 6.0  # the first label shown, and the top of the scale


def followed(seed: int) -> tuple[list[tuple[int, float, float, float]], int]:
    """(n, low, estimate, high) along one rollout of equal models, and the label at which it may advance."""
    rng, evidence, seen, advance = random.Random(seed), MeanEvidence(), [], 0
    for n in range(1, LABELS + 1):
        evidence.update(rng.choices([0.0, 1.0, -1.0], [0.9, 0.05, 0.05])[0])
        if not advance and crossed(evidence.log_e_below(MARGIN), ALPHA):
            advance = n
        if n >= FIRST and (n % max(1, n // 40) == 0 or n == advance):
            low, high = evidence.band(ALPHA)
            seen.append((n, low, evidence.mean, high))
        if n == advance:
            break
    return seen, advance


def x(n: float) -> float:
    return LEFT + (RIGHT - LEFT) * math.log(n / FIRST) / math.log(LABELS / FIRST)


def y(loss: float) -> float:
    points = max(-POINTS, min(POINTS, 100 * loss))
    return (TOP + BOTTOM) / 2 - points * (BOTTOM - TOP) / 2 / POINTS


def line(points: list[tuple[float, float]], style: str) -> str:
    return f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" {style}/>'


def text(at: tuple[float, float], words: str, style: str = "") -> str:
    return f'<text x="{at[0]:.0f}" y="{at[1]:.0f}" {style}>{words}</text>'


def drawn(seed: int) -> str:
    """The picture as SVG."""
    seen, advance = followed(seed)
    upper, lower = [(x(n), y(high)) for n, _, _, high in seen], [(x(n), y(low)) for n, low, _, _ in seen]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        line([*upper, *lower[::-1]], 'fill="#9ecae1" fill-opacity="0.6" stroke="none"'),
        line([(x(n), y(mean)) for n, _, mean, _ in seen], 'fill="none" stroke="#08519c" stroke-width="1.5"'),
        line([(LEFT, y(0)), (RIGHT, y(0))], 'stroke="#333" fill="none"'),
        line([(LEFT, y(MARGIN)), (RIGHT, y(MARGIN))], 'stroke="#a63603" stroke-dasharray="6 4" fill="none"'),
        text((RIGHT - 4, y(MARGIN) - 5), "the margin", 'text-anchor="end" fill="#a63603"'),
        text((RIGHT - 4, y(0) + 14), "no difference", 'text-anchor="end" fill="#333"'),
    ]
    parts += [text((LEFT - 8, y(p / 100) + 4), f"{p:+d}", 'text-anchor="end"') for p in (-6, -4, -2, 0, 2, 4, 6)]
    parts += [text((x(n), BOTTOM + 18), f"{n:,}", 'text-anchor="middle"') for n in (30, 100, 300, 1000, 3000)]
    parts.append(text(((LEFT + RIGHT) / 2, BOTTOM + 38), "labelled requests", 'text-anchor="middle"'))
    middle = (TOP + BOTTOM) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 16 {middle:.0f})"'
    parts.append(text((16, middle), "points worse than the primary", turned))
    parts.append(f'<circle cx="{x(advance):.1f}" cy="{y(seen[-1][3]):.1f}" r="5" fill="#238b45"/>')
    said = f"{advance:,} labels: not worse than the margin"
    parts.append(text((x(advance) - 8, y(seen[-1][3]) - 30), said, 'text-anchor="end" fill="#238b45"'))
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawn(4), encoding="utf-8")
