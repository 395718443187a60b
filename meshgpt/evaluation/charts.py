"""Small drawings for a page, as SVG that needs no script: histograms and curves."""

import html
from collections.abc import Sequence
from typing import no_type_check

import numpy as np

WIDTH, HEIGHT = 460, 200
LEFT, BOTTOM, TOP, RIGHT = 48, 34, 12, 12
COLOURS = ("#3566b8", "#c2562d", "#4c8b57", "#7d5ba6")


@no_type_check
def histogram(series: dict[str, Sequence[float]], title: str, bins: int = 24) -> str:
    """The shares of several sets of numbers over the same bins, as steps one over the other; nothing of none."""
    series = {name: np.asarray(values, dtype=np.float64) for name, values in series.items() if len(values)}
    if not series:
        return ""
    everything = np.concatenate(list(series.values()))
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    lines = {}
    for name, values in series.items():
        shares = np.histogram(values, edges)[0] / len(values) * 100
        lines[name] = (np.repeat(edges, 2), np.concatenate(([0], np.repeat(shares, 2), [0])))
    return _drawing(lines, title, "% of meshes", filled=True)


@no_type_check
def curves(series: dict[str, tuple[Sequence[float], Sequence[float]]], title: str, unit: str = "") -> str:
    """Lines through points (x, y); what is not finite is left out, and nothing is drawn of nothing."""
    lines = {}
    for name, (x, y) in series.items():
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        real = np.isfinite(x) & np.isfinite(y)
        if real.any():
            lines[name] = (x[real], y[real])
    return _drawing(lines, title, unit) if lines else ""


@no_type_check
def _drawing(lines: dict[str, tuple[np.ndarray, np.ndarray]], title: str, unit: str, filled: bool = False) -> str:
    x_low, x_high = _reach([x for x, _ in lines.values()])
    y_low, y_high = _reach([y for _, y in lines.values()])

    def place(x: np.ndarray, y: np.ndarray) -> str:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP)
        return " ".join(f"{across:.1f},{depth:.1f}" for across, depth in zip(right, down, strict=True))

    parts = []
    for mark in _marks(y_low, y_high):
        at = place(np.array([x_low, x_high]), np.array([mark, mark])).split()
        parts.append(f'<polyline class="grid" points="{" ".join(at)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{float(at[0].split(",")[1]) + 4:.1f}" class="end">{mark:g}</text>')
    for mark in _marks(x_low, x_high):
        across = place(np.array([mark]), np.array([y_low])).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - BOTTOM + 16}" class="middle">{mark:g}</text>')
    keys = []
    for (name, (x, y)), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
        kind = f'fill="{colour}" fill-opacity="0.15"' if filled else 'fill="none"'
        parts.append(f'<polyline points="{place(x, y)}" {kind} stroke="{colour}" stroke-width="1.6"/>')
        keys.append(f'<tspan fill="{colour}">{html.escape(str(name))}</tspan>')
    legend = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" class="end">{" · ".join(keys)}</text>'
    label = f'<text x="{LEFT}" y="{HEIGHT - 4}">{html.escape(unit)}</text>'
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}{label}{legend}</svg>'
    return f'<figure class="chart">{drawing}<figcaption>{html.escape(title)}</figcaption></figure>'


def _reach(values: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = float(min(each.min() for each in values)), float(max(each.max() for each in values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _marks(low: float, high: float) -> list[float]:
    """Four to nine round numbers from low to high."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (5, 2, 1) if factor == 1 or (high - low) / (step * factor) >= 3.5)
    return [
        float(round(number * step, 10)) for number in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)
    ]
