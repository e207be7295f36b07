"""The page stands alone, says what the report says, and lets no string out of its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from service.quantization.report.page import render_page
from service.quantization.report.plots import HEIGHT, WIDTH, falling_bars, grouped_bars, histogram_plot, ranked_bars
from tests.report_figures import EVIL, figures


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
    for words in ("rejected", "top1 went from 0.99 to 0.98", "0.0101 [0.0000, 0.0200]", "2.00x the speed", "0.50x",
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


def test_a_report_of_before_speed_could_be_asked_for_is_shown() -> None:
    shown = figures()
    del shown["headline"]["min_speedup"]
    assert "2.00x" in render_page(shown)


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
