"""Small SVG plots drawn by hand, for a page that must open anywhere without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 190
_LEFT, _BOTTOM, _TOP = 46, 30, 12
_LONGEST_NAME = 64


def histogram_plot(low: float, high: float, counts: Sequence[int]) -> str:
    """Bars of equal width over low..high; heights are the square roots of counts, else the middle hides the tails."""
    tallest = max(counts, default=0) or 1
    width, height = (WIDTH - _LEFT - 8) / max(len(counts), 1), HEIGHT - _TOP - _BOTTOM
    bars = []
    for place, count in enumerate(counts):
        if count:
            tall = max((count / tallest) ** 0.5 * height, 1)
            left, top = _LEFT + place * width, HEIGHT - _BOTTOM - tall
            bars.append(
                f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{max(width - 0.6, 0.6):.1f}" '
                f'height="{tall:.1f}"><title>{count}</title></rect>'
            )
    ends = ((_LEFT, low, "start"), (_LEFT + len(counts) * width / 2, 0.0, "middle"), (WIDTH - 8, high, "end"))
    labels = "".join(_text(x, HEIGHT - 12, f"{value:.3g}", anchor) for x, value, anchor in ends)
    return _svg("Distribution of the error", "".join(bars) + _axis() + labels)


def grouped_bars(groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], unit: str) -> str:
    """For each group one bar a series, labelled with its value; the first series has the muted color."""
    tallest = max((value for _, values in series for value in values), default=0.0) or 1.0
    span, height = (WIDTH - _LEFT - 8) / max(len(groups), 1), HEIGHT - _TOP - _BOTTOM - 12
    width = min(span * 0.8 / max(len(series), 1), 60)
    parts = []
    for place, group in enumerate(groups):
        middle = _LEFT + (place + 0.5) * span
        parts.append(_text(middle, HEIGHT - 12, group, "middle"))
        for index, (name, values) in enumerate(series):
            left = middle + (index - len(series) / 2) * width
            tall = max(values[place] / tallest * height, 1)
            top = HEIGHT - _BOTTOM - tall
            parts.append(
                f'<rect class="{"muted" if index == 0 else "bar"}" x="{left:.1f}" y="{top:.1f}" '
                f'width="{width - 2:.1f}" height="{tall:.1f}"><title>{escape(name)}</title></rect>'
            )
            parts.append(_text(left + width / 2 - 1, top - 4, f"{values[place]:.3g}", "middle"))
    return _svg(f"{unit} by batch size", "".join(parts) + _axis())


def falling_bars(legs: Sequence[tuple[str, float]], unit: str) -> str:
    """A waterfall: each leg's bar hangs where the one before ended, and the last bar is their sum from zero."""
    ends = [0.0]
    for _, value in legs:
        ends.append(ends[-1] + value)
    spans = [(name, ends[i], ends[i + 1]) for i, (name, _) in enumerate(legs)] + [("total", 0.0, ends[-1])]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    reach = (high - low) or 1.0
    width, height = (WIDTH - _LEFT - 8) / len(spans), HEIGHT - _TOP - _BOTTOM - 14

    def place(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / reach * height

    parts = []
    for index, (name, start, end) in enumerate(spans):
        left, top = _LEFT + (index + 0.15) * width, place(max(start, end))
        tall = max(abs(place(start) - place(end)), 1)
        style = "muted" if name == "total" else "bar" if end >= start else "gain"
        parts.append(
            f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" width="{width * 0.7:.1f}" height="{tall:.1f}">'
            f"<title>{escape(name)}</title></rect>"
        )
        parts.append(_text(left + width * 0.35, top - 4, f"{end - start:.3g}", "middle"))
        parts.append(_text(left + width * 0.35, HEIGHT - 12, name, "middle"))
    return _svg(f"{unit} by cause", "".join(parts) + _axis())


def ranked_bars(entries: Sequence[tuple[str, float, str]], unit: str) -> str:
    """One horizontal bar for each (name, value, remark), longest first as given; values are shares of one."""
    tallest = max((value for _, value, _ in entries), default=0.0) or 1.0
    row, parts = 34, []
    for index, (name, value, remark) in enumerate(entries):
        top = index * row + 4
        parts.append(_text(0, top + 9, f"{_short(name)}", "start"))
        long = max(value / tallest * (WIDTH - 150), 1)
        parts.append(
            f'<rect class="bar" x="0" y="{top + 14}" width="{long:.1f}" height="9"><title>{escape(name)}</title></rect>'
        )
        parts.append(_text(long + 6, top + 22, f"{value:.1%} {remark}", "start"))
    return _svg(unit, "".join(parts), max(len(entries), 1) * row + 4)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:20]}...{name[-(_LONGEST_NAME - 23) :]}"


def _axis() -> str:
    base = HEIGHT - _BOTTOM
    return f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{WIDTH - 8}" y2="{base}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, body: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{body}</svg>"
    )
