"""The table of FP32 beside the engine: figures in their rows, ratios within one run, dashes for what is missing."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from service.cli.figures import byte_text, milliseconds_text, number_text, percent_text
from service.cli.report_view import comparison_view, report_view
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer


def report_on(variant: str, p50_seconds: float, disk_bytes: int) -> dict[str, Any]:
    """A report as the gate stage writes it, with the parts that the table reads."""

    def side(name: str, p50: float, disk: int) -> dict[str, Any]:
        latency = [{"batch": 8, "p50_seconds": p50, "p90_seconds": p50, "p99_seconds": 2 * p50}]
        return {"variant": name, "accuracy": {}, "latency": latency, "disk_bytes": disk, "resident_bytes": None}

    return {
        "variant": variant,
        "verdict": "passed",
        "certificate": {"reason": "top1 is 0.9800 after 0.9850, within the budget of 0.01"},
        "reference": side("fp32-onnxruntime", 0.004, 4096),
        "engine": side(variant, p50_seconds, disk_bytes),
        "metrics": {"top1": {"reference": 0.985, "engine": 0.98, "loss": 0.005076, "interval": [-0.001, 0.011]}},
        "outputs": [
            {"name": "logits", "mean_error": 0.00125, "mean_absolute_error": 0.0625, "sqnr_db": 31.25, "cosine": 0.9996}
        ],
        "warnings": ["at batch 8 something is slow"],
    }


def shown(view: Any) -> list[list[str]]:
    """The cells of each line of the table, and whole lines below it."""
    text = io.StringIO()
    Console(file=text, width=200, markup=False, highlight=False).print(view)
    return [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in text.getvalue().splitlines()]


def test_every_figure_stands_beside_the_references() -> None:
    lines = shown(report_view(report_on("int8-onnxruntime", 0.002, 1024)))
    for row in (
        ["accuracy (top1)", "0.985", "0.98"],
        ["accuracy (top1) loss", "", "0.005076 [-0.001, 0.011]"],
        ["logits E[e]", "", "0.00125"],
        ["logits E|e|", "", "0.0625"],
        ["logits SQNR", "", "31.25 dB"],
        ["batch 8 p50", "4 ms", "2 ms (2.00x)"],
        ["batch 8 p99", "8 ms", "4 ms (2.00x)"],
        ["size on disk", "4.0 KiB", "1.0 KiB (4.00x)"],
        ["size resident", "-", "-"],
    ):
        assert row in lines


def test_verdict_reason_and_warnings_stand_below_the_table() -> None:
    text = "\n".join(cell for line in shown(report_view(report_on("int8-onnxruntime", 0.002, 1024))) for cell in line)
    assert "int8-onnxruntime: passed: top1 is 0.9800 after 0.9850" in text
    assert "warning: at batch 8 something is slow" in text


def test_several_engines_share_one_table_each_held_against_its_own_reference() -> None:
    first, second = report_on("int8-onnxruntime", 0.002, 1024), report_on("fp16-onnxruntime", 0.005, 2048)
    second["reference"]["latency"][0]["p50_seconds"] = 0.0025
    lines = shown(comparison_view([first, second]))
    assert ["batch 8 p50", "4 ms", "2 ms (2.00x)", "5 ms (0.50x)"] in lines


@pytest.mark.parametrize("report", [{}, {"metrics": {"top1": None}}, {"outputs": [{"name": "x"}]}, {"reference": 3}])
def test_a_report_that_lacks_figures_shows_dashes(report: dict[str, Any]) -> None:
    assert ["size on disk", "-", "-"] in shown(report_view(report))


def test_a_loss_that_cannot_be_told_is_a_dash() -> None:
    report = report_on("int8-onnxruntime", 0.002, 1024)
    report["metrics"]["top1"] |= {"loss": None, "interval": None}
    assert ["accuracy (top1) loss", "", "-"] in shown(report_view(report))


def test_the_report_command_prints_the_table(octavo: Octavo, server: ScriptedServer) -> None:
    server.answer("GET", "/jobs/j1/report", report_on("int8-onnxruntime", 0.002, 1024))
    outcome = octavo("report", "j1")
    assert outcome.code == 0
    assert "31.25 dB" in outcome.out


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (byte_text(999), "999 B"), (byte_text(1536), "1.5 KiB"), (byte_text(3 * 1024**3), "3.0 GiB"),
        (byte_text(None), "-"), (percent_text(0.0125), "1.25 %"), (percent_text(None), "-"),
        (milliseconds_text(0.0012345), "1.234 ms"), (milliseconds_text("x"), "-"),
        (number_text(0.98, unit=" dB"), "0.98 dB"), (number_text(True), "-"), (number_text(0), "0"),
    ],
)  # fmt: skip
def test_figures_are_told_in_units_and_missing_ones_as_dashes(text: str, wanted: str) -> None:
    assert text == wanted
