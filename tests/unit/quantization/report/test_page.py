"""The page stands alone, says what the report says, and lets no string out of its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from service.quantization.report.page import render_page
from service.quantization.report.plots import HEIGHT, WIDTH, falling_bars, grouped_bars, histogram_plot, ranked_bars

EVIL = '<script>alert("x")</script>'


def figures() -> dict[str, Any]:
    timing = {"batch": 1, "p50_seconds": 0.002, "p90_seconds": 0.003, "p99_seconds": 0.004, "rows_per_second": 480.0}
    errors = {"mean_error": 0.1, "mean_absolute_error": 0.2, "p50": 0.1, "p90": 0.2, "p99": 0.3, "max": 0.4}
    fast = timing | {"p50_seconds": 0.001, "p99_seconds": 0.002, "rows_per_second": 960.0}
    metric = {"reference": 0.99, "engine": 0.98, "loss": 0.0101, "interval": [0.0, 0.02]}
    return {
        "variant": "int8-onnxruntime", "verdict": "rejected", "warnings": [f"beware {EVIL}"],
        "unproven": "", "build": {},
        "host": {"device": EVIL, "libraries": {"onnxruntime": "1"}, "flags": [], "driver": "none"},
        "headline": {"metric": "top1", "loss": 0.0101, "max_loss": 0.01, "speedup": 2.0, "min_speedup": None,
                     "batch": 1, "times_smaller": 1.875},
        "speed": {"faster": True},
        "tails": {"row_error_p99": 0.5, "row_error_max": 0.75, "row_cosine_min": 0.625, "flip_rate": 0.125,
                  "rows_lost": 9, "rows_won": 4, "worst_class": {"label": 3, "rows": 7, "reference_top1": 1.0,
                                                                 "engine_top1": 0.5}},
        "consistency": [{"name": "row_order", "held": False, "detail": f"answers {EVIL} differ"},
                        {"name": "zero_rows", "held": None, "detail": "it does not apply"}],
        "loss_split": {"rows": 64, "metric": "top1", "note": None, "legs": [
            {"leg": "float_graph", "value": 0.99, "loss": 0.0, "sqnr_db": None, "exact": True},
            {"leg": "plan", "value": 0.97, "loss": 0.02, "sqnr_db": 21.5, "exact": False},
            {"leg": "engine", "value": 0.98, "loss": -0.01, "sqnr_db": 33.25, "exact": False}]},
        "waterfall": {"rows": 12, "note": None, "top": [EVIL], "operators": [
            {"name": EVIL, "operator": "Conv", "share": 0.75, "cause": "weight_rounding", "evidence": "29 dB behind",
             "local_sqnr_db": 29.0, "accumulated_sqnr_db": 12.5, "unfused": True}]},
        "lint": [{"name": EVIL, "operator": "Conv", "predicted": True, "executed": False, "rule": "b2.1"},
                 {"name": "relu", "operator": "Relu", "predicted": True, "executed": None, "rule": "b2.3"}],
        "tuning": [{"step": "bias_correction", "enabled": True, "kept": True, "sqnr_db_before": 13.0,
                    "sqnr_db_after": 17.5, "seconds": 1.5, "note": EVIL},
                   {"step": "equalization", "enabled": False, "kept": False}],
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
        "int8_operators": 1, "int8_mac_share": 0.875,
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
    assert len(page) < 25_000


def test_no_string_of_the_report_becomes_markup() -> None:
    reader = read(render_page(figures()))
    assert "script" not in reader.seen
    assert any(EVIL in text for text in reader.text)


def test_the_page_says_the_verdict_the_loss_and_the_reasons() -> None:
    text = " ".join(read(render_page(figures())).text)
    for words in ("rejected", "top1 went from 0.99 to 0.98", "0.0101 [0.0000, 0.0200]", "2.00x faster", "0.50x",
                  "QLinearConv", "(fused)", "r2", "too much", "unknown", "none",
                  "loss of top1, budget 0.01", "1.88x", "75.0% weight rounding", "21.5", "12.50%", "BROKEN", "87.5% of",
                  "not judged", "weight rounding, unfused", "b2.3", "bias correction", "17.5", "off"):  # fmt: skip
        assert words in text, words


def test_bars_stay_inside_their_picture_and_grow_with_their_values() -> None:
    for plot in (
        histogram_plot(-1, 1, [0, 5, 100, 3]),
        grouped_bars(["batch 1", "batch 8"], [("reference", [1.0, 3.0]), ("engine", [0.5, 0.0])], "ms"),
        ranked_bars([("a", 0.5, "clipping"), ("b", 0.25, ""), ("c", 0.1, "")], "share"),
        falling_bars([("plan", 0.02), ("kernels", -0.05), ("x", 0.01)], "loss"),
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


def test_a_waterfalls_bars_hang_where_the_one_before_ended() -> None:
    plot = falling_bars([("plan", 0.02), ("kernels", 0.01)], "loss")
    bars = [
        [float(number) for number in match]
        for match in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', plot)
    ]
    (plan_top, plan), (kernels_top, kernels), (total_top, total) = bars
    assert kernels_top + kernels == pytest.approx(plan_top, abs=0.2)
    assert total_top == kernels_top
    assert total == pytest.approx(plan + kernels, abs=0.2)
    assert plan == pytest.approx(2 * kernels, abs=0.2)


def test_an_engine_without_a_plan_has_no_empty_sections() -> None:
    plain = figures() | {"loss_split": None, "waterfall": None, "lint": [], "tuning": []}
    page = render_page(plain)
    for title in ("Where the loss", "Operators that add", "Fusion lint", "Tuning"):
        assert title not in page


def test_only_the_first_warnings_stand_open() -> None:
    page = render_page(figures() | {"warnings": [f"w{index}" for index in range(9)]})
    assert "5 more warnings" in page


def test_empty_plots_are_drawn_without_bars() -> None:
    assert "<rect" not in histogram_plot(0, 0, [0, 0])
    assert "<rect" not in grouped_bars([], [], "ms")
    assert "<rect" not in ranked_bars([], "share")


BUILD = {
    "flavour": "tensorrt_rtx",
    "version": "1.7",
    "built_for": ["8.0", "8.6"],
    "portable": True,
    "batch": {"min": 1, "opt": 2, "max": 4},
    "workspace_bytes": 2**30,
    "memory": {"weights_bytes": 2**20},
    "seconds": 1.5,
    "log": {
        "lines": {"verbose": 12, "warning": 1},
        "warnings": ["<b>bold</b>"],
        "layers": [
            {"name": "<i>conv</i>", "kind": "correlation", "reads": ["Int8"], "makes": ["Half"], "origins": ["stem"]}
        ],
    },
    "network": [{"name": "stem", "kind": "CONVOLUTION", "type": "INT8"}],
    "reproduce": "import <module>",
}


def test_a_build_is_told_and_none_of_it_becomes_markup() -> None:
    page = render_page(figures() | {"build": BUILD})
    for told in (
        "tensorrt_rtx 1.7",
        "8.0, 8.6",
        "runs on every GPU of these",
        "1 INT8",
        "&lt;b&gt;bold",
        "&lt;i&gt;conv",
    ):
        assert told in page, told
    assert "import &lt;module&gt;" in page
    assert "Build it by hand" not in render_page(figures())


def test_an_engine_that_did_not_run_has_no_speed_and_says_so() -> None:
    shown = figures()
    shown |= {
        "unproven": "no device",
        "headline": shown["headline"] | {"speedup": None, "loss": None},
        "engine": shown["engine"] | {"latency": []},
        "consistency": [],
        "speed": {"batch": 8, "speedup": None, "faster": None, "by_batch": []},
    }
    page = render_page(shown)
    for told in ("Built, and not proven, on", "FP32 beside this engine, simulated", "unknown"):
        assert told in page, told
    assert "agrees with itself" not in page


@pytest.mark.parametrize(("asked", "marked"), [(None, False), (1.5, False), (2.5, True)])
def test_a_speed_below_what_was_asked_is_marked(asked: float | None, marked: bool) -> None:
    shown = figures()
    page = render_page(shown | {"headline": shown["headline"] | {"min_speedup": asked}})
    assert ('<b class="rejected">2.00x</b>' in page) is marked
    assert ("at least 2.5x" in page) is marked


def test_a_leg_that_is_nothing_but_noise_is_not_called_exact() -> None:
    report = figures()
    report["loss_split"]["legs"][1]["sqnr_db"] = None
    assert "noise alone" in render_page(report)
    assert "noise alone" not in render_page(figures())
