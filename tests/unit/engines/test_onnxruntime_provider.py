"""A provider counts as here where a session runs on it, and not because ONNX Runtime was compiled with it."""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime as ort
import pytest

from service.engines import onnxruntime_provider
from service.engines.onnxruntime_provider import why_not_loaded

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
without_cuda = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has the provider")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    why_not_loaded.cache_clear()
    yield
    why_not_loaded.cache_clear()


def failing(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(ort, "InferenceSession", fail)
    monkeypatch.setattr(onnxruntime_provider, "_path_of", lambda provider: "libc.so.6")


def test_a_provider_that_a_session_runs_on_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_provider, "_CUDNN", "libc.so.6")
    assert why_not_loaded(CPU) == ""


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("provider", [CUDA, "TensorrtExecutionProvider"])
def test_a_provider_whose_library_cannot_be_opened_is_told_in_the_systems_own_words(provider: str) -> None:
    told = why_not_loaded(provider)
    assert f"libonnxruntime_providers_{provider[:4].lower()}" in told
    assert "cannot open shared object file" in told


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_left_out_although_its_library_opens_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_provider, "_path_of", lambda provider: "libc.so.6")
    assert "left out without a word" in why_not_loaded(CUDA)


def test_without_cudnn_convolutions_would_fail_later_so_it_is_asked_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_provider, "_CUDNN", "libno_such_cudnn.so.9")
    assert why_not_loaded(CPU).startswith("libno_such_cudnn.so.9: cannot open")


def test_of_a_failure_of_cuda_only_the_words_that_matter_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    failing(monkeypatch, f"/src/cuda_call.cc:154 [with ERRTYPE = cudaError] {words} ; GPU=-1 ; hostname=vm ; ")
    assert why_not_loaded(CUDA) == words


def test_any_other_failure_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "Please install TensorRT libraries\n")
    assert why_not_loaded(CUDA) == "Please install TensorRT libraries"


def test_a_gpu_that_is_full_at_the_moment_lacks_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "CUDA failure 2: out of memory ; GPU=0")
    assert why_not_loaded(CUDA) == ""


def test_a_provider_is_tried_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_provider, "_CUDNN", "libc.so.6")
    assert why_not_loaded(CPU) == ""
    failing(monkeypatch, "no second time")
    assert why_not_loaded(CPU) == ""
