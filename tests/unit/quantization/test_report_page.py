"""The page stands alone, says what the report says, and lets no string out of its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from service.quantization.plots import HEIGHT, WIDTH, grouped_bars, histogram_plot
from service.quantization.report_page import render_page

EVIL = '<script>alert("x")</script>'


def figures() -> dict[str, Any]:
    timing = {"batch": 1, "p50_seconds": 0.002, "p90_seconds": 0.003, "p99_seconds": 0.004, "rows_per_second": 480.0}
    errors = {"mean_error": 0.1, "mean_absolute_error": 0.2, "p50": 0.1, "p90": 0.2, "p99": 0.3, "max": 0.4}
    fast = timing | {"p50_seconds": 0.001, "p99_seconds": 0.002, "rows_per_second": 960.0}
    metric = {"reference": 0.99, "engine": 0.98, "loss": 0.0101, "interval": [0.0, 0.02]}
    return {
        "variant": "int8-onnxruntime", "verdict": "rejected", "warnings": [f"beware {EVIL}"],
        "host": {"device": EVIL, "libraries": {"onnxruntime": "1"}, "flags": [], "driver": "none"},
        "certificate": {"reason": "top1 went from 0.99 to 0.98", "created_at": "2026-01-01T00:00:00Z"},
        "reference": {"latency": [timing], "disk_bytes": 2097152, "resident_bytes": None, "accuracy": {}},
        "engine": {"latency": [fast], "disk_bytes": 1048576, "resident_bytes": 4096, "accuracy": {}},
        "metrics": {"top1": metric, "top5": metric | {"loss": None, "interval": None}},
        "outputs": [{"name": EVIL, "histogram": {"low": -1.0, "high": 1.0, "counts": [1, 0, 9, 4]},
                     "sqnr_db": None, "cosine": 0.9, **errors}],
        "classes": [{"label": 3, "rows": 7, "reference_top1": 1.0, "engine_top1": 0.5, **errors}],
        "operators": [
            {"name": EVIL, "operator": "Conv", "precision": "INT8", "reason": "r1", "runs_as": "QLinearConv"},
            {"name": "relu", "operator": "Relu", "precision": "INT8", "reason": "r2", "runs_as": None},
        ],
        "int8_operators": 1,
        "candidates": [{"runtime": "onnxruntime", "verdict": "rejected", "reason": "too much"}],
    }  # fmt: skip


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    _VOID = frozenset({"meta", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in ("meta", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_fetches_nothing() -> None:
    page = render_page(figures())
    reader = read(page)
    assert reader.links == []
    assert "url(" not in page
    assert "@import" not in page
    assert len(page) < 20_000


def test_no_string_of_the_report_becomes_markup() -> None:
    reader = read(render_page(figures()))
    assert "script" not in reader.seen
    assert any(EVIL in text for text in reader.text)


def test_the_page_says_the_verdict_the_loss_and_the_reasons() -> None:
    text = " ".join(read(render_page(figures())).text)
    for words in ("rejected", "top1 went from 0.99 to 0.98", "0.0101 [0.0000, 0.0200]", "2.00x faster", "0.50x",
                  "QLinearConv", "(fused)", "r2", "too much", "unknown", "none"):  # fmt: skip
        assert words in text, words


def test_bars_stay_inside_their_picture_and_grow_with_their_values() -> None:
    for plot in (
        histogram_plot(-1, 1, [0, 5, 100, 3]),
        grouped_bars(["batch 1", "batch 8"], [("reference", [1.0, 3.0]), ("engine", [0.5, 0.0])], "ms"),
    ):
        bars = [
            [float(number) for number in match]
            for match in re.findall(r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', plot)
        ]
        assert len(bars) >= 3
        for x, y, width, height in bars:
            assert 0 <= x <= x + width <= WIDTH
            assert 0 <= y <= y + height <= HEIGHT
    assert len({height for *_, height in bars}) > 2


def test_empty_plots_are_drawn_without_bars() -> None:
    assert "<rect" not in histogram_plot(0, 0, [0, 0])
    assert "<rect" not in grouped_bars([], [], "ms")
