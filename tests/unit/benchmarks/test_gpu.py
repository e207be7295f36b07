"""The GPU benchmark without a GPU: it refuses with the reason; its graphs, shapes and arithmetic are right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from benchmarks.gpu import require_gpu
from benchmarks.gpu_figures import BATCHES, Figures, add_figures, rows_per_second, speed_up
from benchmarks.gpu_graphs import Network, graph_of
from benchmarks.gpu_plans import shape_for
from benchmarks.report import Report
from service.engines.cuda_device import find_device
from service.quantization.pipeline import available_runtimes
from tests.installation import DIGITS

ROOT = Path(__file__).parents[3]
without_gpu = pytest.mark.skipif(find_device() is not None, reason="this host has a GPU")


def figures(**milliseconds: float) -> Figures:
    return {
        ("tensorrt", name): {rows: [value * rows * noise for noise in (0.5, 1.0, 9.0)] for rows in BATCHES}
        for name, value in milliseconds.items()
    }


@without_gpu
@pytest.mark.parametrize("module", [("benchmarks", "--gpu"), ("benchmarks", "gpu", "--gpu"), ("tests.gpu",)])
def test_without_a_gpu_both_commands_say_what_is_missing_and_exit_with_2(module: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "need an NVIDIA GPU" in done.stderr
    assert "Traceback" not in done.stderr


@without_gpu
def test_the_refusal_names_the_next_step() -> None:
    with pytest.raises(Exception, match=r"pip install|nvidia-smi"):
        require_gpu()


def test_figures_are_medians_and_ratios_of_them() -> None:
    found = figures(fp32=10.0, fp16=1.0)
    assert rows_per_second(found["tensorrt", "fp16"], 8) == pytest.approx(1000)
    assert speed_up(found, "tensorrt", "fp16", 32) == pytest.approx(10)
    assert speed_up(found, "onnxruntime-cuda", "fp16", 1) is None


@pytest.mark.parametrize(("fp16", "holds"), [(1.0, True), (1.25, True), (2.0, False)])
def test_the_goal_is_resnet50s_fp32_over_fp16_at_the_largest_batch(fp16: float, holds: bool) -> None:
    report = Report("gpu", "", "")
    add_figures(report, "MiniLM", figures(fp32=10.0, fp16=fp16))
    assert report.goals == []
    add_figures(report, "ResNet50", figures(fp32=10.0, fp16=fp16))
    (goal,) = report.goals
    assert goal.holds == holds
    assert [table.title for table in report.tables] == ["MiniLM", "ResNet50"]
    assert report.tables[1].rows[0][:3] == ["TensorRT", "FP32", "10.000, 100"]


def test_a_network_that_could_not_be_run_in_fp16_has_no_goal() -> None:
    report = Report("gpu", "", "")
    add_figures(report, "ResNet50", figures(fp32=10.0))
    assert report.goals == []


def test_open_extents_become_rows_first_and_words_elsewhere() -> None:
    assert shape_for((-1, 3, 224, 224), 8) == (8, 3, 224, 224)
    assert shape_for((-1, -1), 8) == (8, 128)


@pytest.mark.parametrize(
    ("precision", "runtime", "operators"),
    [
        ("fp16", "tensorrt", {"Cast"}),
        ("int8", "tensorrt", {"QuantizeLinear", "DequantizeLinear"}),
        ("int8", "onnxruntime", {"QuantizeLinear", "DequantizeLinear"}),
    ],
)
def test_graphs_come_from_octavos_own_emitters(
    tmp_path: Path, precision: str, runtime: str, operators: set[str]
) -> None:
    if runtime not in available_runtimes():
        pytest.skip(f"{runtime} is not installed")
    network = Network("digits", DIGITS / "digits.onnx", DIGITS)
    made = onnx.load_model(graph_of(network, precision, runtime, tmp_path / "graphs"))
    assert operators <= {node.op_type for node in made.graph.node}


def test_fp32_and_tf32_are_one_graph(tmp_path: Path) -> None:
    network = Network("digits", DIGITS / "digits.onnx", DIGITS)
    assert graph_of(network, "fp32", "tensorrt", tmp_path) == graph_of(network, "tf32", "tensorrt", tmp_path)
