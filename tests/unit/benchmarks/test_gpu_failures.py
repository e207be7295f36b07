"""What fails in the GPU benchmark costs its own figures and no others. The device and its times are fakes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from benchmarks import gpu, gpu_service, gpu_timing
from benchmarks.errors import CannotMeasure
from benchmarks.gpu_figures import BATCHES, Times, add_figures
from benchmarks.gpu_graphs import Network
from benchmarks.noted import noted
from benchmarks.report import Report
from service.engines.cuda_device import CudaDevice
from service.errors import EngineFailed
from tests.installation import DIGITS

OPTIONS: Any = SimpleNamespace(rounds=1, seconds=1)
NETWORK = Network("ResNet50", DIGITS / "digits.onnx", DIGITS)
FULL = EngineFailed("the GPU's memory is used up: cuMemAlloc failed: out of memory; deploy fewer engines on it")


def time_one(network: Network, case: tuple[str, str], folder: Path, rounds: int, times: Times) -> None:
    """INT8 on TensorRT does not fit in batches of 128, FP16 on CUDA not at all; the others run."""
    for rows in BATCHES:
        if case == ("int8", "tensorrt") and rows == 128:
            raise FULL
        if case == ("fp16", "onnxruntime-cuda"):
            raise RuntimeError("CUBLAS failure 3")
        times[rows] = [1.0]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(gpu, "missing_for", lambda runtime: "")
    monkeypatch.setattr(gpu, "find_device", lambda: CudaDevice("GPU A", "8.6", "13.0", 1 << 34))
    monkeypatch.setattr(gpu, "find_networks", lambda options, folder, report: iter([NETWORK]))
    monkeypatch.setattr(gpu, "_time", time_one)
    monkeypatch.setattr(gpu, "measure_service", lambda *_: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return []


def measured(said: list[str]) -> Report:
    return gpu.measure_gpu(OPTIONS, said.append)


def test_an_engine_that_does_not_fit_costs_that_batch_and_the_rest_is_kept(said: list[str]) -> None:
    report = measured(said)
    rows = {(row[0], row[1]): row[2:] for row in report.tables[0].rows}
    assert rows["TensorRT", "INT8"] == ["1.000, 1,000", "1.000, 8,000", "1.000, 32,000", "", "1.00"]
    assert rows["TensorRT", "FP16"][3] == "1.000, 128,000"
    assert len(rows) == 7
    assert f"ResNet50, int8 on tensorrt, was not measured in every batch: {FULL}" in report.notes


def test_figures_are_said_as_they_come_so_that_a_run_that_is_ended_leaves_them(said: list[str]) -> None:
    measured(said)
    told = "1 rows 1.000 ms, 8 rows 1.000 ms, 32 rows 1.000 ms"
    assert f"ResNet50, int8 on tensorrt: {told}" in said
    assert not any(line.startswith("ResNet50, fp16 on onnxruntime-cuda:") for line in said)
    first = f"ResNet50, fp32 on tensorrt: {told}, 128 rows 1.000 ms"
    assert said.index(first) < said.index("ResNet50, tf32 on tensorrt")


def test_an_error_of_a_runtimes_own_is_a_note_with_its_class(said: list[str]) -> None:
    words = "ResNet50, fp16 on onnxruntime-cuda, was not measured in every batch: RuntimeError: CUBLAS failure 3"
    assert words in measured(said).notes


def test_a_missing_wrk_is_told_first_and_costs_the_service_alone(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(gpu, "measure_service", lambda *_: pytest.fail("there is nothing to load it with"))
    report = measured(said)
    assert said[0].startswith("the whole service was not measured: wrk is not installed; install it with")
    assert said[0] in report.notes
    assert len(report.tables[0].rows) == 7


def test_a_service_that_does_not_come_up_leaves_what_was_measured_before(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CannotMeasure("octavo serve ended with 1: its\nlog")

    monkeypatch.setattr(gpu, "measure_service", fail)
    report = measured(said)
    assert report.notes[-1] == "the whole service was not measured: octavo serve ended with 1: its log"
    assert len(report.tables[0].rows) == 7


def test_a_job_that_fails_costs_its_own_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def started(place: object) -> Iterator[Any]:
        yield SimpleNamespace(upload_model=lambda *_: None, upload_dataset=lambda *_: None)

    def deployed(server: object, precision: str) -> str:
        if precision == "fp16":
            raise CannotMeasure("the fp16 job ended failed")
        return f"{precision}-tensorrt"

    monkeypatch.setattr(gpu_service, "served", started)
    monkeypatch.setattr(gpu_service, "working", started)
    monkeypatch.setattr(gpu_service, "_deployed", deployed)
    monkeypatch.setattr(gpu_service, "_row", lambda server, payload, case, *_: [*map(str, case)])
    report = Report("gpu", "", "")
    gpu_service.measure_service(NETWORK, tmp_path / "service", OPTIONS, report)
    assert report.tables[0].rows == [["int8-tensorrt", count] for count in ("1", "32", "128")]
    assert report.notes == ["the whole service in fp16 was not measured to the end: the fp16 job ended failed"]


def test_fp32_that_is_missing_in_one_batch_leaves_no_ratio_there() -> None:
    report = Report("gpu", "", "")
    all_batches: Times = {rows: [1.0] for rows in BATCHES}
    add_figures(report, "ResNet50", {("tensorrt", "fp32"): {8: [1.0]}, ("tensorrt", "fp16"): all_batches})
    assert report.goals == []
    assert [row[-1] for row in report.tables[0].rows] == ["", ""]


def test_an_interruption_is_no_note() -> None:
    report = Report("gpu", "", "")
    with pytest.raises(KeyboardInterrupt), noted(report, "it"):
        raise KeyboardInterrupt
    assert report.notes == []


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime may have CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_what_onnx_runtime_runs_on_the_processor_instead_is_no_figure_of_the_gpu() -> None:
    with pytest.raises(CannotMeasure, match=r"runs digits\.onnx on its CPUExecutionProvider, not on CUDA"):
        gpu_timing.cuda_session(NETWORK.model, {})


class Held:
    """Tells when it is let go."""

    handle = 1

    def __init__(self, name: str, gone: list[str]) -> None:
        self._name, self._gone = name, gone

    def get_inputs(self) -> list[Any]:
        raise RuntimeError("CUDA failure 2: out of memory")

    def __del__(self) -> None:
        self._gone.append(self._name)


def test_a_session_that_failed_is_gone_before_the_stream_that_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    driver = SimpleNamespace(Error=LookupError)
    cuda = SimpleNamespace(active=nullcontext, stream=lambda: Held("stream", gone), driver=driver)
    monkeypatch.setattr(gpu_timing, "cuda_context", lambda: cuda)
    monkeypatch.setattr(gpu_timing, "cuda_session", lambda graph, options: Held("session", gone))
    with pytest.raises(CannotMeasure, match="CUDA failure 2: out of memory"):
        gpu_timing.time_onnxruntime(NETWORK.model, BATCHES, False, 1, {})
    assert gone == ["session", "stream"]
